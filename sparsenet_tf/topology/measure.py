"""What a chain of masks lets through: density, dead units, lost paths, collapse."""

import dataclasses

import numpy as np

from sparsenet_tf.topology.checks import as_array, shown


@dataclasses.dataclass(frozen=True)
class Measures:
    """What `measure` found.

    Args:
        density: share of all possible connections that exist.
        densities: the same for each mask, a tuple.
        num_connections: connections of all masks together.
        dead_inputs: for each mask, its inputs without any connection, a tuple.
        dead_outputs: for each mask, its outputs without any connection, a tuple.
        unreachable_pairs: pairs of an input of the first mask and an output of the last
            that no path joins.
        collapsed: indexes of the masks without any connection, a tuple.

    Example:
    >>> measure([np.eye(2, dtype=bool)]).unreachable_pairs
    2
    """

    density: float
    densities: tuple
    num_connections: int
    dead_inputs: tuple
    dead_outputs: tuple
    unreachable_pairs: int
    collapsed: tuple


def measure(masks):
    """Count what exists and what is cut off in a chain of masks.

    Args:
        masks: sequence of boolean arrays `(inputs, outputs)`, in the order of the net:
            the outputs of each are the inputs of the next.

    Returns:
        `Measures`.

    Raises:
        TypeError: `masks` is no sequence.
        ValueError: `masks` is empty, one is no boolean matrix, or two neighbours
            differ in size.

    Example:
    >>> found = measure([np.eye(3, dtype=bool), np.array([[1], [1], [0]], bool)])
    >>> found.densities, found.dead_inputs, found.unreachable_pairs
    ((0.3333333333333333, 0.6666666666666666), (0, 1), 1)
    """
    masks = _check_masks(masks)
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    reached = masks[0]
    for mask in masks[1:]:
        # Numbers of paths may be rounded, but no sum of ones and zeros rounds to 0.
        reached = reached.astype(np.float32) @ mask.astype(np.float32) > 0
    return Measures(
        density=sum(counts) / sum(mask.size for mask in masks),
        densities=tuple(n / m.size for n, m in zip(counts, masks, strict=True)),
        num_connections=sum(counts),
        dead_inputs=tuple(int((~mask.any(axis=1)).sum()) for mask in masks),
        dead_outputs=tuple(int((~mask.any(axis=0)).sum()) for mask in masks),
        unreachable_pairs=int(reached.size - np.count_nonzero(reached)),
        collapsed=tuple(i for i, n in enumerate(counts) if n == 0),
    )


def _check_masks(masks):
    if not np.iterable(masks) or isinstance(masks, (str, dict)):
        raise TypeError(
            f"`masks` must be a sequence of arrays. Received: {shown(masks)}"
        )
    masks = [as_array(mask, f"masks[{i}]") for i, mask in enumerate(masks)]
    if not masks:
        raise ValueError("`masks` must have at least one mask. Received: none")
    for i, mask in enumerate(masks):
        if mask.ndim != 2 or mask.dtype != bool or mask.size == 0:
            raise ValueError(
                f"`masks[{i}]` must be a boolean array (inputs, outputs), not empty. "
                f"Received: dtype {mask.dtype}, shape {mask.shape}"
            )
        if i and len(mask) != masks[i - 1].shape[1]:
            raise ValueError(
                f"`masks[{i}]` must have as many inputs as `masks[{i - 1}]` has "
                f"outputs, {masks[i - 1].shape[1]}. Received: shape {mask.shape}"
            )
    return masks
