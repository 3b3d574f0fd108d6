"""Shapes and an overall sparsity to a sparsity for each kernel."""

import math
from collections.abc import Mapping

import numpy as np

from sparsenet_tf.topology.checks import shown
from sparsenet_tf.topology.random import check_shape
from sparsenet_tf.topology.selection import check_sparsity

METHODS = ("uniform", "erdos_renyi", "erk")


def allocate(shapes, sparsity, method="erk"):
    """Spread an overall sparsity over kernels, small ones kept denser.

    The density of a kernel is proportional to::

        "uniform"       1
        "erdos_renyi"   (n_in + n_out) / (n_in * n_out), of the last two axes
        "erk"           sum(shape) / prod(shape), of all axes

    with the factor that makes the number of connections of all kernels together
    `(1 - sparsity)` of their entries. Kernels that would exceed a density of 1 are
    made dense, and the factor is found anew for the others, until none exceeds it.

    Args:
        shapes: kernels' shapes, a sequence or a dict `{name: shape}`, each of two axes
            or more; the last two are (inputs, outputs).
        sparsity: share of all entries to prune, a number in [0, 1).
        method: "uniform", "erdos_renyi" or "erk".

    Returns:
        The sparsity of each kernel, in [0, 1), as a list or a dict with the same names.

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument is out of range, or there are no shapes.

    Source: Mocanu et al., "Scalable training of artificial neural networks with
    adaptive sparse connectivity", 2018 (Erdos-Renyi); Evci et al., "Rigging the
    Lottery", arXiv 1911.11134, section 3 (with kernel axes, "ERK").

    Example:
    >>> [round(s, 3) for s in allocate([(784, 300), (300, 100), (100, 10)], 0.9)]
    [0.92, 0.77, 0.0]
    """
    if isinstance(shapes, Mapping):
        found = allocate(list(shapes.values()), sparsity, method)
        return dict(zip(shapes, found, strict=True))
    if not np.iterable(shapes) or isinstance(shapes, str):
        raise TypeError(
            "`shapes` must be a sequence or a dict of shapes. "
            f"Received: {shown(shapes)}"
        )
    shapes = [check_shape(s, f"shapes[{i}]", 2) for i, s in enumerate(shapes)]
    if not shapes:
        raise ValueError("`shapes` must have at least one shape. Received: none")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"`method` must be one of {METHODS}. Received: {shown(method)}"
        )
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    wanted = (1 - check_sparsity(sparsity)) * sizes.sum()
    densities = _fill(np.array([_weight(s, method) for s in shapes]), sizes, wanted)
    # The nearest float below 1 is the sparsest that is still a sparsity.
    return [min(float(1 - d), math.nextafter(1, 0)) for d in densities]


def _weight(shape, method):
    if method == "uniform":
        return 1.0
    counted = shape if method == "erk" else shape[-2:]
    return sum(counted) / math.prod(counted)


def _fill(weights, sizes, wanted):
    """Densities proportional to `weights`, at most 1, with `wanted` connections."""
    dense = np.zeros(len(sizes), bool)
    while not dense.all():
        left = wanted - sizes[dense].sum()
        factor = left / (weights * sizes)[~dense].sum()
        # A kernel made dense leaves more to the others, so it stays dense.
        over = ~dense & (factor * weights > 1)
        if not over.any():
            return np.where(dense, 1.0, factor * weights)
        dense |= over
    return np.ones(len(sizes))
