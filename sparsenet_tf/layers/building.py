"""Build a layer whose kernels may be made by its first call alone."""

import keras

from sparsenet_tf.layers import tree


def build_by_call(layer, args, kwargs):
    """Build `layer`, and what is below it, by calling it with such arguments."""
    if is_wholly_built(layer):
        return
    try:
        layer(*_symbolic(args), **_symbolic(kwargs))
    except Exception:
        # A `call` that cannot be traced needs the real inputs. If it is them that
        # are wrong, this raises the layer's own error.
        layer(*args, **kwargs)


def is_wholly_built(layer):
    """Whether it is built, and no layer below has kernels that a call will make."""
    parts = [part for _, part in tree.walk(layer)]
    return layer.built and all(
        part.built or not tree.might_have_kernels(part) for part in parts
    )


def _symbolic(structure):
    """Fresh Keras tensors for the tensors and arrays in `structure`."""
    return keras.tree.map_structure(
        lambda x: (
            keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype))
            if hasattr(x, "shape") and hasattr(x, "dtype")
            else x
        ),
        structure,
    )
