"""`rebuild`: the same architecture with new weights on frozen masks."""

import contextlib
import random
import zlib

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import global_state

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import (
    clone_layer,
    copy_kept_state,
    copy_names,
    is_plain_graph,
    make_again,
    own_objects,
)
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.remade import config_without_exchanges, original_class
from sparsenet_tf.layers.replace import copy_compile, replace_layers
from sparsenet_tf.layers.sparsify import check_masks, sparsify
from sparsenet_tf.layers.stored_masks import config_without_masks
from sparsenet_tf.layers.units import unit_axes
from sparsenet_tf.topology.checks import check_flag, check_integer
from sparsenet_tf.transform.strip import unwrap


def rebuild(model, masks, seed, scale_to_fan_in=False):
    """Return a new model of the same architecture, freshly initialized, on `masks`.

    The layers' own initializers draw the new weights, from seeds derived from `seed`
    and the layers' paths, also where an initializer was given a fixed seed (it would
    draw the same weights again). Python's and NumPy's global random states are left as
    they were. Nothing is used of the old weights that training learned, nor of the
    moving averages of normalizations. What layers were adapted to the data
    (`Normalization`, vocabularies, ...) is kept, and so are frozen weights.

    Args:
        model: a built `keras.Model`, plain or sparsified. A subclassed one must
            implement `get_config`, because it is rebuilt from that.
        masks: dict `{path: mask}`, as from `get_masks`; kernels that are not in it
            stay dense.
        seed: integer, 0 or more. The same seed gives the same weights.
        scale_to_fan_in: multiply the kept weights of each output unit by
            `sqrt(fan_in / kept)`, where `kept` of its `fan_in` connections are kept,
            so that variance-scaling initializers fit the sparse network's fan-in
            (Evci et al., "Gradient Flow in Sparse Neural Networks and How Lottery
            Tickets Win", arXiv 2010.03533, section 3.1).

    Returns:
        The sparsified model, compiled as `model` was, with a fresh optimizer.

    Raises:
        TypeError: `model` is no Keras model, `masks` no dict, or `seed` no integer.
        ValueError: the model is not built or cannot be rebuilt, a path names no
            kernel, or a mask does not fit its kernel.

    Source: "only the masks are kept; fresh weights": Alford et al., section II.A.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.75))
    >>> new = rebuild(model, masks, seed=1)
    >>> int(np.count_nonzero(new.layers[0].kernel))
    5
    """
    check_rebuildable(model, seed)
    check_flag(scale_to_fan_in, "scale_to_fan_in")
    old_kernels = tree.kernels(model)
    masks = check_masks(old_kernels, masks, model.name)
    new = fresh_copy(model, int(seed))
    # A subclassed model's layers may get other automatic names: go by order.
    new_paths = dict(zip(old_kernels, tree.kernels(new), strict=True))
    new = sparsify(new, {new_paths[path]: mask for path, mask in masks.items()})
    if scale_to_fan_in:
        scale_kernels(new)
    if not new.compiled:
        copy_compile(model, new)
    return new


def check_rebuildable(model, seed):
    """Raise a TypeError or ValueError unless `model` is built and `seed` an integer."""
    tree.check_model(model)
    check_integer(seed, "seed", 0)
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, not built")


def fresh_copy(model, seed):
    """Return a plain model of the same architecture with new weights, from `seed`.

    What training does not learn is kept: what layers were adapted to the data, and
    frozen weights. A Sequential or functional model is not compiled.
    """
    with seeded(seed):
        new = _fresh(model, seed)
    copy_kept_state(model, new)
    return new


def _fresh(model, seed):
    if is_plain_graph(model):
        return replace_layers(
            model,
            lambda path, layer: layer,
            clone=lambda path, layer: clone_reseeded(path, unwrap(layer), seed),
            remake=lambda part: _fresh(part, seed),
            weights=False,
            compiled=False,
        )
    try:
        config = config_without_masks(config_without_exchanges(model))
        config = reseed(config, f"{seed}")
        with keras.saving.custom_object_scope(own_objects(model)):
            new = original_class(model).from_config(config)
        copy_names(model, new)  # which the seeds are derived from
        _reseed_initializers(new, f"{seed}")
        _build_like(model, new)
        copy_names(model, new)
    except Exception as error:
        raise ValueError(
            f"`model` must rebuild itself from its config. Received: model "
            f"{model.name!r} of class {type(model).__name__}, whose "
            f"`from_config(get_config())` failed ({type(error).__name__}: {error})"
        ) from error
    if len(tree.kernels(new)) != len(tree.kernels(model)):
        raise ValueError(
            f"`model` must be built by its `build` or `build_from_config`. Received: "
            f"model {model.name!r} of class {type(model).__name__}, which has "
            f"{len(tree.kernels(model))} kernels, and {len(tree.kernels(new))} when "
            "rebuilt from its config"
        )
    return new


