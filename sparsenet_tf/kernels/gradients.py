"""Gradients of a scalar function of tensors, which Keras has no name for."""

import keras
from keras import ops


def gradients(function, values):
    """Return `function(values)` and its gradient to each of `values`.

    Args:
        function: of a list of tensors, to a scalar tensor.
        values: list of floating-point arrays or tensors.

    Returns:
        `(value, gradients)`; a gradient is zeros where the function does not depend
        on a tensor.

    Example:
    >>> w = np.array([1.0, 3.0], "float32")
    >>> _, [g] = gradients(lambda values: keras.ops.sum(values[0] ** 2), [w])
    >>> keras.ops.convert_to_numpy(g)
    array([2., 6.], dtype=float32)
    """
    values = [ops.convert_to_tensor(value) for value in values]
    return _BACKENDS[keras.backend.backend()](function, values)


def hessian_gradient_products(function, values):
    """Return, for each of `values`, its part of `H g`.

    `g` is the gradient and `H` the Hessian of `function(values)`, over all of `values`
    together. The Hessian itself is never formed: `H g` is the gradient of the scalar
    product of the gradient with itself, one of the two held constant.

    Example:
    >>> w = np.array([1.0, 2.0], "float32")
    >>> [product] = hessian_gradient_products(
    ...     lambda values: keras.ops.sum(values[0] ** 3), [w])
    >>> keras.ops.convert_to_numpy(product)  # 6 w times 3 w ** 2
    array([ 18., 144.], dtype=float32)
    """

    def half_square(inner):
        _, found = gradients(function, inner)
        return sum(ops.sum(ops.stop_gradient(g) * g) for g in found)

    return gradients(half_square, values)[1]


def _tensorflow(function, values):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        value = function(values)
    none = tf.UnconnectedGradients.ZERO
    found = tape.gradient(value, values, unconnected_gradients=none)
    return value, [tf.convert_to_tensor(g) for g in found]


def _jax(function, values):
    import jax

    return jax.value_and_grad(function)(values)


def _torch(function, values):
    import torch

    with torch.enable_grad():
        values = [v if v.requires_grad else v.clone().requires_grad_() for v in values]
        value = function(values)
        found = torch.autograd.grad(
            value, values, create_graph=True, materialize_grads=True
        )
    return value, found


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
