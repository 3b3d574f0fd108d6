"""`strip`: back to a plain Keras model."""

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.replace import clone_layer, replace_layers


def strip(model):
    """Return the model as plain Keras layers, without masks, zeros kept.

    The result needs nothing of this package to be saved, loaded and run. Trained
    further, its zeros do not stay. A Sequential or functional model is copied, and
    compiled as it was with a fresh optimizer; a subclassed model is changed in place.

    Args:
        model: a sparsified `keras.Model`, or one with layers that hold only their
            nonzeros, which become dense ones. Any other comes back as a copy (or
            itself, if subclassed).

    Raises:
        TypeError: `model` is no Keras model.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> plain = strip(stf.pruning.prune_one_shot(model, 0.75))
    >>> type(plain.layers[0]).__name__, int(np.count_nonzero(plain.layers[0].kernel))
    ('Dense', 5)
    """
    return plain_copy(model)


def plain_copy(model, compiled=True):
    """`strip`, by choice without compiling, for who will not train the copy."""
    return replace_layers(
        model,
        _release,
        clone=lambda path, layer: (
            layer.like_dense()
            if tree.is_sparse(layer)
            else clone_layer(path, unwrap(layer))
        ),
        compiled=compiled,
    )


def unwrap(layer):
    """The layer inside a `Masked` wrapper; any other as it is."""
    return layer.layer if tree.is_masked(layer) else layer


def _release(path, layer):
    if tree.is_masked(layer):
        for masked in layer.kernels.values():
            masked.release()
    return layer.to_dense() if tree.is_sparse(layer) else unwrap(layer)
