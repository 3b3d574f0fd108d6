"""RadiX-Nets: the paper's definition, equal path counts, and the nearest net."""

import dataclasses
import itertools
import math
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.topology import RadixLayer, RadixNet, measure
from sparsenet_tf.topology.radix_layer import has_dead_units

FEW = settings(max_examples=100, deadline=None, database=None)
PAPER = RadixNet((10, 10), (8, 3, 1), drop=(16, 0, 0))


def by_definition(layer):
    """The mask as the paper writes it, from rolled identities."""
    identity = np.eye(layer.nodes)
    rolled = [
        np.roll(identity, -j * layer.place_value, axis=1) for j in range(layer.radix)
    ]
    copies = np.ones((layer.width_in, layer.width_out))
    mask = np.kron(copies, sum(rolled)).astype(bool)
    return mask[layer.drop_inputs :, layer.drop_outputs :]


def paths(net):
    """Paths between each pair, exact: all are whole numbers far below 2**53."""
    first, *others = [mask.astype(float) for mask in net.masks]
    for mask in others:
        first = first @ mask
    assert first.max() < 2**53
    return first


@st.composite
def radix_layers(draw, most_dropped=1.0):
    radix, place, rest = (draw(st.integers(1, n)) for n in (5, 4, 3))
    nodes = radix * place * rest
    widths = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    drops = [
        draw(st.integers(0, min(w * nodes - 1, int(most_dropped * w * nodes))))
        for w in widths
    ]
    return RadixLayer(nodes, radix, place, *widths, *drops)


@st.composite
def radix_nets(draw):
    first = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    systems = [first] + draw(st.lists(st.permutations(first), max_size=2))
    if draw(st.booleans()):
        systems.append(first[: draw(st.integers(1, len(first)))])
    layers = sum(map(len, systems)) + 1
    widths = draw(st.lists(st.integers(1, 3), min_size=layers, max_size=layers))
    return RadixNet(systems, widths)


@FEW
@given(radix_layers())
def test_layer_and_its_edges_are_the_papers_definition(layer):
    mask = layer.mask()
    expected = by_definition(layer)
    assert mask.dtype == bool and mask.flags.c_contiguous and mask.flags.writeable
    np.testing.assert_array_equal(mask, expected)
    assert mask.shape == (layer.input_size, layer.output_size)
    assert layer.num_connections == np.count_nonzero(expected)
    assert layer.density == np.count_nonzero(expected) / expected.size
    assert layer.sparsity == 1 - layer.density
    for edges, nonzeros in zip(layer.edges(), expected.nonzero(), strict=True):
        np.testing.assert_array_equal(edges, nonzeros)


@FEW
@given(radix_layers(most_dropped=0))
def test_fan_in_of_a_whole_layer(layer):
    assert (layer.mask().sum(axis=0) == layer.fan_in).all()
    assert (layer.mask().sum(axis=1) == layer.radix * layer.width_out).all()


@FEW
@given(radix_layers(most_dropped=0.25))
def test_dead_units_are_found_without_the_mask(layer):
    mask = by_definition(layer)
    dead = not (mask.any(axis=0).all() and mask.any(axis=1).all())
    assert has_dead_units(layer) == dead


def test_layer_is_a_value():
    layer = RadixLayer(np.int64(12), np.uint8(2), np.int32(3))
    assert layer == RadixLayer(12, 2, 3) and hash(layer) == hash(RadixLayer(12, 2, 3))
    assert all(type(value) is int for value in dataclasses.astuple(layer))
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.nodes = 24


def test_layer_describes_itself():
    expected = "24 -> 12: radix 2 at place 3 of 12 nodes, widths 2 -> 1, "
    expected += "83.33% sparse, 48 connections"
    layer = RadixLayer(12, 2, 3, 2, 1)
    assert str(layer) == layer.describe() == expected


