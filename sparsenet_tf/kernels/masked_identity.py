"""A kernel as it is, whose gradient is masked."""

import keras
from keras import ops

from sparsenet_tf.kernels import native


def masked_identity(kernel, mask, rows_looked_up=False, use_native=False):
    """Return `kernel`, zero where it is masked, with a gradient that is masked too.

    A product, which is exact: a kept weight is multiplied by one. Not a custom
    gradient: TensorFlow holds the graph of each one that it traces for ever. Only
    where rows are looked up is there no way around, since the gradient of a product
    is dense: that of the rows looked up stays sparse, as optimizers expect it.

    Args:
        kernel: float tensor.
        mask: tensor of 0 and 1, of the kernel's shape and dtype.
        rows_looked_up: whether the kernel, which must be zero where it is masked, is
            read by rows, as that of an `Embedding` is.
        use_native: leave the kernel, which must be zero where it is masked, as it is,
            and mask the gradient in place with our own operation, as
            `native_is_usable` allows, to the same bits.

    Example:
    >>> kernel, mask = np.array([[3, 4], [0, 1]], "float32")
    >>> keras.ops.convert_to_numpy(masked_identity(kernel, mask))
    array([0., 4.], dtype=float32)
    """
    if rows_looked_up:
        return _with_masked_gradient(kernel, mask)
    if use_native and keras.backend.standardize_dtype(kernel.dtype) == "float32":
        native_ops = native.load_ops()  # None while the model is exported after `fit`
        if native_ops is not None:
            return native_ops.sparsenet_masked_identity(value=kernel, mask=mask)
    return ops.multiply(kernel, mask)


def _with_masked_gradient(kernel, mask):
    @ops.custom_gradient
    def identity(kernel):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return ops.multiply(upstream, mask)

        return kernel, grad

    return identity(kernel)


def native_is_usable(model):
    """Whether the compiled model's own `fit` can run our native operations.

    They exist for the CPU alone and have no XLA form, so not for a model compiled
    with `jit_compile=True`, nor where there are other devices.
    """
    if model.jit_compile or native.load_ops() is None:
        return False
    return native.has_only_cpus()
