"""`RadixConv2D`: a convolution whose channels are joined as in a RadiX-Net."""

import dataclasses

import keras
import numpy as np
from keras import ops
from keras.src.layers.convolutional.base_conv import BaseConv

from sparsenet_tf.kernels.radix import kernel_shape
from sparsenet_tf.kernels.radix_conv import over_patches, radix_conv
from sparsenet_tf.layers.nonzero_weights import (
    add_weights,
    as_topology,
    built_like,
    count_dead_units,
    fit_inputs,
    from_dense_kernel,
    kernel_fans,
    to_dense_kernel,
    unwrap_dense,
)


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class RadixConv2D(BaseConv):
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

    holds_only_nonzeros = True

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
        if unsupported := {"lora_rank", "lora_alpha"} & kwargs.keys():
            raise TypeError(f"RadixConv2D has no arguments {sorted(unsupported)}")
        self.topology = as_topology(topology)
        super().__init__(
            rank=2,
            filters=groups * self.topology.output_size,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )
        self.scale_to_fan_in = scale_to_fan_in

    @classmethod
    def from_topology(cls, topology, kernel_size, **kwargs):
        """Return the layer; the same as calling the class."""
        return cls(topology, kernel_size, **kwargs)

    @classmethod
    def like(cls, layer, topology):
        """Return a layer, not built, with the settings of a Conv2D one."""
        config = {**layer.get_config(), "topology": as_topology(topology)}
        for name in ("filters", "lora_rank", "lora_alpha"):
            config.pop(name, None)
        return cls.from_config(config)

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
        layer = unwrap_dense(layer, keras.layers.Conv2D)
        new = cls.like(layer, topology)
        if new.filters != layer.filters:
            raise ValueError(
                f"`topology` must have {layer.filters // layer.groups} outputs for "
                f"each group of layer {layer.name!r}. Received: "
                f"{new.topology.output_size} outputs"
            )
        kernel = layer.kernel  # with what LoRA adds to it
        shape = [None, None, None, kernel.shape[-2] * layer.groups]
        if layer.data_format == "channels_first":
            shape = [None, shape[-1], None, None]
        new.build(shape)
        return built_like(new, layer, shape, new.stored_kernel(kernel))

    def to_dense(self):
        """Return a built `keras.layers.Conv2D` with the same weights, and zeros.

        Raises:
            ValueError: the layer is not built.
        """
        kernel = self.dense_kernel()
        shape = (None, None, None, self._channels)
        if self.data_format == "channels_first":
            shape = (None, self._channels, None, None)
        return built_like(self.like_dense(), self, shape, kernel)

    def like_dense(self):
        """Return a `keras.layers.Conv2D`, not built, with this layer's settings."""
        config = self.get_config()
        for name in ("topology", "scale_to_fan_in"):
            del config[name]
        return keras.layers.Conv2D.from_config({**config, "filters": self.filters})

    @property
    def dense_shape(self):
        """Shape of the kernel of the dense layer that this one stands for."""
        return (*self.kernel_size, self._channels // self.groups, self.filters)

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

    def dense_kernel(self):
        """The kernel as a NumPy array (h, w, channels of a group, filters)."""
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} must be built: it has no weights yet"
            )
        return self.dense_of(self._kernel)

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

    def build(self, input_shape):
        """Make the weights."""
        axis = -1 if self.data_format == "channels_last" else 1
        channels = input_shape[axis]
        if channels is None or channels % self.groups:
            raise ValueError(
                "The number of input channels must be known and divisible by `groups`, "
                f"{self.groups}, in layer {self.name!r}. Received: {channels} channels"
            )
        self._over_patches = over_patches(
            self.topology, channels, self.groups, self.kernel_size
        )
        shape, positions = kernel_shape(self.topology), 1
        if not self._over_patches:
            self.topology = fit_inputs(
                self.topology, channels // self.groups, self.name
            )
            rows, *columns = kernel_shape(self.topology)
            shape = (*self.kernel_size, self.groups * rows, *columns)
            positions = self.kernel_size[0] * self.kernel_size[1]
        self.compute_output_shape(input_shape)  # which checks it
        fans = kernel_fans(self.topology, positions, self.scale_to_fan_in)
        self._kernel, self.bias = add_weights(self, shape, fans, self.filters)
        self.input_spec = keras.layers.InputSpec(min_ndim=4, axes={axis: channels})
        self._channels = channels
        self.built = True

    def convolution_op(self, inputs, kernel):
        """Convolve; called by Keras, which adds bias and activation."""
        first = self.data_format == "channels_first"
        outputs = radix_conv(
            ops.transpose(inputs, (0, 2, 3, 1)) if first else inputs,
            kernel,
            self.topology,
            groups=self.groups,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )
        return ops.transpose(outputs, (0, 3, 1, 2)) if first else outputs

    def enable_lora(self, *args, **kwargs):
        """Not supported: the kernel has no dense shape to add to."""
        raise NotImplementedError(f"{type(self).__name__} does not support LoRA")

    def get_config(self):
        """Return what the layer is made of."""
        config = {**super().get_config(), "scale_to_fan_in": self.scale_to_fan_in}
        del config["filters"]
        return {**config, "topology": dataclasses.asdict(self.topology)}
