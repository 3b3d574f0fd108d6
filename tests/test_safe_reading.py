"""What is read from files is data: nothing is unpickled, and no code is run."""

import ast
import pathlib
import pickle
import zipfile

import keras
import numpy as np
import pytest

import sparsenet_tf as stf

PACKAGE = pathlib.Path(stf.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def calls(path):
    """The calls in a file: (dotted name, {keyword: literal value})."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            yield ast.unparse(node.func), keywords


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_loaded_unsafely(path):
    for name, keywords in calls(path):
        assert name not in ("pickle.load", "pickle.loads", "eval", "exec"), name
        assert not name.endswith("enable_unsafe_deserialization"), name
        assert keywords.get("safe_mode", True) is True, name
        assert keywords.get("allow_pickle", False) is False, name
        if name in ("np.load", "numpy.load"):  # whose default may change
            assert keywords.get("allow_pickle") is False, name


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_trap_in_an_array_is_not_sprung(tmp_path):
    sprung = tmp_path / "sprung"
    array = np.array([Trap(sprung)], dtype=object)
    for name, load in (
        ("masks.npz", stf.load_masks),
        ("compact.npz", stf.transform.load_compact),
    ):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as file:
            np.lib.format.write_array(file, array, allow_pickle=True)
        with pytest.raises(ValueError, match="`path` must be"):
            load(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung))).close()
    assert sprung.exists()  # so it was a trap


def test_models_with_code_in_them_are_refused(tmp_path):
    x = keras.Input((4,))
    y = keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))(x)
    model = stf.sparsify(keras.Model(x, keras.layers.Dense(2)(y)))
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.models.load_model(path)


def test_models_of_ours_load_in_safe_mode(tmp_path):
    layers = [
        keras.layers.Dense(8, activation="relu"),
        stf.layers.SparseDense(np.eye(8, dtype=bool)),
        stf.layers.RadixDense(stf.topology.RadixLayer(8, 2, 2)),
        stf.layers.Masked(keras.layers.Dense(3), np.ones((8, 3), bool)),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(loaded(x)), keras.ops.convert_to_numpy(model(x))
    )