def test_a_big_layer_is_counted_without_its_mask():
    layer = RadixLayer(65536, 16, 4096, 1, 1, 1000, 2000)
    tracemalloc.start()
    connections = layer.num_connections
    inputs, outputs = layer.edges()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(inputs) == len(outputs) == connections and peak < 100e6


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(RadixLayer)]
)
@pytest.mark.parametrize("value", [2.0, "2", None, True, np.True_, np.float32(1)])
def test_layer_takes_integers_only(name, value):
    arguments = {"nodes": 12, "radix": 2, "place_value": 1, name: value}
    with pytest.raises(TypeError, match=f"`{name}` must be an integer. Received"):
        RadixLayer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1), "`nodes` must be 1 or more. Received: 0"),
        ((4, 0, 1), "`radix` must be 1 or more. Received: 0"),
        ((4, 5, 1), "`radix` must be at most `nodes`. Received: 5 > 4"),
        ((4, 2, 0), "`place_value` must be 1 or more"),
        ((12, 5, 1), "must divide `nodes`. .*radix 5, place_value 1, nodes 12"),
        ((12, 4, 2), "must divide `nodes`. .*radix 4, place_value 2, nodes 12"),
        ((4, 2, 1, 0), "`width_in` must be 1 or more"),
        ((4, 2, 1, 1, -1), "`width_out` must be 1 or more"),
        ((4, 2, 1, 1, 1, -1), "`drop_inputs` must be 0 or more"),
        ((4, 2, 1, 2, 1, 8), "`drop_inputs` must be less than .*8. Received: 8"),
        ((4, 2, 1, 2, 1, 0, 4), "`drop_outputs` must be less than .*4. Received: 4"),
    ],
)
def test_layer_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RadixLayer(*arguments)


@pytest.mark.parametrize(
    ("sizes", "sparsity", "expected"),
    [
        ((784, 300), 0.9, RadixLayer(100, 10, 1, 8, 3, 16, 0)),
        ((300, 100), 0.9, RadixLayer(100, 10, 1, 3, 1)),
        ((2450, 384), 0.9, RadixLayer(50, 5, 1, 49, 8, 0, 16)),
        ((2450, 384), 0.5, RadixLayer(4, 2, 1, 613, 96, 2, 0)),
        ((2450, 384), 0.99, RadixLayer(200, 2, 1, 13, 2, 150, 16)),
        ((20, 50), 0.5, RadixLayer(10, 5, 1, 2, 5)),
        ((20, 50), 0.9, RadixLayer(20, 2, 1, 1, 3, 0, 10)),
        ((512, 512), 3 / 4, RadixLayer(16, 4, 1, 32, 32)),
        ((512, 512), 15 / 16, RadixLayer(256, 16, 1, 2, 2)),
        ((512, 512), 31 / 32, RadixLayer(512, 16, 1)),
        ((20, 5000), 0.99, RadixLayer(20, 1, 1, 1, 250)),
        ((1, 1), 0.5, RadixLayer(1, 1, 1)),
    ],
)
def test_nearest_layer(sizes, sparsity, expected):
    layer = RadixLayer.near(*sizes, sparsity)
    assert layer == expected
    assert (layer.input_size, layer.output_size) == sizes
    reachable = 1 - max(1 - sparsity, 1 / min(sizes))
    assert layer.sparsity == pytest.approx(reachable, abs=3e-4)


@FEW
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 3),
)
def test_any_nearest_layer_fits(inputs, outputs, sparsity, stage):
    layer = RadixLayer.near(inputs, outputs, sparsity, stage)
    mask = layer.mask()
    assert mask.shape == (inputs, outputs)
    assert mask.any(axis=0).all() and mask.any(axis=1).all()
    assert 4 * layer.drop_inputs <= layer.width_in * layer.nodes
    assert 4 * layer.drop_outputs <= layer.width_out * layer.nodes


@settings(FEW, max_examples=40)
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([0, 0.3, 0.5, 0.8, 0.9]))
def test_no_other_layer_is_nearer(inputs, outputs, sparsity):
    wanted = max(1 - sparsity, 1 / min(inputs, outputs))

    def error(layer):
        return round(abs(layer.density - wanted) / wanted, 2)

    nearest = error(RadixLayer.near(inputs, outputs, sparsity))
    for nodes in range(1, 2 * min(inputs, outputs)):
        drops = -inputs % nodes, -outputs % nodes
        if 4 * drops[0] > inputs + drops[0] or 4 * drops[1] > outputs + drops[1]:
            continue
        widths = -(-inputs // nodes), -(-outputs // nodes)
        for radix in range(1, nodes + 1):
            if nodes % radix == 0:
                layer = RadixLayer(nodes, radix, 1, *widths, *drops)
                assert has_dead_units(layer) or error(layer) >= nearest


def test_stages_mix_and_start_again():
    layers = [RadixLayer.near(256, 256, 1 - 1 / 64, stage) for stage in range(6)]
    assert [layer.place_value for layer in layers] == [1, 4, 16, 64, 1, 4]
    assert measure([layer.mask() for layer in layers[:4]]).unreachable_pairs == 0
    assert measure([layers[0].mask()] * 4).unreachable_pairs > 0


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.999, 0.99995, 1 - 1e-9])
def test_nearest_of_the_largest_layers_is_quick(sparsity):
    start = time.perf_counter()
    layer = RadixLayer.near(65536, 65521, sparsity)
    assert time.perf_counter() - start < 0.5  # At most 50 ms where nothing else runs.
    assert (layer.input_size, layer.output_size) == (65536, 65521)


