"""Masks out of a model: which, in which order, under which names."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsenet_tf as stf


class Net(keras.Model):
    """A subclassed model with layers as attributes and in a list."""

    def __init__(self):
        super().__init__(name="net")
        self.first = layers.Dense(4, name="first")
        self.blocks = [layers.Dense(4, name=f"block{i}") for i in range(2)]
        self.norm = layers.LayerNormalization(name="norm")

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def test_sequential_masks_in_the_models_order():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(3, name="a"),
            layers.BatchNormalization(),
            layers.Dense(2, name="b"),
        ]
    )
    masks = stf.get_masks(stf.sparsify(model))
    assert list(masks) == ["conv/kernel", "a/kernel", "b/kernel"]
    shapes = [mask.shape for mask in masks.values()]
    assert shapes == [(3, 3, 1, 2), (72, 3), (3, 2)]
    assert all(mask.dtype == bool and mask.all() for mask in masks.values())


def test_values_are_those_that_were_set_and_those_of_the_kernels():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a")])
    wanted = np.random.default_rng(0).random((3, 4)) < 0.5
    sparse = stf.sparsify(model, {"a/kernel": wanted})
    np.testing.assert_array_equal(stf.get_masks(sparse)["a/kernel"], wanted)
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    mask = stf.get_masks(pruned)["a/kernel"]
    np.testing.assert_array_equal(
        mask, keras.ops.convert_to_numpy(pruned.layers[0].kernel) != 0
    )
    assert mask.sum() == 6


def test_masks_are_copies():
    model = stf.sparsify(keras.Sequential([keras.Input((3,)), layers.Dense(4)]))
    (mask,) = stf.get_masks(model).values()
    mask[:] = False
    assert all(m.all() for m in stf.get_masks(model).values())


def test_functional_and_nested_models():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="same"), layers.Dense(4, name="two")],
        name="inner",
    )
    x = keras.Input((4,))
    shared = layers.Dense(4, name="same")
    y = layers.Add()([shared(x), shared(inner(x))])
    model = keras.Model(x, layers.Dense(1, name="out")(y))
    paths = list(stf.get_masks(stf.sparsify(model)))
    assert paths == sorted(paths, key=paths.index)
    assert set(paths) == {
        "same/kernel", "inner/same/kernel", "inner/two/kernel", "out/kernel",
    }  # fmt: skip
    assert paths.index("inner/same/kernel") + 1 == paths.index("inner/two/kernel")
    assert paths[-1] == "out/kernel"


def test_several_kernels_in_one_layer():
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            layers.LSTM(2, name="lstm", return_sequences=True),
            layers.SeparableConv1D(2, 2, name="sep"),
        ]
    )
    sparse = stf.sparsify(model)
    shapes = {p: m.shape for p, m in stf.get_masks(sparse).items()}
    assert list(shapes.items()) == [
        ("lstm/lstm_cell/kernel", (4, 8)),
        ("lstm/lstm_cell/recurrent_kernel", (2, 8)),
        ("sep/depthwise_kernel", (2, 2, 1)),
        ("sep/pointwise_kernel", (1, 2, 2)),
    ]


def test_subclassed_model():
    model = Net()
    model(np.ones((1, 3), "float32"))
    masks = stf.get_masks(stf.sparsify(model))
    assert list(masks) == ["first/kernel", "block0/kernel", "block1/kernel"]
    assert masks["first/kernel"].shape == (3, 4)


def test_excluded_kernels_are_left_out():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")]
    )
    assert list(stf.get_masks(stf.sparsify(model, exclude="a"))) == ["b/kernel"]


def test_get_masks_of_something_else():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.get_masks({})
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(4)], name="plain")
    with pytest.raises(ValueError, match="`model` must have masked kernels.*'plain'"):
        stf.get_masks(plain)
