"""`RadixDense`: a dense layer with the connections of a RadiX-Net and no others."""

import dataclasses

import keras
from keras import constraints, initializers, ops, regularizers

from sparsenet_tf.kernels.radix import kernel_shape, radix_matmul
from sparsenet_tf.layers.radix_weights import (
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
class RadixDense(keras.layers.Layer):
    """`activation(inputs @ W + bias)`, where W has the connections of a RadiX layer.

    The kernel holds exactly the nonzeros of W, so its gradient and the optimizer's
    slots do too, and no mask is stored; the product computes with them alone (see
    `sparsenet_tf.kernels.radix`). Input shape `(..., input_size)`, output shape
    `(..., output_size)`; both sizes are the topology's. Where fewer inputs come in,
    the first ones of the topology are dropped, fewer than its `nodes`.

    Args:
        topology: a `RadixLayer`, as one of `RadixNet(...).layers`.
        activation: as for `keras.layers.Dense`; so are the arguments that follow.
        use_bias: whether to add a bias.
        kernel_initializer: for the nonzeros. Variance-scaling ones (Glorot, He,
            LeCun) see the connections that are there as fan-in and fan-out.
        bias_initializer: for the bias.
        kernel_regularizer: of the nonzeros.
        bias_regularizer: of the bias.
        activity_regularizer: of the output.
        kernel_constraint: of the nonzeros, in the shape in which they are stored.
        bias_constraint: of the bias.
        scale_to_fan_in: False for initial values as if the layer were dense.
        **kwargs: `name`, `dtype` and the like.

    Raises:
        TypeError: `topology` is no `RadixLayer`.
        ValueError: when it is built, the inputs do not fit the topology.

    Source: Alford et al., section II.B; Robinett and Kepner, arXiv 1905.00416.

    Example:
    >>> net = stf.topology.RadixNet((10, 10), (8, 3, 1))
    >>> layer = RadixDense(net.layers[0], activation="relu")
    >>> y = layer(np.ones((2, 784), "float32"))
    >>> tuple(y.shape), tuple(layer.kernel.shape)
    ((2, 300), (784, 30))
    """

    holds_only_nonzeros = True

    def __init__(
        self,
        topology,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        scale_to_fan_in=True,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.topology = as_topology(topology)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.scale_to_fan_in = scale_to_fan_in
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    @classmethod
    def from_topology(cls, topology, **kwargs):
        """Return the layer; the same as calling the class."""
        return cls(topology, **kwargs)

    @classmethod
    def like(cls, layer, topology):
        """Return a layer, not built, with the settings of a Dense one."""
        known = cls(topology).get_config()
        config = {k: v for k, v in layer.get_config().items() if k in known}
        return cls.from_config({**config, "topology": topology})

    @classmethod
    def from_dense(cls, layer, topology):
        """Return a built layer with those weights of `layer` that `topology` connects.

        Args:
            layer: a built `keras.layers.Dense`, or one in a `Masked` wrapper.
            topology: a `RadixLayer` of its sizes.

        Raises:
            TypeError: `layer` is no Dense layer, or `topology` no `RadixLayer`.
            ValueError: `layer` is not built, or the sizes differ.
        """
        layer = unwrap_dense(layer, keras.layers.Dense)
        inputs, outputs = layer.kernel.shape
        topology = fit_inputs(as_topology(topology), inputs, layer.name)
        if topology.output_size != outputs:
            raise ValueError(
                f"`topology` must have the {outputs} outputs of layer {layer.name!r}. "
                f"Received: {topology.output_size} outputs"
            )
        new = cls.like(layer, topology)
        kernel = from_dense_kernel(layer.kernel, topology)
        return built_like(new, layer, (None, inputs), kernel)

    def to_dense(self):
        """Return a built `keras.layers.Dense` with the same weights, and zeros.

        Raises:
            ValueError: the layer is not built.
        """
        kernel = self.dense_kernel()
        return built_like(
            self.like_dense(), self, (None, self.topology.input_size), kernel
        )

    def like_dense(self):
        """Return a `keras.layers.Dense`, not built, with this layer's settings."""
        config = self.get_config()
        for name in ("topology", "scale_to_fan_in"):
            del config[name]
        return keras.layers.Dense.from_config({**config, "units": self.units})

    @property
    def dense_shape(self):
        """Shape of the kernel of the dense layer that this one stands for."""
        return (self.topology.input_size, self.topology.output_size)

    def count_dead_units(self):
        """How many inputs and outputs have no nonzero weight."""
        return count_dead_units(self.kernel, self.topology)

    def dense_kernel(self):
        """The matrix W as a NumPy array (input_size, output_size), with its zeros."""
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} must be built: it has no weights yet"
            )
        return to_dense_kernel(self.kernel, self.topology)

    @property
    def units(self):
        """Size of the output."""
        return self.topology.output_size

    def build(self, input_shape):
        """Make the weights."""
        self.topology = fit_inputs(self.topology, input_shape[-1], self.name)
        fans = kernel_fans(self.topology, scale_to_fan_in=self.scale_to_fan_in)
        self.kernel, self.bias = add_weights(
            self, kernel_shape(self.topology), fans, self.units
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.built = True

    def call(self, inputs):
        """Return `activation(inputs @ W + bias)`."""
        x = radix_matmul(inputs, self.kernel, self.topology)
        if self.use_bias:
            x = ops.add(x, self.bias)
        return self.activation(x)

    def compute_output_shape(self, input_shape):
        """Return the input's shape with the last axis exchanged."""
        return (*input_shape[:-1], self.units)

    def get_config(self):
        """Return what the layer is made of."""
        return {
            **super().get_config(),
            "topology": dataclasses.asdict(self.topology),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
            "scale_to_fan_in": self.scale_to_fan_in,
        }
