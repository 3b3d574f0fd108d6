import gzip
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types

import numpy as np
import pytest

from sparsenet_tf.experiments import data

IDX_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx_header(*shape, code=0x08):
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)


def idx_bytes(array):
    return idx_header(*array.shape) + array.astype("uint8").tobytes()


def cifar_bytes(images, labels):
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], rows], axis=1).astype("uint8").tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def some_images(count, *shape):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, *shape), "uint8")
    return images, rng.integers(0, 10, count, "uint8")


# The digits that ship.


def test_mnist_5k_ships_in_the_form_of_every_dataset():
    digits = data.load()
    assert digits.name == "mnist_5k" and digits.num_classes == 10
    for x, y, count in (
        (digits.x_train, digits.y_train, 4000),
        (digits.x_test, digits.y_test, 1000),
    ):
        assert x.shape == (count, 28, 28, 1) and x.dtype == "float32"
        assert x.min() == 0 and x.max() == 1
        assert y.shape == (count,) and y.dtype == "int32"
        assert np.bincount(y).tolist() == [count // 10] * 10
    assert "array" not in repr(digits)


# IDX.


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("code", IDX_DTYPES)
def test_idx_round_trip(tmp_path, suffix, code):
    expected = np.arange(24).reshape(2, 3, 4).astype(IDX_DTYPES[code])
    content = idx_header(2, 3, 4, code=code) + expected.tobytes()
    array = data.read_idx(write(tmp_path / f"file{suffix}", content))
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == expected.dtype.newbyteorder("=") and array.dtype.isnative
    assert array.flags.writeable


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\1\x08\1\0\0\0\1\7",  # magic
        b"\0\0\x0a\1\0\0\0\1\7",  # dtype code
        b"\0\0\x08\0\7",  # no axes
        b"\0\0\x08\x21" + b"\0\0\0\1" * 33 + b"\7",  # more axes than NumPy has
        b"\0\0\x08\2\0\0\0\1\0\0",  # header cut
        idx_header(3),
        idx_header(0),
        idx_header(0, 2**32 - 1, 2**32 - 1),
        idx_header(3) + bytes(2),
        idx_header(3) + bytes(4),
        idx_header(3, code=0x0D) + bytes(11),
        idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(9),
        idx_header(2**16, 2**16, 2**16, 2**16) + bytes(9),  # 0 in an int64
        pickle.dumps([1, 2, 3]),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, suffix, content):
    path = write(tmp_path / f"damaged{suffix}", content)
    with pytest.raises(ValueError, match="damaged"):
        data.read_idx(path)


def damage_gzip(content, how):
    packed = bytearray(gzip.compress(content))
    if how == "no gzip":
        return content
    if how == "trailing garbage":
        return bytes(packed) + b"garbage"
    if how == "cut":
        return bytes(packed[:-12])
    if how == "checksum cut":
        return bytes(packed[:-5])
    at = {"method": 2, "stream": 15, "checksum": -8}[how]
    packed[at] ^= 0xFF
    return bytes(packed)


@pytest.mark.parametrize(
    "how",
    ["no gzip", "trailing garbage", "cut", "checksum cut"]
    + ["method", "stream", "checksum"],
)
def test_damaged_gzip_is_a_value_error(tmp_path, how):
    images, labels = some_images(2, 32, 32, 3)
    for read, content in (
        (data.read_idx, idx_bytes(images)),
        (data.read_cifar10_binary, cifar_bytes(images, labels)),
    ):
        path = tmp_path / "damaged.gz"
        path.write_bytes(damage_gzip(content, how))
        with pytest.raises(ValueError, match="damaged.gz"):
            read(path)


@pytest.mark.parametrize(
    "suffix, content",
    [
        ("", idx_header(2**31)),
        (".gz", idx_header(2**31)),
        # Bombs: 64 MiB of zeros behind a small shape, and behind a huge one.
        (".gz", idx_header(10) + bytes(2**26)),
        (".gz", idx_header(2**31) + bytes(2**26)),
    ],
)
def test_a_header_cannot_make_the_reader_allocate(tmp_path, suffix, content):
    path = write(tmp_path / f"file{suffix}", content)
    del content
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="file"):
            data.read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


