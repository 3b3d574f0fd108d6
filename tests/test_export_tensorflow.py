"""`export` to TensorFlow's formats and ONNX."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_export import Subclassed, X, masked, of_each, predict

import sparsenet_tf as stf
from sparsenet_tf.experiments.models import lenet_300_100
from sparsenet_tf.kernels import native


def serve(path, x):
    loaded = tf.saved_model.load(str(path))  # which must outlive the call
    return loaded.serve(x)


@of_each
def test_saved_model(make, tmp_path):
    model = make()
    stf.export(model, tmp_path / "model")
    served = serve(tmp_path / "model", X)
    np.testing.assert_allclose(served, predict(model), rtol=1e-5, atol=1e-6)


@of_each
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.often("masked", "sparse")
def test_tflite(make, tmp_path):
    model = make()
    stf.export(model, tmp_path / "model.tflite")
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    [given], [found] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], X)
    interpreter.invoke()
    np.testing.assert_allclose(
        interpreter.get_tensor(found["index"]), predict(model), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_onnx_says_what_it_needs_and_leaves_nothing(tmp_path):
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="onnx"):
            stf.export(masked(), tmp_path / "model.onnx")
        assert list(tmp_path.iterdir()) == []
    else:
        stf.export(masked(), tmp_path / "model.onnx")
        onnx.checker.check_model(str(tmp_path / "model.onnx"))


def test_size_of_a_folder(tmp_path):
    sizes = stf.export(masked(lenet_300_100), tmp_path / "model", print_fn=None)
    files = [p for p in (tmp_path / "model").rglob("*") if p.is_file()]
    assert sizes.written == sum(p.stat().st_size for p in files)
    assert sizes.path == tmp_path / "model"


def test_the_end_of_the_path_says_the_format(tmp_path):
    model = lenet_300_100(seed=0)
    for name in ("a", "b.keras", "c.npz", "d.tflite"):
        stf.export(model, tmp_path / name, print_fn=None)
    assert (tmp_path / "a" / "saved_model.pb").is_file()
    keras.models.load_model(tmp_path / "b.keras")
    stf.transform.load_compact(tmp_path / "c.npz")
    assert (tmp_path / "d.tflite").read_bytes()[4:8] == b"TFL3"
    for name, alias in (("f", "saved_model"), ("v1.2", "tf_saved_model")):
        stf.export(model, str(tmp_path / name), format=alias, print_fn=None)
        assert (tmp_path / name / "saved_model.pb").is_file()
    stf.export(model, tmp_path / "e.tflite", format="litert", print_fn=None)


def test_what_was_there_is_replaced_or_left_whole(tmp_path, monkeypatch):
    model, path = masked(lenet_300_100), tmp_path / "model"
    stf.export(lenet_300_100(seed=1), path, print_fn=None)
    stf.export(model, path, print_fn=None)
    served = serve(path, X)
    np.testing.assert_allclose(served, predict(model), rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        stf.export(lenet_300_100(seed=2), path, print_fn=None)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_plain_subclassed_model(tmp_path):
    model = Subclassed()
    x = np.ones((2, 4), "float32")
    wanted = model(x)
    stf.export(model, tmp_path / "plain", print_fn=None)
    served = serve(tmp_path / "plain", x)
    np.testing.assert_allclose(served, wanted, rtol=1e-5)


LOAD_ELSEWHERE = """
import os, sys
sys.modules["sparsenet_tf"] = None
import numpy as np, tensorflow as tf
for name in sorted(os.listdir(".")):
    if name.endswith(".tflite"):
        found = tf.lite.Interpreter(name)
        [given], [out] = found.get_input_details(), found.get_output_details()
        x = np.load(name.removesuffix(".tflite") + ".x.npy")
        found.resize_tensor_input(given["index"], x.shape)
        found.allocate_tensors()
        found.set_tensor(given["index"], x)
        found.invoke()
        np.save(name + ".y.npy", found.get_tensor(out["index"]))
    elif os.path.isdir(name):
        loaded = tf.saved_model.load(name)
        serve = getattr(loaded, "serve", None) or loaded.signatures["serving_default"]
        y = serve(tf.constant(np.load(name.split("-")[0] + ".x.npy")))
        np.save(name + ".y.npy", list(y.values())[0] if isinstance(y, dict) else y)
