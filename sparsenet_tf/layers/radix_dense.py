"""`RadixDense`: a dense layer with the connections of a RadiX-Net and no others."""

import dataclasses

import keras

from sparsenet_tf.kernels.radix import kernel_shape, radix_matmul
from sparsenet_tf.layers.nonzero_dense import NonzeroDense
from sparsenet_tf.layers.nonzero_weights import as_topology, fit_inputs


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class RadixDense(NonzeroDense):
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

    CONNECTIONS = "topology"

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
        super().__init__(
            topology,
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
        )

    @classmethod
    def from_topology(cls, topology, **kwargs):
        """Return the layer; the same as calling the class."""
        return cls(topology, **kwargs)

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
        return cls._from_dense(layer, as_topology(topology))

    def check_connections(self, topology):
        """Return the `RadixLayer` that `topology` is or describes."""
        return as_topology(topology)

    def fit_connections(self, inputs):
        """Drop inputs of the topology until as many are left as come in."""
        self.topology = fit_inputs(self.topology, inputs, self.name)

    def kernel_shape(self):
        """Shape in which the nonzeros are stored."""
        return kernel_shape(self.topology)

    def product(self, inputs):
        """Return `inputs @ W`."""
        return radix_matmul(inputs, self.kernel, self.topology)

    def get_config(self):
        """Return what the layer is made of."""
        config = super().get_config()
        return {**config, "topology": dataclasses.asdict(self.topology)}
