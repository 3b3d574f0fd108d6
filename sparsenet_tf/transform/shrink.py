"""Take units without connections out of a model, so that its layers get smaller."""

import collections

import keras
import numpy as np
from keras import ops

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import clone_layer, is_copyable
from sparsenet_tf.layers.replace import copy_compile, replace_layers
from sparsenet_tf.transform.layer_rules import rule_of


def check_can_shrink(model):
    """Raise an error unless `model` is built and its graph can be walked."""
    tree.check_model(model)
    if not is_copyable(model):
        raise ValueError(
            "`shrink` must be False for a subclassed model, whose `call` does not show "
            f"which layers read which units. Received: model {model.name!r} of class "
            f"{type(model).__name__}"
        )
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, not built")


def shrunk(plain, like):
    """Return a copy of `plain` with smaller layers and the same outputs.

    Args:
        plain: a built Sequential or functional model without masks.
        like: the model as which the copy is compiled.
    """
    made = []
    sizes = _smaller_layers(plain)

    def clone(path, layer):
        new = clone_layer(path, layer)
        if id(layer) in sizes:
            attributes, _ = sizes[id(layer)]
            for name, value in {**attributes, **_free_initializers(new)}.items():
                setattr(new, name, value)
        made.append((layer, new))
        return new

    new_model = replace_layers(
        plain, lambda path, layer: layer, clone, weights=False, compiled=False
    )
    for layer, new in made:
        _, weights = sizes.get(id(layer), (None, layer.weights))
        for variable, value in zip(new.weights, weights, strict=True):
            # With JAX both would have one array, which is gone once either is trained.
            variable.assign(ops.copy(value))
    copy_compile(like, new_model)
    return new_model


def _smaller_layers(model):
    """Return `{id of the layer: (attributes, weights)}` of those that change."""
    rules = _rules(model)
    channels, gone = {}, {}
    for rule in rules:
        found = rule.constants([channels.get(id(x)) for x in rule.inputs])
        channels[id(rule.output)] = found
        gone[id(rule.output)] = None if found is None else np.ones_like(found.dead)
    # The last ones to read a channel say no unless it is dead. All else passes that on.
    gone.update(dict.fromkeys(map(id, model.outputs)))
    around = [
        (rule, [gone.get(id(x)) for x in rule.inputs], gone[id(rule.output)])
        for rule in rules
    ]
    before, now = None, _count(gone)
    while before != now:
        for rule, inputs, output in reversed(around):
            rule.agree(inputs, output)
        before, now = now, _count(gone)
    found = {id(r.layer): r.smaller(inputs, output) for r, inputs, output in around}
    return {layer: smaller for layer, smaller in found.items() if smaller is not None}


def _rules(model):
    """A rule for each call of a layer in the model's graph, in the order of calls."""
    by_depth = keras.Function(model.inputs, model.outputs)._nodes_by_depth
    nodes = [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]
    calls = collections.Counter(id(node.operation) for node in nodes)
    nested = {
        id(part)
        for layer in model.layers
        for _, part in tree.walk(layer)
        if part is not layer
    }
    return [
        rule_of(node, calls[id(node.operation)] > 1 or id(node.operation) in nested)
        for node in nodes
    ]


def _free_initializers(layer):
    """Others for those that are arrays, of the size that the layer had."""
    return {
        name: keras.initializers.Zeros()
        for name, value in vars(layer).items()
        if isinstance(value, keras.initializers.Constant) and np.ndim(value.value)
    }


def _count(gone):
    return sum(int(np.count_nonzero(a)) for a in gone.values() if a is not None)
