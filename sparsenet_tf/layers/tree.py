"""The layers below a layer, the paths that name them, and their kernels."""

from collections.abc import Iterable

import keras

from sparsenet_tf.topology.checks import shown

# Weights of two or more axes that are no connections: the bias of a GRU or of a
# MultiHeadAttention, and the scales and shifts of normalizations over several axes.
# So are LoRA's two factors, whose product is masked as the kernel is.
_NOT_KERNELS = ("bias", "beta", "gamma", "alpha", "lora_")


def walk(layer):
    """Yield `(path, layer)` for every layer below `layer`, depth first, each once.

    A path joins layer names with "/", without the name of `layer` itself. A `Masked`
    wrapper has the same path as the layer that it wraps, so that a model and its
    sparsified copy agree on all paths.

    Example:
    >>> model = keras.Sequential([keras.layers.Dense(2, name="logits")])
    >>> [path for path, _ in walk(model)]
    ['logits']
    """
    yield from _walk(layer, "", {id(layer)})


def _walk(layer, prefix, seen):
    taken = set()
    for child in _children(layer):
        if id(child) in seen:
            continue
        seen.add(id(child))
        path = _unique(_join(prefix, child.name), taken)
        yield path, child
        if is_masked(child):
            child = child.layer
            seen.add(id(child))
            yield path, child
        yield from _walk(child, path, seen)


def kernels(layer):
    """Return `{path: variable}` of every kernel in `layer` and below it.

    A kernel is a floating-point weight of two or more axes that is no bias and no
    normalization parameter. A layer for which that rule is wrong says so with a method
    `get_prunable_weights()` that returns its kernels (as in
    tensorflow-model-optimization).

    Example:
    >>> layer = keras.layers.LSTM(4, name="lstm")
    >>> layer.build((None, 3, 2))
    >>> list(kernels(layer))
    ['lstm_cell/kernel', 'lstm_cell/recurrent_kernel']
    """
    return {path: variable for path, (_, variable) in kernel_owners(layer).items()}


def kernel_owners(layer):
    """Return `{path: (owner, variable)}` of every kernel, with the layer it is in."""
    found, seen = {}, set()
    for path, part in [("", layer), *walk(layer)]:
        for variable in own_kernels(part):
            if id(variable) not in seen:
                seen.add(id(variable))
                found[_unique(_join(path, variable.name), found)] = part, variable
    return found


def own_kernels(layer):
    """Return the kernels that `layer` holds itself, not those of layers below it."""
    if is_masked(layer) or isinstance(layer, keras.Model) or is_sparse(layer):
        return []
    if hasattr(layer, "get_prunable_weights"):
        # Before it is built it may have none of the weights that it would name.
        return list(layer.get_prunable_weights()) if layer.built else []
    return [
        variable
        for variable in layer._trainable_variables
        if len(variable.shape) >= 2
        and "float" in keras.backend.standardize_dtype(variable.dtype)
        and not any(word in variable.name for word in _NOT_KERNELS)
    ]


def is_depthwise(layer, kernel):
    """Whether each output channel of a kernel sees one input channel alone.

    So it is in DepthwiseConv layers, in the first half of SeparableConv ones, and in
    convolutions of as many groups as channels.

    Args:
        layer: the layer that holds the kernel.
        kernel: its variable.

    Example:
    >>> layer = keras.layers.SeparableConv2D(8, 3)
    >>> layer.build((None, 9, 9, 4))
    >>> is_depthwise(layer, layer.depthwise_kernel)
    True
    >>> is_depthwise(layer, layer.pointwise_kernel)
    False
    """
    if hasattr(layer, "depth_multiplier"):
        return kernel.name != "pointwise_kernel"
    return getattr(layer, "groups", 1) > 1 and kernel.shape[-2] == 1


def might_have_kernels(layer):
    """Whether `layer` has kernels, or, when it is not built yet, could get some.

    Keras' own layers name the initializer of each kernel, so an unbuilt one is asked
    for that; a user's unbuilt layer might have any weights.
    """
    for part in [layer, *(part for _, part in walk(layer))]:
        if is_sparse(part):
            continue
        if (
            own_kernels(part)
            or any(
                word in name
                for name in vars(part)
                for word in ("kernel_initializer", "embeddings_initializer")
            )
            or hasattr(part, "depthwise_initializer")
        ):
            return True
        if not part.built and not type(part).__module__.startswith("keras."):
            return True
    return False


def is_made_of_keras_layers(model):
    """Whether no layer in `model` reads kernels of others, as Keras' own do not.

    A user's layer, model or function may, and so does `SpectralNormalization`.
    """
    readers = keras.layers.Lambda, keras.layers.SpectralNormalization
    parts = [model, *(part for _, part in walk(model))]
    return all(
        type(part).call.__module__.startswith(("keras.", "sparsenet_tf."))
        and not isinstance(part, readers)
        for part in parts
    )


def holds_layers(value):
    """Whether `value` is a layer, or a collection with layers."""
    values = value.values() if isinstance(value, dict) else value
    if isinstance(value, (list, tuple, dict)):
        return any(isinstance(item, keras.layers.Layer) for item in values)
    return isinstance(value, keras.layers.Layer)


def is_masked(layer):
    """Whether `layer` is a `Masked` wrapper (told without importing it)."""
    return getattr(type(layer), "holds_masks", False)


def is_sparse(layer):
    """Whether `layer` holds its nonzeros alone, so that there is nothing to mask."""
    return getattr(type(layer), "holds_only_nonzeros", False)


def matches(path, names):
    """Whether one of `names` is the path, or a run of whole components of it.

    >>> matches("encoder/query/kernel", ["query"]), matches("conv10", ["conv1"])
    (True, False)
    """
    return any(f"/{name}/" in f"/{path}/" for name in names)


def check_model(model):
    """Raise a TypeError unless `model` is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {shown(model)}")


def check_names(model, names, argument):
    """Return `names` as a tuple of strings, each known in `model`.

    Raises:
        TypeError: `names` is neither a string nor a sequence of strings.
        ValueError: one of them matches no layer or kernel of `model`.
    """
    names = as_names(names, argument)
    paths = [path for path, _ in walk(model)] + list(kernels(model))
    for name in names:
        if not any(matches(path, [name]) for path in paths):
            known = sorted({path for path, _ in walk(model)})
            raise ValueError(
                f"`{argument}` names the layer {name!r}, which model "
                f"{model.name!r} does not have. Its layers: {known}"
            )
    return names


def as_names(names, argument):
    """Return `names`, one or several, as a tuple of strings.

    Raises:
        TypeError: they are something else.

    >>> as_names("logits", "exclude")
    ('logits',)
    """
    if isinstance(names, str):
        return (names,)
    if isinstance(names, Iterable):
        names = tuple(names)
    if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"`{argument}` must be layer names (strings). Received: {shown(names)}"
        )
    return names


def _children(layer):
    if isinstance(layer, keras.Model):
        return layer.layers
    return layer._flatten_layers(include_self=False, recursive=False)


def _join(prefix, name):
    return f"{prefix}/{name}" if prefix else name


def _unique(path, taken):
    candidate, count = path, 0
    while candidate in taken:
        count += 1
        candidate = f"{path}_{count}"
    if isinstance(taken, set):
        taken.add(candidate)
    return candidate
