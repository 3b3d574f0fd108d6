"""The dense masked products that every sparse kernel is compared with."""

from keras import ops


def masked_matmul(inputs, kernel, mask):
    """`inputs @ (kernel * mask)`, with shapes (..., in), (in, out), (in, out).

    Example:
    >>> x, kernel = np.ones((1, 2), "float32"), np.array([[1], [5]], "float32")
    >>> keras.ops.convert_to_numpy(masked_matmul(x, kernel, [[1], [0]]))
    array([[1.]], dtype=float32)
    """
    return ops.matmul(inputs, _masked(kernel, mask))


def masked_conv(inputs, kernel, mask, **options):
    """`keras.ops.conv(inputs, kernel * mask, ...)`: the kernel is (h, w, in, out)."""
    return ops.conv(inputs, _masked(kernel, mask), **options)


def _masked(kernel, mask):
    kernel = ops.convert_to_tensor(kernel)
    return ops.multiply(kernel, ops.cast(mask, kernel.dtype))
