"""Replace layers of a model: a copy where Keras can copy, in place where it cannot."""

import keras
from keras import ops
from keras.src.models import Functional

from sparsenet_tf.kernels.dead_graphs import forget_dead_graphs
from sparsenet_tf.layers import tree


def replace_layers(model, replace, clone=None, weights=True, compiled=True):
    """Return `model` with each layer exchanged for what `replace` makes of it.

    Sequential and functional models are copied, the models nested in them too; the
    original is left as it is. Any other model is changed in place, because Keras
    cannot copy one in general, and returned. A layer that is no model is exchanged
    whole, with what is below it.

    Args:
        model: a `keras.Model`, built or not.
        replace: function of `(path, layer)` that returns the new layer, which may be
            `layer` itself. A layer that is used twice is asked about once.
        clone: function of `(path, layer)` that makes the layers of copied models
            before they are replaced; by default from the layer's config.
        weights: whether copied models get the values of the weights that both have.
        compiled: whether a copied model is compiled as the original is, which takes
            the memory of an optimizer's slots.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: a subclass of a functional model cannot be rebuilt from its inputs
            and outputs, so that its class would be lost.
    """
    tree.check_model(model)
    forget_dead_graphs()  # such as those of a model whose place the new one takes
    clone = clone or clone_layer
    if not is_copyable(model):
        before = {id(v) for v in model.trainable_variables}
        _replace_in_place(model, replace, clone, "")
        # An optimizer refuses variables that it was not built with.
        if {id(v) for v in model.trainable_variables} != before:
            copy_compile(model, model)
        return model
    new = _copy(model, replace, clone, "", {})
    if weights:
        copy_weights(model, new)
    if compiled:
        copy_compile(model, new)
    return new


def is_copyable(model):
    """Whether Keras can rebuild `model` from its graph: Sequential or functional."""
    return isinstance(model, (keras.Sequential, Functional))


def copy_weights(source, target):
    """Copy all weights but masks from `source` to `target`, in order.

    Layers that hold only their nonzeros may have dense ones as counterparts.

    Raises:
        ValueError: the two models do not have the same weights.
    """
    if not source.built:
        return
    old, new = plain_weights(source), plain_weights(target)
    from_sparse, to_sparse = sparse_kernels(source), sparse_kernels(target)
    values = []
    for value, variable in zip(old, new, strict=False):
        if value.shape != variable.shape and id(value) in from_sparse:
            value = from_sparse[id(value)].dense_kernel()
        if value.shape != variable.shape and id(variable) in to_sparse:
            layer = to_sparse[id(variable)]
            if tuple(value.shape) == tuple(layer.dense_shape):
                value = layer.stored_kernel(value)
        values.append(value)
    if len(old) != len(new) or any(
        tuple(value.shape) != tuple(variable.shape)
        for value, variable in zip(values, new, strict=True)
    ):
        raise ValueError(
            f"Model {source.name!r} could not be copied with its weights: it has "
            f"{len(old)} weights and its copy {len(new)}, or their shapes differ. Do "
            "all its layers rebuild themselves from `get_config`?"
        )
    for value, variable in zip(values, new, strict=True):
        # With JAX both would have one array, which is gone once either is trained.
        variable.assign(ops.copy(value))


def sparse_kernels(model):
    """Return `{id of the kernel: layer}` of layers that hold only their nonzeros."""
    return {
        id(weight): layer
        for _, layer in tree.walk(model)
        if tree.is_sparse(layer)
        for weight in layer.weights
        if weight.name == "kernel"
    }


def plain_weights(model):
    """All weights of `model` but the masks, which plain models do not have."""
    masks = {
        id(masked.mask)
        for _, layer in tree.walk(model)
        if tree.is_masked(layer)
        for masked in layer.kernels.values()
    }
    return [v for v in model.weights if id(v) not in masks]


def _copy(model, replace, clone, prefix, cache):
    paths = {id(layer): prefix + path for path, layer in tree.walk(model)}

    def make(layer):
        if not isinstance(layer, keras.layers.Layer):
            return layer  # an operation, such as the sum of two tensors: no weights
        if id(layer) not in cache:
            path = paths[id(layer)]
            if is_copyable(layer):
                new = _copy(layer, replace, clone, f"{path}/", cache)
            elif isinstance(layer, keras.Model):
                new = _replace_in_place(clone(path, layer), replace, clone, f"{path}/")
            else:
                new = replace(path, clone(path, layer))
            cache[id(layer)] = new
        return cache[id(layer)]

    # Otherwise Keras compiles the copy, from a config that may not find what is the
    # user's own.
    compiled, model.compiled = model.compiled, False
    try:
        new = keras.models.clone_model(model, clone_function=make)
    finally:
        model.compiled = compiled
    if type(new) is not type(model):
        raise ValueError(
            f"`model` is a functional model of class {type(model).__name__}, which "
            "Keras cannot copy: let its `__init__` take `inputs` and `outputs` alone."
        )
    if new.trainable != model.trainable:  # Setting it sets that of all layers.
        new.trainable = model.trainable
    copy_names(model, new)
    return new


