"""`sparse_net`: which layers become sparse, how sparse, and with what weights."""

import keras
import numpy as np
import pytest
from backends import assert_allclose, assert_array_equal, values

import sparsenet_tf as stf
from sparsenet_tf.experiments.models import lenet_5, lenet_300_100
from sparsenet_tf.layers import Masked, RadixConv2D, RadixDense

L = keras.layers


def kinds(model):
    return {layer.name: type(layer) for layer in model.layers if layer.weights}


def small(**options):
    layers = [
        L.Conv2D(8, 3, padding="same", activation="relu", name="conv1"),
        L.Conv2D(16, 3, padding="same", strides=2, use_bias=False, name="conv2"),
        L.BatchNormalization(name="norm"),
        L.Flatten(name="flatten"),
        L.Dense(64, "tanh", name="dense1"),
        L.Dense(32, "relu", kernel_regularizer="l2", name="dense2"),
        L.Dense(10, name="logits"),
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers], **options)


def test_inner_layers_become_radix_layers():
    new = stf.sparse_net(small(), 0.75)
    found = kinds(new)
    assert found["conv1"] is L.Conv2D and found["logits"] is L.Dense
    assert found["conv2"] is RadixConv2D
    assert found["dense1"] is found["dense2"] is RadixDense
    for name in ("conv2", "dense1", "dense2"):
        assert new.get_layer(name).topology.sparsity == pytest.approx(0.75, abs=0.01)
    conv2, dense2 = new.get_layer("conv2"), new.get_layer("dense2")
    assert conv2.strides == (2, 2) and not conv2.use_bias
    assert isinstance(dense2.kernel_regularizer, keras.regularizers.L2)
    assert new(np.zeros((2, 8, 8, 3))).shape == (2, 10)


def test_dense_layers_in_a_row_become_the_papers_net():
    new = stf.sparse_net(lenet_300_100(), 0.9, dense_first=False)
    net = stf.topology.RadixNet((10, 10), (8, 3, 1), drop=(16, 0, 0))
    layers = [new.get_layer(name) for name in ("dense1", "dense2")]
    assert [layer.topology for layer in layers] == list(net.layers)
    assert stf.topology.measure(net.masks).unreachable_pairs == 0


def test_a_sparsity_out_of_a_nets_reach_is_met_by_single_layers():
    new = stf.sparse_net(lenet_300_100(), 0.98, dense_first=False)
    for name in ("dense1", "dense2"):
        assert new.get_layer(name).topology.sparsity == pytest.approx(0.98, abs=0.002)


def test_convolutions_sparser_than_a_channel_join_entries_of_patches():
    conv2 = stf.sparse_net(lenet_5(), 0.98).get_layer("conv2")
    assert conv2.topology.input_size == 5 * 5 * 20
    assert conv2.topology.sparsity == pytest.approx(0.98, abs=0.002)


@pytest.mark.parametrize("topology", ["random", "expander"])
def test_random_topologies_are_masks(topology):
    new = stf.sparse_net(small(), 0.75, topology, seed=3)
    found = kinds(new)
    assert found["conv2"] is found["dense1"] is Masked and found["conv1"] is L.Conv2D
    masks = stf.get_masks(new)
    assert list(masks) == ["conv2/kernel", "dense1/kernel", "dense2/kernel"]
    for mask in masks.values():
        deviation = np.sqrt(0.25 * 0.75 / mask.size)
        assert abs(mask.mean() - 0.25) < 5 * deviation
    if topology == "expander":
        counts = masks["dense1/kernel"].sum(axis=0)
        assert counts.min() == counts.max()


@pytest.mark.parametrize("topology", ["radix", "random", "expander"])
def test_seeds_decide(topology):
    model = small()
    first, same, other = (
        stf.sparse_net(model, 0.75, topology, seed=seed).get_weights()
        for seed in (1, 1, 2)
    )
    for a, b in zip(first, same, strict=True):
        assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("topology", ["radix", "random"])
def test_weights_begin_for_the_fan_in_that_is_left(topology):
    model = keras.Sequential([keras.Input((512,)), L.Dense(512, name="hidden")])
    options = dict(dense_first=False, dense_last=False)
    new = stf.sparse_net(model, 15 / 16, topology, **options)
    y = np.random.default_rng(0).normal(size=(200, 512)).astype("float32")
    # Glorot: a variance of 2 / (fan-in + fan-out), so that the output's is 1.
    assert np.var(values(new(y))) == pytest.approx(1, rel=0.1)


def test_the_model_is_left_as_it_was_and_compiled_again():
    model = small()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    before = model.get_weights()
    new = stf.sparse_net(model, 0.75)
    for a, b in zip(before, model.get_weights(), strict=True):
        assert_array_equal(a, b)
    assert new.compiled and new.optimizer is not model.optimizer
    new.fit(np.zeros((4, 8, 8, 3)), np.zeros((4, 10)), verbose=0)


def test_functional_models_and_exclude():
    x = keras.Input((32,))
    h = L.Dense(64, name="a")(x)
    h = L.Add()([L.Dense(64, name="b")(h), L.Dense(64, name="c")(h)])
    model = keras.Model(x, L.Dense(10, name="d")(h))
    found = kinds(stf.sparse_net(model, 0.75, exclude="c"))
    assert found == {"a": L.Dense, "b": RadixDense, "c": L.Dense, "d": L.Dense}


def test_strip_and_summary_of_radix_layers():
    new = stf.sparse_net(small(), 0.75)
    rows = {row.path: row for row in stf.summary(new, print_fn=None).kernels}
    assert list(rows) == [
        f"{name}/kernel" for name in ("conv1", "conv2", "dense1", "dense2", "logits")
    ]
    dense1 = new.get_layer("dense1")
    row = rows["dense1/kernel"]
    assert row.shape == (256, 64) and row.nonzeros == dense1.topology.num_connections
    assert row.bytes == 4 * row.nonzeros and (row.dead_inputs, row.dead_outputs) == (
        0,
        0,
    )
    assert rows["conv2/kernel"].shape == (3, 3, 8, 16)
    plain = stf.strip(new)
    assert set(kinds(plain).values()) == {L.Conv2D, L.Dense, L.BatchNormalization}
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    assert_allclose(plain(x), new(x), atol=1e-5)
    kernel = plain.get_layer("dense1").kernel
    assert np.count_nonzero(kernel) == row.nonzeros


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"sparsity": 1.0}, ValueError, "`sparsity`"),
        ({"sparsity": "half"}, TypeError, "`sparsity`"),
        ({"topology": "ring"}, ValueError, "`topology`.*'ring'"),
        ({"exclude": "nothing"}, ValueError, "`exclude`.*'nothing'"),
        ({"exclude": ["conv2", "dense1", "dense2"]}, ValueError, "`model` must have"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"seed": 0.5}, TypeError, "`seed`"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        stf.sparse_net(small(), **{"sparsity": 0.5, **arguments})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_unbuilt_and_other_models():
    subclassed = Subclassed()
    subclassed(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="Sequential or functional.*Subclassed"):
        stf.sparse_net(subclassed, 0.5)
    with pytest.raises(ValueError, match="built"):
        stf.sparse_net(keras.Sequential([L.Dense(2)]), 0.5)
    with pytest.raises(TypeError, match="`model`"):
        stf.sparse_net("model", 0.5)
