"""One layer of Keras 2 (tf_keras) into one of Keras 3, by its config and its weights.

tf_keras is not imported: its layers say what they are.
"""

import inspect

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


def is_pruned(layer):
    """Whether `layer` is a pruning wrapper (told without importing tfmot)."""
    names = [cls.__name__ for cls in type(layer).__mro__]
    return "PruneLowMagnitude" in names and hasattr(layer, "pruning_vars")


def unwrapped(layer):
    """The layer inside a pruning wrapper; any other as it is."""
    return layer.layer if is_pruned(layer) else layer


def convert_layer(layer, name):
    """The counterpart of a layer, or of that in a pruning wrapper, without weights.

    Raises:
        ValueError: it has none. The message says why.
    """
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
            f"be made in Keras 3 ({reason(error)})"
        ) from error
    if not inner.trainable:
        new.trainable = False
    return new


def reason(error):
    """What Keras says was wrong, without the whole config that it puts before it."""
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
        why = "it is of your own" if own else "Keras 3 has no such layer"
        why = _REFUSED.get(name, why)
        if why != _OPERATION:
            scope = f"keras.saving.custom_object_scope({{{name!r}: ...}})"
            why += f". Say what Keras 3 layer to take for it by `{scope}`"
        raise ValueError(
            f"`model` has a layer {layer.name!r} of class {name} that cannot be "
            f"converted: {why}"
        )
    return cls


def _translated(cls, config):
    """A config of Keras 2 for a layer of Keras 3."""
    config = {key: _translated_value(value) for key, value in config.items()}
    config.pop("trainable", None)  # which some layers do not take; set afterwards
    for key in set(config) - _arguments(cls):
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


def _arguments(cls):
    """The names of what `cls` is made from, in its base classes too."""
    names = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            names |= set(parameters)
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                break
    return names


def _translated_value(value):
    value = plain(value)
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


def plain(structure):
    """A copy of nested lists and dicts as Python's own, not TensorFlow's kinds."""
    if isinstance(structure, dict):
        return {key: plain(item) for key, item in structure.items()}
    if isinstance(structure, list):
        return [plain(item) for item in structure]
    if type(structure) is tuple:
        return tuple(plain(item) for item in structure)
    return structure


def copy_weights(layer, new):
    """Set the weights of `new`, a layer of Keras 3, to those of its counterpart.

    Raises:
        ValueError: they do not have the same weights in the same order.
    """
    old = [(_weight_name(layer, w), tuple(w.shape)) for w in layer.weights]
    found = [(w.name, tuple(w.shape)) for w in new.weights]
    if old != found:
        raise ValueError(
            f"`model` has a layer {layer.name!r} of class {type(layer).__name__} with "
            f"other weights in Keras 2, {old}, than in Keras 3: {found}"
        )
    new.set_weights(layer.get_weights())


def _weight_name(layer, weight):
    name = weight.name.split("/")[-1].split(":")[0]
    return "kernel" if name == _RENAMED.get(type(layer).__name__) else name
