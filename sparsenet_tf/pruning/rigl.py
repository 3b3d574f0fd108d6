"""`RigL`: the rigged lottery, which grows connections where the gradient is large."""

import keras
import numpy as np

from sparsenet_tf.pruning.criteria import magnitude
from sparsenet_tf.pruning.dense_gradients import highest_gradients
from sparsenet_tf.pruning.dynamic import DynamicTraining
from sparsenet_tf.pruning.loss_gradients import batches
from sparsenet_tf.topology.checks import check_integer


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class RigL(DynamicTraining):
    """Drops the weakest connections and grows those that the loss asks for most.

    As `SET`, but for which connections grow: those with the largest `|dL/dW|` of all
    that are free, the dense gradient of the loss at the weights as they are, for a
    batch of `(x, y)` drawn by the seed and the step. Among equals the first ones grow.
    Gradients that are dense are computed at updates alone. Of a `SparseDense` they are
    in slices of some columns, so that no dense matrix exists then either; those are
    of the loss without the kernel's own regularizer.

    The loss is in training mode, but changes nothing of the model: neither moving
    averages nor random states. Unlike in the paper an update comes after a training
    step instead of taking its place.

    Args:
        schedule: as for `SET`.
        x: inputs to draw batches from, such as the training data: an array or a
            structure of arrays. The callback's config holds them.
        y: targets, likewise.
        batch_size: examples whose mean loss has the gradient.
        drop: as for `SET`.
        exclude: as for `SET`.
        seed: integer of 0 or more.

    Attributes:
        updates: as of `SET`.

    Raises:
        TypeError: as `SET`, or `batch_size` is no integer.
        ValueError: as `SET`, or `x` and `y` differ in length or are empty, or
            `batch_size` is less than 1; at an update, a gradient is NaN or infinite.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners", arXiv
    1911.11134; google-research/rigl.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = stf.pruning.prune_one_shot(model, 0.75)
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((40, 4), "float32"), np.ones((40, 5), "float32")
    >>> method = RigL(stf.pruning.CosineDecay(0.5, 4, frequency=2), x, y)
    >>> history = model.fit(x, y, batch_size=10, verbose=0, callbacks=[method])
    >>> list(method.updates), int(np.count_nonzero(model.layers[0].masks["kernel"]))
    ([2], 5)
    """

    def __init__(
        self, schedule, x, y, batch_size=256, drop=magnitude, exclude=(), seed=0
    ):
        super().__init__(schedule, drop, exclude, seed)
        self.batch_size = check_integer(batch_size, "batch_size", 1)
        next(batches(x, y, 1))  # which checks them
        self.x, self.y = x, y

    def grow(self, kept, counts, due):
        """Find the positions of the largest gradients of those that are free."""
        x, y = self._batch(due)
        return highest_gradients(self.model, self.connections, kept, counts, (x, y))

    def get_config(self):
        """The arguments."""
        return {
            **super().get_config(),
            "x": keras.saving.serialize_keras_object(self.x),
            "y": keras.saving.serialize_keras_object(self.y),
            "batch_size": self.batch_size,
        }

    def _batch(self, due):
        length = len(keras.tree.flatten(self.x)[0])
        rng = np.random.default_rng([self.seed, due])
        rows = np.sort(rng.choice(length, min(self.batch_size, length), replace=False))
        return keras.tree.map_structure(
            lambda part: None if part is None else np.asarray(part)[rows],
            (self.x, self.y),
        )