# CIFAR-10.


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_cifar10_round_trip(tmp_path, suffix):
    expected, expected_labels = some_images(3, 32, 32, 3)
    content = cifar_bytes(expected, expected_labels)
    path = write(tmp_path / f"batch.bin{suffix}", content)
    images, labels = data.read_cifar10_binary(path)
    assert images.dtype == "uint8"
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "content",
    [b"", bytes(3072), bytes(3074), bytes([10]) + bytes(3072), bytes(3073 * 10_001)],
    ids=["empty", "short", "long", "label", "too many records"],
)
def test_a_damaged_cifar10_file_is_refused_by_name(tmp_path, suffix, content):
    path = write(tmp_path / f"damaged.bin{suffix}", content)
    with pytest.raises(ValueError, match="damaged"):
        data.read_cifar10_binary(path)


# Folders.


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_from_a_folder(tmp_path, name, dot, suffix):
    sets = {"train": some_images(5, 28, 28), "t10k": some_images(3, 28, 28)}
    write_mnist(tmp_path, sets, dot, suffix)
    loaded = data.load(name, data_dir=str(tmp_path))
    assert loaded.name == name and loaded.x_train.dtype == "float32"
    images, labels = sets["train"]
    np.testing.assert_allclose(loaded.x_train, images[..., None] / 255, rtol=1e-6)
    np.testing.assert_array_equal(loaded.y_train, labels)
    assert loaded.y_test.dtype == "int32" and loaded.x_test.shape == (3, 28, 28, 1)


def write_mnist(folder, sets, dot="-", suffix=""):
    for part, (images, labels) in sets.items():
        for kind, array in (("images", images), ("labels", labels)):
            name = f"{part}-{kind}{dot}idx{array.ndim}-ubyte{suffix}"
            write(folder / name, idx_bytes(array))


@pytest.mark.parametrize(
    "images, labels, match",
    [
        (np.zeros((3, 4, 4)), np.zeros(2), "one label"),
        (np.zeros((3, 4, 4)), np.array([1, 10, 2]), "label 10"),
    ],
)
def test_mnist_parts_must_fit(tmp_path, images, labels, match):
    write_mnist(tmp_path, {"train": (images, labels), "t10k": (images, np.zeros(3))})
    with pytest.raises(ValueError, match=match):
        data.load("mnist", data_dir=tmp_path)


def test_mnist_files_must_hold_what_their_names_say(tmp_path):
    sets = {"train": some_images(2, 4, 4), "t10k": some_images(2, 4, 4)}
    write_mnist(tmp_path, sets)
    path = tmp_path / "t10k-images-idx3-ubyte"
    write(path, idx_bytes(np.zeros((2, 16))))
    with pytest.raises(ValueError, match="3 axes.*t10k-images"):
        data.load("mnist", data_dir=tmp_path)
    write(path, idx_header(2, 4, 4, code=0x09) + bytes(32))
    with pytest.raises(ValueError, match="uint8.*t10k-images.*int8"):
        data.load("mnist", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("subfolder", [".", "cifar-10-batches-bin"])
def test_cifar10_from_a_folder(tmp_path, subfolder):
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    batches = [some_images(i, 32, 32, 3) for i in range(1, 7)]
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for name, batch in zip(names, batches, strict=True):
        write(folder / name, cifar_bytes(*batch))
    loaded = data.load("cifar10", data_dir=tmp_path)
    assert loaded.x_train.shape == (1 + 2 + 3 + 4 + 5, 32, 32, 3)
    np.testing.assert_array_equal(loaded.y_train[1:3], batches[1][1])
    np.testing.assert_allclose(loaded.x_test, batches[5][0] / 255, rtol=1e-6)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3.bin"):
        data.load("cifar10", data_dir=tmp_path)


# Arguments.


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="`name`.*fashion_mnist.*'mnits'"):
        data.load("mnits")
    with pytest.raises(ValueError, match="`data_dir`.*ships with the package"):
        data.load("mnist_5k", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="`data_dir`.*nowhere"):
        data.load("mnist", data_dir=tmp_path / "nowhere")
    for read in (data.read_idx, data.read_cifar10_binary):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="existing file"):
            read(tmp_path)


# TensorFlow Datasets.