@FEW
@given(radix_nets())
def test_net_is_made_of_the_papers_layers(net):
    radices = list(itertools.chain(*net.radices))
    places = [math.prod(s[:i]) for s in net.radices for i in range(len(s))]
    for i, layer in enumerate(net.layers):
        expected = RadixLayer(net.nodes, radices[i], places[i], *net.widths[i : i + 2])
        assert layer == expected
    for layer, mask in zip(net.layers, net.masks, strict=True):
        np.testing.assert_array_equal(mask, by_definition(layer))
    assert net.layer_sizes == tuple(width * net.nodes for width in net.widths)


@FEW
@given(radix_nets())
def test_every_pair_has_the_same_number_of_paths(net):
    counted = paths(net)
    assert (counted == net.num_paths).all() and net.num_paths > 0
    assert counted.shape == (net.layer_sizes[0], net.layer_sizes[-1])


@FEW
@given(radix_nets(), st.data())
def test_counts_agree_with_the_masks(net, data):
    drop = [data.draw(st.integers(0, size - 1)) for size in net.layer_sizes]
    net = RadixNet(net.radices, net.widths, drop)
    found = measure(net.masks)
    assert net.layer_sizes == (len(net.masks[0]), *(m.shape[1] for m in net.masks))
    assert net.num_connections == found.num_connections
    assert net.densities == found.densities and net.density == found.density
    assert net.sparsity == 1 - net.density


@pytest.mark.parametrize(("hidden", "width"), [(300, 3), (3000, 30)])
def test_the_papers_nets(hidden, width):
    net = RadixNet((10, 10), (8, width, 1), drop=(16, 0, 0))
    assert net.layer_sizes == (784, hidden, 100) and net.nodes == 100
    assert net.densities == (0.1, 0.1) and net.sparsity == 0.9
    assert net.num_paths == width
    assert (paths(net) == width).all()


def test_radices_may_be_any_sequences():
    for radices in ([10, 10], np.array([10, 10]), [[10, 10]], np.array([[10, 10]])):
        net = RadixNet(radices, np.array([8, 3, 1]), [16, 0, 0])
        assert net == PAPER and hash(net) == hash(PAPER)
        assert net.layers and pickle.loads(pickle.dumps(net)) == PAPER
    assert RadixNet((2, 3), (1, 1, 1)).drop == (0, 0, 0)


def test_net_tells_itself_in_two_lines():
    assert str(PAPER).splitlines() == [
        "RadixNet 784-300-100: radices ((10, 10),), widths (8, 3, 1), drop (16, 0, 0)",
        "90.00% sparse, 26520 connections",
    ]


def test_a_huge_net_costs_nothing_until_its_masks_are_asked_for():
    tracemalloc.start()
    net = RadixNet(((16, 16, 16, 16),) * 30, (1,) * 121)
    assert len(net.layers) == 120
    assert net.num_connections == 120 * 65536 * 16
    assert net.num_paths == 65536**29
    assert net.density == 16 / 65536
    assert str(net).splitlines() == [
        "RadixNet 65536 x121: radices ((16, 16, 16, 16) x30), widths (1 x121)",
        "99.98% sparse, 125829120 connections",
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, (1, 1)), TypeError, "`radices` must be a sequence"),
        (("ab", (1, 1, 1)), TypeError, "`radices` must be a sequence"),
        (((2.0, 2), (1, 1, 1)), TypeError, r"`radices\[0\]\[0\]` must be an integer"),
        (((2, True), (1, 1, 1)), TypeError, r"`radices\[0\]\[1\]` must be an integer"),
        (((2, (2,)), (1, 1, 1)), TypeError, r"`radices\[0\]` must be a sequence"),
        (((2, 1), (1, 1, 1)), ValueError, r"`radices\[0\]\[1\]` must be 2 or more"),
        (((), (1,)), ValueError, "`radices` must have no empty system"),
        ((((2, 2), ()), (1, 1, 1)), ValueError, "`radices` must have no empty system"),
        ((((2, 3), (2, 2), (3, 2)), ()), ValueError, r"`radices\[1\]` .*product 4"),
        (
            (((2, 3), (2,), (3, 2)), ()),
            ValueError,
            r"must have the product 6.*product 2",
        ),
        ((((2, 3), (2, 2)), ()), ValueError, r"product that divides 6.*\(2, 2\) .* 4"),
        (((2, 2), 3), TypeError, "`widths` must be a sequence"),
        (((2, 2), (1, 1)), ValueError, "`widths` must have 3 entries.*Received: 2"),
        (((2, 2), (1, 0, 1)), ValueError, r"`widths\[1\]` must be 1 or more"),
        (((2, 2), (1, 1.0, 1)), TypeError, r"`widths\[1\]` must be an integer"),
        (((2, 2), (1, 1, 1), (0, 0)), ValueError, "`drop` must have 3 entries"),
        (((2, 2), (1, 1, 1), (0, -1, 0)), ValueError, r"`drop\[1\]` must be 0 or"),
        (((2, 2), (1, 1, 2), (0, 0, 8)), ValueError, r"`drop\[2\]` .* the 8 neurons"),
    ],
)
def test_net_arguments_out_of_range(arguments, error, message):
    with pytest.raises(error, match=message):
        RadixNet(*arguments)


