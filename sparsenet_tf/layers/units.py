"""Which axes of a kernel count a layer's input units and its output units."""

from sparsenet_tf.layers import tree


def unit_axes(layer, kernel):
    """Return `(input_axes, output_axes)` of a kernel, as tuples of positive axes.

    `(..., in, out)` for Dense, convolutions, recurrent layers and embeddings;
    `(..., out, in)` for transposed convolutions; both axes are output units for
    depthwise kernels `(..., in, multiplier)`; EinsumDense's equation says it itself.

    Args:
        layer: the layer that holds the kernel.
        kernel: its variable.

    Example:
    >>> layer = keras.layers.EinsumDense("abc,cde->abde", (None, 4, 5))
    >>> layer.build((None, 3, 2))
    >>> unit_axes(layer, layer.kernel)
    ((0,), (1, 2))
    """
    ndim = len(kernel.shape)
    if hasattr(layer, "equation"):
        inputs, _, outputs = layer.equation.replace(" ", "").partition("->")
        labels = inputs.split(",")[1]
        axes = range(len(labels))
        return (
            tuple(axis for axis in axes if labels[axis] not in outputs),
            tuple(axis for axis in axes if labels[axis] in outputs),
        )
    if hasattr(layer, "depth_multiplier") and tree.is_depthwise(layer, kernel):
        return (ndim - 2,), (ndim - 2, ndim - 1)
    if "Transpose" in type(layer).__name__:
        return (ndim - 1,), (ndim - 2,)
    return (ndim - 2,), (ndim - 1,)
