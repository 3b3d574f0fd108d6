"""`sparse_form`: which layer of nonzeros a dense layer with a mask becomes."""

import keras

from sparsenet_tf.layers.radix_dense import RadixDense
from sparsenet_tf.layers.sparse_conv import SparseConv2D, as_conv_pattern
from sparsenet_tf.layers.sparse_dense import SparseDense
from sparsenet_tf.topology import SparsePattern, find_radix_layer


def sparse_form(layer, mask):
    """Return the class and the connections of the layer that holds only nonzeros.

    Args:
        layer: a `keras.layers.Dense` or `Conv2D`.
        mask: of its kernel.

    Returns:
        `(SparseConv2D, pattern)`, `(SparseDense, pattern)` or, if the mask is a RadiX
        layer, `(RadixDense, topology)`; None for layers of other classes, with LoRA, or
        in low precision.

    Example:
    >>> layer = keras.layers.Dense(3)
    >>> sparse_form(layer, np.tri(3))[0].__name__
    'SparseDense'
    """
    precision = getattr(layer, "quantization_mode", None)
    if getattr(layer, "lora_enabled", False) or precision is not None:
        return None
    if type(layer) is keras.layers.Conv2D:
        return SparseConv2D, as_conv_pattern(mask)
    if type(layer) is not keras.layers.Dense:
        return None
    radix = find_radix_layer(mask)
    if radix is not None:
        return RadixDense, radix
    return SparseDense, SparsePattern.from_mask(mask)
