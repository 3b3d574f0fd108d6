"""Scores and a sparsity to a mask: the one place that rounds and breaks ties."""

import numpy as np

from sparsenet_tf.topology.checks import as_array, check_number, shown


def select_mask(scores, sparsity, mask=None):
    """Keep the highest scores so that exactly the wanted share is pruned.

    The number of pruned entries is `min(round(sparsity * size), size - 1)`, with
    Python's `round` (half to even), so at least one entry stays. Among equal scores
    the first in row-major order stay. Entries that `mask` has pruned stay pruned: a
    mask can only lose entries, and is returned as it is when it has lost enough.

    Magnitude pruning (Han et al., 2015; Zhu and Gupta, arXiv 1710.01878, section 3)
    is `select_mask(abs(weights), sparsity, mask)`.

    Args:
        scores: array of any shape, real numbers. Infinities are ordered as usual.
        sparsity: share to prune, a number in [0, 1).
        mask: optional boolean array of `scores`' shape, False where already pruned.

    Returns:
        Boolean array of `scores`' shape, True where kept.

    Raises:
        ValueError: `sparsity` is outside [0, 1), `scores` is empty or has NaN, or
            `mask` has another shape.

    Example:
    >>> select_mask(np.array([0.1, -3.0, 2.0, 0.1]), 0.5)
    array([ True, False,  True, False])
    """
    return select_masks([scores], sparsity, None if mask is None else [mask])[0]


def select_masks(scores, sparsity, masks=None):
    """`select_mask` over several arrays at once, ranked together ("global" scope).

    The share is taken of all entries together, so single arrays may lose more or less,
    or even all of theirs. Ties are broken by the arrays' order, then by position.

    Args:
        scores: list of arrays of real numbers, comparable with each other.
        sparsity: share of all entries to prune, a number in [0, 1).
        masks: optional list of boolean arrays, False where already pruned.

    Returns:
        List of boolean arrays, True where kept.

    Raises:
        TypeError: `scores` or `masks` is no list.
        ValueError: as `select_mask`, or the lists differ in length.

    Example:
    >>> select_masks([np.array([5.0, 1.0]), np.array([2.0, 3.0])], 0.5)
    [array([ True, False]), array([False,  True])]
    """
    sparsity = check_sparsity(sparsity)
    scores = [_check_scores(s) for s in _list(scores, "scores")]
    if not scores:
        raise ValueError("`scores` must have at least one array. Received: []")
    if masks is None:
        masks = [np.ones(s.shape, bool) for s in scores]
    masks = [as_array(mask, "mask") for mask in _list(masks, "masks")]
    _check_masks(masks, scores)

    flat = scores[0].ravel() if len(scores) == 1 else _concatenate(scores)
    alive = masks[0].ravel() if len(masks) == 1 else _concatenate(masks)
    target = min(round(sparsity * flat.size), flat.size - 1)
    count = np.count_nonzero(alive)
    to_prune = target - (flat.size - count)
    kept = alive.copy()
    if to_prune > 0:
        # By positions: NumPy gathers by them faster than by a random mask.
        candidates = flat if count == flat.size else flat[np.flatnonzero(alive)]
        threshold = np.partition(candidates, to_prune - 1)[to_prune - 1]
        kept &= flat > threshold
        ties = np.flatnonzero(alive & (flat == threshold))
        kept[ties[: count - to_prune - np.count_nonzero(kept)]] = True
    pieces = np.split(kept, np.cumsum([s.size for s in scores])[:-1])
    return [p.reshape(s.shape) for p, s in zip(pieces, scores, strict=True)]


def highest(scores, count):
    """Return the indices of the highest scores, rising; of equals the first ones.

    Args:
        scores: vector of real numbers, without NaN.
        count: how many, from 0 to the vector's length.

    Returns:
        Integer array (count,).

    Example:
    >>> highest(np.array([1.0, 5.0, 1.0, 3.0]), 3)
    array([0, 1, 3])
    """
    if count == 0:
        return np.zeros(0, np.intp)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    above = np.flatnonzero(scores > threshold)
    ties = np.flatnonzero(scores == threshold)[: count - above.size]
    return np.sort(np.concatenate([above, ties]))


def check_sparsity(sparsity, name="sparsity"):
    """Return `sparsity` as a float in [0, 1), or say what is wrong with it.

    Raises:
        TypeError: it is no real number.
        ValueError: it is outside [0, 1), or NaN.

    >>> check_sparsity(0.5)
    0.5
    """
    check_number(sparsity, name, "in [0, 1)")
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {shown(sparsity)}")
    return float(sparsity)


def _list(values, name):
    if not np.iterable(values) or isinstance(values, str):
        raise TypeError(f"`{name}` must be a list of arrays. Received: {shown(values)}")
    return list(values)


def _check_scores(scores):
    scores = as_array(scores, "scores")
    if scores.dtype.kind not in "fiub":
        raise ValueError(
            f"`scores` must hold real numbers. Received: dtype {scores.dtype}"
        )
    if scores.size == 0:
        raise ValueError(f"`scores` must not be empty. Received: shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(
            f"`scores` must not contain NaN. Received: {np.isnan(scores).sum()} NaN "
            f"in an array of shape {scores.shape}"
        )
    return scores


def _check_masks(masks, scores):
    if len(masks) != len(scores):
        raise ValueError(
            f"`masks` must have one mask for each of {len(scores)} scores. "
            f"Received: {len(masks)} masks"
        )
    for mask, score in zip(masks, scores, strict=True):
        if mask.dtype != bool or mask.shape != score.shape:
            raise ValueError(
                f"`mask` must be a boolean array of shape {score.shape}. "
                f"Received: dtype {mask.dtype}, shape {mask.shape}"
            )


def _concatenate(arrays):
    return np.concatenate([a.ravel() for a in arrays])
