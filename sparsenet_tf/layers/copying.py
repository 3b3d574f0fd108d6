"""Copies of models: their layers, and all state that Keras' own saving carries."""

import contextlib
import inspect
import tempfile

import keras
from keras import ops
from keras.src.models import Functional

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.masked_kernel import has_lora


class CannotCopyError(ValueError):
    """A layer or a model cannot be made again from its own config."""


def is_copyable(model):
    """Whether `model` can be copied: it is Sequential or functional, or a subclass."""
    return isinstance(model, (keras.Sequential, Functional))


def is_plain_graph(model):
    """Whether `model` is made of its layers alone, so that other layers make another.

    A subclass with a constructor of its own is not: it makes its layers itself, from
    its config.

    Example:
    >>> class Body(keras.Model):
    ...     def __init__(self, width=4):
    ...         x = keras.Input((4,))
    ...         super().__init__(x, keras.layers.Dense(width)(x))
    >>> is_plain_graph(Body()), is_plain_graph(keras.Sequential())
    (False, True)
    """
    if isinstance(model, keras.Sequential):
        return type(model) is keras.Sequential
    if not isinstance(model, Functional):
        return False
    spec = inspect.getfullargspec(type(model).__init__)
    own = inspect.getfullargspec(Functional.__init__).args
    return spec.args == own or (spec.varargs == "args" and spec.varkw == "kwargs")


def copy_model(model, clone, remake=None, prefix="", cache=None):
    """Return a new model like `model`, with weights of its own, not compiled.

    Args:
        model: Sequential or functional.
        clone: function of `(path, layer)` that makes the layers of a plain graph.
        remake: function of a model that makes its layers itself, which makes another;
            by default from its config.
        prefix: of paths.
        cache: dict by id of the layers that have been copied.

    Raises:
        ValueError: a subclass cannot be made from its config.
    """
    if not is_plain_graph(model):
        return (remake or _remade)(model)
    cache = {} if cache is None else cache
    paths = {id(layer): prefix + path for path, layer in tree.walk(model)}

    def make(layer):
        if not isinstance(layer, keras.layers.Layer):
            return layer  # an operation, such as the sum of two tensors: no weights
        if id(layer) not in cache:
            path = paths[id(layer)]
            if is_copyable(layer):
                cache[id(layer)] = copy_model(layer, clone, remake, f"{path}/", cache)
            else:
                cache[id(layer)] = clone(path, layer)
        return cache[id(layer)]

    if isinstance(model, keras.Sequential):
        inputs = [_fresh_input(layer.output) for layer in _input_layers(model)]
        new = keras.Sequential([*inputs, *map(make, model.layers)], name=model.name)
    else:
        with _not_compiled(model):
            new = keras.models.clone_model(
                model,
                clone_function=make,
                input_tensors=keras.tree.map_structure(_fresh_input, model.input),
            )
    if new.trainable != model.trainable:  # Setting it sets that of all layers.
        new.trainable = model.trainable
    copy_names(model, new)
    return new


def _remade(model):
    """A new model of a class that makes its layers itself."""
    try:
        new = from_own_config(model, model.get_config())
        wrong = "" if len(_parts(new)) == len(_parts(model)) else "other layers"
    except Exception as error:
        raise _cannot_copy(model.name, model, error) from error
    if wrong:
        raise _cannot_copy(model.name, model, wrong)
    copy_names(model, new)
    for old, part in zip([model, *_parts(model)], [new, *_parts(new)], strict=True):
        # What was set after the constructor, and is in no config.
        if part.trainable != old.trainable:
            part.trainable = old.trainable
        if has_lora(old) and not has_lora(part):
            part.enable_lora(old.lora_rank, lora_alpha=old.lora_alpha)
    return new


def _cannot_copy(path, layer, why):
    if isinstance(why, Exception):
        why = f"{type(why).__name__}: {why!s:.300}"
    return CannotCopyError(
        f"Layer {path!r} of class {type(layer).__name__} cannot be made again by "
        f"`from_config(get_config())` ({why}). Let its `get_config` return what its "
        "`__init__` takes"
    )


def _input_layers(model):
    """The input layer of a Sequential model, if it knows its inputs."""
    first = model._layers[:1]
    return [layer for layer in first if isinstance(layer, keras.layers.InputLayer)]


def _fresh_input(tensor):
    """A new input of a model, with all that the old one says of its values."""
    layer = tensor._keras_history.operation
    if isinstance(layer, keras.layers.InputLayer):
        return type(layer).from_config(layer.get_config()).output
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        name=tensor.name,
    )


