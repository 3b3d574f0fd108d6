"""Our own operation for sparse convolutions: exact, safe, chosen where it pays."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparse_conv import Problem

from sparsenet_tf.kernels import native, sparse, sparse_conv
from sparsenet_tf.topology import SparsePattern

needs_native = pytest.mark.skipif(
    native.load_ops() is None, reason="our operations are not built"
)


@needs_native
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 17), st.integers(1, 40)),
    st.integers(1, 20),
    st.integers(1, 40),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    st.sampled_from(["valid", "same"]),
    st.one_of(
        st.fixed_dictionaries({"strides": st.tuples(*[st.integers(1, 4)] * 2)}),
        st.fixed_dictionaries({"dilation_rate": st.tuples(*[st.integers(1, 3)] * 2)}),
    ),
    st.integers(0, 100),
)
def test_native_equals_the_masked_dense_convolution(
    images, channels, filters, kernel, density, padding, options, seed
):
    kernel = tuple(min(k, size) for k, size in zip(kernel, images[1:], strict=True))
    if padding == "valid":
        rates = options.get("dilation_rate", (1, 1))
        seen = [(k - 1) * rate + 1 for k, rate in zip(kernel, rates, strict=True)]
        images = (
            images[0],
            *(max(pair) for pair in zip(images[1:], seen, strict=True)),
        )
    Problem(
        images, channels, filters, kernel, density, seed, padding=padding, **options
    ).check("native")


@needs_native
@pytest.mark.parametrize(
    ("images", "channels", "filters", "kernel", "options"),
    [
        ((2, 12, 12), 512, 40, (3, 3), {"padding": "same"}),  # several rows of tiles
        ((3, 5, 230), 3, 70, (3, 3), {"padding": "same"}),  # several tiles a row
        ((100, 8, 8), 20, 50, (5, 5), {}),  # several images side by side
        ((130, 1, 1), 30, 20, (1, 1), {}),
        ((1, 9, 9), 8, 4, (3, 3), {"strides": (3, 2)}),
        ((2, 9, 9), 8, 4, (1, 1), {"strides": (2, 2), "padding": "same"}),
        ((2, 5, 5), 4, 6, (3, 3), {"groups": 2, "padding": "same"}),
    ],
    ids=str,
)
@pytest.mark.often("(3, 5, 230)*", "(1, 9, 9)*", "(2, 5, 5)*")
def test_native_in_shapes_of_each_kind(images, channels, filters, kernel, options):
    Problem(images, channels, filters, kernel, 0.1, **options).check("native")


@needs_native
def test_bfloat16_is_summed_in_float32():
    problem = Problem((3, 9, 8), 40, 33, (3, 3), 0.5, padding="same")
    for name in ("x", "kernel", "upstream"):
        rounded = tf.cast(tf.cast(getattr(problem, name), "bfloat16"), "float32")
        setattr(problem, name, rounded.numpy())
    results = problem.run("native", "bfloat16")
    for result, wanted in zip(results, problem.expected(), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=2**-8, atol=1e-4)


@needs_native
def test_images_of_unknown_size_and_number():
    problem = Problem((3, 9, 8), 5, 6, (3, 2), 0.3, strides=(2, 1))
    product, values = problem.product(), tf.constant(problem.values())

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 5))])
    def convolve(x):
        y = product(x, values, "native")
        assert y.shape[-1] == 6
        return y, tf.gradients(y, x)[0]

    y, to_x = convolve(problem.x)
    np.testing.assert_allclose(y, problem.expected()[0], rtol=1e-4, atol=1e-5)
    assert to_x.shape == problem.x.shape
    assert [part.shape[0] for part in convolve(problem.x[:0])] == [0, 0]


@needs_native
def test_has_second_gradients():
    problem = Problem((2, 5, 6), 3, 4, (3, 2), 0.5, strides=(2, 1), padding="same")
    product, values = problem.product(), tf.constant(problem.values())

    def gradients(way):
        x = tf.constant(problem.x)
        with tf.GradientTape() as outer:
            outer.watch([x, values])
            with tf.GradientTape() as inner:
                inner.watch([x, values])
                loss = tf.reduce_sum(product(x, values, way) ** 3)
            first = inner.gradient(loss, [x, values])
            total = sum(tf.reduce_sum(g**2) for g in first)
        return outer.gradient(total, [x, values])

    for ours, wanted in zip(gradients("native"), gradients("dense"), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-3)


@needs_native
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": np.ones((2, 5, 5, 3), "f")}, r"`x` must have shape .*, 2\)"),
        ({"x": np.ones((2, 5, 2), "f")}, "`x` must have shape"),
        ({"values": np.ones(3, "f")}, "`values` must have an entry for each of 4"),
        ({"out_indices": np.array([0, 18, 1, 2], "i")}, "indices be at least 0"),
        ({"out_indices": np.array([0, -1, 1, 2], "i")}, "indices be at least 0"),
        ({"out_splits": np.array([0, 3, 2, 4], "i")}, "Splits must rise"),
        ({"out_splits": np.array([1, 2, 3, 4], "i")}, "Splits must rise"),
        ({"order": np.array([0, 1], "i")}, "`order` and `in_indices` must have"),
        ({"in_splits": np.array([0, 2, 3, 4], "i"), "strides": (2, 1)}, "phases"),
        ({"strides": (0, 1)}, "`strides` must be two numbers of 1 or more"),
        ({"kernel_size": (3,)}, "`kernel_size` must be two numbers"),
    ],
    ids=str,
)
def test_the_operation_reads_nothing_that_is_not_there(change, match):
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        native.load_ops().sparsenet_sparse_conv(**arguments(**change))


@needs_native
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"in_indices": np.array([0, 1, 27, 3], "i")}, "indices be at least 0"),
        ({"order": np.array([0, 1, 2, 4], "i")}, "`order` at least"),
        ({"size": np.array([6, 5], "i")}, "`upstream` must be 4 by 3 for images"),
        ({"size": np.array([-1, 5], "i")}, "`size` must be a height and a width"),
        ({"size": np.array([5], "i")}, "`size` must be a height and a width"),
        ({"upstream": np.ones((2, 3, 3, 4), "f")}, r"`upstream` must have shape"),
    ],
    ids=str,
)
def test_the_gradient_to_the_images_does_not_either(change, match):
    given = arguments()
    del given["x"]
    given = {**given, "upstream": np.ones((2, 3, 3, 3), "f"), "size": [5, 5], **change}
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        native.load_ops().sparsenet_sparse_conv_input(**given)


@needs_native
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"out_indices": np.array([0, 18, 1, 2], "i")}, "indices be at least 0"),
        ({"upstream": np.ones((2, 3, 2, 3), "f")}, "`upstream` must be what comes of"),
        ({"upstream": np.ones((3, 3, 3, 3), "f")}, "`upstream` must be what comes of"),
    ],
    ids=str,
)
def test_nor_does_the_gradient_to_the_values(change, match):
    given = arguments()
    del given["values"]
    given = {**given, "upstream": np.ones((2, 3, 3, 3), "f"), **change}
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        native.load_ops().sparsenet_sparse_conv_values(**given)


def arguments(**change):
    """Of filters 3x3 from two channels to three filters with four weights."""
    return {
        "x": np.ones((2, 5, 5, 2), "f"),
        "values": np.ones(4, "f"),
        "out_splits": np.array([0, 2, 3, 4], "i"),
        "out_indices": np.array([0, 3, 1, 2], "i"),
        "in_splits": np.array([0, 2, 4], "i"),
        "in_indices": np.array([0, 5, 1, 3], "i"),
        "order": np.array([0, 3, 2, 1], "i"),
        "kernel_size": (3, 3),
        "strides": (1, 1),
        "dilations": (1, 1),
        "padding": "VALID",
        **change,
    }


def test_needs_a_dtype_that_it_knows():
    problem = Problem((1, 4, 4), 2, 3, (3, 3), 0.5)
    x, values = (a.astype("float64") for a in (problem.x, problem.values()))
    with pytest.raises(ValueError, match="'native' needs float32.*dtype float64"):
        problem.product()(x, values, "native")


def test_without_our_operations_it_is_written_out(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "library_path", lambda version: tmp_path / "none.so")
    sparser = SparsePattern.random(900, 50, 9, seed=0)
    assert sparse_conv.choose(sparser, 36, "float32") == "dense"


@needs_native
def test_the_choice_goes_by_density_and_size():
    assert sparse.native_can_run()
    sparser = SparsePattern.random(900, 50, 9, seed=0)
    assert sparse_conv.choose(sparser, 36, "float32") == "native"
    assert sparse_conv.choose(sparser, 36, "float64") == "dense"
    denser = SparsePattern.random(900, 50, 500, seed=0)
    assert sparse_conv.choose(denser, 36, "float32") == "dense"
    # Filters of one pixel from 32 channels, and of 3 x 3 from 32 or from 3 of them.
    for size, channels, wanted in [
        (32, 32, "dense"),
        (288, 32, "native"),
        (27, 3, "dense"),
    ]:
        pattern = SparsePattern.random(size, 64, 2, seed=0)
        assert sparse_conv.choose(pattern, channels, "float32") == wanted
    # As many weights, in groups: the pixels of all of them are read.
    grouped = SparsePattern.random(96, 64, 2, seed=0)
    assert sparse_conv.choose(grouped, 24, "float32") == "native"
    assert sparse_conv.choose(grouped, 240, "float32") == "dense"