def _build_like(model, new):
    """Build each layer of `new` as its counterpart in `model` was built."""
    config = model.get_build_config()
    if config and not new.built:
        new.build_from_config(config)
    for old, fresh in zip(_layers(model), _layers(new), strict=True):
        config = old.get_build_config() if old.built else None
        if config and not fresh.built:
            fresh.build_from_config(config)
    new.built = True


def _layers(model):
    return [layer for _, layer in tree.walk(model) if not tree.is_masked(layer)]


def clone_reseeded(path, layer, seed):
    """A new layer from the config of `layer`, with seeds from `seed` and its path."""
    if isinstance(layer, keras.Model):
        return clone_layer(path, layer)
    new = make_again(
        path,
        layer,
        lambda config: reseed(config_without_masks(config), f"{seed}/{path}"),
    )
    _reseed_initializers(new, f"{seed}/{path}")
    return new


def _reseed_initializers(layer, place):
    """Reseed the initializers that the code of `layer` made, not its config."""
    for path, part in [("", layer), *tree.walk(layer)]:
        for name, value in list(vars(part).items()):
            if not isinstance(value, keras.initializers.Initializer):
                continue
            config = value.get_config()
            new = type(value).from_config(reseed(config, f"{place}/{path}/{name}"))
            setattr(part, name, new)
            weight = getattr(part, name.removesuffix("_initializer"), None)
            is_drawn = part.built and isinstance(weight, keras.Variable)
            if is_drawn and isinstance(config.get("seed"), int):
                weight.assign(new(weight.shape, dtype=weight.dtype))


def reseed(config, place):
    """Copy a config with each "seed" in it drawn anew from `place`, a unique string."""
    if isinstance(config, dict):
        return {
            key: _seed(place)
            if key == "seed" and (value is None or isinstance(value, int))
            else reseed(value, f"{place}/{key}")
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        items = [reseed(item, f"{place}/{i}") for i, item in enumerate(config)]
        return type(config)(items) if type(config) in (list, tuple) else config
    return config


def _seed(place):
    seed = zlib.crc32(place.encode())
    # Keras holds seeds in signed integers of 32 bits with PyTorch, unsigned elsewhere.
    return seed >> 1 if keras.backend.backend() == "torch" else seed


@contextlib.contextmanager
def seeded(seed):
    """Seed Python's, NumPy's and Keras' generators; give them back as they were.

    Keras draws the seed of an initializer that has none from Python's.
    """
    python, numpy = random.getstate(), np.random.get_state()
    generator = global_state.get_global_attribute("global_seed_generator")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    global_state.set_global_attribute("global_seed_generator", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("global_seed_generator", generator)
        random.setstate(python)
        np.random.set_state(numpy)


def scale_kernels(model):
    """Multiply fresh weights by `sqrt(fan_in / kept)`, as `scale_to_fan_in` says."""
    owners = tree.kernel_owners(model)
    for path, masked in masked_kernels(model).items():
        if masked.kernel.trainable:  # or it was not drawn
            _scale_to_fan_in(owners[path][0], masked)


def _scale_to_fan_in(owner, masked):
    if masked.kernel.name == "embeddings":  # a lookup: each row is all of an input
        return
    mask = masked.mask_value()
    _, output_axes = unit_axes(owner, masked.kernel)
    summed = tuple(axis for axis in range(mask.ndim) if axis not in output_axes)
    kept = mask.sum(axis=summed, keepdims=True)
    fan_in = np.prod([mask.shape[axis] for axis in summed])
    scale = np.sqrt(fan_in / np.maximum(kept, 1)).astype("float32")
    masked.kernel.assign(masked.kernel * ops.cast(scale, masked.kernel.dtype))
