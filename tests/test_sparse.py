"""Sparse products: equal to the masked dense product, outputs and every gradient."""

import keras
import numpy as np
import pytest
from backends import BACKEND, output_and_gradients, values

from sparsenet_tf.kernels import sparse
from sparsenet_tf.kernels.sparse import SparseProduct
from sparsenet_tf.topology import SparsePattern

WAYS = ("native", "csr", "dense") if BACKEND == "tensorflow" else ("dense",)


def ways():
    return [w for w in WAYS if w != "native" or sparse.native_can_run()]


def expected(mask, x, kernel, upstream):
    """Output and gradients to the inputs and the nonzeros, in float64."""
    x, upstream, kernel = (a.astype(np.float64) for a in (x, upstream, kernel * mask))
    outputs, inputs = np.nonzero(mask.T)
    return x @ kernel, upstream @ kernel.T, (x.T @ upstream)[inputs, outputs]


def run(mask, x, kernel, upstream, way, dtype="float32"):
    product = SparseProduct(SparsePattern.from_mask(mask))
    outputs, inputs = np.nonzero(mask.T)
    given = [keras.ops.convert_to_tensor(a) for a in (x, kernel[inputs, outputs])]
    results = output_and_gradients(
        lambda x, v: product(x, v, way),
        [keras.ops.cast(a, dtype) for a in given],
        keras.ops.cast(upstream, dtype),
    )
    return [values(result).astype("float64") for result in results]


def problem(inputs, outputs, batch, density, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) < density
    if outputs > 2 and density < 1:
        mask[:, 1] = False  # an output without inputs
    shapes = ((batch, inputs), (inputs, outputs), (batch, outputs))
    return mask, *(rng.normal(size=shape).astype("float32") for shape in shapes)


def assert_close(results, reference, tolerance):
    for result, wanted in zip(results, reference, strict=True):
        assert result.shape == wanted.shape
        scale = max(1e-30, np.abs(wanted).max(initial=0))
        np.testing.assert_allclose(result / scale, wanted / scale, atol=tolerance)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1.0), (33, 17, 5, 0.2), (300, 100, 64, 0.05), (40, 7, 300, 0.0)],
    ids=str,
)
def test_all_ways_equal_the_masked_dense_product(way, shape):
    if way == "csr" and not shape[-1]:
        pytest.skip("TensorFlow's product refuses an empty matrix")
    if way not in ways():
        pytest.skip("our operations are not built")
    given = problem(*shape, seed=0)
    assert_close(run(*given, way), expected(*given), 1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_any_leading_axes(way):
    if way not in ways():
        pytest.skip("our operations are not built")
    mask, x, kernel, _ = problem(6, 5, 12, 0.5, seed=0)
    outputs, inputs = np.nonzero(mask.T)
    product = SparseProduct(SparsePattern.from_mask(mask))
    y = product(x.reshape(3, 4, 6), kernel[inputs, outputs], way)
    wanted = (x @ (kernel * mask)).reshape(3, 4, 5)
    np.testing.assert_allclose(values(y), wanted, rtol=1e-5, atol=1e-6)


def test_says_which_ways_there_are():
    product = SparseProduct(SparsePattern.random(4, 4, 2, seed=0))
    with pytest.raises(ValueError, match="`implementation` must be one of"):
        product(np.ones((1, 4)), np.ones(8), "fast")
    if BACKEND != "tensorflow":
        for way in ("native", "csr"):
            with pytest.raises(ValueError, match=f"'{way}' needs .*backend {BACKEND}"):
                product(np.ones((1, 4), "f"), np.ones(8, "f"), way)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it has other ways")
def test_elsewhere_the_matrix_is_written_out():
    pattern = SparsePattern.random(512, 512, 5, seed=0)
    assert sparse.choose(pattern, 128, "float32") == "dense"
    assert sparse.supports_jit("auto") and not sparse.supports_jit("native")
