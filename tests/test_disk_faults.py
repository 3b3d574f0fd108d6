"""Full disks, folders that cannot be written to, cut files: all or nothing."""

import contextlib
import os
import pathlib
import resource
import signal

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.experiments import files, runs
from sparsenet_tf.experiments.config import Training


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [
            keras.Input((60,)),
            keras.layers.Dense(200, activation="relu"),
            keras.layers.Dense(9),
        ]
    )
    plain.compile("sgd", "mse")
    return stf.pruning.prune_one_shot(plain, 0.5)


@contextlib.contextmanager
def full_disk(most=500):
    """A context in which no file gets longer than `most` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an OSError in its place
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def read_only(folder):
    """A context in which nothing can be written to `folder`, not by root either."""
    mode, is_root = folder.stat().st_mode, os.geteuid() == 0
    folder.chmod(0o555)
    for parent in folder.parents:  # which pytest keeps to their owner
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(mode)


def save_masks(model, path):
    stf.save_masks(path, stf.get_masks(model))


def export(model, path):
    stf.export(model, path, print_fn=None)


def write_figure(model, path):
    files.write_figure(path, stf.plot_masks(model))


def write_results(model, path):
    files.write_results(path, Training(), [Training()] * 9)


WRITERS = {
    "masks.npz": save_masks,
    "compact.npz": export,
    "model.keras": export,
    "model.tflite": export,
    "saved_model": export,
    "masks.png": write_figure,
    "results.json": write_results,
}


def content(path):
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        return {str(p.relative_to(path)): p.read_bytes() for p in inside}
    return path.read_bytes()


@pytest.mark.parametrize(
    ("fault", "name"),
    [(full_disk, name) for name in WRITERS]
    # Results name versions, which another user may not be able to read.
    + [(read_only, name) for name in WRITERS if name != "results.json"],
)
def test_what_was_there_before_stays_whole(model, tmp_path, fault, name):
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / name
    WRITERS[name](model, path)
    before = content(path)
    context = read_only(folder) if fault is read_only else full_disk()
    with context, pytest.raises(OSError) as seen:
        WRITERS[name](model, path)
    assert seen.value.errno is None or seen.value.errno > 0
    assert content(path) == before
    assert os.listdir(folder) == [name]  # and nothing beside it
    WRITERS[name](model, path)  # with room again it goes on


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_half_written_is_left(model, tmp_path, name):
    with full_disk(), pytest.raises(OSError):
        WRITERS[name](model, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_store_on_a_full_disk_keeps_what_it_has(tmp_path):
    store = runs.Store(tmp_path / "runs")
    done, other = Training(steps=1), Training(steps=2)
    store.write(done, {"curve": list(range(300))}, {"accuracy": 0.5})
    with full_disk(), pytest.raises(OSError):
        store.write(other, {"curve": list(range(300))}, {"accuracy": 0.6})
    assert store.result(done) == {"accuracy": 0.5}
    assert store.result(other) is None
    store.write(other, {"curve": []}, {"accuracy": 0.6})
    assert store.result(other) == {"accuracy": 0.6}


@pytest.mark.parametrize("name", ["masks.npz", "compact.npz"])
def test_a_cut_file_is_named(model, tmp_path, name):
    path = tmp_path / name
    WRITERS[name](model, path)
    whole = path.read_bytes()
    load = stf.load_masks if name == "masks.npz" else stf.transform.load_compact
    for length in np.linspace(0, len(whole) - 1, 40, dtype=int):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="`path` must be a .*file") as seen:
            load(path)
        assert str(path) in str(seen.value)


def test_a_missing_folder_is_named(model, tmp_path):
    for name, write in WRITERS.items():
        path = pathlib.Path(tmp_path, "missing", name)
        with pytest.raises(OSError, match="missing"):
            write(model, path)
        assert os.listdir(tmp_path) == []
