"""The image sets of the experiments, and readers for their published file formats.

Nothing here unpickles, and no reader trusts a header: what a file declares is held
against the size of the file before anything is allocated.
"""

import contextlib
import dataclasses
import gzip
import importlib.resources
import math
import os
import pathlib
import urllib.parse
import zlib

import numpy as np

from sparsenet_tf.topology.checks import check_path

_NAMES = ("mnist_5k", "mnist", "fashion_mnist", "cifar10")
_NUM_CLASSES = 10
# Deflate cannot expand its input more than 1032 times: a header that declares more
# than this is false, whatever follows it.
_MAX_GZIP_RATIO = 1100
_IDX_DTYPES = {
    0x08: "u1",
    0x09: "i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}
_IDX_MAX_NDIM = 32  # NumPy 1 has no arrays of more axes.
# Seconds in which the host of a data set must accept a connection, and answer.
_PATIENCE = (5, 30)
_CIFAR10_RECORD = 1 + 3 * 32 * 32
_CIFAR10_MAX_RECORDS = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test part.

    `x_*` are float32 images in [0, 1] of shape `(n, height, width, channels)`, `y_*`
    int32 labels of shape `(n,)`.

    Example:
    >>> load("mnist_5k")
    Dataset(name='mnist_5k', num_classes=10)
    """

    name: str
    x_train: np.ndarray = dataclasses.field(repr=False)
    y_train: np.ndarray = dataclasses.field(repr=False)
    x_test: np.ndarray = dataclasses.field(repr=False)
    y_test: np.ndarray = dataclasses.field(repr=False)
    num_classes: int


def load(name="mnist_5k", data_dir=None):
    """Loads an image set.

    Args:
        name: `"mnist_5k"` (5,000 MNIST training digits that ship with the package),
            `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
        data_dir: a folder to read the published files from. The two MNISTs:
            `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with
            `t10k` (also spelled `.idx`, plain or `.gz`). CIFAR-10: `data_batch_1.bin`
            to `data_batch_5.bin` and `test_batch.bin`, there or in a subfolder
            `cifar-10-batches-bin`. Without it the set comes from TensorFlow Datasets
            (`pip install tensorflow-datasets importlib_resources`).

    Returns:
        A `Dataset`.

    Raises:
        ValueError: unknown `name`, `data_dir` with `"mnist_5k"`, or a damaged file.
        FileNotFoundError: `data_dir` or one of its files does not exist.
        ImportError: TensorFlow Datasets is needed and cannot be imported.
        RuntimeError: TensorFlow Datasets could not deliver, as without a network.

    >>> digits = load("mnist_5k")
    >>> digits.x_train.shape, digits.x_test.shape
    ((4000, 28, 28, 1), (1000, 28, 28, 1))
    """
    if name not in _NAMES:
        raise ValueError(f"`name` must be one of {_NAMES}. Received: name={name!r}")
    if data_dir is None:
        parts = _read_mnist_5k() if name == "mnist_5k" else _read_tfds(name)
    elif name == "mnist_5k":
        raise ValueError(
            "`data_dir` must be None for 'mnist_5k', which ships with the package. "
            f"Received: data_dir={str(data_dir)!r}"
        )
    else:
        folder = check_path(data_dir, "data_dir")
        if not folder.is_dir():
            raise FileNotFoundError(
                f"`data_dir` must be an existing folder. Received: data_dir='{folder}'"
            )
        parts = _read_cifar10(folder) if name == "cifar10" else _read_mnist(folder)
    arrays = {}
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        images = images if images.ndim == 4 else images[..., np.newaxis]
        arrays[f"x_{part}"] = np.divide(images, 255, dtype="float32")
        arrays[f"y_{part}"] = labels.astype("int32")
    return Dataset(name=name, num_classes=_NUM_CLASSES, **arrays)


def read_idx(path):
    """Reads an IDX file, the format of MNIST and Fashion-MNIST.

    It holds two zero bytes, a dtype code, the number of axes, each axis' length as a
    big-endian uint32, and the values (http://yann.lecun.com/exdb/mnist/).

    Args:
        path: the file, read through gzip if its name ends in `.gz`.

    Returns:
        An array of the declared shape and dtype, in native byte order.

    Raises:
        ValueError: the file is no IDX file, or is damaged, too short or too long.
        FileNotFoundError: there is no such file.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    with _open(path) as (stream, max_bytes):
        magic = stream.read(4)
        dtype, ndim = (_IDX_DTYPES.get(magic[2]), magic[3]) if magic[3:] else (None, 0)
        lengths = stream.read(4 * ndim)
        if (
            magic[:2] != b"\0\0"
            or dtype is None
            or not 1 <= ndim <= _IDX_MAX_NDIM
            or len(lengths) < 4 * ndim
        ):
            raise ValueError(
                "`path` must be an IDX file and begin with 0, 0, a dtype code of "
                f"{[*_IDX_DTYPES]}, the number of axes up to {_IDX_MAX_NDIM}, and as "
                f"many lengths. Received: {path} beginning with {[*magic]} and "
                f"{[*lengths]}"
            )
        # Python's integers, since the product may well overflow an int64.
        shape = tuple(np.frombuffer(lengths, ">u4").tolist())
        declared = math.prod(shape) * np.dtype(dtype).itemsize
        if not 0 < declared <= max_bytes:
            raise ValueError(
                "`path` must be an IDX file whose shape fits it, here 1 to "
                f"{max_bytes} bytes. Received: {path} with shape {shape}, {declared} "
                "bytes"
            )
        values = stream.read(declared + 1)  # one more tells if the file goes on
    if len(values) != declared:
        got = "more" if len(values) > declared else f"{len(values)} bytes"
        raise ValueError(
            f"`path` must be an IDX file with {declared} bytes for shape {shape}. "
            f"Received: {path} with {got}"
        )
    array = np.frombuffer(values, dtype).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))


