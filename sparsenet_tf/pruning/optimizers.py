"""The optimizers that may train a model: Keras' own, and those of a user's steps."""

import keras

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import to_numpy


def optimizers_of(model):
    """Return the optimizers of a model, of models inside it, and inside one another.

    An optimizer is found as an attribute, or in a list, tuple or dict that is one. That
    of `compile` comes first, and those of the model itself before those of the parts.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.SGD())
    >>> [type(optimizer).__name__ for optimizer in optimizers_of(model)]
    ['SGD']
    """
    found = {id(o): o for o in own_optimizers(model)}
    for _, layer in tree.walk(model):
        _collect(_attributes(layer), found)
    return list(found.values())


def own_optimizers(model):
    """As `optimizers_of`, without those of models inside it."""
    found = {}
    _collect(getattr(model, "optimizer", None), found)
    _collect(_attributes(model), found)
    return list(found.values())


def _attributes(layer):
    # Of an optimizer that was replaced, Keras and TensorFlow keep record there.
    records = ("_compile_config", "_self_")
    return {n: v for n, v in vars(layer).items() if not n.startswith(records)}


def _collect(value, found):
    if isinstance(value, keras.optimizers.Optimizer):
        if id(value) not in found:
            found[id(value)] = value
            _collect(vars(value), found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect_of(item, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect_of(item, found)


def _collect_of(item, found):
    if isinstance(item, (keras.optimizers.Optimizer, dict, list, tuple)):
        _collect(item, found)


def steps_made(optimizer):
    """How many steps an optimizer has made; those inside a `LossScaleOptimizer`."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return int(to_numpy(optimizer.iterations))


def activity(optimizer):
    """What changes whenever an optimizer is applied, also if it makes no step then.

    A `LossScaleOptimizer` skips steps whose gradients overflow, and gradients may be
    accumulated over several batches.
    """
    seen = [int(to_numpy(optimizer._iterations))]
    for name in ("dynamic_scale", "step_counter"):
        if hasattr(optimizer, name):
            seen.append(float(to_numpy(getattr(optimizer, name))))
    return seen