@contextlib.contextmanager
def _not_compiled(model):
    # Otherwise Keras compiles the copy, from a config that may not find what is the
    # user's own.
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def copy_weights(source, target):
    """Copy all state but masks from `source` to `target`, a copy of it.

    That is what Keras' own saving carries: variables, random seeds, vocabularies, and
    what layers derive from these when they are loaded. Layers that hold only their
    nonzeros may have dense ones as counterparts.

    Raises:
        ValueError: the two models do not have the same weights.
    """
    for old, new in zip(_parts(source), _parts(target), strict=False):
        copy_stored_state(old, new)
    old, new = _plain_variables(source), _plain_variables(target)
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
        raise CannotCopyError(
            f"Model {source.name!r} could not be copied with its weights: it has "
            f"{len(old)} variables and its copy {len(new)}, or their shapes differ. "
            "Do all its layers rebuild themselves from `get_config`?"
        )
    for value, variable in zip(values, new, strict=True):
        # With JAX both would have one array, which is gone once either is trained.
        variable.assign(ops.copy(value))


def copy_kept_state(source, target):
    """Copy the state that training does not learn, to a model with new weights.

    That is what layers with a method `adapt` were adapted to the data, and weights
    that are frozen.
    """
    for old, new in zip(_parts(source), _parts(target), strict=False):
        if type(old) is not type(new) or isinstance(old, keras.Model):
            continue
        adapted = hasattr(old, "adapt")
        if adapted:
            copy_stored_state(old, new)
        for value, variable in zip(_variables(old), _variables(new), strict=False):
            frozen = not old.trainable or any(value is v for v in _frozen(old))
            if (adapted or frozen) and value.shape == variable.shape:
                variable.assign(ops.copy(value))


def _variables(layer):
    """The variables that `layer` holds itself."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _frozen(layer):
    """Of these the ones that were made to be trained, and are not."""
    return [v for v in layer._trainable_variables if not v.trainable]


def copy_stored_state(old, new):
    """Give `new` what `old` would store in a file in a way of its own.

    Most layers store their variables and no more, which `copy_weights` copies one by
    one. Others store vocabularies as assets, or derive values from what they load, as
    `Normalization` does from its mean and variance.
    """
    if type(old) is not type(new) or not old.built:
        return
    if not new.built and old.get_build_config():
        new.build_from_config(old.get_build_config())
    kind, base = type(new), keras.layers.Layer
    if kind.load_own_variables is not base.load_own_variables and not has_lora(old):
        store = {}
        old.save_own_variables(store)
        try:
            new.load_own_variables({key: _as_stored(v) for key, v in store.items()})
        except ValueError as error:
            raise CannotCopyError(
                f"Layer {old.name!r} of class {type(old).__name__} could not be copied "
                "with its state. Does it, and the model that makes it, rebuild itself "
                f"from `get_config`? Received: {error!s:.500}"
            ) from error
    if hasattr(kind, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _as_stored(value):
    """A value as it comes back from a file."""
    return ops.convert_to_numpy(ops.convert_to_tensor(value))


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
    masks = _masks(model)
    return [v for v in model.weights if id(v) not in masks]


def _plain_variables(model):
    masks = _masks(model)
    return [v for v in model.variables if id(v) not in masks]


def _masks(model):
    return {
        id(masked.mask)
        for _, layer in tree.walk(model)
        if tree.is_masked(layer)
        for masked in layer.kernels.values()
    }


def clone_layer(path, layer):
    """A new layer, not built, from the config of `layer`, with the same names."""
    try:
        new = from_own_config(layer, layer.get_config())
    except Exception as error:
        raise _cannot_copy(path, layer, error) from error
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
    for old, new in zip(_parts(source), _parts(target), strict=False):
        if type(old) is type(new) and old.name != new.name:
            new.name = old.name


def _parts(layer):
    return [part for _, part in tree.walk(layer) if not tree.is_masked(part)]


def own_objects(layer):
    """Return `{name: object}` of the user's classes and functions in `layer`.

    Keras finds those again in a config only if they are registered; the objects at
    hand show what they are.
    """
    parts = [layer, *(part for _, part in tree.walk(layer))]
    return named_objects([v for part in parts for v in (part, *vars(part).values())])


def named_objects(values):
    """Return `{name: object}` of the classes and functions among `values`, not Keras'.

    An object with a config stands for its class.
    """
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
