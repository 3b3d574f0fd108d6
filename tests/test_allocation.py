"""Sparsities per kernel: the total asked for, in the proportions of each method."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.topology import allocate, random_mask

FEW = settings(max_examples=200, deadline=None, database=None)
METHODS = ("uniform", "erdos_renyi", "erk")
LENET_300 = [(784, 300), (300, 100), (100, 10)]
LENET_5 = [(5, 5, 1, 20), (5, 5, 20, 50), (2450, 384), (384, 10)]

shapes_of_kernels = st.lists(
    st.lists(st.integers(1, 64), min_size=2, max_size=4), min_size=1, max_size=8
)
sparsities = st.floats(0, 1, exclude_max=True)


def connections(shapes, found):
    return sum((1 - s) * math.prod(n) for s, n in zip(found, shapes, strict=True))


def weight(shape, method):
    if method == "uniform":
        return 1
    shape = shape if method == "erk" else shape[-2:]
    return sum(shape) / math.prod(shape)


@pytest.mark.parametrize("method", METHODS)
@FEW
@given(shapes=shapes_of_kernels, sparsity=sparsities)
def test_total_and_proportions(method, shapes, sparsity):
    found = allocate(shapes, sparsity, method)
    assert all(type(s) is float and 0 <= s < 1 for s in found)
    total = sum(map(math.prod, shapes))
    assert connections(shapes, found) == pytest.approx(
        (1 - sparsity) * total, rel=1e-9, abs=1e-9
    )
    # One factor for all kernels that are not dense, and dense are those above it.
    factors = [(1 - s) / weight(n, method) for s, n in zip(found, shapes, strict=True)]
    sparse = [f for f, s in zip(factors, found, strict=True) if s > 1e-9]
    if sparse and 1 - sparsity > 1e-6:
        assert max(sparse) == pytest.approx(min(sparse), rel=1e-6)
        assert max(factors) <= max(sparse) * (1 + 1e-6)


def test_uniform_is_the_same_everywhere():
    assert allocate(LENET_5, 0.75, "uniform") == pytest.approx([0.75] * 4)


def test_erk_of_lenet_300_by_hand():
    # The last kernel would be 100% dense and more: it stays whole.
    left = 0.1 * 266200 - 1000
    factor = left / (1084 + 400)
    expected = [1 - factor * 1084 / 235200, 1 - factor * 400 / 30000, 0.0]
    assert allocate(LENET_300, 0.9) == pytest.approx(expected)
    assert allocate(LENET_300, 0.9, "erdos_renyi") == pytest.approx(expected)


def test_convolutions_differ_between_the_two_methods():
    shapes, sparsity = [(3, 3, 64, 64), (3, 3, 64, 128), (1024, 512)], 0.9
    total = sum(map(math.prod, shapes))

    raw = np.array([128 / 4096, 192 / 8192, 1536 / 524288])
    factor = 0.1 * total / (raw * [math.prod(s) for s in shapes]).sum()
    assert (factor * raw < 1).all()
    expected = 1 - factor * raw
    assert allocate(shapes, sparsity, "erdos_renyi") == pytest.approx(expected)

    raw = np.array([134 / 36864, 198 / 73728, 1536 / 524288])
    factor = 0.1 * total / (raw * [math.prod(s) for s in shapes]).sum()
    expected = 1 - factor * raw
    assert allocate(shapes, sparsity, "erk") == pytest.approx(expected)


def test_dense_kernels_may_make_further_ones_dense():
    # Alone, the first overflows; what it leaves over fills the second as well.
    shapes = [(2, 2), (8, 8), (1000, 1000)]
    sizes, raw = np.array([4, 64, 1e6]), np.array([1, 0.25, 0.002])
    wanted = 8075
    first = wanted / (raw * sizes).sum()
    assert (first * raw > 1).tolist() == [True, False, False]
    found = allocate(shapes, 1 - wanted / sizes.sum(), "erk")
    assert found[:2] == [0.0, 0.0]
    assert found[2] == pytest.approx(1 - (wanted - 68) / 1e6)


@pytest.mark.parametrize("method", METHODS)
def test_no_sparsity_keeps_everything(method):
    assert allocate(LENET_5, 0.0, method) == pytest.approx([0.0] * 4)


@pytest.mark.parametrize("method", METHODS)
def test_sparsities_can_be_used_as_they_are(method):
    for sparsity in (0.0, 0.5, 1 - 1e-12, math.nextafter(1, 0)):
        found = allocate(LENET_300, sparsity, method)
        masks = [
            random_mask(n, s, 0, exact=True)
            for n, s in zip(LENET_300, found, strict=True)
        ]
        kept = sum(int(mask.sum()) for mask in masks)
        assert abs(kept - (1 - sparsity) * 266200) <= 3


def test_a_dict_keeps_names_and_order():
    names = ["logits", "dense", "conv"]
    found = allocate(dict(zip(names, LENET_300, strict=True)), 0.9)
    assert list(found) == names
    assert list(found.values()) == allocate(tuple(LENET_300), 0.9)


def test_shapes_are_taken_in_any_sequence():
    expected = allocate(LENET_300, 0.9)
    assert allocate(np.array(LENET_300), 0.9) == expected
    assert allocate((list(shape) for shape in LENET_300), 0.9) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5, 0.5), TypeError, "`shapes` must be a sequence or a dict"),
        (("ab", 0.5), TypeError, "`shapes` must be a sequence or a dict"),
        (((784, 300), 0.5), TypeError, r"`shapes\[0\]` must be a sequence of integers"),
        (([(3,)], 0.5), ValueError, r"`shapes\[0\]` must have at least 2 axes"),
        (([(3, 2), (3, 0)], 0.5), ValueError, r"`shapes\[1\]\[1\]` must be 1 or more"),
        (([(3, 2.5)], 0.5), TypeError, r"`shapes\[0\]\[1\]` must be an integer"),
        (([], 0.5), ValueError, "`shapes` must have at least one shape"),
        (({}, 0.5), ValueError, "`shapes` must have at least one shape"),
        (([(3, 2)], 1.0), ValueError, "`sparsity` must be in"),
        (([(3, 2)], "0.5"), TypeError, "`sparsity` must be a number"),
        (([(3, 2)], 0.5, "ERK"), ValueError, "`method` must be one of .*'ERK'"),
        (([(3, 2)], 0.5, None), ValueError, "`method` must be one of .*None"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        allocate(*arguments)
