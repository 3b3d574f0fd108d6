"""Keras 2 models (tf_keras) into Keras 3 ones: layers, graph and weights.

tf_keras is not imported: its models say what they are made of, and Keras 3's layers are
made from the configs of their counterparts. tensorflow-model-optimization's pruning
wrappers are passed through, as if they were the layers that they hold.
"""

import inspect
import sys

import keras

# Arguments that Keras 2 has in its configs and Keras 3 may not take.
_NO_EFFECT = {
    "batch_input_shape",
    "implementation",
    "input_length",
    "key_shape",
    "kernel_constraint",
    "kernel_initializer",
    "kernel_regularizer",
    "query_shape",
    "rng_type",
    "unroll",
    "value_shape",
}
_NO_EFFECT_IF = {
    "groups": 1,
    "noise_shape": None,
    "renorm": False,
    "softmax_robust_masking": False,
    "time_major": False,
}

# Weights that are named otherwise in Keras 3.
_RENAMED = {
    "DepthwiseConv1D": "depthwise_kernel",
    "DepthwiseConv2D": "depthwise_kernel",
}

# Layers whose config and weights are not all that they are.
_VOCABULARY = "its vocabulary is not among its weights"
_OPERATION = "a TensorFlow operation on Keras tensors is no layer"
_REFUSED = {
    "IntegerLookup": _VOCABULARY,
    "Lambda": "it is a Python function, which has no config",
    "SlicingOpLambda": _OPERATION,
    "StringLookup": _VOCABULARY,
    "TFOpLambda": _OPERATION,
    "TextVectorization": _VOCABULARY,
}


