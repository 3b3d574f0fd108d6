"""Our own operations: built where there is a compiler, equal to TensorFlow's."""

import importlib.metadata
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.experiments.models import lenet_300_100
from sparsenet_tf.kernels import native, sparse
from sparsenet_tf.kernels.masked_identity import masked_identity, native_is_usable
from sparsenet_tf.kernels.native import build

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler here")
SHAPES = [(), (0,), (1,), (7,), (784, 300), (3, 5, 7), (1000, 1000)]


@pytest.fixture(scope="module")
def tf():
    """Our operations, which the installation has built if there is a compiler."""
    if not HAS_COMPILER:
        pytest.skip("no C++ compiler here")
    assert native.load_ops() is not None, (
        "not built: run `python -m sparsenet_tf.kernels.native.build`"
    )
    import tensorflow

    return tensorflow


def masked_gradient(tf, upstream, mask, use_native):
    kernel = tf.zeros_like(mask)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        value = masked_identity(kernel, tf.constant(mask), use_native)
    return tape.gradient(value, kernel, tf.constant(upstream))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_product_to_the_bit(tf, shape):
    rng = np.random.default_rng(0)
    gradient = np.asarray(rng.normal(size=shape), "float32")
    if gradient.size > 5:
        gradient.flat[:5] = [-0.0, np.inf, -np.inf, np.nan, 1e-45]
    mask = np.asarray(rng.random(shape) < 0.5, "float32")
    ours = masked_gradient(tf, gradient, mask, use_native=True)
    expected = masked_gradient(tf, gradient, mask, use_native=False)
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(expected))
    np.testing.assert_array_equal(ours, expected)


def test_leaves_its_inputs_as_they_were(tf):
    gradient = tf.constant(np.ones((100, 100), "float32"))
    kernel, mask = tf.ones_like(gradient), tf.zeros_like(gradient)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        value = masked_identity(kernel, mask, use_native=True)
    assert tf.reduce_all(tape.gradient(value, kernel, gradient) == 0)
    assert all(tf.reduce_all(array == 1) for array in (gradient, kernel, value))


def test_has_a_second_gradient(tf):
    x, mask = tf.constant([1.0, 2.0]), tf.constant([0.0, 1.0])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = masked_identity(x, mask, use_native=True) ** 3
        first = inner.gradient(y, x)
    np.testing.assert_array_equal(first, [0.0, 12.0])
    np.testing.assert_array_equal(outer.gradient(first, x), [0.0, 12.0])


def test_refuses_a_mask_of_another_shape(tf):
    gradient = native.load_ops().sparsenet_mask_gradient
    with pytest.raises(tf.errors.InvalidArgumentError, match="mask.*shape"):
        gradient(gradient=tf.ones((2, 3)), mask=tf.ones((3, 2)))


def test_other_dtypes_take_the_product(tf):
    half = tf.ones((2,), tf.float16)
    assert masked_identity(half, half, use_native=True).dtype == tf.float16


def compiled(seed=0, **arguments):
    model = stf.sparsify(lenet_300_100(seed=seed))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, **arguments)
    return model


def train(model):
    rng = np.random.default_rng(0)
    x, y = rng.random((200, 28, 28, 1), "float32"), rng.integers(0, 10, 200)
    schedule = stf.pruning.PolynomialDecay(0.0, 0.9, 0, 6, frequency=2)
    callback = stf.pruning.PruningCallback(schedule)
    arguments = dict(batch_size=25, shuffle=False, verbose=0, callbacks=[callback])
    model.fit(x, y, **arguments)
    return model.get_weights()


