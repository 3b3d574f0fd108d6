"""`Wanda`: which weights to prune, by their size times that of their inputs."""

import contextlib

import keras
import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.units import unit_axes
from sparsenet_tf.pruning.loss_gradients import as_float, batches, check_data
from sparsenet_tf.pruning.not_a_callback import NotACallback


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Wanda(NotACallback, place="criterion"):
    """Scores a weight by its magnitude times the norm of the input that it is for.

    With the norm taken over all examples (and places, in an image or a sequence)::

        score = abs(w[..., i, o]) * norm(inputs[..., i])

    for kernels of Dense, convolutions, and EinsumDense with one summed axis. It is
    meant for a trained model. The authors rank the weights to each output apart; here
    `scope` says what is ranked together.

    Args:
        x: inputs, an array or a structure of arrays.
        batch_size: examples at a time.

    Raises:
        ValueError: there are no examples; when it is used, a kernel is of another kind
            of layer.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language
    Models", arXiv 2306.11695, equation 1.

    Example:
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[1.0], [2.0]]), np.zeros(1)])
    >>> x = np.array([[3.0, 0.0], [4.0, 1.0]])  # norms 5 and 1
    >>> pruned = stf.pruning.prune_one_shot(model, 0.5, Wanda(x))
    >>> np.asarray(pruned.layers[0].kernel).tolist()
    [[1.0], [0.0]]
    """

    def __init__(self, x, batch_size=256):
        self.x, _, self.batch_size = check_data(x, None, batch_size)

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        owners = tree.kernel_owners(model)
        owners = {path: owners[path] for path in kernels}
        squares = {}
        for x, _, _ in batches(self.x, None, self.batch_size):
            with _recorded(owners) as seen:
                model(x, training=False)
            for path, value in seen.items():
                squares[path] = squares.get(path, 0.0) + value
        found = {}
        for path, (layer, kernel) in owners.items():
            inputs, _ = unit_axes(layer, kernel)
            size = kernel.shape[inputs[0]] if len(inputs) == 1 else None
            norms = np.sqrt(squares[path]) if path in squares else np.empty(0)
            if len(norms) != size:
                raise ValueError(
                    "`criterion` Wanda needs Dense layers and convolutions. Received: "
                    f"kernel {path!r} of a {type(layer).__name__}; name it in `exclude`"
                )
            shape = [1] * len(kernel.shape)
            shape[inputs[0]] = size
            found[path] = np.abs(as_float(kernel)) * norms.reshape(shape)
        return found

    def get_config(self):
        """The arguments, the data included."""
        x = keras.saving.serialize_keras_object(self.x)
        return {"x": x, "batch_size": self.batch_size}

    @classmethod
    def from_config(cls, config):
        """The criterion of `get_config`."""
        return cls(
            keras.saving.deserialize_keras_object(config["x"]), config["batch_size"]
        )


@contextlib.contextmanager
def _recorded(owners):
    """A context in which sums of squares of the inputs' channels are kept, by path."""
    seen, patched = {}, []
    for path, (layer, _) in owners.items():
        if len(tree.own_kernels(layer)) == 1:  # Of more, some see other inputs.
            patched.append((layer, vars(layer).get("call")))
            object.__setattr__(layer, "call", _recording(path, layer, seen))
    try:
        yield seen
    finally:
        for layer, own in patched:
            object.__delattr__(layer, "call")
            if own is not None:
                object.__setattr__(layer, "call", own)


def _recording(path, layer, seen):
    call, axis = layer.call, -1
    if getattr(layer, "data_format", None) == "channels_first":
        axis = 1

    def recording(inputs, *args, **kwargs):
        if "float" in keras.backend.standardize_dtype(inputs.dtype):  # no lookups
            x = as_float(inputs)
            squares = np.square(np.moveaxis(x, axis, -1), dtype="float64")
            squares = squares.reshape(-1, x.shape[axis]).sum(axis=0)
            seen[path] = seen.get(path, 0.0) + squares
        return call(inputs, *args, **kwargs)

    return recording
