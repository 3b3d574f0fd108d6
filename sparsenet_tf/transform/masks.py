"""Masks outside a model: get them, save them, load them."""

import os
import pathlib
import tempfile
import zipfile
import zlib

import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import as_mask
from sparsenet_tf.layers.masked import masked_kernels


def get_masks(model):
    """Return the masks of a sparsified model.

    Returns:
        Dict `{path: mask}` in the model's order. A path is the kernel's place below
        the model, by layer names, such as "dense/kernel" or "encoder/query/kernel",
        the same in the plain and the sparsified model. A mask is a boolean NumPy
        array of the kernel's shape, True where the weight is kept.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: `model` has no masked kernels.

    Example:
    >>> model = stf.sparsify(
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    ... )
    >>> get_masks(model)
    {'out/kernel': array([[ True],
           [ True]])}
    """
    tree.check_model(model)
    kernels = masked_kernels(model)
    if not kernels:
        raise ValueError(
            f"`model` must have masked kernels. Received: model {model.name!r} without "
            "any; `sparsify` and `prune_one_shot` make such models"
        )
    return {path: masked.mask_value() for path, masked in kernels.items()}


def save_masks(path, masks):
    """Write masks to a compressed `.npz` file, whole or not at all.

    Args:
        path: file to write; its folder must exist. Nothing is appended to the name.
        masks: dict `{kernel path: mask}`, as from `get_masks`.

    Raises:
        TypeError: `masks` is no dict.
        ValueError: `masks` is empty or an entry is no mask.
        OSError: the file cannot be written. One that was there before is left whole.

    Example:
    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "masks.npz")
    >>> save_masks(path, {"dense/kernel": np.array([[True, False]])})
    >>> load_masks(path)
    {'dense/kernel': array([[ True, False]])}
    """
    if not isinstance(masks, dict):
        raise TypeError(f"`masks` must be a dict of arrays. Received: {masks!r}")
    if not masks:
        raise ValueError("`masks` must not be empty. Received: {}")
    arrays = {}
    for name, mask in masks.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"`masks` must have strings as keys. Received: {name!r}")
        arrays[name] = as_mask(mask, where=name)
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`path` must be in an existing folder. Received: {str(path)!r}"
        )
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _write_npz(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp keeps others out
        os.replace(beside, path)
    except BaseException:
        pathlib.Path(beside).unlink(missing_ok=True)
        raise


def load_masks(path):
    """Read the masks that `save_masks` wrote. Nothing in the file is unpickled.

    Returns:
        Dict `{kernel path: mask}`, boolean arrays, in the order they were saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is something else than saved masks.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a file. Received: {str(path)!r}")
    masks = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                masks[member.filename.removesuffix(".npy")] = _read(archive, member)
    except (
        ValueError,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"`path` must be a file written by `save_masks`. Received: {str(path)!r}, "
            f"which is damaged or another kind of file ({error})"
        ) from error
    if not masks:
        raise ValueError(f"`path` must hold masks. Received: {str(path)!r}, empty")
    return masks


def _write_npz(file, arrays):
    # As np.savez_compressed does, which cannot take names such as "file".
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read(archive, member):
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"array format {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        size = int(np.prod(shape, dtype=object))
        if dtype.kind != "b" or fortran:
            raise ValueError(f"{member.filename} holds {dtype}, not bool")
        if size > member.file_size or member.file_size > 1100 * member.compress_size:
            raise ValueError(f"{member.filename} is cut off")
        data = file.read(size + 1)  # to the end, where the checksum is compared
    if len(data) != size:
        raise ValueError(f"{member.filename} has {len(data)} bytes, not {size}")
    values = np.frombuffer(data, np.uint8)
    if values.max(initial=0) > 1:
        raise ValueError(f"{member.filename} has values other than 0 and 1")
    return values.reshape(shape).astype(bool)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
