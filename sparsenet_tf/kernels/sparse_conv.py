"""Convolutions with sparse filters of any pattern, of which only nonzeros exist."""

import functools

import keras
import numpy as np
from keras import ops
from keras.src.ops.operation_utils import compute_conv_output_shape

from sparsenet_tf.kernels import native, sparse

IMPLEMENTATIONS = ("auto", "native", "dense")
# Above it the dense convolution is faster.
NATIVE_MOST_DENSITY = 0.2
# Weights of dense filters for each channel that comes in or goes out. With fewer, what
# takes time is to read and write the pixels, which sparse filters do not spare.
NATIVE_LEAST_WEIGHTS = 64


class SparseConvProduct:
    """`conv(x, W)`, where the filters W have the connections of a pattern alone.

    "native" is our own operation for CPUs, with TensorFlow: a nonzero of W is one
    number times pixels side by side, shifted by its place in the filter, so no patches
    are made. The gradient of the nonzeros is computed for them alone. "dense" writes W
    out for a dense convolution and runs with every backend.

    Args:
        pattern: a `topology.SparsePattern` from the h * w * (channels of a group)
            entries of a filter, by row, column and channel, to the filters.
        kernel_size: h and w.
        strides: pair.
        padding: "valid" or "same".
        dilation_rate: pair.
        groups: number of groups of channels, and of filters.

    Example:
    >>> pattern = stf.topology.SparsePattern.from_mask(np.ones((4, 1)))
    >>> product = SparseConvProduct(pattern, (2, 2))
    >>> x = np.arange(9.0, dtype="float32").reshape(1, 3, 3, 1)
    >>> np.asarray(product(x, np.ones(4, "float32"))).reshape(2, 2)
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """

    def __init__(
        self,
        pattern,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        dilation_rate=(1, 1),
        groups=1,
    ):
        self.pattern = pattern
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.dilation_rate = dilation_rate
        self.groups = groups
        self.channels = pattern.input_size // (kernel_size[0] * kernel_size[1])

    def __call__(self, x, values, implementation="auto"):
        """Return the convolution.

        Args:
            x: tensor (batch, height, width, groups * channels).
            values: tensor (num_connections,) of its dtype: the nonzeros, filter by
                filter.
            implementation: one of `IMPLEMENTATIONS`; "auto" as `choose` says.

        Returns:
            Tensor (batch, new height, new width, filters).

        Raises:
            ValueError: `implementation` is unknown, or cannot run here.
        """
        x, values = ops.convert_to_tensor(x), ops.convert_to_tensor(values)
        check_implementation(implementation)
        if implementation == "native" and native.is_exporting():
            implementation = "auto"  # what is written must run without it
        if implementation == "auto":
            implementation = choose(self.pattern, self.groups * self.channels, x.dtype)
        if implementation == "dense":
            return self._dense(x, values)
        sparse.require_native(x.dtype)
        if tuple(self.kernel_size) == (1, 1) and self.groups == 1:
            # Without neighbours to see, it is a product of pixels, which is faster.
            down, right = self.strides
            product = sparse.SparseProduct(self.pattern)
            return product(x[:, ::down, ::right], values, "native")
        return self._native(x, values)

    def _native(self, x, values):
        y = native.load_ops().sparsenet_sparse_conv(
            x,
            values,
            *self._native_indices,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilations=self.dilation_rate,
            padding=self.padding.upper(),
        )
        shape = compute_conv_output_shape(
            tuple(x.shape),
            self.pattern.output_size,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )
        y.set_shape(shape)
        return y

    def _dense(self, x, values):
        shape = self.pattern.input_size, self.pattern.output_size
        # In an exported graph itself, as ONNX needs them.
        indices = self._edges if native.is_exporting() else self._dense_indices
        kernel = sparse.write_out(indices, values, shape)
        return ops.conv(
            x,
            ops.reshape(kernel, (*self.kernel_size, self.channels, shape[1])),
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )

    @functools.cached_property
    def _native_indices(self):
        """By filter, and by phase of the strides and channel, as the operation asks."""
        filters, channels = self.pattern.output_size, self.groups * self.channels
        outputs = self.pattern.outputs().astype(np.int64)
        taps, channel = np.divmod(self.pattern.inputs.astype(np.int64), self.channels)
        channel += outputs // (filters // self.groups) * self.channels
        y, x = np.divmod(taps, self.kernel_size[1])
        phases = (
            y * self.dilation_rate[0] % self.strides[0] * self.strides[1]
            + x * self.dilation_rate[1] % self.strides[1]
        )
        rows, columns = phases * channels + channel, taps * filters + outputs
        order = np.lexsort((columns, rows))
        counts = np.bincount(
            rows, minlength=self.strides[0] * self.strides[1] * channels
        )
        splits = np.r_[0, np.cumsum(counts)]
        indices = (taps * channels + channel, splits, columns[order], order)
        return sparse.constants(
            self.pattern.splits, *(array.astype(np.int32) for array in indices)
        )

    @functools.cached_property
    def _dense_indices(self):
        if keras.backend.backend() == "tensorflow":
            return sparse.constants(self._edges)[0]
        return self._edges

    @property
    def _edges(self):
        return np.stack([self.pattern.inputs, self.pattern.outputs()], axis=1)


def choose(pattern, channels, dtype):
    """Return the implementation that is the fastest for a forward and backward pass.

    Measured on two cores (`benchmarks/sparse_conv.py`), by density and by size.

    Args:
        pattern: a `topology.SparsePattern`.
        channels: how many come in, of all groups.
        dtype: of the inputs.

    Example:
    >>> choose(stf.topology.SparsePattern.random(36, 8, 30, seed=0), 4, "float32")
    'dense'
    """
    pays = sparse.native_can_run(dtype) and native_pays(pattern, channels)
    return "native" if pays else "dense"


def native_pays(pattern, channels):
    """Whether our operation is expected to be faster than the dense convolution.

    Example:
    >>> random = stf.topology.SparsePattern.random
    >>> native_pays(random(256, 256, 25, seed=0), 256)
    True
    >>> native_pays(random(32, 192, 3, seed=0), 32)  # a filter of one pixel
    False
    """
    weights = pattern.input_size * pattern.output_size
    return (
        pattern.density <= NATIVE_MOST_DENSITY
        and weights >= NATIVE_LEAST_WEIGHTS * (channels + pattern.output_size)
    )


def check_implementation(implementation):
    """Return `implementation`, or raise a ValueError if there is none of that name."""
    return sparse.check_implementation(implementation, IMPLEMENTATIONS)