def read_cifar10_binary(path):
    """Reads one file of CIFAR-10's binary version.

    It is a row of at most 10,000 records, each a label byte and 3,072 pixel bytes: 32 x
    32 red, then green, then blue (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
        path: the file, read through gzip if its name ends in `.gz`.

    Returns:
        Two uint8 arrays: images of shape `(n, 32, 32, 3)`, labels of shape `(n,)`.

    Raises:
        ValueError: the file is damaged, or a label is not in 0..9.
        FileNotFoundError: there is no such file.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "data_batch_1.bin")
    ...     _ = path.write_bytes(bytes([6] + [255] * 1024 + [0] * 2048))
    ...     images, labels = read_cifar10_binary(path)
    >>> images.shape, images[0, 0, 0].tolist(), labels.tolist()
    ((1, 32, 32, 3), [255, 0, 0], [6])
    """
    with _open(path) as (stream, max_bytes):
        max_bytes = min(max_bytes, _CIFAR10_MAX_RECORDS * _CIFAR10_RECORD)
        content = stream.read(max_bytes + 1)
    count, rest = divmod(len(content), _CIFAR10_RECORD)
    if rest or not 0 < len(content) <= max_bytes:
        got = "more" if len(content) > max_bytes else f"{len(content)} bytes"
        raise ValueError(
            f"`path` must be a CIFAR-10 binary file of 1 to {_CIFAR10_MAX_RECORDS} "
            f"records of {_CIFAR10_RECORD} bytes. Received: {path} with {got}"
        )
    records = np.frombuffer(content, "uint8").reshape(count, _CIFAR10_RECORD)
    images = records[:, 1:].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = records[:, 0].copy()
    _check_labels(labels, path)
    return np.ascontiguousarray(images), labels


@contextlib.contextmanager
def _open(path):
    """Yields a stream and a bound on its bytes; damaged gzip becomes a ValueError."""
    path = check_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing file. Received: {path}")
    is_gzip = path.suffix == ".gz"
    max_bytes = path.stat().st_size * (_MAX_GZIP_RATIO if is_gzip else 1)
    with gzip.open(path) if is_gzip else path.open("rb") as stream:
        try:
            yield stream, max_bytes
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"`path` must be a whole gzip stream. Received: {path} ({error})"
            ) from error