def _replace_in_place(model, replace, clone, prefix):
    """Exchange the layers that `model` has as attributes, or in lists and dicts."""
    paths = {id(layer): prefix + path for path, layer in tree.walk(model)}
    new_layers = {}
    for layer in model.layers:
        path = paths[id(layer)]
        if is_copyable(layer):
            new = _copy(layer, replace, clone, f"{path}/", {})
            copy_weights(layer, new)
        elif isinstance(layer, keras.Model):
            new = _replace_in_place(layer, replace, clone, f"{path}/")
        else:
            new = replace(path, layer)
        if new is not layer:
            new_layers[id(layer)] = new
    if not new_layers:
        return model
    locked = model._tracker.locked
    model._tracker.unlock()
    # Keras keeps the layers in the order of first use: masks must not change it.
    order = [new_layers.get(id(layer), layer) for layer in model._layers]
    # With PyTorch, models keep the layers that are attributes in `_modules`.
    attributes = {**vars(model), **vars(model).get("_modules", {})}
    for name, value in attributes.items():
        if name not in ("_layers", "_modules"):
            exchanged = _exchange(value, new_layers)
            if exchanged is not value:
                setattr(model, name, exchanged)
    model._layers[:] = order
    if locked:
        model._tracker.lock()
    # Functions that were traced before still hold the layers as they were.
    model.train_function = model.test_function = model.predict_function = None
    return model


def _exchange(value, new_layers):
    """`value` with layers exchanged in it; the same object where none is in it."""
    if isinstance(value, keras.layers.Layer):
        return new_layers.get(id(value), value)
    if isinstance(value, dict):
        items = {key: _exchange(item, new_layers) for key, item in value.items()}
        changed = any(items[key] is not value[key] for key in value)
        return items if changed else value
    if isinstance(value, (list, tuple)):
        items = [_exchange(item, new_layers) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return (
            type(value)(items)
            if changed and type(value) is tuple
            else (items if changed else value)
        )
    return value


def clone_layer(path, layer):
    """A new layer, not built, from the config of `layer`, with the same names."""
    new = from_own_config(layer, layer.get_config())
    copy_names(layer, new)
    return new


def from_own_config(layer, config):
    """A new layer of the class of `layer` from a config that it has itself given."""
    if isinstance(layer, keras.layers.Lambda):
        # A config has its function as code, which knows nothing of where it was made,
        # and which Keras does not run.
        own = {"function": layer.function, "arguments": layer.arguments}
        own |= {"output_shape": layer._output_shape, "mask": layer.mask}
        return type(layer)(**{**config, **own})
    with keras.saving.custom_object_scope(own_objects(layer)):
        return type(layer).from_config(config)


def copy_names(source, target):
    """Name the layers below `target`, and itself, as their counterparts are named.

    Automatic names, and those that a config leaves out, would be new ones.
    """
    target.name = source.name
    pairs = zip(_unwrapped(source), _unwrapped(target), strict=False)
    for old, new in pairs:
        if type(old) is type(new) and old.name != new.name:
            new.name = old.name


def _unwrapped(layer):
    return [part for _, part in tree.walk(layer) if not tree.is_masked(part)]


def copy_compile(model, new):
    """Compile `new` as `model` is, with a fresh optimizer and fresh metrics.

    The loss and the like are handed over as they are, so that they need not be
    registered. A model with a `compile` of its own is not compiled.
    """
    if not model.compiled or type(model).compile is not keras.Model.compile:
        return
    arguments = dict(model._compile_config.config)
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(
            lambda m: _remake(m) if isinstance(m, keras.metrics.Metric) else m,
            arguments.get(name),
        )
    new.compile(**{**arguments, "optimizer": _remake(model.optimizer)})
    if new.built:
        new.optimizer.build(new.trainable_variables)


def _remake(item):
    with keras.saving.custom_object_scope(_named([item, *vars(item).values()])):
        return type(item).from_config(item.get_config())


def own_objects(layer):
    """Return `{name: object}` of the user's classes and functions in `layer`.

    Keras finds those again in a config only if they are registered; the objects at
    hand show what they are.
    """
    parts = [layer, *(part for _, part in tree.walk(layer))]
    return _named([v for part in parts for v in (part, *vars(part).values())])


def _named(values):
    found = {}
    for value in values:
        name = getattr(value, "__name__", None) if callable(value) else None
        if hasattr(value, "get_config"):
            value = type(value)
            name = value.__name__
        module = getattr(value, "__module__", None) or ""
        if name and not module.startswith(("keras.", "sparsenet_tf.")):
            found[name] = value
    return found
