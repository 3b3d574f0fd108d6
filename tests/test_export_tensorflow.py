"""`export` to TensorFlow's formats and ONNX."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_export import Subclassed, X, masked, of_each, predict

import sparsenet_tf as stf
from sparsenet_tf.experiments.models import lenet_300_100


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
    for alias in ("saved_model", "tf_saved_model"):
        stf.export(model, str(tmp_path / alias), format=alias, print_fn=None)
        assert (tmp_path / alias / "saved_model.pb").is_file()
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
