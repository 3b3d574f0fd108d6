"""`SparseDense`: a dense layer with any set of connections, and no others."""

import keras
import numpy as np

from sparsenet_tf.kernels import sparse
from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.layers.nonzero_dense import NonzeroDense
from sparsenet_tf.layers.pattern_layer import PatternLayer
from sparsenet_tf.topology import SparsePattern
from sparsenet_tf.topology.checks import shown


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class SparseDense(PatternLayer, NonzeroDense):
    """`activation(inputs @ W + bias)`, where W has the connections of a pattern alone.

    The kernel is the vector of W's nonzeros, output by output, so its gradient and the
    optimizer's slots are as short; neither W nor a mask exists. On a CPU, with
    TensorFlow, the products are our own operation, which skips what is not there (see
    `sparsenet_tf.kernels.sparse`). Input shape `(..., input_size)`, output shape
    `(..., output_size)`. The pattern is saved with the layer's config. It is fixed but
    for `set_pattern`, by which dynamic sparse training moves connections.

    Args:
        pattern: a `stf.topology.SparsePattern`, or a mask (inputs, outputs).
        activation: as for `keras.layers.Dense`; so are the arguments that follow.
        use_bias: whether to add a bias.
        kernel_initializer: for the nonzeros. Variance-scaling ones (Glorot, He,
            LeCun) see the mean connections of an output as fan-in, those of an input
            as fan-out.
        bias_initializer: for the bias.
        kernel_regularizer: of the nonzeros.
        bias_regularizer: of the bias.
        activity_regularizer: of the output.
        kernel_constraint: of the nonzeros, a vector.
        bias_constraint: of the bias.
        scale_to_fan_in: False for initial values as if the layer were dense.
        implementation: "native", our own operation; "csr", TensorFlow's product with
            compressed rows; "dense", which writes W out; or "auto", which takes what
            is the fastest by density and batch. XLA cannot compile "native": use
            "dense" for `jit_compile=True`.
        **kwargs: `name`, `dtype` and the like.

    Raises:
        ValueError: `pattern` is no mask, or `implementation` is unknown; when the
            layer is built, the inputs are not as many as the pattern's.

    Source: Nikdan et al., "SparseProp", arXiv 2302.04852, for the products.

    Example:
    >>> mask = stf.topology.random_mask((784, 300), 0.95, seed=0)
    >>> layer = SparseDense(mask, activation="relu")
    >>> y = layer(np.ones((2, 784), "float32"))
    >>> tuple(y.shape), layer.kernel.shape[0] - int(mask.sum())
    ((2, 300), 0)
    """

    def __init__(
        self,
        pattern,
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
        implementation="auto",
        **kwargs,
    ):
        super().__init__(
            pattern,
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
        self.choose_implementation(sparse.check_implementation(implementation))
        self._product = sparse.SparseProduct(self.pattern)

    @classmethod
    def from_dense(cls, layer, mask=None, **settings):
        """Return a built layer with those weights of `layer` that `mask` keeps.

        Args:
            layer: a built `keras.layers.Dense`, or one in a `Masked` wrapper.
            mask: a mask (inputs, outputs) or a `SparsePattern`; by default that of the
                wrapper.
            **settings: arguments of the class, in place of the layer's.

        Raises:
            TypeError: `layer` is no Dense layer.
            ValueError: `layer` is not built, or the mask has other sizes, or there is
                none.
        """
        mask = given_mask(layer, mask)
        return cls._from_dense(layer, as_pattern(mask, "mask"), **settings)

    def check_connections(self, pattern):
        """Return the `SparsePattern` that `pattern` is or describes."""
        return as_pattern(pattern)

    def fit_connections(self, inputs):
        """Refuse inputs that are not as many as the pattern's."""
        if self.implementation == "auto":
            sparse.warn_without_native()
        if inputs != self.pattern.input_size:
            raise ValueError(
                f"`pattern` of layer {self.name!r} must have as many inputs as come "
                f"in. Received: {self.pattern.input_size} inputs in the pattern, "
                f"{inputs} coming in"
            )

    def let_pattern_change(self):
        """Prepare for `set_pattern`, before functions are traced that are to go on.

        TensorFlow's functions that were traced before either one keep the pattern
        that they saw, and so do JAX's that were traced before a `set_pattern`:
        `model.make_train_function(force=True)` has Keras trace again. The callbacks of
        `stf.pruning` see to it.
        """
        self._product.let_change()
        # Where TensorFlow finds what a SavedModel of the layer needs.
        self.index_variables = self._product.index_variables

    @property
    def pattern_is_constant(self):
        """Whether functions keep the pattern that they are traced with."""
        return self._product.index_variables is None

    def set_pattern(self, pattern):
        """Give the layer other connections, as many as it has.

        Those that it has already keep their weights, and new ones have zeros.

        Args:
            pattern: a `stf.topology.SparsePattern`, or a mask (inputs, outputs).

        Returns:
            For each connection its number in the pattern of before, -1 for a new one.

        Raises:
            ValueError: the layer is not built, or the pattern has other sizes or
                another number of connections.

        Example:
        >>> layer = SparseDense(np.eye(2, dtype=bool), kernel_initializer="ones")
        >>> layer.build((None, 2))
        >>> layer.set_pattern([[1, 1], [0, 0]])
        array([ 0, -1])
        >>> layer.dense_kernel()
        array([[1., 0.],
               [0., 0.]], dtype=float32)
        """
        pattern, old = as_pattern(pattern), self.pattern
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} must be built before `set_pattern` is called. "
                "Received: a pattern for a layer that is not built"
            )
        if any(
            getattr(pattern, name) != getattr(old, name)
            for name in ("input_size", "output_size", "num_connections")
        ):
            raise ValueError(
                f"`pattern` must be of the sizes of layer {self.name!r}, {old}. "
                f"Received: {pattern}"
            )
        source = old.find(pattern)
        self.let_pattern_change()
        self._product.change(pattern)
        self.pattern = pattern
        self.pattern_has_changed = True
        self.kernel.assign(taken(to_numpy(self.kernel), source))
        return source

    def product(self, inputs):
        """Return `inputs @ W`."""
        return self._product(inputs, self.kernel, self.implementation)


def as_pattern(pattern, name="pattern"):
    """Return a `SparsePattern`, also from a mask or from the dict in a config.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(pattern, SparsePattern):
        return pattern
    if isinstance(pattern, dict):
        return SparsePattern.from_config(pattern)
    return SparsePattern.from_mask(pattern, name)


def taken(values, source):
    """The values at `source`, as from `set_pattern`, and zeros where that is -1."""
    return np.where(source >= 0, values[source], np.zeros((), values.dtype))


def given_mask(layer, mask):
    """Return `mask`, or that of the wrapper `layer` if it is None.

    Raises:
        TypeError: it is None, and `layer` is no layer.
        ValueError: it is None, and the layer is in no wrapper.
    """
    if mask is not None:
        return mask
    if not tree.is_masked(layer):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"`layer` must be a Keras layer. Received: {shown(layer)}")
        raise ValueError(
            f"`mask` must be given for layer {layer.name!r}, which is not `Masked`. "
            "Received: None"
        )
    if len(layer.masks) != 1:
        raise ValueError(
            f"`layer` must have one mask. Received: {layer.name!r} with masks of "
            f"{list(layer.masks)}, " + ("built" if layer.built else "not built")
        )
    [mask] = layer.masks.values()
    return mask
