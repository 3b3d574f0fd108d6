"""`SparseConv2D`: a convolution with any set of connections, and no others."""

import keras
import numpy as np

from sparsenet_tf.kernels import sparse, sparse_conv
from sparsenet_tf.layers.nonzero_conv import NonzeroConv2D
from sparsenet_tf.layers.nonzero_weights import (
    from_dense_kernel,
    kernel_fans,
    to_dense_kernel,
)
from sparsenet_tf.layers.pattern_layer import PatternLayer
from sparsenet_tf.layers.sparse_dense import as_pattern, given_mask
from sparsenet_tf.topology import SparsePattern
from sparsenet_tf.topology.checks import as_array


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class SparseConv2D(PatternLayer, NonzeroConv2D):
    """A `Conv2D` whose filters have the connections of a pattern alone.

    The kernel is the vector of nonzeros, filter by filter, so its gradient and the
    optimizer's slots are as short; neither dense filters nor a mask exist. On a CPU,
    with TensorFlow, our own operation convolves, which skips what is not there (see
    `sparsenet_tf.kernels.sparse_conv`). The pattern is fixed and is saved with the
    layer's config.

    Args:
        pattern: a mask (h, w, channels of a group, filters), or a
            `stf.topology.SparsePattern` from the h * w * channels entries of a filter
            to the filters.
        kernel_size: integer or pair, h and w.
        strides: as for `keras.layers.Conv2D`; so are the arguments that follow.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        dilation_rate: integer or pair.
        groups: number of groups of channels and filters.
        activation: of the output.
        kernel_initializer: for the nonzeros. Variance-scaling ones (Glorot, He,
            LeCun) see the mean connections that are there as fan-in and fan-out.
        scale_to_fan_in: False for initial values as if the layer were dense.
        implementation: "native", our own operation; "dense", which writes the filters
            out; or "auto", which takes what is faster by density and size. XLA cannot
            compile "native": use "dense" for `jit_compile=True`.
        **kwargs: every other argument of `keras.layers.Conv2D`: `use_bias`,
            initializers, regularizers, constraints, `name`, `dtype`.

    Raises:
        ValueError: an argument is out of range or `pattern` is no mask; when the layer
            is built, the channels that come in are not as many as the pattern's.

    Source: direct sparse convolution as in Park et al., "Faster CNNs with Direct Sparse
    Convolutions and Guided Pruning", arXiv 1608.01409.

    Example:
    >>> mask = stf.topology.random_mask((3, 3, 16, 32), 0.95, seed=0)
    >>> layer = SparseConv2D(mask, 3, padding="same")
    >>> y = layer(np.ones((1, 5, 5, 16), "float32"))
    >>> tuple(y.shape), layer.kernel.shape[0] - int(mask.sum())
    ((1, 5, 5, 32), 0)
    """

    def __init__(
        self,
        pattern,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
        activation=None,
        kernel_initializer="glorot_uniform",
        scale_to_fan_in=True,
        implementation="auto",
        **kwargs,
    ):
        pattern = as_conv_pattern(pattern)
        super().__init__(
            pattern,
            pattern.output_size,
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            groups,
            activation,
            kernel_initializer,
            scale_to_fan_in,
            **kwargs,
        )
        self.choose_implementation(sparse_conv.check_implementation(implementation))

    @classmethod
    def from_dense(cls, layer, mask=None, **settings):
        """Return a built layer with those weights of `layer` that `mask` keeps.

        Args:
            layer: a built `keras.layers.Conv2D`, or one in a `Masked` wrapper.
            mask: a mask of the kernel's shape, or a `SparsePattern`; by default that of
                the wrapper.
            **settings: arguments of the class, in place of the layer's.

        Raises:
            TypeError: `layer` is no Conv2D layer.
            ValueError: `layer` is not built, or the mask has other sizes, or there is
                none.
        """
        mask = given_mask(layer, mask)
        return cls._from_dense(layer, as_conv_pattern(mask, "mask"), **settings)

    def fit_connections(self, channels):
        """Refuse channels that are not as many as the pattern's."""
        if self.implementation == "auto":
            sparse.warn_without_native()
        height, width = self.kernel_size
        wanted = height * width * channels // self.groups
        if self.pattern.input_size != wanted:
            raise ValueError(
                f"`pattern` of layer {self.name!r} must have {height} * {width} * "
                f"{channels // self.groups} inputs for the filters' size and the "
                f"channels of a group. Received: {self.pattern.input_size} inputs"
            )
        self._product = sparse_conv.SparseConvProduct(
            self.pattern,
            self.kernel_size,
            self.strides,
            self.padding,
            self.dilation_rate,
            self.groups,
        )

    def kernel_fans(self):
        """Mean connections of a filter, and those of a channel of the input."""
        fan_in, fan_out = kernel_fans(
            self.pattern, scale_to_fan_in=self.scale_to_fan_in
        )
        # An entry of the pattern is one of the places where a channel is seen.
        height, width = self.kernel_size
        return fan_in, fan_out * height * width

    def convolve(self, inputs, kernel):
        """Return the convolution, channels last."""
        return self._product(inputs, kernel, self.implementation)

    def count_dead_units(self):
        """How many channels and filters have no nonzero weight."""
        alive = keras.ops.convert_to_numpy(self._kernel) != 0
        inputs, filters = self.pattern.inputs[alive], self.pattern.outputs()[alive]
        of_group = self._channels // self.groups
        groups = filters // (self.filters // self.groups)
        channels = inputs % of_group + groups * of_group
        return (
            self._channels - np.unique(channels).size,
            self.filters - np.unique(filters).size,
        )

    def dense_of(self, stored):
        """Values in the kernel's shape at their places in that of a Conv2D."""
        dense = to_dense_kernel(stored, self.pattern)
        return dense.reshape((*self.kernel_size, -1, self.filters))

    def dense_mask(self):
        """Where `dense_kernel` has the layer's weights, a boolean array."""
        return self.pattern.mask().reshape((*self.kernel_size, -1, self.filters))

    def stored_kernel(self, dense):
        """What of a kernel like `dense_kernel` the layer stores, in its own shape."""
        dense = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(dense))
        return from_dense_kernel(dense.reshape((-1, self.filters)), self.pattern)


def as_conv_pattern(pattern, name="pattern"):
    """Return a `SparsePattern`, also from a mask (h, w, channels, filters)."""
    if not isinstance(pattern, (dict, SparsePattern)):
        mask = as_array(pattern, name)
        pattern = mask.reshape((-1, mask.shape[-1])) if mask.ndim == 4 else mask
    return as_pattern(pattern, name)
