"""Exchange layers of a model in place, in its graph and in its attributes."""

import keras
from keras.src.models import Functional
from keras.src.ops.function import make_node_key
from keras.src.utils.tracking import DotNotTrackScope

from sparsenet_tf.layers import tree


def exchange_layers(model, replace):
    """Put what `replace` makes of each layer in its place.

    Layers below models and wrappers (`TimeDistributed`, ...) are exchanged there; any
    other layer is exchanged whole, with what is below it.

    Args:
        model: any `keras.Model`.
        replace: function of `(path, layer)` that returns the new layer, which may be
            `layer` itself. A layer that is used twice is asked about once.

    Returns:
        List of the models below which layers were exchanged.
    """
    paths = {id(layer): path for path, layer in reversed([*tree.walk(model)])}
    new_layers, models = {}, []

    def visit(part):
        if id(part) in new_layers:
            return
        new_layers[id(part)] = part
        if isinstance(part, keras.Model):
            models.append(part)
            for layer in part.layers:
                visit(layer)
        elif isinstance(part, keras.layers.Wrapper) and not tree.is_masked(part):
            visit(part.layer)
            needs_matrix = isinstance(part, keras.layers.SpectralNormalization)
            if needs_matrix and tree.is_sparse(new_layers[id(part.layer)]):
                new_layers[id(part.layer)] = part.layer  # its norm is that of all of W
            if new_layers[id(part.layer)] is not part.layer:
                _set_attributes(part, new_layers)
        else:
            new = new_layers[id(part)] = replace(paths[id(part)], part)
            if part.built and not new.built:
                new.build_from_config(part.get_build_config())

    visit(model)
    ids = {i: new for i, new in new_layers.items() if id(new) != i}
    if not ids:
        return []
    for part in models:
        _put_into_graph(part, ids)
        _set_attributes(part, ids)
        # Functions that were traced before still hold the layers as they were.
        part.train_function = part.test_function = part.predict_function = None
    return models


def _put_into_graph(model, new_layers):
    """Exchange layers in the nodes of a functional model."""
    if isinstance(model, keras.Sequential):
        graph = model._functional
    else:
        graph = model if isinstance(model, Functional) else None
    if graph is None:
        return
    for operation in graph.operations:
        new = new_layers.get(id(operation), operation)
        if new is not operation and operation._inbound_nodes:
            _take_place(operation, new)

    def exchanged(operations):
        return [new_layers.get(id(old), old) for old in operations]

    for operations in (graph._layers, *graph._operations_by_depth.values()):
        operations[:] = exchanged(operations)
    with DotNotTrackScope():  # as where Keras assigns it
        graph._operations = exchanged(graph._operations)
    graph._nodes = {
        make_node_key(node.operation, node.operation._inbound_nodes.index(node))
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
    }


def _take_place(old, new):
    """Let the calls of `old` be calls of `new`, in all graphs that have them."""
    new._inbound_nodes[:] = old._inbound_nodes
    new._outbound_nodes[:] = old._outbound_nodes
    old._inbound_nodes.clear()
    old._outbound_nodes.clear()
    for node in new._inbound_nodes:
        node.operation = new
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(operation=new)


def _set_attributes(layer, new_layers):
    """Exchange the layers that `layer` has as attributes, or in lists and dicts."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    # Keras keeps the layers in the order of first use: masks must not change it.
    order = [new_layers.get(id(part), part) for part in layer._layers]
    # With PyTorch, layers that are attributes are kept in `_modules`.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    for name, value in attributes.items():
        if name not in _GRAPH and (exchanged := _exchanged(value, new_layers)) is not (
            value
        ):
            setattr(layer, name, exchanged)
    if isinstance(layer, keras.Sequential):  # whose list TensorFlow tracks by itself
        layer._layers = order
    else:
        layer._layers[:] = order
    if locked:
        layer._tracker.lock()


# Where models keep layers for themselves.
_GRAPH = (
    "_layers", "_modules", "_functional", "_operations", "_operations_by_depth",
    "_nodes", "_nodes_by_depth", "_tracker",
)  # fmt: skip


def _exchanged(value, new_layers):
    """`value` with layers exchanged in it; the same object where none is in it."""
    if isinstance(value, keras.layers.Layer):
        return new_layers.get(id(value), value)
    if isinstance(value, dict):
        items = {key: _exchanged(item, new_layers) for key, item in value.items()}
        changed = any(items[key] is not value[key] for key in value)
        return items if changed else value
    if isinstance(value, (list, tuple)):
        items = [_exchanged(item, new_layers) for item in value]
        if not any(new is not old for new, old in zip(items, value, strict=True)):
            return value
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return type(value)(items) if type(value) is tuple else items
    return value