def test_training_is_the_same_to_the_bit_without(tf, monkeypatch):
    train(compiled())  # The first training in a process can differ in a last bit.
    ours = train(compiled())
    monkeypatch.setattr("sparsenet_tf.pruning.guards.native_is_usable", lambda m: False)
    for a, b in zip(ours, train(compiled()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_uses_it_but_never_under_xla(tf):
    model, jitted = compiled(), compiled(jit_compile=True)
    assert native_is_usable(model) and not native_is_usable(jitted)
    train(jitted)  # XLA does not know the operation and would say so.


def test_it_is_not_used_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "library_path", lambda version: tmp_path / "none.so")
    assert native.load_ops() is None
    assert not native_is_usable(compiled())


def test_no_compiler_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler"):
        build.build(tmp_path)


@needs_compiler
def test_a_failed_build_leaves_nothing(monkeypatch, tmp_path):
    version = importlib.metadata.version("tensorflow")
    flags = [version, ["--no-such-flag"], []]
    monkeypatch.setattr(build, "_ask_tensorflow", lambda: flags)
    with pytest.raises(build.BuildError, match="no-such-flag"):
        build.build(tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.fixture
def fake_build(monkeypatch, tmp_path):
    """The command in a clone, compiling nothing; gives what it was asked to compile."""
    clone = tmp_path / "clone" / "sparsenet_tf" / "kernels" / "native"
    clone.mkdir(parents=True)
    (clone / "ops.cc").write_text("new")
    compiled = []

    def fake(folder=clone, sources=clone):
        compiled.append(sources)
        path = folder / "_ops_tf9.so"
        path.write_bytes(b"library of " + str(sources).encode())
        return path

    monkeypatch.setattr(build, "_HERE", clone)
    monkeypatch.setattr(build, "build", fake)
    return clone, compiled


def installed_copy(monkeypatch, tmp_path, source):
    folder = tmp_path / "site-packages" / "sparsenet_tf" / "kernels" / "native"
    folder.mkdir(parents=True)
    (folder / "ops.cc").write_text(source)
    monkeypatch.setattr(build, "installed_folder", lambda: folder)
    return folder


@pytest.mark.parametrize("source", ["new", "old"])
def test_the_command_in_a_clone_builds_for_both(
    fake_build, monkeypatch, tmp_path, capsys, source
):
    clone, compiled = fake_build
    installed = installed_copy(monkeypatch, tmp_path, source)
    build.main()
    said = capsys.readouterr().out
    assert "takes one to three minutes" in said
    for folder in (clone, installed):
        assert f"Built {folder / '_ops_tf9.so'}" in said
        assert (folder / "_ops_tf9.so").is_file()
    assert compiled == ([clone] if source == "new" else [clone, installed])
    names = {path.name for path in installed.iterdir()}
    assert names == {"ops.cc", "_ops_tf9.so"}


def test_the_command_says_where_nothing_was_built(
    fake_build, monkeypatch, tmp_path, capsys
):
    clone, _ = fake_build
    monkeypatch.setattr(build, "installed_folder", lambda: None)
    build.main()
    said = capsys.readouterr().out
    assert f"that Python imports in {clone.parents[2]}" in said
    assert "In other folders Python finds no sparsenet_tf" in said
    installed = installed_copy(monkeypatch, tmp_path, "new")

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(build.shutil, "copy2", refuse)
    with pytest.raises(build.BuildError, match=f"{installed.parents[2]}.*read-only"):
        build.main()


def test_the_command_for_the_package_in_use_says_so_once(
    fake_build, monkeypatch, capsys
):
    clone, compiled = fake_build
    monkeypatch.setattr(build, "installed_folder", lambda: clone)
    build.main()
    assert compiled == [clone] and "elsewhere" not in capsys.readouterr().out


def test_the_installed_package_is_what_python_imports_elsewhere(monkeypatch, tmp_path):
    package = tmp_path / "lib" / "sparsenet_tf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('not imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    assert build.installed_folder() == package.resolve() / "kernels" / "native"


def test_the_warning_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "library_path", lambda version: tmp_path / "none.so")
    where = str(native.package_folder())
    with pytest.warns(UserWarning, match="Our own operations are not built") as caught:
        sparse.warn_without_native()
    assert where in str(caught[0].message)


@pytest.mark.slow
@needs_compiler
def test_the_command_builds_where_it_is_told(tmp_path):
    code = (
        f"from sparsenet_tf.kernels.native.build import build; build({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    (library,) = tmp_path.iterdir()
    assert (
        library.name
        == native.library_path(importlib.metadata.version("tensorflow")).name
    )
