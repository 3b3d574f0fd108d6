"""Let TensorFlow forget graphs that nothing can run any more."""

import keras

# As TensorFlow names a custom gradient that it finds while it traces.
_PREFIX = "CustomGradient"


def forget_dead_graphs():
    """Let go of the graphs of functions whose variables are gone.

    TensorFlow registers each custom gradient that it traces, such as those in Keras'
    training step and in the cross-entropy of sparse labels, and never lets go of one,
    nor of its graph: 1 to 8 MB for each small model that was trained, long after that
    is gone. A function one of whose variables is gone cannot be called again, so that
    its gradients cannot be asked for.

    Returns:
        How many gradients were forgotten; 0 with other backends, or where a release of
        TensorFlow keeps them in another way.

    Example:
    >>> forget_dead_graphs() >= 0
    True
    """
    if keras.backend.backend() != "tensorflow":
        return 0
    from tensorflow.python.framework import ops

    registry = getattr(ops.gradient_registry, "_registry", {})
    dead = [
        name
        for name, entry in list(registry.items())
        if name.startswith(_PREFIX) and _is_dead(entry)
    ]
    for name in dead:
        registry.pop(name, None)
    return len(dead)


def _is_dead(entry):
    graph = _graph(entry)
    while graph is not None:  # that of a loop's body is in that of the function
        if any(v() is None for v in getattr(graph, "_weak_variables", ())):
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def _graph(entry):
    """The graph of the tensors that a registered gradient holds, or None."""
    values = [entry.get("type")]
    for _ in range(2):  # The function that is registered calls the one with tensors.
        values = [v for function in values for v in _closure(function)]
        for value in keras.tree.flatten(values):
            if hasattr(value, "graph"):
                return value.graph
    return None


def _closure(function):
    return [
        cell.cell_contents
        for cell in getattr(function, "__closure__", None) or ()
        if cell != type(cell)()  # one that is empty
    ]
