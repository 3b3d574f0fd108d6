"""Products with a RadiX layer: a few small dense ones, with no gather and no mask.

Write node u of a layer as u = a * v + r, with v the place value and 0 <= r < v; then a
joins a, a - 1, ..., a - n + 1, where n is the radix. Cut the a into tiles of n, that is
a = t * n + j. An input j of tile t joins the outputs i <= j of its own tile and the
outputs i > j of the tile before. So each pair (t, r) has one dense block of weights,
whose lower triangle belongs to one product and whose upper triangle to the other:

    y[t] = x[t] (W[t] * lower) + x[t + 1] (W[t + 1] * upper)

With one tile (the last radix of a full system) both are one and the same product.
Several copies of the nodes (widths) make the blocks larger, no more of them.
"""

import math

import numpy as np
from keras import ops


def radix_matmul(inputs, kernel, topology):
    """The product of `inputs` with a sparse matrix given by its nonzeros.

    Args:
        inputs: tensor (..., input_size).
        kernel: tensor of `kernel_shape(topology)`: exactly the nonzeros, in the order
            of `stored_connections(topology)`.
        topology: a `RadixLayer`.

    Returns:
        Tensor (..., output_size), equal to `inputs @ dense` where `dense` has the
        nonzeros at their places.

    Example:
    >>> from sparsenet_tf.topology import RadixLayer
    >>> topology = RadixLayer(nodes=4, radix=2, place_value=1)
    >>> x, kernel = np.array([[1, 2, 3, 4]], "float32"), np.ones((2, 2, 2), "float32")
    >>> keras.ops.convert_to_numpy(radix_matmul(x, kernel, topology))
    array([[3., 5., 7., 5.]], dtype=float32)
    """
    n, v = topology.radix, topology.place_value
    width_in, width_out = topology.width_in, topology.width_out
    tiles = topology.nodes // (n * v)
    leading = ops.shape(inputs)[:-1]
    batch = math.prod(leading)
    x = ops.reshape(inputs, (batch, topology.input_size))
    if topology.drop_inputs:
        x = ops.pad(x, [[0, 0], [topology.drop_inputs, 0]])
    x = ops.reshape(x, (batch, width_in, tiles, n, v))
    x = ops.transpose(x, (2, 4, 0, 1, 3))
    x = ops.reshape(x, (tiles * v, batch, width_in * n))
    same, before = blocks(kernel, topology)
    y = ops.matmul(x, same)
    if before is not None:
        # Row by row of tiles, to which the next tile's part is added.
        size = v * batch * width_out * n
        from_next = ops.reshape(ops.matmul(x, before), (tiles, size))
        # Not `ops.roll`, which TFLite does not have.
        from_next = ops.concatenate([from_next[1:], from_next[:1]], axis=0)
        y = ops.reshape(y, (tiles, size)) + from_next
    y = ops.reshape(y, (tiles, v, batch, width_out, n))
    outputs = width_out * topology.nodes
    y = ops.reshape(ops.transpose(y, (2, 3, 0, 4, 1)), (batch, outputs))
    if topology.drop_outputs:
        y = y[:, topology.drop_outputs :]
    return ops.reshape(y, (*leading, topology.output_size))


def blocks(kernel, topology):
    """The dense blocks of a kernel, one for each tile and remainder.

    Args:
        kernel: tensor of `kernel_shape(topology)`, or several with leading axes.
        topology: a `RadixLayer`.

    Returns:
        Two tensors (..., nodes / radix, width_in * radix, width_out * radix):
        what an input tile gives to its own output tile and to the one before. With
        one tile the second is None and the first has it all.
    """
    n, v = topology.radix, topology.place_value
    w = _expand(kernel, topology)
    if topology.nodes == n * v:
        return w, None
    lower = np.tile(np.tri(n), (topology.width_in, topology.width_out))
    return (
        w * ops.convert_to_tensor(lower, w.dtype),
        w * ops.convert_to_tensor(1 - lower, w.dtype),
    )


