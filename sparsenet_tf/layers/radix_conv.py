"""`RadixConv2D`: a convolution whose channels are joined as in a RadiX-Net."""

import dataclasses

import keras
import numpy as np
from keras import ops

from sparsenet_tf.kernels.radix import kernel_shape
from sparsenet_tf.kernels.radix_conv import over_patches, radix_conv
from sparsenet_tf.layers.nonzero_conv import NonzeroConv2D
from sparsenet_tf.layers.nonzero_weights import (
    as_topology,
    count_dead_units,
    fit_inputs,
    from_dense_kernel,
    kernel_fans,
    to_dense_kernel,
)
from sparsenet_tf.topology.checks import check_integer


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class RadixConv2D(NonzeroConv2D):
    """A `Conv2D` in which each filter sees few channels: those of a RadiX layer.

    The connections between channels are the same at every position of the filter, and
    the kernel holds exactly these weights: `h * w * topology.num_connections` of them
    in each group. Where fewer channels come in than the topology has, its first ones
    are dropped, fewer than its `nodes`. A topology with `h * w * channels` inputs
    joins each filter with entries of the patch instead (row, column, channel).

    Args:
        topology: a `RadixLayer` from the input channels to the filters, of one group
            if there are several.
        kernel_size: integer or pair, h and w.
        strides: as for `keras.layers.Conv2D`; so are the arguments that follow.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first".
        dilation_rate: integer or pair.
        groups: number of groups, each joined as `topology` says.
        activation: of the output.
        kernel_initializer: for the nonzeros. Variance-scaling ones (Glorot, He,
            LeCun) see the connections that are there as fan-in and fan-out.
        scale_to_fan_in: False for initial values as if the layer were dense.
        **kwargs: every other argument of `keras.layers.Conv2D`: `use_bias`,
            initializers, regularizers, constraints, `name`, `dtype`.

    Raises:
        TypeError: `topology` is no `RadixLayer`.
        ValueError: an argument is out of range, or when the layer is built, the
            channels do not fit the topology.

    Source: the convolutional RadiX-Nets of Alford et al., section II.B.

    Example:
    >>> topology = stf.topology.RadixLayer(16, radix=4, place_value=1, width_out=2)
    >>> layer = RadixConv2D(topology, 3, padding="same")
    >>> y = layer(np.ones((1, 5, 5, 16), "float32"))
    >>> tuple(y.shape), tuple(layer.kernel.shape)
    ((1, 5, 5, 32), (3, 3, 4, 4, 8))
    """

    CONNECTIONS = "topology"

    def __init__(
        self,
        topology,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
        activation=None,
        kernel_initializer="glorot_uniform",
        scale_to_fan_in=True,
        **kwargs,
    ):
        topology = as_topology(topology)
        groups = check_integer(groups, "groups", 1)
        super().__init__(
            topology,
            groups * topology.output_size,
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

    @classmethod
    def from_topology(cls, topology, kernel_size, **kwargs):
        """Return the layer; the same as calling the class."""
        return cls(topology, kernel_size, **kwargs)

    @classmethod
    def from_dense(cls, layer, topology):
        """Return a built layer with those weights of `layer` that `topology` connects.

        Args:
            layer: a built `keras.layers.Conv2D`, or one in a `Masked` wrapper.
            topology: a `RadixLayer` of its channels, of one group.

        Raises:
            TypeError: `layer` is no Conv2D layer, or `topology` no `RadixLayer`.
            ValueError: `layer` is not built, or the sizes differ.
        """
        return cls._from_dense(layer, as_topology(topology))

    def count_dead_units(self):
        """How many inputs and outputs have no nonzero weight at any position."""
        stored = self._by_group(self._kernel)
        if self._over_patches:
            return count_dead_units(stored, self.topology)
        counts = [
            count_dead_units(stored[:, :, group], self.topology)
            for group in range(self.groups)
        ]
        return tuple(map(sum, zip(*counts, strict=True)))

    def _by_group(self, stored):
        """Values as an array (h, w, group, *kernel_shape), or for patches flat."""
        shape = kernel_shape(self.topology)
        if not self._over_patches:
            shape = (*self.kernel_size, self.groups, *shape)
        return ops.convert_to_numpy(ops.convert_to_tensor(stored)).reshape(shape)

    def dense_of(self, stored):
        """Values in the kernel's shape at their places in that of a Conv2D."""
        dense = to_dense_kernel(self._by_group(stored), self.topology)
        if not self._over_patches:  # (h, w, group, in, out) to (h, w, in, group, out)
            dense = dense.transpose(0, 1, 3, 2, 4)
        return dense.reshape((*self.kernel_size, -1, self.filters))

    def dense_mask(self):
        """Where `dense_kernel` has the layer's weights, a boolean array."""
        return self.dense_of(np.ones(self._kernel.shape, "float32")) != 0

    def stored_kernel(self, dense):
        """What of a kernel like `dense_kernel` the layer stores, in its own shape."""
        dense = ops.convert_to_numpy(ops.convert_to_tensor(dense))
        if self._over_patches:
            dense = dense.reshape((-1, self.filters))
        else:
            dense = dense.reshape((*dense.shape[:3], self.groups, -1))
            dense = dense.transpose(0, 1, 3, 2, 4)
        return from_dense_kernel(dense, self.topology).reshape(self._kernel.shape)

    def fit_connections(self, channels):
        """Drop inputs that do not come in."""
        self._over_patches = over_patches(
            self.topology, channels, self.groups, self.kernel_size
        )
        if not self._over_patches:
            self.topology = fit_inputs(
                self.topology, channels // self.groups, self.name
            )

    def kernel_shape(self):
        """Shape of the nonzeros."""
        rows, *columns = kernel_shape(self.topology)
        if self._over_patches:
            return (rows, *columns)
        return (*self.kernel_size, self.groups * rows, *columns)

    def kernel_fans(self):
        """Connections of an output and of an input."""
        height, width = self.kernel_size
        positions = 1 if self._over_patches else height * width
        return kernel_fans(self.topology, positions, self.scale_to_fan_in)

    def convolve(self, inputs, kernel):
        """Return the convolution, channels last."""
        return radix_conv(
            inputs,
            kernel,
            self.topology,
            groups=self.groups,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )

    def get_config(self):
        """Return what the layer is made of."""
        return {**super().get_config(), "topology": dataclasses.asdict(self.topology)}