def test_paths_differ_where_inner_neurons_are_dropped():
    net = RadixNet((2, 2), (1, 1, 1), drop=(0, 1, 0))
    assert len(set(paths(net).ravel())) > 1
    with pytest.raises(ValueError, match=r"`num_paths` .*Received: drop \(0, 1, 0\)"):
        _ = net.num_paths


@pytest.mark.parametrize(
    ("sizes", "sparsity", "expected"),
    [
        ((784, 300, 100), 0.9, PAPER),
        ((784, 3000, 100), 0.9, RadixNet((10, 10), (8, 30, 1), (16, 0, 0))),
        ((512,) * 5, 15 / 16, RadixNet(((16, 16),) * 2, (2,) * 5)),
        ((512,) * 4, 15 / 16, RadixNet((4, 4, 4), (8,) * 4)),
        ((256,) * 4, 15 / 16, RadixNet((4, 4, 4), (4,) * 4)),
        ((12, 24, 36), 0.5, RadixNet((2, 2), (3, 6, 9))),
    ],
)
def test_nearest_net(sizes, sparsity, expected):
    net = RadixNet.near(sizes, sparsity)
    assert net == expected and net.layer_sizes == sizes
    assert net.sparsity == pytest.approx(sparsity, abs=1e-12)


@settings(FEW, max_examples=40)
@given(
    st.lists(st.integers(9, 60), min_size=3, max_size=6),
    st.floats(0, 1, exclude_max=True),
)
def test_any_nearest_net_fits(sizes, sparsity):
    net = RadixNet.near(sizes, sparsity)
    assert net == RadixNet.near(tuple(sizes), sparsity)
    assert net.layer_sizes == tuple(sizes)
    for width, lost in zip(net.widths, net.drop, strict=True):
        assert 4 * lost <= width * net.nodes
    found = measure(net.masks)
    assert not any(found.dead_inputs) and not any(found.dead_outputs)


def test_a_sparsity_out_of_reach_is_told():
    net = RadixNet.near((784, 300, 100), 0.999)
    assert 0.9 < net.sparsity < 0.95 and f"{net.sparsity:.2%}" in str(net)


LAYER, NET = RadixLayer.near, RadixNet.near


@pytest.mark.parametrize(
    ("near", "arguments", "error", "message"),
    [
        (LAYER, (0, 5, 0.5), ValueError, "`input_size` must be 1 or more"),
        (LAYER, (5, 0, 0.5), ValueError, "`output_size` must be 1 or more"),
        (LAYER, (5.0, 5, 0.5), TypeError, "`input_size` must be an integer"),
        (LAYER, (5, 5, 1.0), ValueError, "`sparsity` must be in"),
        (LAYER, (5, 5, 0.5, -1), ValueError, "`stage` must be 0 or more"),
        (LAYER, (5, 5, 0.5, 0.0), TypeError, "`stage` must be an integer"),
        (NET, ((784, 300), 0.9), ValueError, "3 sizes; `RadixLayer.near`"),
        (NET, (784, 0.9), TypeError, "`layer_sizes` must be a sequence"),
        (NET, ((7, 0, 3), 0.9), ValueError, r"`layer_sizes\[1\]` must be 1 or more"),
        (NET, ((7, 3, 1.0), 0.9), TypeError, r"`layer_sizes\[2\]` must be an integer"),
        (NET, ((784, 300, 100), 1.0), ValueError, "`sparsity` must be in"),
        (NET, ((8, 8, 2), 0.5), ValueError, r"too small .*drop \(0, 0, 2\)"),
        (NET, ((5, 5, 3), 0.5), ValueError, r"too small .*drop \(3, 3, 1\)"),
    ],
)
def test_nearest_of_wrong_arguments(near, arguments, error, message):
    with pytest.raises(error, match=message):
        near(*arguments)
