"""What layers that hold only nonzeros share: how weights begin, and dense ones."""

import dataclasses

import keras
import numpy as np
from keras import ops
from keras.src.initializers.random_initializers import compute_fans

from sparsenet_tf.kernels.radix import stored_connections
from sparsenet_tf.layers import tree
from sparsenet_tf.topology import RadixLayer, SparsePattern
from sparsenet_tf.topology.checks import shown


def as_topology(topology):
    """Return a `RadixLayer`, also from the dict that a config has of it.

    Raises:
        TypeError: it is neither.
        ValueError: the dict has other entries than a `RadixLayer` has.
    """
    if isinstance(topology, dict):
        known = {field.name for field in dataclasses.fields(RadixLayer)}
        if not {"nodes", "radix", "place_value"} <= topology.keys() <= known:
            raise ValueError(
                f"`topology` must be a RadixLayer, or a dict of its arguments. "
                f"Received: {shown(topology)}"
            )
        return RadixLayer(**topology)
    if not isinstance(topology, RadixLayer):
        raise TypeError(
            "`topology` must be a sparsenet_tf.topology.RadixLayer, such as one of "
            f"RadixNet(...).layers. Received: {shown(topology)}"
        )
    return topology


def fit_inputs(topology, size, name):
    """Return `topology` with inputs dropped until `size` are left.

    The first ones go, fewer than the nodes of one copy, as in Alford et al., who took
    16 of 800 inputs away for MNIST's 784.

    Raises:
        ValueError: there are more inputs than that, or fewer, or nobody knows how many.
    """
    if size is None:
        raise ValueError(
            f"The number of inputs must be known in layer {name!r}. Received: None"
        )
    surplus = topology.input_size - size
    if not 0 <= surplus < topology.nodes - topology.drop_inputs % topology.nodes:
        raise ValueError(
            f"`topology` of layer {name!r} must have as many inputs as come in, or "
            f"fewer than {topology.nodes} (its nodes) more, which are dropped. "
            f"Received: {topology.input_size} inputs in the topology, {size} coming in"
        )
    return dataclasses.replace(topology, drop_inputs=topology.drop_inputs + surplus)


def initializer_for_fans(initializer, fan_in, fan_out):
    """Return a variance-scaling initializer as if its kernel had these fans.

    The stored kernel's shape says nothing of them. Any other initializer is returned
    as it is: those do not depend on fans.
    """
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer

    def initialize(shape, dtype=None):
        wanted = _fan(initializer.mode, fan_in, fan_out)
        taken = _fan(initializer.mode, *compute_fans(shape))
        return keras.initializers.VarianceScaling(
            scale=initializer.scale * max(1.0, taken) / max(1.0, wanted),
            mode=initializer.mode,
            distribution=initializer.distribution,
            seed=initializer.seed,
        )(shape, dtype=dtype)

    return initialize


def _fan(mode, fan_in, fan_out):
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    return fans[mode]


def kernel_fans(topology, positions=1, scale_to_fan_in=True):
    """Mean connections of an output and of an input; or those of a dense layer."""
    if not scale_to_fan_in:
        return topology.input_size * positions, topology.output_size * positions
    connections = topology.num_connections * positions
    return connections / topology.output_size, connections / topology.input_size


def add_weights(layer, shape, fans, units):
    """Give `layer` its kernel and, if it has one, its bias; return both.

    Args:
        layer: with the initializers, regularizers and constraints of Keras' layers.
        shape: of the kernel as it is stored.
        fans: that a variance-scaling initializer is to see, as from `kernel_fans`.
        units: length of the bias.
    """
    kernel = layer.add_weight(
        name="kernel",
        shape=shape,
        initializer=initializer_for_fans(layer.kernel_initializer, *fans),
        regularizer=layer.kernel_regularizer,
        constraint=layer.kernel_constraint,
    )
    bias = None
    if layer.use_bias:
        bias = layer.add_weight(
            name="bias",
            shape=(units,),
            initializer=layer.bias_initializer,
            regularizer=layer.bias_regularizer,
            constraint=layer.bias_constraint,
        )
    return kernel, bias


def unwrap_dense(layer, kind):
    """Return the built layer of class `kind` that `layer` is, or that it wraps.

    Raises:
        TypeError: it is of another class.
        ValueError: it is not built.
    """
    layer = layer.layer if tree.is_masked(layer) else layer
    if not isinstance(layer, kind):
        raise TypeError(
            f"`layer` must be a keras {kind.__name__} layer. Received: {shown(layer)}"
        )
    if not layer.built:
        raise ValueError(f"`layer` must be built. Received: {layer.name!r}, not built")
    return layer


def connections(topology):
    """The input and the output of each entry of the kernel as it is stored."""
    if isinstance(topology, SparsePattern):
        return topology.inputs, topology.outputs()
    return stored_connections(topology)


def to_dense_kernel(kernel, topology):
    """The nonzeros (..., *kernel_shape) at their places (..., inputs, outputs)."""
    kernel = ops.convert_to_numpy(ops.convert_to_tensor(kernel))
    inputs, outputs = connections(topology)
    leading = kernel.shape[: kernel.ndim - inputs.ndim]
    dense = np.zeros(
        (*leading, topology.input_size, topology.output_size), kernel.dtype
    )
    dense[..., inputs, outputs] = kernel
    return dense


def count_dead_units(kernel, topology):
    """Inputs and outputs that all weights (..., *kernel_shape) leave unconnected.

    Leading axes are those of one set of units: a unit is dead if it is in all of them.
    """
    kernel = ops.convert_to_numpy(ops.convert_to_tensor(kernel))
    inputs, outputs = connections(topology)
    leading = tuple(range(kernel.ndim - inputs.ndim))
    alive = (kernel != 0).any(axis=leading)
    return (
        topology.input_size - np.unique(inputs[alive]).size,
        topology.output_size - np.unique(outputs[alive]).size,
    )


def from_dense_kernel(dense, topology):
    """Undo `to_dense_kernel`; what is not connected is left behind."""
    dense = ops.convert_to_numpy(ops.convert_to_tensor(dense))
    return dense[(..., *connections(topology))]


def built_like(new, source, input_shape, kernel):
    """Return layer `new`, built, with `kernel` and the bias of `source`."""
    if not new.built:
        new.build(input_shape)
    # A copy, since with JAX both would have one array.
    new.set_weights([kernel, *([ops.copy(source.bias)] if source.use_bias else [])])
    return new
