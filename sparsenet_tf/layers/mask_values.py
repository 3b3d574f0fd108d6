"""What a mask may be, and its form in a layer's config."""

import base64
import zlib

import keras
import numpy as np

from sparsenet_tf.topology.checks import as_array


def as_mask(values, shape=None, where=None):
    """Return `values` as a boolean array, or say why they are no mask.

    Args:
        values: array of booleans, or of numbers that are all 0 or 1.
        shape: the shape that the mask must have, or None for any.
        where: the kernel that the mask is for, named in errors.

    Raises:
        ValueError: another dtype, other values than 0 and 1, or another shape.

    Example:
    >>> as_mask([[0, 1]], shape=(1, 2))
    array([[False,  True]])
    """
    of = f" of kernel {where!r}" if where else ""
    values = as_array(values, "mask")
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"`mask`{of} must hold booleans, or 0 and 1. Received: dtype {values.dtype}"
        )
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        wrong = values[~np.isin(values, (0, 1))]
        raise ValueError(
            f"`mask`{of} must hold only 0 and 1. Received: {wrong.size} other "
            f"values, the first {wrong[0]}"
        )
    if shape is not None and values.shape != tuple(shape):
        raise ValueError(
            f"`mask`{of} must have shape {tuple(shape)}. Received: shape {values.shape}"
        )
    return values.astype(bool)


def to_numpy(variable):
    """The value of a Keras variable, or of a tensor, as a NumPy array.

    >>> to_numpy(keras.Variable([1.0, 2.0]))
    array([1., 2.], dtype=float32)
    """
    # `convert_to_numpy` copies twice and looks up protocols: 0.4 ms more for 784x300.
    # Nor does it know the variables of a `tf.distribute` strategy.
    on_tensorflow = keras.backend.backend() == "tensorflow"
    is_variable = isinstance(variable, keras.Variable)
    if on_tensorflow and is_variable and variable.dtype != "bfloat16":
        return variable.value.numpy()
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def encode_mask(mask):
    """Pack a boolean array into a JSON-able dict (bits, deflated, base64).

    >>> decode_mask(encode_mask(np.array([True, False])))
    array([ True, False])
    """
    bits = zlib.compress(np.packbits(mask).tobytes())
    return {"shape": list(mask.shape), "bits": base64.b64encode(bits).decode("ascii")}


def decode_mask(encoded):
    """Undo `encode_mask`. An array is returned as it is.

    Raises:
        ValueError: the bits are damaged or do not fill the shape.
    """
    if not isinstance(encoded, dict):
        return np.asarray(encoded)
    shape, size = tuple(encoded["shape"]), int(np.prod(encoded["shape"]))
    expected = (size + 7) // 8
    try:
        compressed = base64.b64decode(encoded["bits"], validate=True)
        inflate = zlib.decompressobj()
        bits = inflate.decompress(compressed, expected + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"`mask` in the config is damaged: {error}") from error
    if len(bits) != expected or not inflate.eof:
        raise ValueError(
            f"`mask` in the config must hold {size} bits for shape {shape}. "
            f"Received: {len(bits)} bytes" + ("" if inflate.eof else ", cut off")
        )
    bits = np.frombuffer(bits, np.uint8)
    return np.unpackbits(bits, count=size).reshape(shape).astype(bool)
