"""Kernels that Keras has quantized: integers, in int4 two of them in a byte.

`keras.Model.quantize` replaces the kernels of Dense, EinsumDense and embedding layers
by integers that cannot be trained, so that `layers.tree` does not find them. (A layer
quantized to float8 keeps its kernel.) A weight that was zero is the integer 0, or,
where Keras quantizes blocks of a kernel, the zero point of its block.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from sparsenet_tf.layers import tree


@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel of integers.

    Attributes:
        owner: the layer.
        variable: what the layer stores.
        alive: boolean array of the kernel's shape before it was quantized: where a
            weight is not zero.
        bits: of each weight.
        zero_points: `ZeroPoints`, or None if they are all 0.
    """

    owner: keras.layers.Layer
    variable: keras.Variable
    alive: np.ndarray
    bits: int
    zero_points: "ZeroPoints | None"


@dataclasses.dataclass(frozen=True)
class ZeroPoints:
    """The integers that stand for zero in a kernel, one for each group of weights.

    Attributes:
        zeros: matrix of them.
        groups: for each row or column of the kernel, the one of `zeros` that it has.
        axis: 0 if `groups` is of the rows, 1 if of the columns.
        packed_axis: the axis along which two weights share a byte, or -1 for none.
    """

    zeros: np.ndarray
    groups: np.ndarray
    axis: int
    packed_axis: int

    def unpacked(self):
        """The zero point of each weight.

        >>> zeros, groups = np.array([[1, 2], [3, 4]], "int8"), np.array([0, 0, 1])
        >>> ZeroPoints(zeros, groups, axis=0, packed_axis=-1).unpacked().tolist()
        [[1, 2], [1, 2], [3, 4]]
        """
        return np.take(self.zeros, self.groups, axis=self.axis)

    def stored(self):
        """What a kernel of zeros is stored as."""
        values = self.unpacked()
        if self.packed_axis < 0:
            return values
        packed = keras.quantizers.pack_int4(
            values, axis=self.packed_axis, dtype=str(values.dtype)
        )
        return ops.convert_to_numpy(packed[0])


def quantized_kernels(model):
    """Return `{path: QuantizedKernel}` of the kernels that Keras has quantized.

    Args:
        model: a built `keras.Model`.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a")])
    >>> model.layers[0].quantize("int8")
    >>> [(path, k.bits) for path, k in quantized_kernels(model).items()]
    [('a/kernel', 8)]
    """
    found, seen = {}, set()
    for path, layer in tree.walk(model):
        if getattr(layer, "quantization_mode", None) in (None, "float8"):
            continue
        for attribute, find in _KINDS.items():
            variable = getattr(layer, attribute, None)
            if isinstance(variable, keras.Variable) and id(variable) not in seen:
                if "int" not in keras.backend.standardize_dtype(variable.dtype):
                    continue
                seen.add(id(variable))
                found[f"{path}/{variable.name}"] = find(layer, variable)
    return found


def _kernel(layer, variable):
    scale = layer.kernel_scale.shape
    if layer.quantization_mode != "int4":
        return _read(layer, variable)
    if (scale[-1] + 1) // 2 != variable.shape[-1]:
        # Keras before 3.15 packs along another axis, with zero points of 0.
        alive = ops.convert_to_numpy(layer.kernel) != 0
        return QuantizedKernel(layer, variable, alive, 4, None)
    zeros = getattr(layer, "kernel_zero", None)
    return _read(layer, variable, 1, scale[-1], zeros, axis=0)


def _calibrated(layer, variable):
    """Of GPTQ and AWQ, which store the transposed matrix."""
    outputs = layer.kernel_scale.shape[0]
    packed_axis = 0 if variable.shape[0] != outputs else -1
    return _read(
        layer, variable, packed_axis, outputs, layer.kernel_zero, 1, transposed=True
    )


def _embeddings(layer, variable):
    if layer.quantization_mode != "int4":
        return _read(layer, variable)
    zeros = getattr(layer, "embeddings_zero", None)
    return _read(layer, variable, 1, layer.output_dim, zeros, axis=1)


def _reverse_embeddings(layer, variable):
    if layer.quantization_mode != "int4":
        return _read(layer, variable)
    zeros = getattr(layer, "reverse_embeddings_zero", None)
    return _read(layer, variable, 0, layer.output_dim, zeros, axis=0)


# The attributes that Keras has them in; some have no public name.
_KINDS = {
    "_kernel": _kernel,
    "quantized_kernel": _calibrated,
    "_embeddings": _embeddings,
    "reverse_embeddings": _reverse_embeddings,
}


def _read(
    layer, variable, packed_axis=-1, length=None, zeros=None, axis=0, transposed=False
):
    values = ops.convert_to_numpy(variable)
    if packed_axis >= 0:
        unpacked = keras.quantizers.unpack_int4(
            values, length, axis=packed_axis, dtype=str(values.dtype)
        )
        values = ops.convert_to_numpy(unpacked)
    zero_points = None
    if zeros is not None:
        groups = ops.convert_to_numpy(layer.g_idx).astype(np.int64)
        # An untied ReversibleEmbedding stores its zero points as floats.
        zeros = ops.convert_to_numpy(zeros).astype(values.dtype)
        zero_points = ZeroPoints(zeros, groups, axis, packed_axis)
    alive = values != (0 if zero_points is None else zero_points.unpacked())
    alive = alive.T if transposed else alive
    shape = getattr(layer, "original_kernel_shape", None)
    if shape is not None and math.prod(shape) == alive.size:
        alive = alive.reshape(shape)
    bits = 4 if packed_axis >= 0 else 8
    return QuantizedKernel(layer, variable, alive, bits, zero_points)
