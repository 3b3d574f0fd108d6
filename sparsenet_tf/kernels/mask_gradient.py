"""A kernel's gradient times its mask."""

import keras
from keras import ops

from sparsenet_tf.kernels import native


def mask_gradient(gradient, mask, use_native=False):
    """Zero the gradient of masked weights: `gradient * mask`.

    Args:
        gradient: float tensor.
        mask: tensor of 0 and 1, of the gradient's shape and dtype.
        use_native: multiply in place with our own operation, as `native_is_usable`
            allows, to the same bits.

    Example:
    >>> mask_gradient(np.array([3.0, 4.0]), np.array([0.0, 1.0])).numpy()
    array([0., 4.])
    """
    if use_native and keras.backend.standardize_dtype(gradient.dtype) == "float32":
        return native.load_ops().sparsenet_mask_gradient(gradient=gradient, mask=mask)
    return ops.multiply(gradient, mask)


def native_is_usable(model):
    """Whether the compiled model's own `fit` can run our native operations.

    They exist for the CPU alone and have no XLA form, so not for a model compiled
    with `jit_compile=True`, nor where there are other devices.
    """
    if model.jit_compile or native.load_ops() is None:
        return False
    return native.has_only_cpus()
