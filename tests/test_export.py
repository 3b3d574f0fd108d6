"""`export`: what is written runs without this package and predicts the same."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.experiments.models import lenet_5, lenet_300_100
from sparsenet_tf.layers import Masked, RadixDense, SparseDense
from sparsenet_tf.transform.whole_files import made_beside

L = keras.layers
X = np.random.default_rng(0).normal(size=(5, 28, 28, 1)).astype("float32")


def masked(make=lenet_5):
    model = stf.pruning.prune_one_shot(make(seed=0), 0.9)
    model.compile("adam", "mse")
    return model


def sparse(make=lenet_5):
    return stf.to_sparse(masked(make), layers="all")


def predict(model):
    return model.predict(X, verbose=0)


MODELS = {
    "masked": masked,
    "sparse": sparse,
    "plain": lambda: lenet_300_100(seed=0),
    "masked LeNet-300-100": lambda: masked(lenet_300_100),
}
of_each = pytest.mark.parametrize("make", list(MODELS.values()), ids=list(MODELS))


def test_keras_without_this_package(tmp_path):
    model = sparse()
    stf.export(model, tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "np.save('y.npy', model.predict(np.load('x.npy'), verbose=0))\n"
        "assert not model.compiled or model.optimizer is not None\n"
        "assert 'sparsenet_tf' not in sys.modules\n"
        "print({type(layer).__name__ for layer in model.layers})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Dense" in done.stdout and "Masked" not in done.stdout
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), predict(model), rtol=1e-5, atol=1e-6
    )


@of_each
def test_compact(make, tmp_path):
    model = make()
    sizes = stf.export(model, tmp_path / "model.npz")
    assert sizes.written == sizes.compact == os.path.getsize(tmp_path / "model.npz")
    loaded = stf.transform.load_compact(tmp_path / "model.npz")
    plain = stf.strip(model)
    for value, weight in zip(loaded.values(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)
    plain.set_weights(list(loaded.values()))
    np.testing.assert_allclose(predict(plain), predict(model), rtol=1e-5, atol=1e-6)


def test_sizes(tmp_path, capsys):
    model = masked(lenet_300_100)
    sizes = stf.export(model, tmp_path / "model.keras")
    assert sizes.written == os.path.getsize(tmp_path / "model.keras")
    assert sizes.path == tmp_path / "model.keras"
    assert sizes.dense == 4 * stf.strip(model).count_params()
    nonzeros = sum(int(mask.sum()) for mask in stf.get_masks(model).values())
    assert 4 * nonzeros * 0.9 < sizes.compact < 4 * nonzeros * 1.15
    assert sizes.compact < sizes.gzip < 0.2 * sizes.dense
    assert capsys.readouterr().out == f"{sizes}\n"
    assert f"dense {sizes.dense:,}, gzip {sizes.gzip:,}, compact" in str(sizes)
    # The sparse form of the model is as small a file.
    same = stf.to_sparse(model, layers="all")
    again = stf.export(same, tmp_path / "same.npz", print_fn=None)
    assert (again.dense, again.gzip) == (sizes.dense, sizes.gzip)
    assert capsys.readouterr().out == ""


def test_a_layer_that_would_be_too_large_if_dense(tmp_path):
    pattern = stf.topology.SparsePattern.random(65_536, 65_536, 2, seed=0)
    model = keras.Sequential([keras.Input((65_536,)), SparseDense(pattern)])
    sizes = stf.export(model, tmp_path / "wide.npz", print_fn=None)
    assert sizes.dense == 4 * (65_536**2 + 65_536) and sizes.gzip is None
    assert sizes.compact < 2**20 and "gzip not tried" in str(sizes)


def test_radix_layers_are_written_by_their_places(tmp_path):
    topology = stf.topology.RadixLayer(12, 3, 2, width_out=2, drop_inputs=1)
    model = keras.Sequential([keras.Input((11,)), RadixDense(topology, name="radix")])
    stf.export(model, tmp_path / "radix.npz", print_fn=None)
    loaded = stf.transform.load_compact(tmp_path / "radix.npz")
    [kernel] = [v for name, v in loaded.items() if "kernel" in name]
    np.testing.assert_array_equal(kernel, model.layers[0].dense_kernel())


def test_weights_of_one_name_and_of_other_kinds(tmp_path):
    class Twice(L.Layer):
        def build(self, input_shape):
            self.a = self.add_weight(shape=(2,), initializer="ones", name="same")
            self.b = self.add_weight(
                shape=(3,), initializer="zeros", name="same", dtype="bfloat16"
            )
            self.c = self.add_weight(
                shape=(), dtype="int32", name="count", trainable=False
            )

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((4,)), Twice(name="layer")], name="m")
    stf.export(model, tmp_path / "m.npz", print_fn=None)
    loaded = stf.transform.load_compact(tmp_path / "m.npz")
    assert [v.shape for v in loaded.values()] == [(2,), (3,), ()]
    assert list(loaded) == ["m/layer/same", "m/layer/same_1", "m/layer/count"]


def test_the_model_is_left_as_it_is(tmp_path):
    model = masked()
    before, optimizer = model.get_weights(), model.optimizer
    stf.export(model, tmp_path / "model.keras", print_fn=None)
    assert model.compiled and model.optimizer is optimizer
    assert type(model.layers[0]) is Masked
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, old)


def test_the_end_of_the_path_says_the_format(tmp_path):
    model = lenet_300_100(seed=0)
    for name in ("b.keras", "c.npz"):
        stf.export(model, tmp_path / name, print_fn=None)
    keras.models.load_model(tmp_path / "b.keras")
    stf.transform.load_compact(tmp_path / "c.npz")


def test_a_folder_comes_back_if_it_cannot_be_exchanged(tmp_path, monkeypatch):
    path, replace = tmp_path / "folder", os.replace
    path.mkdir()
    (path / "old").write_text("old")

    def fail_second(source, target):
        if pathlib.Path(target) == path and pathlib.Path(source).name == "folder":
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(OSError, match="no"), made_beside(path) as made:
        made.mkdir()
    assert (path / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_subclassed_models_must_be_plain(tmp_path):
    model = Subclassed()
    model(np.ones((2, 4), "float32"))
    model = stf.pruning.prune_one_shot(model, 0.5)
    with pytest.raises(ValueError, match="Subclassed 'subclassed.*`strip` makes it"):
        stf.export(model, tmp_path / "masked")
    assert isinstance(model.dense, Masked)


@pytest.mark.parametrize(
    ("name", "format", "error", "match"),
    [
        ("m", "pickle", ValueError, "`format` must be one of .*'saved_model'"),
        ("m.h5", "keras", ValueError, "`path` must end in '.keras'"),
        ("m", "npz", ValueError, "`path` must end in '.npz'"),
        ("m.keras", "saved_model", ValueError, "`path` must have no suffix for"),
        *(
            (name, None, ValueError, "'.onnx', '.npz'.*no suffix for a SavedModel")
            for name in ("m.h5", "m.txt", "m.kears", "m.KERAS", "m.v2")
        ),
        ("full", None, ValueError, "`path` must not be a folder of something else"),
        ("no/m.npz", None, FileNotFoundError, "`path` must be in an existing folder"),
    ],
)
def test_bad_paths_and_formats(tmp_path, name, format, error, match):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("only copy")
    with pytest.raises(error, match=match):
        stf.export(lenet_300_100(seed=0), tmp_path / name, format=format)
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "thesis.txt"]


def test_bad_models_and_options(tmp_path):
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.export(None, tmp_path / "m")
    with pytest.raises(ValueError, match="`model` must be built"):
        stf.export(keras.Sequential([L.Dense(2)]), tmp_path / "m")
    with pytest.raises(TypeError, match=r"`options` are for .*\['opset_version'\]"):
        stf.export(lenet_300_100(seed=0), tmp_path / "m.npz", opset_version=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "json", "places", "missing"])
def test_damaged_compact_files_are_refused(tmp_path, damage):
    path = tmp_path / "m.npz"
    stf.export(masked(lenet_300_100), path, print_fn=None)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "json":
        path.write_text(json.dumps({"kernel": 1}))
    else:
        with np.load(path) as archive:
            arrays = dict(archive)
        gaps = next(name for name in arrays if name.endswith(".gaps"))
        if damage == "places":
            arrays[gaps] = arrays[gaps].astype(np.int64) + 1000
        else:
            del arrays[gaps]
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    with pytest.raises(ValueError, match="`path` must be a compact file"):
        stf.transform.load_compact(path)
    with pytest.raises(FileNotFoundError, match="`path` must be a file"):
        stf.transform.load_compact(tmp_path / "none.npz")
