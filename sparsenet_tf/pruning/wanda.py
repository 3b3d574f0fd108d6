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

    for kernels of Dense, EinsumDense and convolutions. An input of an EinsumDense may
    have several indices `i`, as a head and a channel of it in the output projection of
    a `MultiHeadAttention`. An Embedding is a Dense layer whose inputs are 1 for their
    token and 0 elsewhere, so that the norm is the square root of the token's count in
    `x`: the embeddings of tokens that are not in `x` are pruned first. Name the
    Embedding in `exclude` to keep it.

    It is meant for a trained model. The authors rank the weights to each output apart;
    here `scope` says what is ranked together.

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
            fits = path in squares and all(
                size in (1, length)
                for size, length in zip(squares[path].shape, kernel.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    "`criterion` Wanda needs Dense, EinsumDense and Embedding layers "
                    f"and convolutions. Received: kernel {path!r} of a "
                    f"{type(layer).__name__}; name it in `exclude`"
                )
            found[path] = np.abs(as_float(kernel)) * np.sqrt(squares[path])
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
    """A context in which the inputs' sums of squares are kept, by path.

    They have the kernel's shape, with 1 for axes that are of outputs alone.
    """
    seen, patched = {}, []
    for path, (layer, kernel) in owners.items():
        if len(tree.own_kernels(layer)) == 1:  # Of more, some see other inputs.
            patched.append((layer, vars(layer).get("call")))
            recording = _recording(path, layer, kernel, seen)
            object.__setattr__(layer, "call", recording)
    try:
        yield seen
    finally:
        for layer, own in patched:
            object.__delattr__(layer, "call")
            if own is not None:
                object.__setattr__(layer, "call", own)


def _recording(path, layer, kernel, seen):
    call = layer.call

    def recording(inputs, *args, **kwargs):
        if isinstance(layer, keras.layers.Embedding):
            squares = _of_embedding(kernel, inputs, *args, **kwargs)
        elif hasattr(layer, "equation"):
            squares = _of_einsum(layer.equation, inputs)
        else:
            squares = _of_channels(layer, kernel, inputs)
        seen[path] = seen.get(path, 0.0) + squares
        return call(inputs, *args, **kwargs)

    return recording


def _of_channels(layer, kernel, inputs):
    x = as_float(inputs)
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    squares = np.square(np.moveaxis(x, axis, -1), dtype="float64")
    squares = squares.reshape(-1, x.shape[axis]).sum(axis=0)
    shape = [1] * len(kernel.shape)
    shape[unit_axes(layer, kernel)[0][0]] = squares.size
    return squares.reshape(shape)


def _of_embedding(kernel, inputs, reverse=False):
    """An Embedding is a product with vectors that are 1 for their token, 0 elsewhere.

    A `ReversibleEmbedding` that is called with `reverse=True` multiplies its inputs by
    the transposed kernel; what it sees in both ways adds up.
    """
    if reverse:
        x = np.square(as_float(inputs), dtype="float64")
        return x.reshape(-1, x.shape[-1]).sum(axis=0)[np.newaxis]
    tokens = as_float(inputs).astype("int64").ravel()
    counts = np.bincount(tokens, minlength=kernel.shape[0])
    return counts.astype("float64")[:, np.newaxis]


def _of_einsum(equation, inputs):
    """Sums over all axes of the inputs that the kernel does not have."""
    x = np.square(as_float(inputs), dtype="float64")
    of_inputs, of_kernel = equation.replace(" ", "").partition("->")[0].split(",")
    # Axes that "..." stands for are of examples and places.
    before, dots, after = of_inputs.partition("...")
    if dots:
        middle = tuple(range(len(before), x.ndim - len(after)))
        x, of_inputs = x.sum(axis=middle), before + after
    kept = [label for label in of_kernel if label in of_inputs]
    others = tuple(i for i, label in enumerate(of_inputs) if label not in of_kernel)
    labels = [label for label in of_inputs if label in of_kernel]
    x = x.sum(axis=others).transpose([labels.index(label) for label in kept])
    sizes = dict(zip(kept, x.shape, strict=True))
    return x.reshape([sizes.get(label, 1) for label in of_kernel])
