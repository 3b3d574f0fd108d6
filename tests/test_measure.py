"""Measures of a chain of masks, against counting by hand and by exact products."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.topology import Measures, RadixNet, measure

FEW = settings(max_examples=150, deadline=None, database=None)


def matrix(rows):
    return np.array(rows, bool)


def test_by_hand():
    first = matrix([[1, 0, 0], [0, 0, 0]])
    second = matrix([[1, 0], [1, 1], [0, 1]])
    assert measure([first, second]) == Measures(
        density=5 / 12,
        densities=(1 / 6, 4 / 6),
        num_connections=5,
        dead_inputs=(1, 0),
        dead_outputs=(2, 0),
        unreachable_pairs=3,
        collapsed=(),
    )


def test_a_collapsed_layer_cuts_every_path():
    masks = [np.ones((4, 3), bool), np.zeros((3, 2), bool), np.ones((2, 5), bool)]
    found = measure(masks)
    assert found.collapsed == (1,) and found.unreachable_pairs == 20
    assert found.dead_inputs == (0, 3, 0) and found.dead_outputs == (0, 2, 0)
    assert found.densities == (1.0, 0.0, 1.0)


def test_one_mask_is_a_chain():
    found = measure((matrix([[1, 0], [1, 1]]),))
    assert found.unreachable_pairs == 1 and found.density == 0.75


def test_a_radix_net_reaches_everything():
    found = measure(RadixNet((10, 10), (8, 3, 1), drop=(16, 0, 0)).masks)
    assert found.unreachable_pairs == 0 and found.collapsed == ()
    assert found.num_connections == 26520 and found.density == pytest.approx(0.1)


def test_path_counts_too_large_for_a_float_are_still_paths():
    masks = [np.ones((3, 5000), bool), *[np.ones((5000, 3), bool)]]
    assert measure(masks * 40).unreachable_pairs == 0


def test_a_single_path_among_none():
    # Through 30 layers, each of which joins a unit to the next one only.
    chain = [np.eye(40, k=1, dtype=bool)] * 30
    assert measure(chain).unreachable_pairs == 1600 - 10


@st.composite
def chains(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
    return [rng.random(n) < density for n in zip(sizes, sizes[1:], strict=False)]


@FEW
@given(chains())
def test_equals_counting_one_by_one(masks):
    found = measure(masks)
    product = masks[0].astype(object) * 1
    for mask in masks[1:]:
        product = product @ (mask.astype(object) * 1)
    assert found.unreachable_pairs == sum(n == 0 for n in product.ravel())
    assert found.num_connections == sum(sum(m.ravel().tolist()) for m in masks)
    for i, mask in enumerate(masks):
        assert found.dead_inputs[i] == sum(not any(row) for row in mask)
        assert found.dead_outputs[i] == sum(not any(column) for column in mask.T)
        assert (i in found.collapsed) == (not mask.any())
        assert found.densities[i] == mask.mean()


def test_masks_are_not_changed():
    masks = [np.eye(3, dtype=bool), np.eye(3, dtype=bool)]
    measure(masks)
    assert all((mask == np.eye(3)).all() for mask in masks)


def test_measures_are_a_value():
    found = measure(iter([np.eye(2, dtype=bool)]))
    assert found == measure([np.eye(2, dtype=bool)]) and hash(found)
    assert {type(found.num_connections), type(found.dead_inputs[0])} == {int}
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.density = 0.5


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (3, TypeError, "`masks` must be a sequence of arrays"),
        ([], ValueError, "`masks` must have at least one mask"),
        (np.eye(3, dtype=bool), ValueError, r"`masks\[0\]` .*shape \(3,\)"),
        ([np.eye(3)], ValueError, r"`masks\[0\]` must be a boolean.*dtype float64"),
        (
            [np.eye(3, dtype=bool), np.ones((3, 2), int)],
            ValueError,
            r"`masks\[1\]` must be a boolean array.*dtype int64",
        ),
        ([np.ones((1, 2, 2), bool)], ValueError, r"`masks\[0\]` .*\(1, 2, 2\)"),
        ([np.ones((3, 0), bool)], ValueError, r"`masks\[0\]` .*not empty"),
        (
            [np.ones((3, 4), bool), np.ones((4, 2), bool), np.ones((3, 2), bool)],
            ValueError,
            r"`masks\[2\]` .*`masks\[1\]` has outputs, 2. .*shape \(3, 2\)",
        ),
    ],
)
def test_wrong_masks(masks, error, message):
    with pytest.raises(error, match=message):
        measure(masks)
