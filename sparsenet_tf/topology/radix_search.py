"""`find_radix_layer`: the RadiX layer that a mask is, if it is one."""

import numpy as np

from sparsenet_tf.topology.checks import as_array
from sparsenet_tf.topology.radix_layer import RadixLayer


def find_radix_layer(mask):
    """Return the `RadixLayer` whose mask this is, or None.

    Of several that are the same, the one with the fewest nodes. Some inputs and outputs
    may have been dropped, so long as one copy on each side is whole.

    Args:
        mask: boolean array (inputs, outputs), or one of 0 and 1.

    Raises:
        ValueError: `mask` holds something else.

    Example:
    >>> net = stf.topology.RadixNet((10, 10), (8, 3, 1))
    >>> print(find_radix_layer(net.masks[1]))
    300 -> 100: radix 1 at place 1 of 10 nodes, widths 30 -> 10, 90.00% sparse, \
3000 connections
    >>> find_radix_layer(np.eye(4, dtype=bool)[::-1]) is None
    True
    """
    mask = as_array(mask, "mask")
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"`mask` must hold booleans, or 0 and 1. Received: dtype {mask.dtype}, "
            f"{mask!r:.200}"
        )
    mask = mask.astype(bool)
    if mask.ndim != 2 or not mask.any():
        return None
    # Copies repeat: rows and columns have the nodes as a period.
    rows, columns = _periods(mask), _periods(mask.T)
    for nodes in sorted(rows & columns):
        found = _with_nodes(mask, nodes)
        if found is not None:
            return found
    return None


def _periods(mask):
    """The distances at which all rows repeat, and the number of rows."""
    keys = np.unique(np.packbits(mask, axis=1), axis=0, return_inverse=True)[1]
    keys = keys.reshape(-1)
    size = len(keys)
    found = {p for p in range(1, size) if (keys[p:] == keys[:-p]).all()}
    return found | {size}


def _with_nodes(mask, nodes):
    inputs, outputs = mask.shape
    copies_in, copies_out = -(-inputs // nodes), -(-outputs // nodes)
    # The last node of the last copy is there, whatever is dropped: it joins the nodes
    # that are multiples of the place value before its own.
    joined = np.flatnonzero(mask[-1][::-1][:nodes])
    radix, place_value = joined.size, int(joined[1]) if joined.size > 1 else 1
    if radix == 0 or nodes % (radix * place_value):
        return None
    layer = RadixLayer(
        nodes,
        radix,
        place_value,
        copies_in,
        copies_out,
        copies_in * nodes - inputs,
        copies_out * nodes - outputs,
    )
    same = layer.num_connections == np.count_nonzero(mask)
    return layer if same and np.array_equal(layer.mask(), mask) else None
