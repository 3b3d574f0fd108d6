"""Random masks: the share or the exact count asked for, and a fixed fan-in."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.topology import expander_mask, measure, random_mask, select_mask

FEW = settings(max_examples=200, deadline=None, database=None)
SHAPES = ((7,), (784, 300), (5, 5, 20, 50))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_masks_are_boolean_and_repeatable(shape, exact):
    mask = random_mask(shape, 0.5, 3, exact)
    assert mask.dtype == bool and mask.shape == shape
    np.testing.assert_array_equal(mask, random_mask(list(shape), 0.5, 3, exact))
    if len(shape) > 1:
        assert (mask != random_mask(shape, 0.5, 4, exact)).any()


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_each_entry_is_kept_independently(sparsity):
    masks = np.stack([random_mask((50, 40), sparsity, seed) for seed in range(50)])
    keep, size = 1 - sparsity, masks.size
    deviation = np.sqrt(keep * sparsity)
    assert abs(masks.mean() - keep) <= 5 * deviation / np.sqrt(size)
    # Counts vary as those of independent entries do, also along either axis.
    for axis in (0, 1, 2, (1, 2)):
        counts = masks.sum(axis=axis)
        expected = keep * sparsity * size / counts.size
        # The variance of a sample variance is about 2 / (number of samples).
        margin = 6 * np.sqrt(2 / counts.size) * expected
        assert abs(counts.var() - expected) <= margin + 1e-12


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 1 / 3, 0.5, 0.95, 0.999, 1 - 1e-12])
@pytest.mark.parametrize("size", [1, 2, 5, 99, 1000])
def test_exact_count_is_that_of_select_mask(size, sparsity):
    mask = random_mask((size,), sparsity, 0, exact=True)
    kept = size - min(round(sparsity * size), size - 1)
    assert np.count_nonzero(mask) == kept
    assert np.count_nonzero(select_mask(np.arange(size), sparsity)) == kept


def test_exact_positions_are_uniform():
    total = sum(random_mask((30,), 0.9, s, exact=True).astype(int) for s in range(3000))
    # 300 expected at each position, with a standard deviation of 16.4.
    assert total.sum() == 9000 and abs(total - 300).max() < 82


@pytest.mark.parametrize("exact", [False, True])
def test_a_sparser_mask_of_one_seed_is_a_subset(exact):
    masks = [random_mask((40, 30), s, 7, exact) for s in (0.0, 0.3, 0.8, 0.99)]
    for denser, sparser in zip(masks, masks[1:], strict=False):
        assert not (sparser & ~denser).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: random_mask((20, 30), 0.5, seed),
        lambda seed: random_mask((20, 30), 0.5, seed, exact=True),
        lambda seed: expander_mask((20, 30), 5, seed),
    ],
)
def test_a_generator_advances(make):
    rng = np.random.default_rng(11)
    first, second = make(rng), make(rng)
    np.testing.assert_array_equal(first, make(11))
    np.testing.assert_array_equal(first, make(np.int64(11)))
    assert (first != second).any()


@FEW
@given(st.integers(1, 30), st.integers(1, 40), st.data())
def test_expander_degrees(inputs, outputs, data):
    fan_in = data.draw(st.integers(1, inputs))
    mask = expander_mask((inputs, outputs), fan_in, data.draw(st.integers(0, 99)))
    assert mask.dtype == bool and mask.shape == (inputs, outputs)
    assert (mask.sum(axis=0) == fan_in).all()
    degrees = mask.sum(axis=1)
    assert degrees.max() - degrees.min() <= 1


def test_expander_of_a_kernel():
    mask = expander_mask((5, 5, 20, 50), 50, seed=0)
    assert mask.shape == (5, 5, 20, 50)
    assert (mask.sum(axis=(0, 1, 2)) == 50).all()
    assert (mask.sum(axis=3) == 5).all()


@pytest.mark.parametrize("fan_in", [4, 5])
def test_expander_entries_are_equally_likely(fan_in):
    runs = 2000
    masks = [expander_mask((8, 6), fan_in, seed) for seed in range(runs)]
    share = np.mean(masks, axis=0)
    keep = fan_in / 8
    assert abs(share - keep).max() < 5 * np.sqrt(keep * (1 - keep) / runs)


def test_neighbouring_outputs_are_like_any_others():
    masks = np.array([expander_mask((8, 6), 4, seed) for seed in range(1000)])
    shared = np.einsum("rio,rip->op", masks.astype(int), masks.astype(int)) / 1000
    apart = shared[~np.eye(6, dtype=bool)]
    assert apart.max() - apart.min() < 0.25 and np.diag(shared).tolist() == [4] * 6


def test_a_few_expander_layers_join_everything():
    masks = [expander_mask((256, 256), 8, seed) for seed in range(4)]
    assert measure(masks).unreachable_pairs == 0


def test_large_expanders_are_quick():
    start = time.perf_counter()
    mask = expander_mask((4096, 4096), 41, seed=0)
    assert time.perf_counter() - start < 1.0  # 15 ms where nothing else runs.
    assert (mask.sum(axis=0) == 41).all() and (mask.sum(axis=1) == 41).all()


@pytest.mark.parametrize("make", [random_mask, expander_mask])
@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (5, TypeError, "`shape` must be a sequence of integers. Received: 5"),
        ("55", TypeError, "`shape` must be a sequence of integers"),
        ((), ValueError, "`shape` must have at least . axes"),
        ((3, 0), ValueError, r"`shape\[1\]` must be 1 or more. Received: 0"),
        ((3, -1), ValueError, r"`shape\[1\]`"),
        ((3, 2.0), TypeError, r"`shape\[1\]` must be an integer"),
        ((True, 2), TypeError, r"`shape\[0\]` must be an integer"),
        ((3, None), TypeError, r"`shape\[1\]` must be an integer"),
    ],
)
def test_bad_shapes(make, shape, error, message):
    with pytest.raises(error, match=message):
        make(shape, 0.5 if make is random_mask else 1, 0)


def test_an_expander_needs_two_axes():
    with pytest.raises(ValueError, match="`shape` must have at least 2 axes"):
        expander_mask((5,), 1, 0)


@pytest.mark.parametrize("make", [random_mask, expander_mask])
@pytest.mark.parametrize("seed", [None, 1.0, "1", True, np.random.RandomState(0)])
def test_seeds_of_another_type(make, seed):
    with pytest.raises(TypeError, match="`seed` must be an integer or a numpy.random"):
        make((3, 2), 0.5 if make is random_mask else 1, seed)


def test_negative_seed():
    with pytest.raises(ValueError, match="`seed` must be 0 or more. Received: -1"):
        random_mask((3, 2), 0.5, -1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, np.nan])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match="`sparsity` must be in"):
        random_mask((3, 2), sparsity, 0)


@pytest.mark.parametrize(
    ("fan_in", "error", "message"),
    [
        (0, ValueError, "`fan_in` must be 1 or more. Received: 0"),
        (7, ValueError, r"`fan_in` must be at most 6, .*\(2, 3, 4\). Received: 7"),
        (2.0, TypeError, "`fan_in` must be an integer"),
        (True, TypeError, "`fan_in` must be an integer"),
    ],
)
def test_fan_in_out_of_range(fan_in, error, message):
    with pytest.raises(error, match=message):
        expander_mask((2, 3, 4), fan_in, 0)
