"""`strip`: back to a plain Keras model."""

import warnings

import keras

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import clone_layer
from sparsenet_tf.layers.masked import masked_kernels, released
from sparsenet_tf.layers.replace import replace_layers
from sparsenet_tf.topology.checks import check_flag
from sparsenet_tf.transform.shrink import check_can_shrink, shrunk


def strip(model, shrink=False):
    """Return the model as plain Keras layers, without masks, zeros kept.

    The result needs nothing of this package to be saved, loaded and run. Trained
    further, its zeros do not stay, and `fit` warns about it; `sparsify(model,
    masks="zeros")` gives them masks again. A Sequential or functional model is copied,
    and compiled as it was with a fresh optimizer; a subclassed model is changed in
    place.

    With `shrink=True` units and filters that no connection feeds, such as those that
    `stf.pruning.Units` prunes, are taken out, and the layers that read them lose these
    inputs: all get smaller, in the same architecture with the same outputs but for the
    rounding of sums. A unit whose incoming weights are all zero puts out a constant,
    which goes through activations, BatchNormalization, pooling, Flatten, sums and
    Concatenate, and into the bias of the next Dense layer or convolution (which gets
    one if it has none). What cannot be computed exactly stays as it is:

    - units that a layer reads which mixes channels in its own way, such as attention,
      LayerNormalization, Reshape, a nested model, a layer that is called twice, or a
      layer of your own;
    - a constant other than zero before a convolution with padding, where the zeros
      around the picture are no such constant. With ReLU and without biases or
      BatchNormalization all are zero;
    - the model's outputs, and the last unit of a layer.

    Args:
        model: a sparsified `keras.Model`, or one with layers that hold only their
            nonzeros, which become dense ones. Any other comes back as a copy (or
            itself, if subclassed).
        shrink: whether units without incoming connections are taken out. The model
            must be built, and Sequential or functional.

    Raises:
        TypeError: `model` is no Keras model, or `shrink` no boolean.
        ValueError: `shrink` is True, and the model subclassed or not built.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> plain = strip(stf.pruning.prune_one_shot(model, 0.75))
    >>> type(plain.layers[0]).__name__, int(np.count_nonzero(plain.layers[0].kernel))
    ('Dense', 5)

    >>> hidden, out = keras.layers.Dense(8), keras.layers.Dense(2, name="out")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, out])
    >>> pruned = stf.pruning.prune_one_shot(
    ...     model, 0.75, exclude="out", structure=stf.pruning.Units()
    ... )
    >>> [tuple(layer.kernel.shape) for layer in strip(pruned, shrink=True).layers]
    [(4, 2), (2, 2)]
    """
    had_masks = isinstance(model, keras.Model) and bool(masked_kernels(model))
    if not check_flag(shrink, "shrink"):
        new = plain_copy(model)
    else:
        check_can_shrink(model)
        new = shrunk(plain_copy(model, compiled=False), like=model)
    if had_masks:
        _warn_when_trained(new)
    return new


def _warn_when_trained(model):
    """Say it once, if `fit` is about to fill the zeros of a model without masks."""
    make = model.make_train_function

    def make_train_function(*args, **kwargs):
        object.__delattr__(model, "make_train_function")
        warnings.warn(
            f"Model {model.name!r} comes from `strip` and has no masks, so that "
            "training fills its zeros. To train on with them, use "
            '`model = stf.sparsify(model, masks="zeros")`, and compile it.',
            stacklevel=2,
        )
        return make(*args, **kwargs)

    object.__setattr__(model, "make_train_function", make_train_function)


def plain_copy(model, compiled=True):
    """`strip`, by choice without compiling, for a copy that nobody trains.

    Such a copy is never the model itself.
    """
    return replace_layers(
        model,
        _release,
        clone=lambda path, layer: (
            layer.like_dense() if tree.is_sparse(layer) else clone_layer(path, layer)
        ),
        compiled=compiled,
        keep_original=not compiled,
    )


def unwrap(layer):
    """The layer inside a `Masked` wrapper; any other as it is."""
    return layer.layer if tree.is_masked(layer) else layer


def _release(path, layer):
    return layer.to_dense() if tree.is_sparse(layer) else released(layer)