"""


def images(size, channels):
    return np.random.default_rng(1).normal(size=(3, size, size, channels))


def fitted(model, x, callback):
    model.compile(keras.optimizers.SGD(0.01), "mse")
    y = np.zeros((len(x), *model.output_shape[1:]), "float32")
    model.fit(x, y, verbose=0, epochs=3, callbacks=[callback])
    return model


def masked_after_fit():
    schedule = stf.pruning.ConstantSparsity(0.9, begin_step=1)
    return fitted(masked(lenet_300_100), X, stf.pruning.PruningCallback(schedule)), X


def sparse_convolutions():
    model = keras.Sequential(
        [
            keras.Input((9, 9, 64)),
            keras.layers.Conv2D(64, 3),
            keras.layers.Conv2D(64, 1),
        ]
    )
    pruned = stf.pruning.prune_one_shot(model, 0.9)
    return stf.to_sparse(pruned, layers="all"), images(9, 64)


def radix_layers():
    topology = stf.topology.RadixLayer(8, 2, 2, width_in=2, width_out=2)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 16)),
            stf.layers.RadixConv2D(topology, 3),
            keras.layers.GlobalAveragePooling2D(),
            stf.layers.RadixDense(topology),
        ]
    )
    return model, images(5, 16)


def sparse_layer(way, density=0.1):
    def make():
        pattern = stf.topology.SparsePattern.random(64, 32, round(64 * density), seed=0)
        layer = stf.layers.SparseDense(pattern, implementation=way)
        model = keras.Sequential([keras.Input((64,)), layer])
        return model, np.random.default_rng(0).normal(size=(3, 64))

    return make


def connections_that_moved():
    model, x = sparse_layer("auto")()
    schedule = stf.pruning.CosineDecay(0.5, end_step=3, frequency=1)
    return fitted(model, x, stf.pruning.SET(schedule)), x


NATIVE = {
    "masked_after_fit": masked_after_fit,
    "convolutions": sparse_convolutions,
    "radix": radix_layers,
    "sparse": sparse_layer("auto"),
    "native": sparse_layer("native"),
    "csr": sparse_layer("csr"),
    "very_sparse": sparse_layer("auto", 1 / 64),
    "moved": connections_that_moved,
}


def test_what_keras_and_tensorflow_export_runs_without_this_package(tmp_path):
    if native.load_ops() is None:
        pytest.skip("our operations are not built")
    wanted = {}
    for name, make in NATIVE.items():
        model, x = make()
        x = x.astype("float32")
        np.save(tmp_path / f"{name}.x.npy", x)
        # Called before: what was traced then has our operations.
        traced = tf.function(model)
        wanted[name] = traced(tf.constant(x)).numpy()
        model.export(tmp_path / f"{name}-export", verbose=False)
        model.export(tmp_path / f"{name}.tflite", format="litert", verbose=False)
        tf.saved_model.save(model, tmp_path / f"{name}-saved")
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", traced)
        archive.write_out(tmp_path / f"{name}-archive", verbose=False)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        (tmp_path / f"{name}-converted.tflite").write_bytes(converter.convert())
        (tmp_path / f"{name}-converted.x.npy").hardlink_to(tmp_path / f"{name}.x.npy")
        # The model itself goes on with them.
        np.testing.assert_array_equal(traced(tf.constant(x)), wanted[name])
    command = [sys.executable, "-c", LOAD_ELSEWHERE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, y in wanted.items():
        for way in ("-export", "-saved", "-archive", ".tflite", "-converted.tflite"):
            np.testing.assert_allclose(
                np.load(tmp_path / f"{name}{way}.y.npy"), y, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_onnx_that_keras_exports_runs(name, tmp_path):
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    model, x = NATIVE[name]()
    x, path = x.astype("float32"), str(tmp_path / "model.onnx")
    wanted = model(x)  # Keras exports to ONNX only what was called
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    [given] = session.get_inputs()
    [found] = session.run(None, {given.name: x})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
