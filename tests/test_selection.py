"""Scores to masks: exact counts, ties by position, and masks that only lose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.topology import select_mask, select_masks
from sparsenet_tf.topology.selection import check_sparsity

SPARSITIES = (0.0, 1e-9, 0.1, 0.25, 1 / 3, 0.5, 0.625, 0.9, 0.95, 0.995, 1 - 1e-12)
FEW = settings(max_examples=100, deadline=None, database=None)


def reference(scores, sparsity, masks=None):
    """Sorts everything; of equal scores the last come first, to be pruned."""
    flat = np.concatenate([np.ravel(s) for s in scores])
    kept = np.ones(flat.size, bool)
    if masks is not None:
        kept = np.concatenate([np.ravel(m) for m in masks])
    wanted = min(round(sparsity * flat.size), flat.size - 1)
    for i in np.lexsort((-np.arange(flat.size), flat)):
        if np.count_nonzero(~kept) >= wanted:
            break
        kept[i] = False
    ends = np.cumsum([np.size(s) for s in scores])[:-1]
    pieces = np.split(kept, ends)
    return [p.reshape(np.shape(s)) for p, s in zip(pieces, scores, strict=True)]


def assert_same(masks, expected):
    assert len(masks) == len(expected)
    for mask, wanted in zip(masks, expected, strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_prunes_the_exact_count(sparsity):
    rng = np.random.default_rng(1)
    for size in [*range(1, 40), 99, 100, 101, 1000, 4097]:
        mask = select_mask(rng.normal(size=size), sparsity)
        pruned = size - np.count_nonzero(mask)
        assert pruned == min(round(sparsity * size), size - 1)


def test_rounds_half_to_even_as_python_does():
    assert [5 - select_mask(np.arange(5.0), s).sum() for s in (0.1, 0.3, 0.5)] == [
        0, 2, 2,
    ]  # fmt: skip


def test_at_least_one_entry_stays():
    assert select_mask(np.array([3.0]), 0.999).tolist() == [True]
    mask = select_mask(np.array([1.0, 9.0, 2.0]), 0.999)
    assert mask.tolist() == [False, True, False]


def test_exact_count_where_every_score_is_the_same():
    for size in (2, 7, 64):
        mask = select_mask(np.zeros(size), 0.5)
        pruned = round(0.5 * size)
        assert mask.tolist() == [True] * (size - pruned) + [False] * pruned


def test_of_equal_scores_the_first_stay():
    scores = np.array([[1.0, 2.0, 1.0], [0.0, 1.0, 1.0]])
    assert select_mask(scores, 0.5).tolist() == [
        [True, True, True],
        [False, False, False],
    ]


def test_ties_are_broken_in_row_major_order_for_any_memory_layout():
    scores = np.zeros((3, 4))
    expected = select_mask(scores, 0.5)
    np.testing.assert_array_equal(select_mask(np.asfortranarray(scores), 0.5), expected)
    np.testing.assert_array_equal(select_mask(np.zeros((4, 3)).T, 0.5), expected)
    np.testing.assert_array_equal(select_mask(np.zeros((6, 4))[::2], 0.5), expected)


def test_negative_zero_is_equal_to_zero():
    assert select_mask(np.array([-0.0, 0.0]), 0.5).tolist() == [True, False]


def test_masks_and_scores_of_any_memory_layout():
    rng = np.random.default_rng(2)
    scores, mask = rng.normal(size=(4, 6)), rng.random((4, 6)) < 0.8
    expected = select_mask(scores, 0.5, mask)
    got = select_mask(np.asfortranarray(scores), 0.5, np.asfortranarray(mask))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (2, 1, 3), (3, 3, 2, 2)])
def test_shape_is_kept(shape):
    mask = select_mask(np.ones(shape), 0.5)
    assert mask.shape == shape and mask.dtype == bool


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "bool"]
)
def test_any_real_dtype(dtype):
    scores = np.array([1, 0, 1, 0], dtype)
    assert select_mask(scores, 0.5).tolist() == [True, False, True, False]


def test_lists_are_taken_as_scores():
    assert select_mask([3, 1, 2], 1 / 3).tolist() == [True, False, True]


def test_infinities_are_ordered():
    scores = np.array([np.inf, -np.inf, 0.0, np.inf, -np.inf, 1.0])
    kept = [np.flatnonzero(select_mask(scores, n / 6)).tolist() for n in range(6)]
    assert kept == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 5],
        [0, 2, 3, 5],
        [0, 3, 5],
        [0, 3],
        [0],
    ]


def test_arguments_are_not_changed():
    scores = np.array([3.0, 1.0, 2.0, 5.0])
    mask = np.array([True, True, True, False])
    before = scores.copy(), mask.copy()
    result = select_mask(scores, 0.75, mask)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(mask, before[1])
    same = select_mask(scores, 0.0, mask)
    assert not np.shares_memory(same, mask) and not np.shares_memory(result, mask)


def test_pruned_entries_never_return():
    rng = np.random.default_rng(3)
    mask = np.ones((20, 30), bool)
    for sparsity in np.linspace(0, 0.99, 12):
        new = select_mask(rng.normal(size=mask.shape), sparsity, mask)
        assert not (new & ~mask).any()
        assert np.count_nonzero(~new) == round(sparsity * 600)
        mask = new


def test_a_pruned_entry_counts_even_with_the_highest_score():
    scores = np.array([9.0, 3.0, 2.0, 1.0])
    mask = np.array([False, True, True, True])
    assert select_mask(scores, 0.5, mask).tolist() == [False, True, True, False]


def test_a_mask_that_lost_enough_comes_back_as_it_is():
    rng = np.random.default_rng(4)
    mask = rng.random(100) < 0.3
    for sparsity in (0.0, 0.2, 0.5):
        result = select_mask(rng.normal(size=100), sparsity, mask)
        np.testing.assert_array_equal(result, mask)
    nothing = np.zeros(5, bool)
    np.testing.assert_array_equal(select_mask(np.ones(5), 0.9, nothing), nothing)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_idempotent(sparsity):
    scores = np.random.default_rng(5).integers(0, 4, 50)
    mask = select_mask(scores, sparsity)
    np.testing.assert_array_equal(select_mask(scores, sparsity, mask), mask)
    np.testing.assert_array_equal(select_mask(-scores, sparsity, mask), mask)


def test_pruning_in_stages_is_pruning_at_once():
    scores = np.random.default_rng(6).integers(0, 9, 77)
    mask = None
    for sparsity in (0.2, 0.5, 0.51, 0.9):
        mask = select_mask(scores, sparsity, mask)
        np.testing.assert_array_equal(mask, select_mask(scores, sparsity))


def test_global_ranks_all_arrays_together():
    scores = [np.array([[5.0, 1.0]]), np.array([2.0, 3.0]), np.array([0.5, 9.0])]
    masks = select_masks(scores, 0.5)
    assert [m.tolist() for m in masks] == [
        [[True, False]],
        [False, True],
        [False, True],
    ]


def test_global_may_empty_an_array():
    masks = select_masks([np.full(3, 0.1), np.full(3, 5.0)], 0.5)
    assert [m.sum() for m in masks] == [0, 3]


def test_global_ties_go_by_the_order_of_the_arrays():
    masks = select_masks([np.zeros(3), np.zeros(2), np.zeros(3)], 0.5)
    assert [m.tolist() for m in masks] == [[True] * 3, [True, False], [False] * 3]


def test_global_counts_what_each_mask_has_lost():
    scores = [np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])]
    masks = [np.ones(3, bool), np.array([True, False, False])]
    result = select_masks(scores, 0.5, masks)
    assert [m.tolist() for m in result] == [[False, True, True], [True, False, False]]


def test_global_compares_dtypes_by_value():
    scores = [np.array([300], "int64"), np.array([1.5], "float16"), np.array([True])]
    assert [m.tolist() for m in select_masks(scores, 0.67)] == [
        [True], [False], [False],
    ]  # fmt: skip


def test_global_arrays_are_separate():
    first, second = select_masks([np.ones(2), np.ones(2)], 0.0)
    first[:] = False
    assert second.all()


scores_and_masks = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5, 2.0, np.inf]), st.booleans()
        ),
        min_size=1,
        max_size=12,
    ),
    min_size=1,
    max_size=4,
)
sparsities = st.floats(0, 1, exclude_max=True)


@FEW
@given(scores_and_masks, sparsities)
def test_equals_the_slow_reference(pairs, sparsity):
    scores = [np.array([s for s, _ in array]) for array in pairs]
    masks = [np.array([m for _, m in array]) for array in pairs]
    assert_same(select_masks(scores, sparsity), reference(scores, sparsity))
    assert_same(
        select_masks(scores, sparsity, masks), reference(scores, sparsity, masks)
    )
    assert_same(
        [select_mask(scores[0], sparsity, masks[0])],
        reference(scores[:1], sparsity, masks[:1]),
    )


@FEW
@given(scores_and_masks, sparsities, sparsities)
def test_more_sparsity_keeps_a_subset(pairs, one, other):
    scores = [np.array([s for s, _ in array]) for array in pairs]
    fewer = select_masks(scores, max(one, other))
    more = select_masks(scores, min(one, other))
    for a, b in zip(fewer, more, strict=True):
        assert not (a & ~b).any()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1, 1.5, -1, np.nan, np.inf, -np.inf])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        select_mask(np.ones(3), sparsity)
    with pytest.raises(ValueError, match="`sparsity`"):
        select_masks([np.ones(3)], sparsity)


@pytest.mark.parametrize("sparsity", ["0.5", None, True, False, [0.5], 1j])
def test_sparsity_of_another_type(sparsity):
    with pytest.raises(TypeError, match="`sparsity` must be a number"):
        select_mask(np.ones(3), sparsity)


@pytest.mark.parametrize("sparsity", [0, 0.5, np.float32(0.5), np.float64(0.5)])
def test_sparsity_may_be_any_number(sparsity):
    assert type(check_sparsity(sparsity)) is float
    assert select_mask(np.ones(4), sparsity).sum() == (2 if sparsity else 4)


def test_check_sparsity_names_its_argument():
    with pytest.raises(ValueError, match="`final_sparsity`.*Received: 1.5"):
        check_sparsity(1.5, "final_sparsity")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_scores(dtype):
    with pytest.raises(ValueError, match="`scores` must not contain NaN.* 2 NaN"):
        select_mask(np.array([1, np.nan, np.nan], dtype), 0.5)


def test_nan_is_refused_where_it_is_masked_too():
    with pytest.raises(ValueError, match="`scores`"):
        select_mask(np.array([1.0, np.nan]), 0.5, np.array([True, False]))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 2)])
def test_empty_scores(shape):
    with pytest.raises(ValueError, match="`scores` must not be empty"):
        select_mask(np.ones(shape), 0.5)


@pytest.mark.parametrize(
    "scores", [np.array(["a"]), np.array([1j]), np.array([object()])]
)
def test_scores_that_are_no_real_numbers(scores):
    with pytest.raises(ValueError, match="`scores` must hold real numbers"):
        select_mask(scores, 0.5)


def test_no_scores_at_all():
    with pytest.raises(ValueError, match="`scores`"):
        select_masks([], 0.5)


@pytest.mark.parametrize(
    "mask",
    [
        np.ones(4, bool),
        np.ones((3, 1), bool),
        np.ones(3, int),
        np.ones(3, "float32"),
        np.array(True),
    ],
)
def test_mask_that_does_not_fit(mask):
    with pytest.raises(ValueError, match=r"`mask` must be a boolean array.*\(3,\)"):
        select_mask(np.ones(3), 0.5, mask)


def test_one_mask_too_few():
    with pytest.raises(ValueError, match="`masks` must have one mask for each of 2"):
        select_masks([np.ones(3), np.ones(3)], 0.5, [np.ones(3, bool)])
