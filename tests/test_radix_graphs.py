"""The products of the RadiX layers in TensorFlow's graphs: unknown sizes, and XLA."""

import numpy as np
import pytest
import tensorflow as tf
from test_radix import (
    TOPOLOGIES,
    assert_same,
    conv_kernel,
    dense_matrix,
    expected_convolution,
    expected_product,
    normal,
    of_each,
    output_and_gradients,
)

from sparsenet_tf.kernels.radix import kernel_shape, radix_matmul
from sparsenet_tf.kernels.radix_conv import radix_conv
from sparsenet_tf.kernels.reference import masked_conv
from sparsenet_tf.topology import RadixLayer


@of_each
@pytest.mark.often("tiles", "full", "drop_both")
def test_matmul_in_a_graph_of_unknown_sizes(topology):
    inputs = normal((2, 3, topology.input_size))
    kernel = normal(kernel_shape(topology), seed=1)
    for rank in (2, 3) if topology.drop_outputs else (3,):
        spec = tf.TensorSpec((None,) * (rank - 1) + (topology.input_size,), tf.float64)

        @tf.function(input_signature=[spec, tf.TensorSpec(kernel.shape, tf.float64)])
        def multiply(x, w):
            outputs = radix_matmul(x, w, topology)
            assert outputs.shape[-1] == topology.output_size
            return outputs

        x = inputs if rank == 3 else inputs[0]
        for part in (x, x[:1], x[:0]):
            assert_same(
                output_and_gradients(multiply, part, kernel),
                expected_product(part, kernel, topology),
            )


@of_each
@pytest.mark.often("tiles", "full", "drop_both")
def test_matmul_compiled(topology):
    inputs = normal((2, 3, topology.input_size))
    kernel = normal(kernel_shape(topology), seed=1)

    @tf.function(jit_compile=True)
    def run(x, w):
        return output_and_gradients(lambda x, w: radix_matmul(x, w, topology), x, w)

    assert_same(run(inputs, kernel), expected_product(inputs, kernel, topology))


@pytest.mark.parametrize("in_tiles", [True, False])
@of_each
@pytest.mark.often("tiles-True", "radix_1-False", "full-True", "drop_both-*")
def test_conv_in_a_graph_of_unknown_sizes(topology, in_tiles):
    channels = 2 * topology.input_size
    inputs = normal((2, 5, 6, channels))
    kernel = conv_kernel(topology, (2, 3), groups=2)
    signature = [
        tf.TensorSpec((None, None, None, channels), tf.float64),
        tf.TensorSpec(kernel.shape, tf.float64),
    ]

    @tf.function(input_signature=signature)
    def convolve(x, w):
        options = {"padding": "same", "strides": 2, "in_tiles": in_tiles}
        outputs = radix_conv(x, w, topology, groups=2, **options)
        assert outputs.shape[-1] == 2 * topology.output_size
        return outputs

    for part in (inputs, inputs[:1, :4], inputs[:0, :, :3]):
        assert_same(
            output_and_gradients(convolve, part, kernel),
            expected_convolution(part, kernel, topology, 2, padding="same", strides=2),
        )


def test_conv_over_patches_in_a_graph_of_unknown_sizes():
    topology = RadixLayer(12, 3, 2, drop_outputs=5)
    inputs, kernel = normal((2, 5, 6, 2)), normal(kernel_shape(topology), seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 2), tf.float64)])
    def convolve(x):
        outputs = radix_conv(x, kernel, topology, kernel_size=(2, 3))
        assert outputs.shape[-1] == 7
        return outputs

    dense = dense_matrix(kernel, topology).reshape((2, 3, 2, 7))
    for part in (inputs, inputs[:1, :4]):
        expected = masked_conv(part, dense, np.ones_like(dense))
        assert_same([convolve(part)], [expected])


@pytest.mark.parametrize(
    ("name", "groups", "in_tiles"),
    [
        ("one_tile", 1, True),
        ("tiles", 1, True),
        ("drop_inputs", 1, True),
        ("drop_outputs", 2, True),
        ("drop_outputs", 2, False),
    ],
)
@pytest.mark.often("tiles-*", "drop_outputs-2-True")
def test_conv_compiled(name, groups, in_tiles):
    topology = TOPOLOGIES[name]
    inputs = normal((2, 5, 6, groups * topology.input_size))
    kernel = conv_kernel(topology, (1, 2), groups)

    @tf.function(jit_compile=True)
    def run(x, w):
        return output_and_gradients(
            lambda x, w: radix_conv(
                x, w, topology, groups, in_tiles=in_tiles, padding="same"
            ),
            x,
            w,
        )

    assert_same(
        run(inputs, kernel),
        expected_convolution(inputs, kernel, topology, groups, padding="same"),
    )
