"""Models of Keras 2 (tf_keras) into models of Keras 3.

tf_keras is not imported: its models say what they are made of.
tensorflow-model-optimization's pruning wrappers are passed through, as if they were the
layers that they hold.
"""

import inspect
import sys

import keras

from sparsenet_tf.interop.keras_2_layers import (
    convert_layer,
    copy_weights,
    is_pruned,
    plain,
    reason,
    unwrapped,
)


def is_keras_2(model):
    """Whether `model` is a model of tf_keras (told without importing it)."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


class Converter:
    """Makes Keras 3 models of tf_keras models, each layer of which it makes once.

    Attributes:
        layers: dict from the id of each layer of tf_keras, wrappers and all, to a pair
            of it and its counterpart, which has its name (without the wrapper's
            prefix) and its weights.
    """

    def __init__(self):
        self.layers = {}
        self._maskless = set()  # ids of tensors whose timestep mask a wrapper dropped

    def convert(self, model):
        """Return a Keras 3 model with the layers, graph and weights of `model`.

        Raises:
            ValueError: the model is subclassed or not built, or one of its layers, or
                a way it is used, has no counterpart. The message names the layer.
        """
        sequential = type(model).__name__ == "Sequential"
        if not getattr(model, "_is_graph_network", False):
            state = "not built yet" if sequential else "subclassed"
            raise ValueError(
                "`model` must be a Sequential model that is built or a functional "
                f"model. Received: {model.name!r} of class {type(model).__name__}, "
                f"which is {state}"
            )
        make = self._sequential if sequential else self._functional
        new = make(model)
        if not model.trainable:
            new.trainable = False
        return new

    def _sequential(self, model):
        (tensor,) = model.inputs
        given = model._has_explicit_input_shape  # otherwise the first batch's
        layers = [self.layer(layer, model) for layer in model.layers]
        new = keras.Sequential([_input(tensor, given), *layers], name=model.name)
        for node in _nodes(model):
            self._follow_timesteps(node)
        self._copy_weights(model)
        return new

    def _functional(self, model):
        keys = {}
        if isinstance(model._nested_inputs, dict):  # Keras 3 wants them as names
            keys = {id(tensor): key for key, tensor in model._nested_inputs.items()}
        tensors = {
            id(tensor): _input(tensor, name=keys.get(id(tensor)))
            for tensor in model.inputs
        }

        def converted(structure):
            return keras.tree.map_structure(
                lambda x: tensors.get(id(x), x), plain(structure)
            )

        inputs = converted(model._nested_inputs)
        for node in _nodes(model):
            layer = self.layer(node.layer, model)
            args = converted(tuple(node.call_args))
            kwargs = converted(dict(node.call_kwargs))
            self._follow_timesteps(node)
            outputs = _call(node.layer, layer, args, kwargs)
            old = keras.tree.flatten(plain(node.outputs))
            new = keras.tree.flatten(outputs)
            tensors.update({id(x): y for x, y in zip(old, new, strict=True)})
        new = keras.Model(inputs, converted(model._nested_outputs), name=model.name)
        self._copy_weights(model)
        return new

    def layer(self, layer, model):
        """The counterpart of a layer of `model`, as yet without its weights."""
        if id(layer) not in self.layers:
            if is_keras_2(layer):
                new = self.convert(layer)
            else:
                new = convert_layer(layer, _name(layer, model))
            # With the layer itself, whose id would be given to another otherwise.
            self.layers[id(layer)] = layer, new
        return self.layers[id(layer)][1]

    def _copy_weights(self, model):
        for layer in model.layers:
            if id(layer) in self.layers and not is_keras_2(layer):
                copy_weights(unwrapped(layer), self.layers[id(layer)][1])

    def _follow_timesteps(self, node):
        """Raise if a layer gets a timestep mask in Keras 3 and none in tf_keras.

        It would be one that a pruning wrapper before it does not pass on.
        """
        _, layer = self.layers[id(node.layer)]
        inner = node.layer.outputs if is_keras_2(node.layer) else ()
        dropped = any(id(x) in self._maskless for x in node.keras_inputs)
        if dropped and _uses_timesteps(layer):
            raise ValueError(
                f"`model` has a layer {unwrapped(node.layer).name!r} that does not get "
                "its timestep mask (of mask_zero, or Masking): a pruning wrapper "
                "before it drops the mask, which Keras 3 would pass on, so that the "
                "outputs would differ. Convert tfmot's `strip_pruning(model)` instead"
            )
        if (
            _drops_timesteps(node)
            or any(id(x) in self._maskless for x in inner)
            or (dropped and layer.supports_masking)
        ):
            outputs = keras.tree.flatten(plain(node.outputs))
            self._maskless.update(id(x) for x in outputs)


def _nodes(model):
    """The calls of layers in a functional model, in an order of computation."""
    return [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
        if not node.is_input
    ]


def _input(tensor, batch_size_given=True, name=None):
    shape = tuple(tensor.shape)
    layer = tensor._keras_history.layer
    if getattr(layer, "ragged", False):
        raise ValueError(
            f"`model` must not have ragged inputs. Received: {layer.name!r}"
        )
    return keras.Input(
        batch_shape=shape if batch_size_given else (None, *shape[1:]),
        dtype=tensor.dtype.name,
        sparse=getattr(layer, "sparse", False),
        name=name or layer.name,
    )


def _name(layer, model):
    """The name without the prefix of the pruning wrapper, unless it is taken."""
    name = unwrapped(layer).name
    others = [other.name for other in model.layers if other is not layer]
    return layer.name if name in others else name


def _call(old, layer, args, kwargs):
    # Keras 2 puts the initial states of an RNN into the list of its inputs.
    takes_states = "initial_state" in inspect.signature(layer.call).parameters
    if takes_states and args and isinstance(args[0], list):
        (sequence, *states), *rest = args
        args, kwargs = (sequence, *rest), {**kwargs, "initial_state": states}
    try:
        return layer(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"`model` calls its layer {old.name!r} in a way that Keras 3 refuses "
            f"({reason(error)})"
        ) from error


def _drops_timesteps(node):
    """Whether a pruning wrapper keeps a timestep mask to itself."""
    inner = unwrapped(node.layer)
    return (
        is_pruned(node.layer)
        and any(getattr(x, "_keras_mask", None) is not None for x in node.keras_inputs)
        and inner.supports_masking
        and getattr(inner, "return_sequences", True)
    )


def _uses_timesteps(layer):
    # A normalization does in training alone.
    return not isinstance(layer, keras.layers.BatchNormalization) and any(
        name.endswith("mask") for name in inspect.signature(layer.call).parameters
    )
