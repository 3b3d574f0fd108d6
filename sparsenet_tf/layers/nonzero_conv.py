"""`NonzeroConv2D`: what convolutions that hold only their nonzeros have in common."""

import keras
from keras import ops
from keras.src.layers.convolutional.base_conv import BaseConv

from sparsenet_tf.layers.nonzero_weights import add_weights, built_like, unwrap_dense


class NonzeroConv2D(BaseConv):
    """A `Conv2D` with an exact set of nonzeros in its kernel.

    A subclass holds its connections under the name `CONNECTIONS`, and says how they are
    checked and fitted to the channels that come in (`check_connections`,
    `fit_connections`), how the nonzeros are stored (`kernel_shape`, `kernel_fans`,
    `dense_of`, `stored_kernel`) and how they convolve (`convolve`). The arguments are
    those of `keras.layers.Conv2D`.
    """

    holds_only_nonzeros = True
    CONNECTIONS = None  # the attribute's name, and the first argument's
    OWN_SETTINGS = ("scale_to_fan_in",)  # which a Conv2D does not have

    def __init__(
        self,
        connections,
        filters,
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
    ):
        if unsupported := {"lora_rank", "lora_alpha"} & kwargs.keys():
            raise TypeError(
                f"{type(self).__name__} has no arguments {sorted(unsupported)}"
            )
        setattr(self, self.CONNECTIONS, connections)
        super().__init__(
            rank=2,
            filters=filters,
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
    def like(cls, layer, connections, **settings):
        """Return a layer, not built, with the settings of a Conv2D one."""
        config = {**layer.get_config(), cls.CONNECTIONS: connections}
        for name in ("filters", "lora_rank", "lora_alpha"):
            config.pop(name, None)
        return cls.from_config({**config, **settings})

    @classmethod
    def _from_dense(cls, layer, connections, **settings):
        layer = unwrap_dense(layer, keras.layers.Conv2D)
        new = cls.like(layer, connections, **settings)
        if new.filters != layer.filters:
            found = new.connections.output_size
            raise ValueError(
                f"`{cls.CONNECTIONS}` must have "
                f"{layer.filters * found // new.filters} outputs for the filters of a "
                f"group of layer {layer.name!r}. Received: {found} outputs"
            )
        kernel = layer.kernel  # with what LoRA adds to it
        shape = new.images_of(kernel.shape[-2] * layer.groups)
        new.build(shape)
        return built_like(new, layer, shape, new.stored_kernel(kernel))

    def to_dense(self):
        """Return a built `keras.layers.Conv2D` with the same weights, and zeros.

        Raises:
            ValueError: the layer is not built.
        """
        kernel = self.dense_kernel()
        shape = self.images_of(self._channels)
        return built_like(self.like_dense(), self, shape, kernel)

    def like_dense(self):
        """Return a `keras.layers.Conv2D`, not built, with this layer's settings."""
        config = self.get_config()
        for name in (self.CONNECTIONS, *self.OWN_SETTINGS):
            del config[name]
        return keras.layers.Conv2D.from_config({**config, "filters": self.filters})

    def images_of(self, channels):
        """Shape of a batch of images of any size in the layer's data format."""
        if self.data_format == "channels_first":
            return (None, channels, None, None)
        return (None, None, None, channels)

    @property
    def connections(self):
        """The topology or pattern."""
        return getattr(self, self.CONNECTIONS)

    @property
    def dense_shape(self):
        """Shape of the kernel of the dense layer that this one stands for."""
        return (*self.kernel_size, self._channels // self.groups, self.filters)

    def dense_kernel(self):
        """The kernel as a NumPy array (h, w, channels of a group, filters)."""
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} must be built: it has no weights yet"
            )
        return self.dense_of(self._kernel)

    def build(self, input_shape):
        """Make the weights."""
        axis = -1 if self.data_format == "channels_last" else 1
        channels = input_shape[axis]
        if channels is None or channels % self.groups:
            raise ValueError(
                "The number of input channels must be known and divisible by `groups`, "
                f"{self.groups}, in layer {self.name!r}. Received: {channels} channels"
            )
        self.fit_connections(channels)
        self.compute_output_shape(input_shape)  # which checks it
        self._kernel, self.bias = add_weights(
            self, self.kernel_shape(), self.kernel_fans(), self.filters
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=4, axes={axis: channels})
        self._channels = channels
        self.built = True

    def convolution_op(self, inputs, kernel):
        """Convolve; called by Keras, which adds bias and activation."""
        if self.data_format == "channels_last":
            return self.convolve(inputs, kernel)
        outputs = self.convolve(ops.transpose(inputs, (0, 2, 3, 1)), kernel)
        return ops.transpose(outputs, (0, 3, 1, 2))

    def enable_lora(self, *args, **kwargs):
        """Not supported: the kernel has no dense shape to add to."""
        raise NotImplementedError(f"{type(self).__name__} does not support LoRA")

    def get_config(self):
        """Return the settings of a Conv2D; subclasses add their connections."""
        config = {**super().get_config(), "scale_to_fan_in": self.scale_to_fan_in}
        del config["filters"]
        return config
