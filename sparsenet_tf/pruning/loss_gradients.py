"""The gradients of a model's loss to whole kernels, masked weights included."""

import contextlib

import keras
import numpy as np
from keras import ops

from sparsenet_tf.kernels.gradients import gradients
from sparsenet_tf.topology.checks import check_integer, shown


def mean_gradients(model, kernels, x, y, batch_size=256):
    """Return the gradients of the mean loss over `(x, y)` to kernels.

    A masked weight has the gradient that it would have without a mask, at zero.
    Nothing of the model changes, moving averages and random states neither.

    Args:
        model: a compiled model.
        kernels: dict `{path: MaskedKernel}`.
        x: inputs, an array or a structure of arrays.
        y: targets, likewise.
        batch_size: examples at a time.

    Returns:
        `{path: array}`, of the kernels' shapes.
    """
    total, count = None, 0
    for x_part, y_part, size in batches(x, y, batch_size):
        loss = loss_of_kernels(model, kernels, x_part, y_part)
        with unmasked(kernels):
            _, found = gradients(loss, kernel_values(kernels))
        found = [as_float(g) * size for g in found]
        if total is None:
            total = found
        else:
            total = [t + g for t, g in zip(total, found, strict=True)]
        count += size
    return {path: t / count for path, t in zip(kernels, total, strict=True)}


def loss_of_kernels(model, kernels, x, y, temperature=1):
    """The model's loss in training, as a function of a list of values of kernels.

    Its outputs are divided by the temperature first.

    Raises:
        ValueError: the model is not compiled.
    """
    if not model.compiled:
        raise ValueError(
            f"`model` must be compiled, for its loss. Received: model {model.name!r}, "
            "not compiled"
        )

    def loss(values):
        with kernels_read_as(kernels, values):
            outputs = model(x, training=True)
            if temperature != 1:
                outputs = keras.tree.map_structure(lambda o: o / temperature, outputs)
            found = model.compute_loss(x=x, y=y, y_pred=outputs, training=True)
        return ops.cast(found, "float32")

    return loss


def kernels_read_as(kernels, values):
    """A context in which kernels read as `values`, and no variable is changed."""
    variables = [masked.kernel for masked in kernels.values()]
    return keras.StatelessScope(list(zip(variables, values, strict=True)))


def kernel_values(kernels):
    """The values of kernels, as a list of tensors."""
    return [ops.convert_to_tensor(masked.kernel.value) for masked in kernels.values()]


@contextlib.contextmanager
def unmasked(kernels):
    """A context in which gradients reach masked weights too."""
    before = [masked.update_masks for masked in kernels.values()]
    for masked in kernels.values():
        masked.update_masks = True
    try:
        yield
    finally:
        for masked, value in zip(kernels.values(), before, strict=True):
            masked.update_masks = value


def check_data(x, y, batch_size):
    """Return structures of NumPy arrays of one length, and the batch size, checked.

    Raises:
        TypeError: `batch_size` is no integer.
        ValueError: it is less than 1, there are no examples, or `x` and `y` differ in
            length.
    """
    batch_size = check_integer(batch_size, "batch_size", 1)
    x, y = keras.tree.map_structure(
        lambda a: None if a is None else _as_examples(a), (x, y)
    )
    lengths = {len(part) for part in keras.tree.flatten((x, y)) if part is not None}
    if len(lengths) != 1 or 0 in lengths:
        names = "`x` must be an array" if y is None else "`x` and `y` must be arrays"
        raise ValueError(
            f"{names} of one length, 1 or more. Received: lengths {sorted(lengths)}"
        )
    return x, y, batch_size


def _as_examples(array):
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.kind == "O":
        raise ValueError(
            "`x` and `y` must be arrays with an axis of examples. "
            f"Received: {shown(array)}"
        )
    return array


def batches(x, y, batch_size):
    """Yield `(x, y, size)` for parts of at most `batch_size` of the examples."""
    x, y, batch_size = check_data(x, y, batch_size)
    length = len(keras.tree.flatten(x)[0])
    for start in range(0, length, batch_size):
        part = slice(start, start + batch_size)
        cut = keras.tree.map_structure(
            lambda a, part=part: None if a is None else a[part], (x, y)
        )
        yield *cut, min(batch_size, length - start)


def as_float(values):
    """A tensor as a NumPy array of a floating-point dtype that NumPy has."""
    values = ops.convert_to_numpy(values)
    return values if values.dtype.kind == "f" else values.astype("float32")
