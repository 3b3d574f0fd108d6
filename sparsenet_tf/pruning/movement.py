"""`Movement`: which weights to prune, by where training moves them."""

import keras
from keras import ops

from sparsenet_tf.pruning.loss_gradients import as_float
from sparsenet_tf.pruning.not_a_callback import NotACallback


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Movement(NotACallback, place="criterion"):
    """Scores a weight by how far training has moved it away from zero.

    Summed over the steps that it was there to see::

        score = sum over t of w_t * (w_(t+1) - w_t)

    For plain gradient descent that is the learning rate times `-w_t * dL/dw_t`, the
    score of movement pruning. It works in a `PruningCallback` alone, which shows it the
    weights after every step (every n steps with `steps_per_execution=n`; the compiled
    loop of `stf.training.fit` then stops after each). Pruned weights stay pruned. What
    it has seen is not saved: a resumed training begins to count again.

    Raises:
        ValueError: it is used outside training.

    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv
    2005.07683, section 4.

    Example:
    >>> schedule = stf.pruning.PolynomialDecay(0.0, 0.5, 1, 4, frequency=1)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = stf.sparsify(model)
    >>> model.compile("sgd", "mse")
    >>> pruning = stf.pruning.PruningCallback(schedule, criterion=Movement())
    >>> history = model.fit(np.ones((40, 4)), np.ones((40, 5)), batch_size=10,
    ...                     verbose=0, callbacks=[pruning])
    >>> history.history["sparsity"]
    [0.5]
    """

    def __init__(self):
        self._moved, self._before = {}, {}

    def begin(self, kernels):
        """Take the weights at the begin of training."""
        self._before = _values(kernels)
        known = {path for path in self._moved if path in kernels}
        self._moved = {
            path: self._moved[path] if path in known else ops.zeros_like(value)
            for path, value in self._before.items()
        }

    def observe(self, kernels):
        """Take the weights after a step."""
        now = _values(kernels)
        for path, value in now.items():
            before = self._before[path]
            self._moved[path] = self._moved[path] + before * (value - before)
        self._before = now

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        if any(path not in self._moved for path in kernels):
            raise ValueError(
                "`criterion` Movement must see training: give it to a PruningCallback. "
                f"Received: model {model.name!r}, whose training it did not see"
            )
        return {path: as_float(self._moved[path]) for path in kernels}

    def get_config(self):
        """No arguments."""
        return {}

    @classmethod
    def from_config(cls, config):
        """The criterion of `get_config`."""
        return cls(**config)


def _values(kernels):
    # Copies, since an optimizer may write to the same memory.
    return {
        path: ops.cast(ops.copy(ops.convert_to_tensor(masked.kernel.value)), "float32")
        for path, masked in kernels.items()
    }
