"""Our own operation for sparse products: exact, safe, and chosen where it pays."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparse import WAYS, assert_close, expected, problem, run, ways

from sparsenet_tf.kernels import native, sparse
from sparsenet_tf.kernels.sparse import SparseProduct
from sparsenet_tf.layers import SparseDense
from sparsenet_tf.topology import SparsePattern

needs_native = pytest.mark.skipif(
    native.load_ops() is None, reason="our operations are not built"
)


@needs_native
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.one_of(st.integers(1, 5), st.integers(6, 140)),
    st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    st.integers(0, 100),
)
def test_native_equals_the_masked_dense_product(inputs, outputs, batch, density, seed):
    given = problem(inputs, outputs, batch, density, seed)
    assert_close(run(*given, "native"), expected(*given), 1e-5)


@needs_native
@pytest.mark.parametrize("batch", [2, 20, 100])
def test_native_with_many_nonzeros(batch):
    given = problem(1500, 1100, batch, 0.8, seed=0)  # they are found in other ways
    assert given[0].sum() > 2**20
    assert_close(run(*given, "native"), expected(*given), 1e-5)


@needs_native
def test_bfloat16_is_summed_in_float32():
    mask, x, kernel, upstream = problem(700, 40, 33, 0.5, seed=0)
    given = [tf.cast(tf.cast(a, "bfloat16"), "float32").numpy() for a in (x, kernel)]
    upstream = tf.cast(tf.cast(upstream, "bfloat16"), "float32").numpy()
    results = run(mask, *given, upstream, "native", "bfloat16")
    reference = expected(mask, *given, upstream)
    # Rounded once, at the end: half a unit in the last of 8 places.
    for result, wanted in zip(results, reference, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=2**-8, atol=1e-4)


@needs_native
@pytest.mark.slow
def test_is_the_same_to_the_bit_for_any_number_of_threads():
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "import test_sparse as t\n"
        "import hashlib\n"
        "given = t.problem(1000, 700, 200, 0.1, seed=0)\n"
        "for result in t.run(*given, 'native'):\n"
        "    print(hashlib.sha256(result.tobytes()).hexdigest())\n"
    )
    here = str(pathlib.Path(__file__).parent)
    found = {
        subprocess.run(
            [sys.executable, "-c", script, threads, here],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2", "7")
    }
    assert len(found) == 1 and len(found.pop().split()) == 3


@needs_native
def test_many_at_once():
    # Operations that share the pool, each of which asks it for help.
    given = problem(600, 500, 64, 0.2, seed=0)
    product = SparseProduct(SparsePattern.from_mask(given[0]))
    outputs, inputs = np.nonzero(given[0].T)
    values = tf.constant(given[2][inputs, outputs])

    @tf.function
    def run_all(x):
        return [product(x * (i + 1.0), values, "native") for i in range(16)]

    wanted = expected(*given)[0]
    for i, y in enumerate(run_all(tf.constant(given[1]))):
        np.testing.assert_allclose(y, wanted * (i + 1), rtol=1e-3, atol=1e-3)


@needs_native
def test_has_second_gradients():
    mask, x, kernel, _ = problem(5, 4, 3, 0.6, seed=1)
    outputs, inputs = np.nonzero(mask.T)

    def gradients(multiply, values):
        inner_x = tf.constant(x)
        with tf.GradientTape() as outer:
            outer.watch([inner_x, values])
            with tf.GradientTape() as inner:
                inner.watch([inner_x, values])
                loss = tf.reduce_sum(multiply(inner_x, values) ** 3)
            first = inner.gradient(loss, [inner_x, values])
            total = sum(tf.reduce_sum(g**2) for g in first)
        return outer.gradient(total, [inner_x, values])

    product = SparseProduct(SparsePattern.from_mask(mask))
    values = tf.constant(kernel[inputs, outputs])
    ours = gradients(lambda x, v: product(x, v, "native"), values)
    wanted = gradients(lambda x, v: product(x, v, "dense"), values)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_leading_axes_that_are_unknown(way):
    if way not in ways():
        pytest.skip("our operations are not built")
    mask, x, kernel, _ = problem(6, 5, 12, 0.5, seed=0)
    outputs, inputs = np.nonzero(mask.T)
    product = SparseProduct(SparsePattern.from_mask(mask))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 6))])
    def multiply(x):
        y = product(x, tf.constant(kernel[inputs, outputs]), way)
        assert y.shape[-1] == 5 or way == "csr"
        return y

    y = multiply(x.reshape(3, 4, 6))
    wanted = (x @ (kernel * mask)).reshape(3, 4, 5)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@needs_native
def test_an_empty_batch():
    mask, _, kernel, _ = problem(6, 5, 1, 0.5, seed=0)
    given = mask, np.zeros((0, 6), "f"), kernel, np.zeros((0, 5), "f")
    assert_close(run(*given, "native"), expected(*given), 0)


@needs_native
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": np.ones((2, 3), "f")}, "`x` must have 4 columns"),
        ({"x": np.ones((2, 4, 1), "f")}, "`x` must have two axes"),
        ({"values": np.ones(3, "f")}, "`values`, `order` and `in_indices` must have"),
        ({"out_indices": np.array([0, 9, 1, 2], "i")}, "indices be at least 0"),
        ({"out_indices": np.array([0, -1, 1, 2], "i")}, "indices be at least 0"),
        ({"out_splits": np.array([0, 3, 2, 4], "i")}, "Splits must rise"),
        ({"out_splits": np.array([0, 9, 9, 4], "i")}, "Splits must rise"),
        ({"out_splits": np.array([1, 2, 3, 4], "i")}, "Splits must rise"),
        (
            {"in_splits": np.array([], "i"), "transpose": True},
            "Splits must be a vector",
        ),
        ({"order": np.array([0, 1, 2, 4], "i"), "transpose": True}, "`order` at least"),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [2, 20])
def test_the_operation_reads_nothing_that_is_not_there(change, match, batch):
    if "order" in change:
        batch = 20  # a narrow one does not read it
    pattern = SparsePattern.from_edges(4, 3, [0, 3, 1, 2], [0, 0, 1, 2])
    in_splits, in_indices, order = pattern.by_input
    arguments = {
        "x": np.ones((batch, 3 if change.get("transpose") else 4), "f"),
        "values": np.ones(4, "f"),
        "out_splits": pattern.splits,
        "out_indices": pattern.inputs,
        "in_splits": in_splits,
        "in_indices": in_indices,
        "order": order,
        "transpose": False,
        **change,
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        native.load_ops().sparsenet_sparse_matmul(**arguments)


def test_needs_a_dtype_that_it_knows():
    product = SparseProduct(SparsePattern.random(4, 4, 2, seed=0))
    with pytest.raises(ValueError, match="'native' needs float32.*dtype float64"):
        product(tf.ones((1, 4), "float64"), tf.constant(np.ones(8)), "native")


def test_without_our_operations_others_take_over(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "library_path", lambda version: tmp_path / "none.so")
    sparser = SparsePattern.random(512, 512, 5, seed=0)
    denser = SparsePattern.random(512, 512, 50, seed=0)
    assert sparse.choose(sparser, 128, "float32") == "csr"
    assert sparse.choose(sparser, 128, "bfloat16") == "dense"
    assert sparse.choose(denser, 128, "float32") == "dense"


@needs_native
def test_the_choice_goes_by_density_and_batch():
    sparser = SparsePattern.random(4096, 4096, 41, seed=0)
    assert sparse.choose(sparser, 128, "float32") == "native"
    assert sparse.choose(sparser, None, "bfloat16") == "native"
    assert sparse.choose(sparser, 128, "float64") == "csr"
    half = SparsePattern.random(512, 512, 256, seed=0)
    assert sparse.choose(half, 128, "float32") == "dense"


def test_warns_once_that_it_could_be_faster(monkeypatch, tmp_path):
    mask, x, *_ = problem(16, 9, 4, 0.3, seed=0)
    library = "sparsenet_tf.kernels.native.library_path"
    monkeypatch.setattr(library, lambda version: tmp_path / "none.so")
    with pytest.warns(UserWarning, match="operations are not built"):
        layer = SparseDense(mask)
        y = layer(x)
    np.testing.assert_allclose(y, layer.to_dense()(x), rtol=1e-5)
    with pytest.raises(ValueError, match="'native' needs"):
        SparseDense(mask, implementation="native")(x)
