"""Masks outside a model: get them, save them, load them."""

import io
import os
import struct
import zipfile

import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import as_mask
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.topology.checks import as_generator, check_path, shown
from sparsenet_tf.transform.whole_files import made_beside

_END_RECORD = struct.Struct("<4s6xH8xH")  # of a zip: signature, entries, comment length


def get_masks(model):
    """Return the masks of a sparsified model.

    Returns:
        Dict from paths to masks, in the model's order. A path is the kernel's place
        below the model, by layer names, such as "dense/kernel" or
        "encoder/query/kernel", the same in the plain and the sparsified model. A mask
        is a boolean NumPy array of the kernel's shape, True where the weight is kept.

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


def shuffle_masks(masks, seed):
    """Return masks with as many connections each, at places drawn at random.

    The control of a lottery ticket that keeps each kernel's sparsity and gives up which
    connections it was made of.

    Args:
        masks: dict `{path: mask}`, as from `get_masks`.
        seed: integer, 0 or more, or a `numpy.random.Generator`.

    Raises:
        TypeError: `masks` is no dict, or `seed` no integer or generator.
        ValueError: an entry is no mask, or `seed` is negative.

    Source: Frankle et al., "Pruning Neural Networks at Initialization: Why Are We
    Missing the Mark?", arXiv 2009.08576, section 5 ("randomly shuffling").

    Example:
    >>> masks = {"dense/kernel": np.array([[1, 1, 0], [0, 0, 0]], bool)}
    >>> int(shuffle_masks(masks, seed=1)["dense/kernel"].sum())
    2
    """
    if not isinstance(masks, dict):
        raise TypeError(f"`masks` must be a dict of arrays. Received: {shown(masks)}")
    rng = as_generator(seed)
    shuffled = {}
    for path, mask in masks.items():
        mask = as_mask(mask, where=path)
        shuffled[path] = rng.permutation(mask.ravel()).reshape(mask.shape)
    return shuffled


def save_masks(path, masks):
    """Write masks to a compressed `.npz` file, whole or not at all.

    Args:
        path: file to write; its folder must exist. Nothing is appended to the name.
        masks: dict `{kernel path: mask}`, as from `get_masks`.

    Raises:
        TypeError: `masks` is no dict, or `path` no path.
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
        raise TypeError(f"`masks` must be a dict of arrays. Received: {shown(masks)}")
    if not masks:
        raise ValueError("`masks` must not be empty. Received: {}")
    arrays = {}
    for name, mask in masks.items():
        if not isinstance(name, str) or not 0 < len(name) < 10_000 or "\0" in name:
            raise ValueError(
                "`masks` must have strings as keys, kernel paths. Received: "
                f"{name!r:.200}"
            )
        arrays[name] = np.ascontiguousarray(as_mask(mask, where=name))
    with made_beside(path) as made, open(made, "wb") as file:
        write_npz(file, arrays)


def load_masks(path):
    """Read the masks that `save_masks` wrote. Nothing in the file is unpickled.

    Returns:
        Dict from kernel paths to masks, boolean arrays, in the order they were saved.

    Raises:
        TypeError: `path` is no path.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is something else than saved masks.

    Example:
    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "masks.npz")
    >>> save_masks(path, {"dense/kernel": np.ones((2, 3), bool)})
    >>> {path: mask.shape for path, mask in load_masks(path).items()}
    {'dense/kernel': (2, 3)}
    """
    path = check_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a file. Received: {str(path)!r}")
    with open(path, "rb") as file:
        try:
            return _read_npz(file)
        # Damage can surface as nearly anything in the readers of zip and of headers.
        except Exception as error:
            raise ValueError(
                "`path` must be a file written by `save_masks`. Received: "
                f"{str(path)!r}, which is damaged or something else ({error})"
            ) from error


def write_npz(file, arrays):
    """Write `{name: array}` to a binary file as a compressed `.npz`."""
    # As np.savez_compressed does, which cannot take names such as "file".
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(file):
    masks = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # The end record counts the entries; damage to one can swallow the next.
        file.seek(-_END_RECORD.size, os.SEEK_END)
        signature, count, comment = _END_RECORD.unpack(file.read())
        file_size = file.tell()
        if signature != b"PK\5\6" or comment or count != len(members) or not members:
            raise ValueError(f"{len(members)} masks, where its end says {count}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in masks or member.comment:
                raise ValueError(f"{member.filename!r} is no mask or is there twice")
            masks[name] = _read(archive, member, file_size)
    return masks


def _read(archive, member, file_size):
    # A zip's reader asks for as many bytes at once as are claimed.
    if member.compress_size > file_size:
        raise ValueError(f"{member.filename!r} claims {member.compress_size} bytes")
    # Deflate shrinks at most 1,032 times: a larger claim is damage, or an attack.
    if member.file_size > 1100 * member.compress_size:
        raise ValueError(f"{member.filename!r} claims {member.file_size} bytes")
    with archive.open(member) as file:
        data = io.BytesIO(file.read())  # to the end, where the checksum is compared
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError(f"{member.filename!r} is no array")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(data)
    values = np.frombuffer(data.read(), np.uint8)
    size = int(np.prod(shape, dtype=object))
    if dtype.kind != "b" or values.max(initial=0) > 1:
        raise ValueError(f"{member.filename!r} holds {dtype} that are no booleans")
    if min(shape, default=0) < 0 or values.size != size:
        raise ValueError(f"{member.filename!r} has {values.size} values for {shape}")
    return values.reshape(shape, order="F" if fortran else "C").astype(bool)
