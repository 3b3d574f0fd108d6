"""Plain gradient descent, with its mask, in one pass over each kernel."""

import contextlib

import keras
import tensorflow as tf

from sparsenet_tf.kernels import native
from sparsenet_tf.kernels.masked_identity import native_is_usable
from sparsenet_tf.pruning.guards import trains_as_keras

# Settings of an optimizer under which a step is more than `value - rate * gradient`.
_MORE = (
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "momentum",
)


@contextlib.contextmanager
def fused_updates(model, masked_kernels):
    """Trace training steps whose updates take one pass, where that changes nothing.

    That is for Keras' own `train_step` with `keras.optimizers.SGD` that does nothing
    but `value -= rate * gradient`, on the CPU, without XLA. A masked kernel's gradient
    is left as it is then and `value -= rate * gradient * mask` in its place.

    Args:
        model: a compiled model.
        masked_kernels: collection of its `MaskedKernel`.
    """
    if not _is_plain_descent(model):
        yield
        return
    masked = {id(m.kernel.value): m for m in masked_kernels if _is_float32(m.kernel)}
    optimizer, usual = model.optimizer, model.optimizer.update_step

    def update_step(gradient, variable, learning_rate):
        if not _is_float32(variable):
            usual(gradient, variable, learning_rate)
            return
        gradient = tf.convert_to_tensor(gradient)
        rate = tf.cast(learning_rate, variable.dtype)
        if id(variable) in masked:
            mask = masked[id(variable)].mask.value
            new = native.load_ops().sparsenet_masked_descent(
                value=variable, gradient=gradient, mask=mask, rate=rate
            )
            variable.assign(new)
        else:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=rate, delta=gradient
            )

    optimizer.update_step = update_step
    for kernel in masked.values():
        kernel.update_masks = True
    try:
        yield
    finally:
        del optimizer.update_step
        for kernel in masked.values():
            kernel.update_masks = False


def _is_plain_descent(model):
    optimizer = model.optimizer
    return (
        type(optimizer) is keras.optimizers.SGD
        and "update_step" not in vars(optimizer)
        and not any(getattr(optimizer, name) for name in _MORE)
        and trains_as_keras(model)
        and not tf.distribute.has_strategy()
        and native_is_usable(model)
    )


def _is_float32(variable):
    return keras.backend.standardize_dtype(variable.dtype) == "float32"
