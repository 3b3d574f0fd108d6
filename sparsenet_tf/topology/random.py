"""Random masks: Bernoulli, of an exact count, and of a fixed fan-in."""

import math

import numpy as np

from sparsenet_tf.topology.checks import as_generator, check_flag, check_integer, shown
from sparsenet_tf.topology.selection import check_sparsity, select_mask


def random_mask(shape, sparsity, seed, exact=False):
    """Keep connections at random, each independently or an exact number of them.

    With `exact=False` each entry is kept with probability `1 - sparsity`, whatever
    becomes of the others. With `exact=True` the count is that of `select_mask`,
    `min(round(sparsity * size), size - 1)` pruned entries, and each set of so many is
    equally likely. For one integer seed a sparser mask is a subset of a denser one.

    Args:
        shape: sequence of one or more positive integers.
        sparsity: share to prune, a number in [0, 1).
        seed: an integer of 0 or more, or a `numpy.random.Generator`, which advances.
        exact: whether the number of kept entries is exact.

    Returns:
        Boolean array of `shape`, True where kept.

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument is out of range.

    Source: the random topologies of Alford et al., "Training Behavior of Sparse Neural
    Network Topologies", are those with `exact=False`.

    Example:
    >>> int(random_mask((784, 300), 0.9, seed=0, exact=True).sum())
    23520
    """
    shape = check_shape(shape, "shape", 1)
    sparsity = check_sparsity(sparsity)
    exact = check_flag(exact, "exact")
    scores = as_generator(seed).random(shape)
    return select_mask(scores, sparsity) if exact else scores >= sparsity


def random_positions(size, taken, count, seed):
    """Draw positions that are free, each set of so many equally likely.

    Args:
        size: number of positions, 0 to `size - 1`.
        taken: rising integer array, those that are not free.
        count: how many to draw, at most those that are free.
        seed: an integer of 0 or more, a sequence of them, or a generator.

    Returns:
        Integer array (count,), rising.

    Example:
    >>> random_positions(6, np.array([0, 2, 4]), 3, seed=0)
    array([1, 3, 5])
    """
    taken = np.asarray(taken, np.int64)
    rng = np.random.default_rng(seed)
    ranks = np.sort(rng.choice(size - taken.size, count, replace=False, shuffle=False))
    # Of the free positions, that of rank r lies behind each taken one that has at
    # most r free ones before it.
    before = taken - np.arange(taken.size)
    return ranks + np.searchsorted(before, ranks, side="right")


def expander_mask(shape, fan_in, seed):
    """Give every output `fan_in` distinct inputs at random, and use all inputs evenly.

    Outputs are the last axis and inputs the others together. Inputs are dealt like
    cards, one shuffled deck after the other, so the numbers of connections of two
    inputs differ by at most one. Such random graphs are good expanders: a few layers
    of them join everything to everything.

    Args:
        shape: sequence of two or more positive integers.
        fan_in: connections of each output, from 1 to the number of inputs.
        seed: an integer of 0 or more, or a `numpy.random.Generator`, which advances.

    Returns:
        Boolean array of `shape`, True where connected.

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument is out of range.

    Source: Prabhu et al., "Deep Expander Networks", arXiv 1711.08757, section 3, whose
    layers also have a fixed fan-in; here the inputs are used evenly as well.

    Example:
    >>> mask = expander_mask((6, 4), fan_in=3, seed=0)
    >>> mask.sum(axis=0), mask.sum(axis=1)
    (array([3, 3, 3, 3]), array([2, 2, 2, 2, 2, 2]))
    """
    shape = check_shape(shape, "shape", 2)
    inputs, outputs = math.prod(shape[:-1]), shape[-1]
    fan_in = check_integer(fan_in, "fan_in", 1)
    if fan_in > inputs:
        raise ValueError(
            f"`fan_in` must be at most {inputs}, the inputs of an output of shape "
            f"{shape}. Received: {fan_in}"
        )
    hands = _deal(inputs, outputs, fan_in, as_generator(seed))
    mask = np.zeros((inputs, outputs), bool)
    mask[hands, np.arange(outputs)[:, None]] = True
    return mask.reshape(shape)


def check_shape(shape, name, least_axes):
    """Return `shape` as a tuple of positive ints, or say what is wrong with it.

    Raises:
        TypeError: it is no sequence of integers.
        ValueError: it has fewer axes than `least_axes`, or an axis below 1.

    >>> check_shape([5, np.int32(2)], "shape", 1)
    (5, 2)
    """
    if not np.iterable(shape) or isinstance(shape, str):
        raise TypeError(
            f"`{name}` must be a sequence of integers. Received: {shown(shape)}"
        )
    shape = tuple(shape)
    if len(shape) < least_axes:
        raise ValueError(
            f"`{name}` must have at least {least_axes} axes. Received: {shape}"
        )
    return tuple(check_integer(n, f"{name}[{i}]", 1) for i, n in enumerate(shape))


def _deal(inputs, outputs, fan_in, rng):
    """Array `(outputs, fan_in)`: distinct inputs in each row, all used evenly."""
    total = outputs * fan_in
    decks = np.tile(np.arange(inputs), (-(-total // inputs), 1))
    decks = rng.permuted(decks, axis=1)
    # A hand that begins in one deck may meet the same inputs in the next: there they
    # are swapped with later cards. These suffice, as `fan_in` is at most `inputs`.
    for end in range(1, len(decks)):
        begun = end * inputs % fan_in
        if begun:
            held = decks[end - 1, inputs - begun :]
            _avoid(decks[end], held, fan_in - begun)
    hands = decks.ravel()[:total].reshape(outputs, fan_in)
    # Neighbours share a deck and so no input: their order must not show it.
    return rng.permutation(hands)


def _avoid(deck, held, count):
    """Reorder `deck`, in place, so that none of `held` is in its first `count`."""
    clash = np.isin(deck, held)
    wrong = np.flatnonzero(clash[:count])
    if wrong.size:
        spare = count + np.flatnonzero(~clash[count:])[: wrong.size]
        deck[wrong], deck[spare] = deck[spare], deck[wrong]
