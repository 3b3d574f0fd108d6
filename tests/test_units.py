"""Which axes of each layer's kernels count inputs and outputs."""

import keras
import pytest
from keras import layers

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.units import unit_axes

CASES = {
    "dense": (layers.Dense(3), (None, 4), [((0,), (1,))]),
    "dense on sequences": (layers.Dense(3), (None, 5, 4), [((0,), (1,))]),
    "embedding": (layers.Embedding(7, 3), (None,), [((0,), (1,))]),
    "conv1d": (layers.Conv1D(3, 2), (None, 8, 4), [((1,), (2,))]),
    "conv2d": (layers.Conv2D(3, 2), (None, 8, 8, 4), [((2,), (3,))]),
    "conv3d": (layers.Conv3D(3, 2), (None, 4, 4, 4, 2), [((3,), (4,))]),
    "conv1d_transpose": (
        layers.Conv1DTranspose(3, 2), (None, 8, 4), [((2,), (1,))],
    ),
    "conv2d_transpose": (
        layers.Conv2DTranspose(3, 2), (None, 8, 8, 4), [((3,), (2,))],
    ),
    "depthwise1d": (
        layers.DepthwiseConv1D(2, depth_multiplier=3),
        (None, 8, 4),
        [((1,), (1, 2))],
    ),
    "depthwise2d": (
        layers.DepthwiseConv2D(2, depth_multiplier=3),
        (None, 8, 8, 4),
        [((2,), (2, 3))],
    ),
    "separable2d": (
        layers.SeparableConv2D(5, 2, depth_multiplier=3),
        (None, 8, 8, 4),
        [((2,), (2, 3)), ((2,), (3,))],
    ),
    "lstm": (layers.LSTM(3), (None, 5, 4), [((0,), (1,))] * 2),
    "einsum": (
        layers.EinsumDense("ab,bc->ac", 3), (None, 4), [((0,), (1,))],
    ),
    "einsum, two outputs": (
        layers.EinsumDense("abc,cde->abde", (None, 4, 5)),
        (None, 3, 2),
        [((0,), (1, 2))],
    ),
    "einsum, two inputs": (
        layers.EinsumDense("abcd,cde->abe", (None, 4)),
        (None, 3, 2, 5),
        [((0, 1), (2,))],
    ),
    "einsum, output first": (
        layers.EinsumDense("ab,cb->ac", 3), (None, 4), [((1,), (0,))],
    ),
    "einsum with an ellipsis": (
        layers.EinsumDense("...x,xy->...y", 3), (None, 4), [((0,), (1,))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_axes(name):
    layer, shape, expected = CASES[name]
    layer = type(layer).from_config(layer.get_config())
    layer.build(shape)
    owners = tree.kernel_owners(layer).values()
    assert [unit_axes(owner, kernel) for owner, kernel in owners] == expected


def test_the_sizes_along_the_axes_are_the_layers_units():
    layer = layers.Conv2DTranspose(3, 2)
    layer.build((None, 8, 8, 4))
    (inputs,), (outputs,) = unit_axes(layer, layer.kernel)
    assert layer.kernel.shape[inputs] == 4 and layer.kernel.shape[outputs] == 3


def test_attention():
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    layer.build((None, 5, 4), (None, 5, 4))
    axes = {
        path: unit_axes(owner, kernel)
        for path, (owner, kernel) in tree.kernel_owners(layer).items()
    }
    assert axes == {
        "query/kernel": ((0,), (1, 2)),
        "key/kernel": ((0,), (1, 2)),
        "value/kernel": ((0,), (1, 2)),
        "attention_output/kernel": ((0, 1), (2,)),
    }


def test_a_users_layer_is_input_by_output():
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 6), name="w")

    layer = Own()
    layer.build((None, 4))
    assert unit_axes(layer, layer.w) == ((0,), (1,))


def test_axes_are_positive_and_within_the_kernel():
    for layer, shape, _ in CASES.values():
        layer = type(layer).from_config(layer.get_config())
        layer.build(shape)
        for owner, kernel in tree.kernel_owners(layer).values():
            for axes in unit_axes(owner, kernel):
                assert axes and all(0 <= a < len(kernel.shape) for a in axes)