def _check_labels(labels, path):
    if labels.max() >= _NUM_CLASSES:
        raise ValueError(
            f"`path` must have labels in 0..{_NUM_CLASSES - 1}. "
            f"Received: {path} with label {labels.max()}"
        )


def _find(folder, *names):
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"`data_dir` must hold {' or '.join(names)}. Received: data_dir='{folder}'"
    )


def _read_mnist_5k():
    folder = importlib.resources.files("sparsenet_tf.experiments") / "mnist_5k"
    with (folder / "mnist_5k.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return [
            (arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")
        ]


def _read_mnist(folder):
    return [_read_mnist_part(folder, part) for part in ("train", "t10k")]


def _read_mnist_part(folder, part):
    arrays = []
    for kind, ndim in (("images", 3), ("labels", 1)):
        stems = [f"{part}-{kind}{mark}idx{ndim}-ubyte" for mark in "-."]
        path = _find(folder, *stems, *(f"{stem}.gz" for stem in stems))
        array = read_idx(path)
        if array.dtype != "uint8" or array.ndim != ndim:
            raise ValueError(
                f"The {kind} must be uint8 with {ndim} axes. "
                f"Received: {path} with {array.dtype} and shape {array.shape}"
            )
        arrays.append(array)
    images, labels = arrays
    if len(images) != len(labels):
        raise ValueError(
            f"There must be one label for each of {len(images)} images. "
            f"Received: {path} with {len(labels)} labels"
        )
    _check_labels(labels, path)
    return images, labels


def _read_cifar10(folder):
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"

    def read(*stems):
        paths = [_find(folder, f"{stem}.bin", f"{stem}.bin.gz") for stem in stems]
        images, labels = zip(*map(read_cifar10_binary, paths), strict=True)
        return np.concatenate(images), np.concatenate(labels)

    return read(*(f"data_batch_{i}" for i in range(1, 6))), read("test_batch")


def _check_network(builder):
    """Raise a ConnectionError if files are missing whose host cannot be reached.

    TensorFlow Datasets would find out as well, after minutes of trying again.
    """
    if builder.data_path.exists():  # prepared before
        return
    import requests  # which TensorFlow Datasets downloads with

    root = pathlib.Path(os.fspath(builder.data_path.parent.parent))
    # Names of downloaded files differ from those published; their sizes do not.
    there = {p.stat().st_size for p in (root / "downloads").rglob("*") if p.is_file()}
    missing = [
        url for url, info in (builder.url_infos or {}).items() if info.size not in there
    ]
    for host in sorted({urllib.parse.urlsplit(url).netloc for url in missing}):
        url = next(url for url in missing if urllib.parse.urlsplit(url).netloc == host)
        try:
            requests.head(url, timeout=_PATIENCE)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise ConnectionError(f"{host} cannot be reached: {error}") from error


def _read_tfds(name):
    try:
        import tensorflow_datasets as tfds

        _check_network(tfds.builder(name))
        splits = ["train", "test"]
        parts = tfds.load(name, split=splits, batch_size=-1, as_supervised=True)
        return tfds.as_numpy(parts)
    # A failed download surfaces as whatever the library's HTTP client raised.
    except Exception as error:
        files = (
            "data_batch_1.bin to data_batch_5.bin and test_batch.bin"
            if name == "cifar10"
            else "train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (each plain or .gz)"
        )
        kind = ImportError if isinstance(error, ImportError) else RuntimeError
        raise kind(
            f"TensorFlow Datasets could not load {name!r} ({type(error).__name__}: "
            f"{error}). It needs `pip install tensorflow-datasets importlib_resources` "
            "and, the first time, a network. Else pass `data_dir=`, a folder that "
            f"holds {files}, or use 'mnist_5k', which ships with the package."
        ) from error
