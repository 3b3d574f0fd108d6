"""Replace layers of a model: a copy where Keras can copy, in place where it cannot."""

import warnings

import keras

from sparsenet_tf.kernels.dead_graphs import forget_dead_graphs
from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import (
    CannotCopyError,
    clone_layer,
    copy_model,
    copy_weights,
    is_copyable,
    named_objects,
)
from sparsenet_tf.layers.remade import exchange_and_remember


def replace_layers(
    model,
    replace,
    clone=None,
    remake=None,
    weights=True,
    compiled=True,
    keep_original=False,
):
    """Return `model` with each layer exchanged for what `replace` makes of it.

    Sequential and functional models are copied, the models nested in them too; the
    original is left as it is. Any other model is changed in place, with the models
    nested in it, because Keras cannot copy one in general, and returned. A layer that
    is neither a model nor a wrapper is exchanged whole, with what is below it.

    Args:
        model: a `keras.Model`, built or not.
        replace: function of `(path, layer)` that returns the new layer, which may be
            `layer` itself. A layer that is used twice is asked about once.
        clone: function of `(path, layer)` that makes the layers of copied models
            before they are replaced; by default from the layer's config.
        remake: function of a model nested in these, or of `model`, that makes its
            layers itself; it returns another. By default from its config.
        weights: whether copied models get the state of the original.
        compiled: whether a copied model is compiled as the original is, which takes
            the memory of an optimizer's slots.
        keep_original: whether to raise an error, rather than change the model in
            place, if one of its layers cannot be made again from its config.

    Raises:
        TypeError: `model` is no Keras model.
        CannotCopyError: a layer cannot be made again from its config, and
            `keep_original` is True, or `weights` is False.

    Warns:
        UserWarning: the model is changed in place for that reason.
    """
    tree.check_model(model)
    forget_dead_graphs()  # such as those of a model whose place the new one takes
    if not is_copyable(model):
        return _in_place(model, replace)
    try:
        new = copy_model(model, clone or clone_layer, remake)
        if weights:
            copy_weights(model, new)
    except CannotCopyError as error:
        if keep_original or not weights:
            raise
        warnings.warn(
            f"Model {model.name!r} was changed in place, since it cannot be copied: "
            f"{error}.",
            stacklevel=4,
        )
        return _in_place(model, replace)
    exchange_and_remember(new, replace)
    if compiled:
        copy_compile(model, new)
    return new


def _in_place(model, replace):
    before = {id(v) for v in model.trainable_variables}
    exchange_and_remember(model, replace)
    # An optimizer refuses variables that it was not built with.
    if {id(v) for v in model.trainable_variables} != before:
        copy_compile(model, model)
    return model


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
    with keras.saving.custom_object_scope(named_objects([item, *vars(item).values()])):
        return type(item).from_config(item.get_config())