def is_keras_2(model):
    """Whether `model` is a model of tf_keras (told without importing it)."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def is_pruned(layer):
    """Whether `layer` is a pruning wrapper (told without importing tfmot)."""
    names = [cls.__name__ for cls in type(layer).__mro__]
    return "PruneLowMagnitude" in names and hasattr(layer, "pruning_vars")


def unwrapped(layer):
    """The layer inside a pruning wrapper; any other as it is."""
    return layer.layer if is_pruned(layer) else layer


class Converter:
    """Makes Keras 3 models of tf_keras models, each layer of which it makes once.

    Attributes:
        layers: dict from the id of each layer of tf_keras, wrappers and all, to a pair
            of it and its counterpart, which has its name (without the wrapper's
            prefix) and its weights.
    """

    def __init__(self):
        self.layers = {}

    def convert(self, model):
        """Return a Keras 3 model with the layers, graph and weights of `model`.

        Raises:
            ValueError: the model is subclassed or not built, or one of its layers, or
                a way it is used, has no counterpart. The message names the layer.
        """
        sequential = type(model).__name__ == "Sequential"
        if not getattr(model, "_is_graph_network", False):
            reason = "not built yet" if sequential else "subclassed"
            raise ValueError(
                "`model` must be a Sequential model that is built or a functional "
                f"model. Received: {model.name!r} of class {type(model).__name__}, "
                f"which is {reason}"
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
            old, layer = self.layers[id(node.layer)]
            _check_timesteps(old, node.outputs, layer.output)
        for layer in model.layers:
            self._copy_weights(layer)
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
                lambda x: tensors.get(id(x), x), _plain(structure)
            )

        inputs = converted(model._nested_inputs)
        for node in _nodes(model):
            layer = self.layer(node.layer, model)
            args = converted(tuple(node.call_args))
            kwargs = converted(dict(node.call_kwargs))
            outputs = _call(node.layer, layer, args, kwargs)
            _check_timesteps(node.layer, node.outputs, outputs)
            old = keras.tree.flatten(_plain(node.outputs))
            new = keras.tree.flatten(outputs)
            tensors.update({id(x): y for x, y in zip(old, new, strict=True)})
        new = keras.Model(inputs, converted(model._nested_outputs), name=model.name)
        for layer in model.layers:
            if not _is_input(layer):
                self._copy_weights(layer)
        return new

    def layer(self, layer, model):
        """The counterpart of a layer of `model`, as yet without its weights."""
        if id(layer) not in self.layers:
            if is_keras_2(layer):
                new = self.convert(layer)
            else:
                new = _layer(layer, _name(layer, model))
            # With the layer itself, whose id would be given to another otherwise.
            self.layers[id(layer)] = layer, new
        return self.layers[id(layer)][1]

    def _copy_weights(self, layer):
        new = self.layers[id(layer)][1]
        if is_keras_2(layer):
            return
        layer = unwrapped(layer)
        old = [(_weight_name(layer, w), tuple(w.shape)) for w in layer.weights]
        found = [(w.name, tuple(w.shape)) for w in new.weights]
        if old != found:
            raise ValueError(
                f"`model` has a layer {layer.name!r} of class "
                f"{type(layer).__name__} with other weights in Keras 2, {old}, than in "
                f"Keras 3: {found}"
            )
        new.set_weights(layer.get_weights())


def _nodes(model):
    """The calls of layers in a functional model, in an order of computation."""
    return [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
        if not node.is_input
    ]


def _is_input(layer):
    return type(layer).__name__ == "InputLayer"


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


def _layer(layer, name):
    inner = unwrapped(layer)
    cls = _counterpart(inner)
    try:
        config = _translated(cls, {**inner.get_config(), "name": name})
        if is_pruned(layer) and config.get("mask_zero"):
            config["mask_zero"] = False  # as the wrapper does: it drops these masks
        new = cls.from_config(config)
    except Exception as error:
        raise ValueError(
            f"`model` has a layer {name!r} of class {type(inner).__name__} that cannot "
            f"be made in Keras 3 ({_reason(error)})"
        ) from error
    if not inner.trainable:
        new.trainable = False
    return new


def _reason(error):
    # Keras puts the whole config before it.
    message = str(error).split("Exception encountered: ")[-1]
    return f"{type(error).__name__}: {message:.300}"


def _counterpart(layer):
    """The Keras 3 class: what Keras' scope of custom objects says, or Keras' own."""
    name = type(layer).__name__
    own = not type(layer).__module__.startswith("tf_keras.")
    cls = keras.saving.get_registered_object(name)
    if cls is None and not own and name not in _REFUSED:
        cls = getattr(keras.layers, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, keras.layers.Layer)):
        reason = "it is of your own" if own else "Keras 3 has no such layer"
        reason = _REFUSED.get(name, reason)
        if reason != _OPERATION:
            scope = f"keras.saving.custom_object_scope({{{name!r}: ...}})"
            reason += f". Say what Keras 3 layer to take for it by `{scope}`"
        raise ValueError(
            f"`model` has a layer {layer.name!r} of class {name} that cannot be "
            f"converted: {reason}"
        )
    return cls


def _translated(cls, config):
    """A config of Keras 2 for a layer of Keras 3."""
    config = {key: _translated_value(value) for key, value in config.items()}
    config.pop("trainable", None)  # which some layers do not take; set afterwards
    taken = set(inspect.signature(cls.__init__).parameters)
    for key in set(config) - taken:
        same = key in _NO_EFFECT_IF and config[key] == _NO_EFFECT_IF[key]
        if key in _NO_EFFECT or same:
            del config[key]
        elif key in _NO_EFFECT_IF:
            raise ValueError(f"Keras 3 has no {key}={config[key]!r}")
    for key, value in config.items():
        if key.endswith("activation") and value == "hard_sigmoid":
            raise ValueError(
                f"Keras 3 has another function for {key}='hard_sigmoid': "
                "relu6(x + 3) / 6, not clip(0.2 * x + 0.5, 0, 1)"
            )
    if cls is keras.layers.BatchNormalization and isinstance(config["axis"], list):
        (config["axis"],) = config["axis"]
    if cls is keras.layers.LeakyReLU and "alpha" in config:
        config["negative_slope"] = float(config.pop("alpha"))
    return config


def _translated_value(value):
    value = _plain(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_translated_value(item) for item in value)
    if not isinstance(value, dict):
        return value
    name, config = value.get("class_name"), value.get("config")
    if name in ("Policy", "PolicyV1"):
        return config["name"]
    new = {key: _translated_value(item) for key, item in value.items()}
    cls = getattr(keras.layers, name, None) if isinstance(name, str) else None
    if inspect.isclass(cls) and value.get("module") == "keras.layers":
        new["config"] = _translated(cls, config)
    return new


def _plain(structure):
    """Copy of nested lists and dicts as Python's own, not TensorFlow's kinds."""
    if isinstance(structure, dict):
        return {key: _plain(item) for key, item in structure.items()}
    if isinstance(structure, list):
        return [_plain(item) for item in structure]
    if type(structure) is tuple:
        return tuple(_plain(item) for item in structure)
    return structure


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
            f"({_reason(error)})"
        ) from error


def _check_timesteps(old, outputs, new_outputs):
    """Raise unless both layers' outputs have timestep masks, or neither's."""
    had, has = (
        any(
            getattr(x, "_keras_mask", None) is not None
            for x in keras.tree.flatten(_plain(structure))
        )
        for structure in (outputs, new_outputs)
    )
    if had == has:
        return
    lost = "loses a timestep mask (of mask_zero, or Masking)"
    why = "its pruning wrapper does" if is_pruned(old) else "it does in tf_keras"
    what = f"{lost} that Keras 3 keeps: {why}" if has else f"{lost} in Keras 3"
    raise ValueError(
        f"`model` has a layer {old.name!r} that {what}; the outputs would differ. "
        "Convert what tfmot's `strip_pruning` makes of it instead"
    )


def _weight_name(layer, weight):
    name = weight.name.split("/")[-1].split(":")[0]
    return "kernel" if name == _RENAMED.get(type(layer).__name__) else name
