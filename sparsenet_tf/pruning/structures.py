"""Which weights go together: N:M groups, blocks, whole units.

A structure has a method `select` from the scores of kernels and the share to prune to
their masks. All see a kernel as matrices `(inputs, outputs)`, one for each position of
a convolution's window. A depthwise kernel sums over its window alone, which therefore
takes the place of its inputs. `PruningCallback` and `prune_one_shot` take one as
`structure`.
"""

import keras
import numpy as np

from sparsenet_tf.pruning.not_a_callback import NotACallback
from sparsenet_tf.topology.checks import check_integer, shown
from sparsenet_tf.topology.selection import check_sparsity, select_masks


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class NM(NotACallback, place="structure"):
    """At most `n` of each `m` consecutive weights along the inputs are kept.

    A group is `m` neighbours along the axis that the layer's product sums over, at one
    output and one position of a convolution's window. Where `m` does not divide the
    inputs, the last group has fewer members and keeps `min(n, members)` of them.

    A sparsity of `1 - n / m` prunes all that the pattern forbids, which is that share
    of the weights where `m` divides. A smaller one, of a schedule on its way, prunes
    the lowest `round(sparsity * size)` of those that are among the `m - n` lowest of
    their group, so that the pattern can still be reached. Pruned weights count as the
    lowest of their group; among equal scores the first stay.

    Args:
        n: most weights that a group keeps, 1 or more.
        m: weights of a group, more than `n`.

    Raises:
        TypeError, ValueError: they are no integers, or out of range.

    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv
    2104.08378, for 2:4; Zhou et al., arXiv 2102.04010, for N:M.

    Example:
    >>> scores = np.array([[4.0], [1.0], [3.0], [2.0]])
    >>> axes = (0,), (1,)  # of inputs, of outputs
    >>> NM(2, 4).select([scores], 0.5, [scores > 0], [axes])[0].ravel()
    array([ True, False,  True, False])
    """

    def __init__(self, n, m):
        self.n = check_integer(n, "n", 1)
        self.m = check_integer(m, "m", 1)
        if self.m <= self.n:
            raise ValueError(f"`m` must be more than `n`, {n}. Received: {shown(m)}")

    @property
    def max_sparsity(self):
        """The share that the pattern forbids, `1 - n / m`."""
        return 1 - self.n / self.m

    def select(self, scores, sparsity, masks, axes):
        """Return the new masks of kernels that are ranked together.

        Args:
            scores: list of arrays of finite scores, of the kernels' shapes.
            sparsity: share of all their weights to prune, at most `1 - n / m`.
            masks: list of boolean arrays, False where already pruned.
            axes: list of `(input_axes, output_axes)`, each a tuple of axes.

        Returns:
            List of boolean arrays; what was pruned stays so.

        Raises:
            ValueError: `sparsity` is more than the pattern forbids.
        """
        check_max_sparsity(self, sparsity)
        forbidden = [
            _from_matrices(
                self._forbidden(_matrices(score, axis), _matrices(mask, axis)),
                score.shape,
                axis,
            )
            for score, mask, axis in zip(scores, masks, axes, strict=True)
        ]
        if sparsity >= self.max_sparsity - _ROUNDING:
            return [m & ~f for m, f in zip(masks, forbidden, strict=True)]
        # Others cannot be chosen: there are enough whose score is not infinite.
        size = sum(mask.size for mask in masks)
        lost = [f | ~m for m, f in zip(masks, forbidden, strict=True)]
        share = min(sparsity, sum(np.count_nonzero(each) for each in lost) / size)
        ranked = [
            np.where(f, s, np.inf) for f, s in zip(forbidden, scores, strict=True)
        ]
        return select_masks(ranked, share, masks)

    def _forbidden(self, scores, masks):
        """The lowest of each group but `n`, as a boolean array."""
        positions, inputs, outputs = scores.shape
        groups = -(-inputs // self.m)
        ranked = np.where(masks, scores, -np.inf)
        missing = groups * self.m - inputs
        ranked = np.pad(
            ranked, [(0, 0), (0, missing), (0, 0)], constant_values=-np.inf
        ).reshape(positions, groups, self.m, outputs)
        # The highest come first, and of equal ones the first: what is missing in the
        # last group is at its end.
        order = np.argsort(-ranked, axis=2, kind="stable")
        found = np.zeros(ranked.shape, bool)
        np.put_along_axis(found, order[:, :, self.n :], True, axis=2)
        return found.reshape(positions, -1, outputs)[:, :inputs]

    def get_config(self):
        """The arguments."""
        return {"n": self.n, "m": self.m}

    @classmethod
    def from_config(cls, config):
        """The structure of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Blocks(NotACallback, place="structure"):
    """Blocks of weights that are pruned or kept as a whole.

    A block has `shape[0]` inputs and `shape[1]` outputs, at one position of a
    convolution's window; at a kernel's edges blocks are smaller. Its score is the mean
    of its weights' scores. Of all blocks `min(round(sparsity * blocks), blocks - 1)`
    are pruned, those of the lowest scores; among equals the first in row-major order
    stay. With blocks of several sizes the share of the weights may differ from that.

    Args:
        shape: pair of integers, such as (4, 4).

    Raises:
        TypeError, ValueError: it is something else.

    Source: Narang et al., "Block-Sparse Recurrent Neural Networks", arXiv 1711.02782;
    tensorflow-model-optimization's `block_size`.

    Example:
    >>> scores = np.array([[1.0, 9, 4, 4], [1, 9, 4, 4]])
    >>> axes = (0,), (1,)  # of inputs, of outputs
    >>> Blocks((2, 2)).select([scores], 0.5, [scores > 0], [axes])[0][0]
    array([ True,  True, False, False])
    """

    def __init__(self, shape):
        if not isinstance(shape, (list, tuple)) or len(shape) != 2:
            raise ValueError(
                f"`shape` must be a pair of integers, (inputs, outputs). Received: "
                f"{shown(shape)}"
            )
        self.shape = tuple(
            check_integer(s, f"shape[{i}]", 1) for i, s in enumerate(shape)
        )

    def select(self, scores, sparsity, masks, axes):
        """Return the new masks, as `NM.select`; `sparsity` is a share of the blocks."""
        in_blocks = [
            self._means(_matrices(score, axis))
            for score, axis in zip(scores, axes, strict=True)
        ]
        left = [
            self._means(_matrices(mask, axis)) > 0
            for mask, axis in zip(masks, axes, strict=True)
        ]
        kept = select_masks(in_blocks, sparsity, left)
        return [
            mask & _from_matrices(self._expand(k, mask, axis), mask.shape, axis)
            for k, mask, axis in zip(kept, masks, axes, strict=True)
        ]

    def _means(self, matrices):
        sums, sizes = matrices.astype(np.float64), np.ones(matrices.shape)
        for axis, size in zip((1, 2), self.shape, strict=True):
            starts = np.arange(0, matrices.shape[axis], size)
            sums = np.add.reduceat(sums, starts, axis=axis)
            sizes = np.add.reduceat(sizes, starts, axis=axis)
        return sums / sizes

    def _expand(self, blocks, mask, axes):
        _, inputs, outputs = _matrices(mask, axes).shape
        rows, columns = (
            np.arange(length) // size
            for length, size in zip((inputs, outputs), self.shape, strict=True)
        )
        return blocks[:, rows][:, :, columns]

    def get_config(self):
        """The arguments."""
        return {"shape": self.shape}

    @classmethod
    def from_config(cls, config):
        """The structure of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Units(NotACallback, place="structure"):
    """Whole units: all weights to an output of a Dense layer, or to a filter.

    In a depthwise kernel a unit is a channel. A unit's score is the mean of its
    weights' scores. Of all units `min(round(sparsity * units), units - 1)` are pruned,
    those of the lowest scores; among equals the first stay. Each kernel keeps at least
    one of the units that it has, also when all kernels are ranked together, so that
    then fewer may be pruned.

    A unit without weights is not gone: with a bias `b` it puts out the constant
    `activation(b)`, and the layer is as large as before. `stf.strip(model,
    shrink=True)` takes it out, of the layers after it too. Name the layers that give
    the model's outputs in `exclude`, since a class without weights cannot be told.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv 1608.08710, who
    rank filters by the sum of their weights' magnitudes.

    Example:
    >>> scores = np.array([[1.0, 9, 4], [1, 9, 4]])
    >>> axes = (0,), (1,)  # of inputs, of outputs
    >>> Units().select([scores], 0.3, [scores > 0], [axes])[0][0]
    array([False,  True,  True])
    """

    def select(self, scores, sparsity, masks, axes):
        """Return the new masks, as `NM.select`; `sparsity` is a share of the units."""
        others = [
            tuple(a for a in range(mask.ndim) if a not in outputs)
            for mask, (_, outputs) in zip(masks, axes, strict=True)
        ]
        means = [
            np.array(np.mean(score, axis=axis, dtype=np.float64))
            for score, axis in zip(scores, others, strict=True)
        ]
        left = [m.any(axis=axis) for m, axis in zip(masks, others, strict=True)]
        for mean, units in zip(means, left, strict=True):
            best = np.argmax(np.where(units, mean, -np.inf))
            mean.flat[best] = np.inf
        kept = select_masks(means, sparsity, left)
        for k, mean, units in zip(kept, means, left, strict=True):
            k |= units & np.isposinf(mean)
        return [
            mask & np.expand_dims(k, axis)
            for k, mask, axis in zip(kept, masks, others, strict=True)
        ]

    def get_config(self):
        """There are no arguments."""
        return {}

    @classmethod
    def from_config(cls, config):
        """The structure of `get_config`."""
        return cls(**config)


_ROUNDING = 1e-9  # of `1 - n / m`, and of schedules that end at it


def check_max_sparsity(structure, sparsity, name="sparsity"):
    """Raise a ValueError if `structure` cannot prune as much.

    >>> check_max_sparsity(NM(2, 4), 0.5)
    """
    most = getattr(structure, "max_sparsity", 1.0)
    if check_sparsity(sparsity, name) > most + _ROUNDING:
        raise ValueError(
            f"`{name}` must be at most {most:.4g}, which is all that "
            f"{type(structure).__name__} of {structure.get_config()} prunes. "
            f"Received: {shown(sparsity)}"
        )


def _matrices(array, axes):
    """A kernel as `(positions, inputs, outputs)`; see `_from_matrices`."""
    order, sizes = _order(array.shape, axes)
    return array.transpose(order).reshape(sizes)


def _from_matrices(matrices, shape, axes):
    order, _ = _order(shape, axes)
    in_order = matrices.reshape([shape[axis] for axis in order])
    return in_order.transpose(np.argsort(order))


def _order(shape, axes):
    inputs, outputs = axes
    positions = [a for a in range(len(shape)) if a not in {*inputs, *outputs}]
    if set(inputs) <= set(outputs):  # depthwise
        positions, inputs = [], positions
    parts = positions, list(inputs), list(outputs)
    sizes = [int(np.prod([shape[axis] for axis in part])) for part in parts]
    return [axis for part in parts for axis in part], sizes
