"""The products of the RadiX layers against the dense masked ones, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsenet_tf.kernels.radix import kernel_shape, radix_matmul, stored_connections
from sparsenet_tf.kernels.radix_conv import over_patches, radix_conv, tiles_are_faster
from sparsenet_tf.kernels.reference import masked_conv, masked_matmul
from sparsenet_tf.topology import RadixLayer

FEW = settings(max_examples=40, deadline=None, database=None)
LEADING = [(), (1,), (5,), (0,), (2, 3), (1, 0, 2), (2, 1, 3)]
KERNEL_SIZES = [(1, 1), (3, 3), (2, 3)]

TOPOLOGIES = {
    "one_tile": RadixLayer(6, radix=3, place_value=2),
    "tiles": RadixLayer(12, 2, 3, width_in=2),
    "radix_1": RadixLayer(4, 1, 2, width_in=2, width_out=3, drop_inputs=1),
    "full": RadixLayer(5, 5, 1, width_out=2),
    "drop_inputs": RadixLayer(8, 2, 2, 2, 1, drop_inputs=9),
    "drop_outputs": RadixLayer(8, 4, 1, 1, 2, drop_outputs=3),
    "drop_both": RadixLayer(6, 2, 1, 3, 2, drop_inputs=7, drop_outputs=8),
}
of_each = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)


@st.composite
def radix_layers(draw, most_nodes=36):
    radix, place_value, tiles = (draw(st.integers(1, 4)) for _ in range(3))
    if radix * place_value * tiles > most_nodes:
        place_value = tiles = 1
    nodes = radix * place_value * tiles
    widths = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    drops = (draw(st.just(0) | st.integers(0, width * nodes - 1)) for width in widths)
    return RadixLayer(nodes, radix, place_value, *widths, *drops)


@st.composite
def patch_layers(draw):
    """A kernel size, a number of channels, and a layer of its patches."""
    size = draw(st.sampled_from([(3, 3), (2, 3), (1, 2)]))
    channels = draw(st.integers(1, 4))
    inputs = size[0] * size[1] * channels
    whole = draw(radix_layers())
    width_in = -(-inputs // whole.nodes)
    return (
        size,
        channels,
        RadixLayer(
            whole.nodes,
            whole.radix,
            whole.place_value,
            width_in,
            whole.width_out,
            width_in * whole.nodes - inputs,
            whole.drop_outputs,
        ),
    )


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def dense_matrix(kernel, topology):
    dense = np.zeros((topology.input_size, topology.output_size))
    dense[stored_connections(topology)] = kernel
    return dense


def dense_filters(kernel, topology, groups):
    """The kernel (h, w, ...) of a dense convolution without groups, and its places."""
    places = stored_connections(topology)
    sizes = topology.input_size, topology.output_size
    height, width = kernel.shape[:2]
    dense = np.zeros((height, width, groups * sizes[0], groups * sizes[1]))
    kernel = kernel.reshape((height, width, groups, *kernel_shape(topology)))
    index = []
    for group in range(groups):
        inputs, outputs = (p + group * s for p, s in zip(places, sizes, strict=True))
        dense[:, :, inputs, outputs] = kernel[:, :, group]
        index.append((inputs, outputs))
    inputs, outputs = (np.concatenate(part) for part in zip(*index, strict=True))
    mask = np.kron(np.eye(groups), topology.mask())
    return dense, mask, (slice(None), slice(None), inputs, outputs)


def output_and_gradients(function, inputs, kernel):
    inputs, kernel = map(tf.convert_to_tensor, (inputs, kernel))
    with tf.GradientTape() as tape:
        tape.watch([inputs, kernel])
        outputs = function(inputs, kernel)
        weights = tf.cos(outputs)  # not ones, so that an exchange shows
        loss = tf.reduce_sum(outputs * tf.stop_gradient(weights))
    return outputs, *tape.gradient(loss, [inputs, kernel])


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def expected_product(inputs, kernel, topology):
    outputs, to_inputs, to_kernel = output_and_gradients(
        lambda x, w: masked_matmul(x, w, topology.mask()),
        inputs,
        dense_matrix(kernel, topology),
    )
    return outputs, to_inputs, to_kernel.numpy()[stored_connections(topology)]


def expected_convolution(inputs, kernel, topology, groups=1, **options):
    dense, mask, places = dense_filters(kernel, topology, groups)
    outputs, to_inputs, to_kernel = output_and_gradients(
        lambda x, w: masked_conv(x, w, mask, **options), inputs, dense
    )
    return outputs, to_inputs, to_kernel.numpy()[places].reshape(kernel.shape)


def conv_kernel(topology, size, groups=1):
    rows, *columns = kernel_shape(topology)
    return normal((*size, groups * rows, *columns), seed=1)


@FEW
@given(radix_layers(), st.sampled_from(LEADING))
def test_matmul_is_the_masked_one(topology, leading):
    inputs = normal((*leading, topology.input_size))
    kernel = normal(kernel_shape(topology), seed=1)
    got = output_and_gradients(
        lambda x, w: radix_matmul(x, w, topology), inputs, kernel
    )
    assert got[0].shape == (*leading, topology.output_size)
    assert_same(got, expected_product(inputs, kernel, topology))


@FEW
@given(radix_layers())
def test_stored_connections_are_the_mask(topology):
    inputs, outputs = stored_connections(topology)
    assert inputs.shape == outputs.shape == kernel_shape(topology)
    assert inputs.size == topology.num_connections
    # As many as the mask has, and all of it: none twice.
    covered = np.zeros((topology.input_size, topology.output_size), bool)
    covered[inputs, outputs] = True
    np.testing.assert_array_equal(covered, topology.mask())
    assert covered.sum() == inputs.size


def test_stored_connections_of_a_large_layer():
    topology = RadixLayer(800, 20, 2, 2, 3, drop_inputs=801, drop_outputs=50)
    covered = np.zeros((topology.input_size, topology.output_size), int)
    np.add.at(covered, stored_connections(topology), 1)
    np.testing.assert_array_equal(covered, topology.mask().astype(int))


@of_each
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
def test_matmul_compiled(topology):
    inputs = normal((2, 3, topology.input_size))
    kernel = normal(kernel_shape(topology), seed=1)

    @tf.function(jit_compile=True)
    def run(x, w):
        return output_and_gradients(lambda x, w: radix_matmul(x, w, topology), x, w)

    assert_same(run(inputs, kernel), expected_product(inputs, kernel, topology))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_matmul_keeps_the_dtype(dtype):
    topology = TOPOLOGIES["drop_both"]
    inputs = keras.ops.ones((3, topology.input_size), dtype)
    kernel = keras.ops.ones(kernel_shape(topology), dtype)
    outputs = radix_matmul(inputs, kernel, topology)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    expected = np.tile(topology.mask().sum(axis=0), (3, 1))
    np.testing.assert_array_equal(keras.ops.cast(outputs, "float32"), expected)


@FEW
@given(
    radix_layers(most_nodes=12),
    st.sampled_from(KERNEL_SIZES),
    st.sampled_from(["valid", "same"]),
    st.sampled_from([(1, 1), (2, 1), ((1, 2), 1), (1, 2), (1, (2, 1))]),
    st.integers(1, 3),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
)
def test_conv_is_the_masked_one(
    topology, size, padding, steps, groups, batch, in_tiles
):
    strides, dilation = steps
    options = {"padding": padding, "strides": strides, "dilation_rate": dilation}
    inputs = normal((batch, 5, 6, groups * topology.input_size))
    kernel = conv_kernel(topology, size, groups)
    assert kernel.size == size[0] * size[1] * groups * topology.num_connections
    got = output_and_gradients(
        lambda x, w: radix_conv(
            x, w, topology, groups=groups, in_tiles=in_tiles, **options
        ),
        inputs,
        kernel,
    )
    assert_same(got, expected_convolution(inputs, kernel, topology, groups, **options))


@FEW
@given(
    patch_layers(),
    st.sampled_from(["valid", "same"]),
    st.sampled_from([(1, 1), (2, 1), ((1, 2), 1), (1, 2), (1, (2, 1))]),
    st.sampled_from([0, 1, 2]),
)
def test_conv_over_patches_is_the_masked_one(patches, padding, steps, batch):
    size, channels, topology = patches
    options = {"padding": padding, "strides": steps[0], "dilation_rate": steps[1]}
    assert over_patches(topology, channels, 1, size)
    inputs = normal((batch, 5, 6, channels))
    kernel = normal(kernel_shape(topology), seed=1)
    got = output_and_gradients(
        lambda x, w: radix_conv(x, w, topology, kernel_size=size, **options),
        inputs,
        kernel,
    )
    shape = (*size, channels, topology.output_size)
    outputs, to_inputs, to_kernel = output_and_gradients(
        lambda x, w: masked_conv(x, w, topology.mask().reshape(shape), **options),
        inputs,
        dense_matrix(kernel, topology).reshape(shape),
    )
    to_kernel = to_kernel.numpy().reshape((-1, shape[-1]))
    assert_same(got, (outputs, to_inputs, to_kernel[stored_connections(topology)]))


@pytest.mark.parametrize("in_tiles", [True, False])
@of_each
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


def test_small_layers_of_few_channels_are_written_out():
    assert not tiles_are_faster(RadixLayer(20, 2, 1, 1, 3, drop_outputs=10))
    assert tiles_are_faster(RadixLayer(10, 5, 1, 2, 5))
    assert tiles_are_faster(RadixLayer(128, 4, 1))


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
