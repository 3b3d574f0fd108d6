"""Patterns of connections without a mask: equal to the masks they stand for."""

import json
import time

import numpy as np
import pytest

from sparsenet_tf.topology import RadixLayer, SparsePattern, find_radix_layer

MASKS = {
    "random": np.random.default_rng(0).random((13, 7)) < 0.3,
    "full": np.ones((3, 4), bool),
    "empty": np.zeros((3, 4), bool),
    "one": np.arange(12).reshape(3, 4) == 7,
    "an empty row and column": np.arange(12).reshape(3, 4) % 4 == 1,
}


@pytest.mark.parametrize("mask", list(MASKS.values()), ids=list(MASKS))
def test_is_its_mask(mask):
    pattern = SparsePattern.from_mask(mask)
    np.testing.assert_array_equal(pattern.mask(), mask)
    assert pattern.num_connections == mask.sum()
    assert pattern.density == mask.mean()
    for j in range(mask.shape[1]):
        mine = pattern.inputs[pattern.splits[j] : pattern.splits[j + 1]]
        np.testing.assert_array_equal(mine, np.flatnonzero(mask[:, j]))
    np.testing.assert_array_equal(pattern.outputs(), np.nonzero(mask.T)[0])
    # By inputs: the same connections, and where each is in the first order.
    splits, outputs, order = pattern.by_input
    np.testing.assert_array_equal(np.diff(splits), mask.sum(axis=1))
    np.testing.assert_array_equal(outputs, np.nonzero(mask)[1])
    np.testing.assert_array_equal(pattern.inputs[order], np.nonzero(mask)[0])
    np.testing.assert_array_equal(pattern.outputs()[order], outputs)


@pytest.mark.parametrize("mask", list(MASKS.values()), ids=list(MASKS))
def test_survives_json_and_any_order_of_edges(mask):
    pattern = SparsePattern.from_mask(mask)
    config = json.loads(json.dumps(pattern.get_config()))
    assert SparsePattern.from_config(config) == pattern
    assert hash(SparsePattern.from_config(config)) == hash(pattern)
    shuffled = np.random.default_rng(1).permutation(pattern.num_connections)
    edges = pattern.inputs[shuffled], pattern.outputs()[shuffled]
    assert SparsePattern.from_edges(*mask.shape, *edges) == pattern


def test_far_apart_connections_survive_json():
    size = 2**31 - 1  # steps between connections of more than 32 bits
    pattern = SparsePattern.from_edges(size, 9, [3, size - 1, 0], [0, 4, 8])
    again = SparsePattern.from_config(pattern.get_config())
    assert again == pattern and again.inputs.tolist() == [3, size - 1, 0]


def test_random_has_its_fan_in_and_seed():
    pattern = SparsePattern.random(50, 30, 8, seed=3)
    assert (pattern.mask().sum(axis=0) == 8).all()
    assert pattern == SparsePattern.random(50, 30, 8, seed=3)
    assert pattern != SparsePattern.random(50, 30, 8, seed=4)
    uses = SparsePattern.random(20, 20_000, 2, seed=0).mask().sum(axis=1)
    assert abs(uses / 2000 - 1).max() < 0.1  # inputs are equally likely


def test_a_wide_one_costs_its_connections_alone():
    begin = time.perf_counter()
    pattern = SparsePattern.random(65_536, 65_536, 32, seed=0)
    assert pattern.num_connections == 2**21
    assert len(json.dumps(pattern.get_config())) < 4 * 2**21
    assert time.perf_counter() - begin < 60  # a mask would be 4 GiB


def test_cannot_be_changed():
    pattern = SparsePattern.from_mask(MASKS["random"])
    with pytest.raises(ValueError, match="read-only"):
        pattern.inputs[0] = 5


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 1, [0, 0], []), ValueError, "`input_size` must be 1 or more"),
        ((1.5, 1, [0, 0], []), TypeError, "`input_size` must be an integer"),
        ((2, 2**31, [0], []), ValueError, "`output_size` must be at most"),
        ((2, 1, [0.0, 1.0], [0]), TypeError, "`splits` must hold integers"),
        ((2, 1, [[0, 1]], [0]), ValueError, "`splits` must be a vector"),
        ((2, 1, [0, 2], [0]), ValueError, "`splits` must have 2 entries that rise"),
        ((2, 2, [0, 2, 1], [0]), ValueError, "`splits` must have 3 entries that rise"),
        ((2, 1, [0, 1], [2]), ValueError, "`inputs` must be at least 0 and below 2"),
        ((2, 1, [0, 1], [-1]), ValueError, "`inputs` must be at least 0 and below 2"),
        ((2, 1, [0, 2], [1, 0]), ValueError, "`inputs` must rise"),
        ((2, 1, [0, 2], [1, 1]), ValueError, "`inputs` must rise"),
    ],
)
def test_says_what_is_no_pattern(arguments, error, match):
    with pytest.raises(error, match=match):
        SparsePattern(*arguments)


def test_says_what_are_no_masks_or_edges():
    with pytest.raises(ValueError, match="`mask` must have two axes"):
        SparsePattern.from_mask(np.ones(3))
    with pytest.raises(ValueError, match="`inputs` must rise"):
        SparsePattern.from_edges(3, 3, [1, 1], [2, 2])
    with pytest.raises(ValueError, match="vectors of one length"):
        SparsePattern.from_edges(3, 3, [1], [2, 2])
    with pytest.raises(ValueError, match="`outputs` must be at least 0 and below 3"):
        SparsePattern.from_edges(3, 3, [1], [3])
    with pytest.raises(ValueError, match="`fan_in` must be at most"):
        SparsePattern.random(3, 3, 4, seed=0)


def radix_layers():
    for nodes in (1, 2, 6, 12):
        for radix in range(1, nodes + 1):
            for place in range(1, nodes + 1):
                if nodes % (radix * place) == 0:
                    for widths in ((1, 1), (2, 1), (1, 3), (3, 2)):
                        yield RadixLayer(nodes, radix, place, *widths)
    yield RadixLayer(100, 10, 1, 8, 3, drop_inputs=16)  # the paper's
    yield RadixLayer(12, 3, 2, 2, 2, drop_inputs=5, drop_outputs=11)


@pytest.mark.parametrize("layer", list(radix_layers()), ids=str)
def test_finds_a_radix_layer_in_its_mask(layer):
    found = find_radix_layer(layer.mask())
    np.testing.assert_array_equal(found.mask(), layer.mask())
    assert found.nodes <= layer.nodes


def test_finds_none_where_there_is_none():
    mask = RadixLayer(12, 3, 2, 2, 2).mask()
    assert find_radix_layer(mask) is not None
    one_more = mask.copy()
    one_more[tuple(np.argwhere(~mask)[5])] = True
    for other in (one_more, mask[:, ::-1], np.zeros((4, 4)), np.ones(4)):
        assert find_radix_layer(other) is None
