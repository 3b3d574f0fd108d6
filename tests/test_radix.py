"""The products of the RadiX layers against the dense masked ones, in float64."""

import backends
import keras
import numpy as np
import pytest
from backends import values
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsenet_tf.kernels.radix import kernel_shape, radix_matmul, stored_connections
from sparsenet_tf.kernels.radix_conv import over_patches, radix_conv, tiles_are_faster
from sparsenet_tf.kernels.reference import masked_conv, masked_matmul
from sparsenet_tf.topology import RadixLayer

PRECISION = backends.DOUBLE_PRECISION
# JAX compiles every operation for every shape.
EXAMPLES = 6 if backends.BACKEND == "jax" else 40
FEW = settings(max_examples=EXAMPLES, deadline=None, database=None)
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


@pytest.fixture(autouse=True)
def in_float64(float64):
    """For JAX."""


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
    # Not ones flow back, so that an exchange shows.
    return backends.output_and_gradients(function, [inputs, kernel], keras.ops.cos)


def assume_gradients(topology):
    # PyTorch's convolution with a single filter has none on CPUs, mostly in float64:
    # "slow_conv2d: grad_weight must be contiguous".
    assume(backends.BACKEND != "torch" or topology.output_size > 1)


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        one, other = values(one), values(other)
        np.testing.assert_allclose(one, other, rtol=PRECISION, atol=PRECISION)


def expected_product(inputs, kernel, topology):
    outputs, to_inputs, to_kernel = output_and_gradients(
        lambda x, w: masked_matmul(x, w, topology.mask()),
        inputs,
        dense_matrix(kernel, topology),
    )
    return outputs, to_inputs, values(to_kernel)[stored_connections(topology)]


def expected_convolution(inputs, kernel, topology, groups=1, **options):
    dense, mask, places = dense_filters(kernel, topology, groups)
    outputs, to_inputs, to_kernel = output_and_gradients(
        lambda x, w: masked_conv(x, w, mask, **options), inputs, dense
    )
    return outputs, to_inputs, values(to_kernel)[places].reshape(kernel.shape)


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_matmul_keeps_the_dtype(dtype):
    topology = TOPOLOGIES["drop_both"]
    inputs = keras.ops.ones((3, topology.input_size), dtype)
    kernel = keras.ops.ones(kernel_shape(topology), dtype)
    outputs = radix_matmul(inputs, kernel, topology)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    expected = np.tile(topology.mask().sum(axis=0), (3, 1))
    np.testing.assert_array_equal(values(outputs), expected)


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
    assume_gradients(topology)
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
    assume_gradients(topology)
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
    to_kernel = values(to_kernel).reshape((-1, shape[-1]))
    assert_same(got, (outputs, to_inputs, to_kernel[stored_connections(topology)]))


def test_small_layers_of_few_channels_are_written_out():
    assert not tiles_are_faster(RadixLayer(20, 2, 1, 1, 3, drop_outputs=10))
    assert tiles_are_faster(RadixLayer(10, 5, 1, 2, 5))
    assert tiles_are_faster(RadixLayer(128, 4, 1))