def fake_tfds(monkeypatch, load):
    module = types.SimpleNamespace(load=load, as_numpy=lambda arrays: arrays)
    here = pathlib.Path(__file__).parent  # which exists, as of data prepared before
    module.builder = lambda name: types.SimpleNamespace(data_path=here)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)


def test_without_a_folder_the_data_come_from_tensorflow_datasets(monkeypatch):
    def load(name, split, batch_size, as_supervised):
        assert (name, batch_size, as_supervised) == ("mnist", -1, True)
        images, labels = some_images(4, 28, 28, 1)
        return [(images[:n], labels[:n].astype("int64")) for n in range(4, 2, -1)]

    fake_tfds(monkeypatch, load)
    loaded = data.load("mnist")
    assert loaded.x_train.shape == (4, 28, 28, 1) and loaded.x_train.max() <= 1
    assert loaded.x_test.shape == (3, 28, 28, 1) and loaded.y_test.dtype == "int32"


@pytest.mark.parametrize(
    "name, files", [("mnist", "train-images-idx3-ubyte"), ("cifar10", "test_batch.bin")]
)
def test_a_failed_download_says_what_to_do(monkeypatch, name, files):
    def load(*args, **kwargs):
        raise ConnectionError("no route to host")

    fake_tfds(monkeypatch, load)
    with pytest.raises(RuntimeError, match=f"{name}.*no route.*{files}") as info:
        data.load(name)
    assert isinstance(info.value.__cause__, ConnectionError)


def test_a_missing_tensorflow_datasets_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        ImportError, match="pip install tensorflow-datasets.*`data_dir=`"
    ):
        data.load("fashion_mnist")


# TensorFlow Datasets itself, which keeps its data in the home folder.


def run_at_home(home, script):
    """Runs a script in a process whose only proxy refuses; gives what it printed."""
    environ = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    environ.pop("TFDS_DATA_DIR", None)
    for scheme in ("http", "https"):
        environ[f"{scheme}_proxy"] = environ[f"{scheme.upper()}_PROXY"] = (
            "http://127.0.0.1:9"
        )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environ, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


WITHOUT_NETWORK = """
import time
import tensorflow_datasets
from sparsenet_tf.experiments import load
for name in ("mnist", "cifar10"):
    start = time.monotonic()
    try:
        load(name)
    except RuntimeError as error:
        print(f"{time.monotonic() - start:.0f} {error}")
"""


def test_without_a_network_it_says_so_within_seconds(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    lines = run_at_home(tmp_path, WITHOUT_NETWORK).splitlines()
    for name, line in zip(("mnist", "cifar10"), lines, strict=True):
        seconds, message = line.split(" ", 1)
        assert int(seconds) < 30, line
        assert f"could not load '{name}' (ConnectionError" in message
        assert "cannot be reached" in message and "`data_dir=`" in message


FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
# When the published files were compressed, which gzip writes into their headers.
TIMES = {"t10k": 1504176627, "train": 1504176606}
COMPARE = f"""
import hashlib, sys
import numpy as np
from sparsenet_tf.experiments import load
ours, files = load("fashion_mnist"), load("fashion_mnist", {str(FASHION_MNIST)!r})
for part, count in (("train", 60_000), ("test", 10_000)):
    found = []
    for data in (ours, files):
        x, y = getattr(data, f"x_{{part}}"), getattr(data, f"y_{{part}}")
        assert x.shape == (count, 28, 28, 1) and x.dtype == "float32", x.shape
        # TensorFlow Datasets shuffles them.
        found.append(sorted((hashlib.md5(a).digest(), int(b)) for a, b in zip(x, y)))
    assert found[0] == found[1]
print("the same")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed: "
    "apt-get install dataset-fashion-mnist",
)
def test_tensorflow_datasets_itself_with_its_checksums(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    manual = tmp_path / "tensorflow_datasets" / "downloads" / "manual"
    manual.mkdir(parents=True)
    for path in FASHION_MNIST.glob("*.gz"):
        # Debian's files differ from the published ones in the header of gzip alone.
        time = struct.pack("<I", TIMES[path.name.split("-")[0]])
        name = path.name.removesuffix(".gz").encode() + b"\0"
        header = b"\x1f\x8b\x08\x08" + time + b"\x00\x03" + name
        (manual / path.name).write_bytes(header + path.read_bytes()[10:])
    assert "the same" in run_at_home(tmp_path, COMPARE)