def _expand(kernel, topology):
    """The kernel in blocks, with zeros for dropped nodes; leading axes are kept."""
    kernel = ops.convert_to_tensor(kernel)
    if topology.drop_outputs:
        # Dropped outputs leave gaps that differ from row to row.
        _, outputs = _all_connections(topology)
        kept = outputs >= topology.drop_outputs
        kept[: topology.drop_inputs] = False
        positions = np.where(kept, np.cumsum(kept).reshape(kept.shape), 0)
        padded = ops.pad(kernel, [[0, 0]] * (len(kernel.shape) - 1) + [[1, 0]])
        positions = _rows_to_blocks(np, positions.astype("int32"), topology)
        return ops.take(padded, positions, axis=-1)
    if topology.drop_inputs:
        axes = [[0, 0]] * (len(kernel.shape) - 2)
        kernel = ops.pad(kernel, [*axes, [topology.drop_inputs, 0], [0, 0]])
        return _rows_to_blocks(ops, kernel, topology)
    return kernel


def _rows_to_blocks(library, rows, topology):
    """(..., width_in * nodes, width_out * n) to (..., nodes / n, blocks of weights)."""
    n, v, width_in = topology.radix, topology.place_value, topology.width_in
    *leading, _, columns = rows.shape
    first = len(leading)
    axes = [first + axis for axis in (1, 3, 0, 2, 4)]
    shape = (*leading, width_in, topology.nodes // (n * v), n, v, columns)
    cut = library.transpose(library.reshape(rows, shape), (*range(first), *axes))
    return library.reshape(cut, (*leading, topology.nodes // n, width_in * n, columns))


def kernel_shape(topology):
    """Shape of the nonzeros.

    They are blocks for the product where no node is dropped, a row for each input where
    inputs are, and flat where outputs are, so that there is no weight too many.

    >>> from sparsenet_tf.topology import RadixLayer
    >>> kernel_shape(RadixLayer(100, radix=10, place_value=1, width_in=8, width_out=3))
    (10, 80, 30)
    >>> kernel_shape(RadixLayer(100, 10, 1, width_in=8, width_out=3, drop_inputs=16))
    (784, 30)
    """
    n = topology.radix
    if topology.drop_outputs:
        return (topology.num_connections,)
    if topology.drop_inputs:
        return (topology.input_size, topology.width_out * n)
    return (topology.nodes // n, topology.width_in * n, topology.width_out * n)


def stored_connections(topology):
    """Which input and output each entry of the kernel joins.

    Returns:
        Two integer arrays of `kernel_shape(topology)`, so that the dense matrix is
        `dense[inputs, outputs] = kernel`.
    """
    inputs, outputs = (
        array[topology.drop_inputs :] for array in _all_connections(topology)
    )
    if topology.drop_outputs:
        kept = outputs >= topology.drop_outputs
        inputs, outputs = inputs[kept], outputs[kept]
    elif not topology.drop_inputs:
        inputs = _rows_to_blocks(np, inputs, topology)
        outputs = _rows_to_blocks(np, outputs, topology)
    return inputs - topology.drop_inputs, outputs - topology.drop_outputs


def _all_connections(topology):
    """What each input joins, a row of outputs for it, with nothing dropped."""
    n, v, nodes = topology.radix, topology.place_value, topology.nodes
    a, r = np.divmod(np.arange(nodes), v)
    tile, j = np.divmod(a, n)
    i = np.arange(n)
    joined_tile = np.where(i <= j[:, None], tile[:, None], tile[:, None] - 1)
    joined = (joined_tile % (nodes // (n * v)) * n + i) * v + r[:, None]
    copies = np.arange(topology.width_out)[:, None] * nodes
    outputs = (joined[:, None, :] + copies).reshape(nodes, -1)
    outputs = np.tile(outputs, (topology.width_in, 1))
    inputs = np.arange(topology.width_in * nodes)[:, None]
    return np.broadcast_to(inputs, outputs.shape), outputs
