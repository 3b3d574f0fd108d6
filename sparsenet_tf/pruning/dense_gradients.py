"""Where the dense gradients of the loss are largest, also of layers without zeros."""

import contextlib

import numpy as np
from keras import ops

from sparsenet_tf.kernels.gradients import gradients
from sparsenet_tf.pruning.connections import MaskedConnections
from sparsenet_tf.pruning.loss_gradients import (
    as_float,
    kernel_values,
    loss_of_kernels,
    unmasked,
)
from sparsenet_tf.topology.selection import highest

# Entries of a dense gradient that exist at a time, of layers that hold only nonzeros.
SLICE_SIZE = 2**19


def highest_gradients(model, connections, taken, counts, data):
    """Find the largest absolute gradients of the loss to weights that are not there.

    Args:
        model: a compiled model.
        connections: dict `{path: connections}`, as from `find_connections`.
        taken: dict by path of rising positions that do not count.
        counts: dict by path of how many to find.
        data: `(x, y)`, one batch.

    Returns:
        Dict by path of integer arrays, rising; of equals the first positions.

    Raises:
        ValueError: a gradient is NaN or infinite.
    """
    masked = {
        path: c.masked
        for path, c in connections.items()
        if isinstance(c, MaskedConnections)
    }
    layers = {p: c.layer for p, c in connections.items() if p not in masked}
    of_kernels, of_outputs = _gradients(model, masked, layers, *data)
    found = {}
    for path in connections:
        if path in masked:
            scores = _scores(path, of_kernels[path]).ravel()
            scores[taken[path]] = -1
            found[path] = highest(scores, counts[path])
        else:
            shape = connections[path].shape
            slices = column_slices(path, of_outputs[path], shape, taken[path])
            found[path] = highest_of_slices(slices, counts[path])
    return found


def column_slices(path, calls, shape, taken):
    """Yield a layer's dense gradient, `x^T dL/dz`, as absolute values by columns.

    Args:
        path: of the kernel, for errors.
        calls: list of `(inputs, gradient to the outputs)`, tensors with the examples
            as their first axis; one for each call of the layer.
        shape: of the dense kernel.
        taken: rising positions whose entries are to be -1.

    Yields:
        `(first column, array (inputs, columns))` of at most `SLICE_SIZE` entries, or
        of one column.
    """
    columns = shape[1]
    calls = [(ops.transpose(x), z) for x, z in calls]
    width = max(1, SLICE_SIZE // shape[0])
    order = np.argsort(taken % columns, kind="stable")
    taken_rows, taken_columns = taken[order] // columns, taken[order] % columns
    for begin in range(0, columns, width):
        end = min(begin + width, columns)
        block = sum(ops.matmul(x, z[:, begin:end]) for x, z in calls)
        scores = _scores(path, as_float(block))
        within = slice(*np.searchsorted(taken_columns, [begin, end]))
        scores[taken_rows[within], taken_columns[within] - begin] = -1
        yield begin, columns, scores


def highest_of_slices(slices, count):
    """Return the positions of the highest scores of `column_slices`, rising."""
    positions, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for begin, columns, block in slices:
        # What is below the lowest of enough that are found already cannot be one.
        least = scores.min() if 0 < count == scores.size else 0
        at = np.flatnonzero(block >= least)
        values = block.ravel()[at]
        best = highest(values, min(count, at.size))
        rows, offsets = np.divmod(at[best], block.shape[1])
        positions = np.concatenate([positions, rows * columns + begin + offsets])
        scores = np.concatenate([scores, values[best]])
        order = np.argsort(positions)
        best = order[highest(scores[order], min(count, order.size))]
        positions, scores = positions[best], scores[best]
    return positions


def _gradients(model, masked, layers, x, y):
    """Gradients to kernels, and `[(inputs, gradient to outputs)]` of layers' products.

    The latter are those to zeros that are added to the products.
    """
    loss = loss_of_kernels(model, masked, x, y)
    values, calls = kernel_values(masked), []
    if layers:

        def remember(path, inputs, outputs):
            calls.append((path, inputs, outputs))
            return outputs

        # Outside of what is differentiated: JAX's values must not leave it. Random
        # states are the same in both passes.
        with products_through(layers, remember):
            loss(values)
    zeros = [ops.zeros_like(outputs) for _, _, outputs in calls]

    def loss_with_probes(values):
        probes = iter(values[len(masked) :])
        with products_through(
            layers, lambda _, inputs, outputs: outputs + next(probes)
        ):
            return loss(values[: len(masked)])

    with unmasked(masked):
        _, found = gradients(loss_with_probes, [*values, *zeros])
    of_outputs = {path: [] for path in layers}
    for (path, inputs, _), gradient in zip(calls, found[len(masked) :], strict=True):
        of_outputs[path].append((_as_rows(inputs), _as_rows(gradient)))
    of_kernels = [as_float(gradient) for gradient in found[: len(masked)]]
    return dict(zip(masked, of_kernels, strict=True)), of_outputs


@contextlib.contextmanager
def products_through(layers, function):
    """A context in which `function(path, inputs, outputs)` is layers' `product`.

    Args:
        layers: dict `{path: layer}`.
        function: given what the product was given and would be.
    """

    def through(path, product):
        return lambda inputs: function(path, inputs, product(inputs))

    for path, layer in layers.items():
        object.__setattr__(layer, "product", through(path, layer.product))
    try:
        yield
    finally:
        for layer in layers.values():
            object.__delattr__(layer, "product")


def _as_rows(x):
    x = ops.cast(ops.stop_gradient(x), "float32")
    return ops.reshape(x, (-1, x.shape[-1]))


def _scores(path, gradient):
    scores = np.abs(gradient)
    if not np.isfinite(scores).all():
        raise ValueError(
            "`model` must have finite gradients. Received: "
            f"{np.count_nonzero(~np.isfinite(scores))} NaN or infinite values for "
            f"kernel {path!r}"
        )
    return scores
