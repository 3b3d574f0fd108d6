"""From tensorflow-model-optimization (tfmot): its schedules, its pruned models.

Importing tfmot sets `TF_USE_LEGACY_KERAS` and loads tf_keras, so this module does not:
it reads what tfmot's objects say of themselves. Only `from_tfmot` with a path imports
them, to load the file, and restores the environment.
"""

import contextlib
import os
import pathlib

import numpy as np

from sparsenet_tf.interop.keras_2 import Converter, is_keras_2
from sparsenet_tf.interop.keras_2_layers import is_pruned, unwrapped
from sparsenet_tf.layers import tree
from sparsenet_tf.layers.masked import Masked
from sparsenet_tf.layers.replace import replace_layers
from sparsenet_tf.pruning.schedules import as_schedule

__all__ = ["as_schedule", "from_tfmot"]

_VARIABLE = "TF_USE_LEGACY_KERAS"


def from_tfmot(model):
    """Return a model that tfmot pruned as a Keras 3 model with frozen masks.

    Each `PruneLowMagnitude` wrapper becomes a `Masked` layer, named as the layer that
    was wrapped, with the masks that the wrapper holds and the weights `mask * weight`,
    with which it computes; a wrapper without kernels to prune (of a Dropout, say)
    becomes the plain layer. `get_masks`, `strip`, `to_sparse`, `rebuild` and
    `retrain_from_scratch` work on the result, and its outputs are the same, but for
    rounding. Layers that are not wrapped come out plain, and so does all of a model
    without wrappers, such as one from `strip_pruning`: it has weights, and no masks.

    The result is not compiled: Keras 3 cannot take an optimizer's state over from
    Keras 2. Of a file nothing but the model is read. Regularizers, constraints and
    frozen layers are kept. The schedules are not needed any more; `as_schedule`
    translates them.

    Args:
        model: a built Sequential or functional model of tf_keras, or the path of one
            that it saved: a `.h5` file, a `.keras` file or a SavedModel folder. A path
            needs tf_keras and tfmot (`pip install tensorflow-model-optimization
            tf-keras`), a model in memory nothing more. Nested models, several inputs
            and outputs and shared layers are kept. Of layers of your own, name the
            Keras 3 ones in a `keras.saving.custom_object_scope`; it may stand for
            Keras' layers too.

    Returns:
        A `keras.Model` (or `keras.Sequential`), not compiled.

    Raises:
        TypeError: `model` is neither a model of tf_keras nor a path.
        ValueError: the model is subclassed or not built, the file cannot be loaded, or
            a layer cannot be converted: a `Lambda`, TensorFlow operations on Keras
            tensors, custom layers, `hard_sigmoid` (another function in Keras 3), ...
            The message names the layer.
        FileNotFoundError: nothing is at the path.
        ImportError: tf_keras or tfmot is needed and not installed.

    Example:
    >>> from_tfmot("no_such_file.h5")
    Traceback (most recent call last):
    FileNotFoundError: `model` must be a file or folder. Received: 'no_such_file.h5'
    """
    if isinstance(model, (str, os.PathLike)):
        model = _load(pathlib.Path(model))
    if not is_keras_2(model):
        raise TypeError(
            "`model` must be a model of tf_keras (Keras 2), as tfmot makes them, or "
            f"the path of one. Received: {model!r}"
        )
    converter = Converter()
    plain = converter.convert(model)
    masks = {}
    for old, new in converter.layers.values():
        if is_pruned(old) and old.pruning_vars:
            masks[id(new)] = _masks(old, new)
    if not masks:
        return plain
    by_path = {
        path: masks[id(layer)] for path, layer in tree.walk(plain) if id(layer) in masks
    }

    def wrap(path, layer):
        if path not in by_path:
            return layer
        found = by_path[path]
        unpruned = [f"{layer.name}/{name}" for name in found if found[name] is None]
        given = {name: mask for name, mask in found.items() if mask is not None}
        return Masked(layer, given, exclude=unpruned)

    return replace_layers(plain, wrap)


def _masks(wrapper, layer):
    """Return `{kernel: mask or None}` of `layer`, whose masked weights are zeroed."""
    masks = {
        id(weight): np.asarray(mask.numpy(), bool)
        for weight, mask, _ in wrapper.pruning_vars
    }
    pairs = zip(unwrapped(wrapper).weights, layer.weights, strict=True)
    by_id = {id(new): masks.pop(id(old), None) for old, new in pairs}
    kernels = tree.kernels(layer)
    for weight in layer.weights:
        mask = by_id[id(weight)]
        if mask is not None:
            weight.assign(np.where(mask, weight.numpy(), 0))
    found = {name: by_id.pop(id(kernel)) for name, kernel in kernels.items()}
    if masks or any(mask is not None for mask in by_id.values()):
        raise ValueError(
            f"`model` has a layer {layer.name!r} with masks on weights that are no "
            f"kernels in Keras 3. Its kernels: {list(kernels)}"
        )
    return found


def _load(path):
    if not path.exists():
        raise FileNotFoundError(
            f"`model` must be a file or folder. Received: {str(path)!r}"
        )
    with _environment_kept():
        try:
            import tf_keras
            from tensorflow_model_optimization.sparsity import keras as tfmot
        except ImportError as error:
            raise ImportError(
                "Loading a model that tensorflow-model-optimization pruned needs that "
                "package and tf_keras: "
                "pip install tensorflow-model-optimization tf-keras, the latter of "
                f"TensorFlow's own minor version ({error})"
            ) from error
        try:
            with tfmot.prune_scope():
                model = tf_keras.models.load_model(path, compile=False)
        except Exception as error:
            raise ValueError(
                "`model` must be a .h5 or .keras file or a SavedModel folder with a "
                f"model that tf_keras saved. Received: {str(path)!r}, which cannot be "
                f"loaded ({type(error).__name__}: {error})"
            ) from error
    if not is_keras_2(model):
        raise ValueError(
            "`model` must be a model that tf_keras saved, with its config. Received: "
            f"{str(path)!r}, which holds a {type(model).__name__}"
        )
    return model


@contextlib.contextmanager
def _environment_kept():
    """Leave `tf.keras` and the environment as they are, whatever tfmot does."""
    import tensorflow as tf

    # TensorFlow decides what `tf.keras` is when it is first used, by the variable.
    tf.keras.layers  # noqa: B018
    before = os.environ.get(_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
