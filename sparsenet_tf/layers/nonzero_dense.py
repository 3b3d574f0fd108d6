"""`NonzeroDense`: what dense layers that hold only their nonzeros have in common."""

import keras
from keras import constraints, initializers, ops, regularizers

from sparsenet_tf.layers.nonzero_weights import (
    add_weights,
    built_like,
    count_dead_units,
    from_dense_kernel,
    kernel_fans,
    to_dense_kernel,
    unwrap_dense,
)


class NonzeroDense(keras.layers.Layer):
    """`activation(inputs @ W + bias)` with an exact set of nonzeros in W.

    A subclass holds its connections under the name `CONNECTIONS`, an object with
    `input_size`, `output_size` and `num_connections`, and says how they are checked,
    stored and multiplied with: `check_connections`, `fit_connections`, `kernel_shape`
    and `product`. The arguments are those of `keras.layers.Dense`.
    """

    holds_only_nonzeros = True
    CONNECTIONS = None  # the attribute's name, and the first argument's
    OWN_SETTINGS = ("scale_to_fan_in",)  # which a Dense layer does not have

    def __init__(
        self,
        connections,
        activation,
        use_bias,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        activity_regularizer,
        kernel_constraint,
        bias_constraint,
        scale_to_fan_in,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        setattr(self, self.CONNECTIONS, self.check_connections(connections))
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
    def like(cls, layer, connections, **settings):
        """Return a layer, not built, with the settings of a Dense one."""
        known = cls(connections).get_config()
        config = {k: v for k, v in layer.get_config().items() if k in known}
        config[cls.CONNECTIONS] = connections
        return cls.from_config({**config, **settings})

    @classmethod
    def _from_dense(cls, layer, connections, **settings):
        layer = unwrap_dense(layer, keras.layers.Dense)
        inputs, outputs = layer.kernel.shape
        new = cls.like(layer, connections, **settings)
        new.fit_connections(inputs)
        found = new.connections
        if found.output_size != outputs:
            raise ValueError(
                f"`{cls.CONNECTIONS}` must have the {outputs} outputs of layer "
                f"{layer.name!r}. Received: {found.output_size} outputs"
            )
        kernel = from_dense_kernel(layer.kernel, found)
        return built_like(new, layer, (None, inputs), kernel)

    def to_dense(self):
        """Return a built `keras.layers.Dense` with the same weights, and zeros.

        Raises:
            ValueError: the layer is not built.
        """
        kernel = self.dense_kernel()
        return built_like(self.like_dense(), self, (None, len(kernel)), kernel)

    def like_dense(self):
        """Return a `keras.layers.Dense`, not built, with this layer's settings."""
        config = self.get_config()
        for name in (self.CONNECTIONS, *self.OWN_SETTINGS):
            del config[name]
        return keras.layers.Dense.from_config({**config, "units": self.units})

    @property
    def connections(self):
        """The topology or pattern."""
        return getattr(self, self.CONNECTIONS)

    @property
    def dense_shape(self):
        """Shape of the kernel of the dense layer that this one stands for."""
        return (self.connections.input_size, self.connections.output_size)

    def count_dead_units(self):
        """How many inputs and outputs have no nonzero weight."""
        return count_dead_units(self.kernel, self.connections)

    def dense_kernel(self):
        """The matrix W as a NumPy array (input_size, output_size), with its zeros."""
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} must be built: it has no weights yet"
            )
        return self.dense_of(self.kernel)

    def dense_of(self, stored):
        """Values in the kernel's shape at their places in W, with zeros elsewhere."""
        return to_dense_kernel(stored, self.connections)

    def dense_mask(self):
        """Where `dense_kernel` has the layer's weights, a boolean array."""
        return self.connections.mask()

    def stored_kernel(self, dense):
        """What of a matrix like `dense_kernel` the kernel stores, in its own shape."""
        return from_dense_kernel(dense, self.connections)

    @property
    def units(self):
        """Size of the output."""
        return self.connections.output_size

    def build(self, input_shape):
        """Make the weights."""
        self.fit_connections(input_shape[-1])
        fans = kernel_fans(self.connections, scale_to_fan_in=self.scale_to_fan_in)
        self.kernel, self.bias = add_weights(
            self, self.kernel_shape(), fans, self.units
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.built = True

    def call(self, inputs):
        """Return `activation(inputs @ W + bias)`."""
        x = self.product(inputs)
        if self.use_bias:
            x = ops.add(x, self.bias)
        return self.activation(x)

    def compute_output_shape(self, input_shape):
        """Return the input's shape with the last axis exchanged."""
        return (*input_shape[:-1], self.units)

    def get_config(self):
        """Return the settings of a Dense layer; subclasses add their connections."""
        return {
            **super().get_config(),
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
