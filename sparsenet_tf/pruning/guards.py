"""Train without guards where the optimizer cannot move a masked weight."""

import keras

from sparsenet_tf.kernels.masked_identity import native_is_usable
from sparsenet_tf.pruning.slots import clear_slots, is_elementwise


def lower_guards(model, masked_kernels):
    """Let the `fit` that begins be traced without guards, if that is safe.

    It is while the optimizer is element-wise and the only one, its slots are clear, and
    whoever changes a mask clears them again or raises the guards (`set_mask` does that
    unless told not to). With another optimizer, or a `train_step` of the user's, which
    may have several, the guards are raised.

    Args:
        model: a compiled model whose training has not begun.
        masked_kernels: collection of its `MaskedKernel`.
    """
    clear_slots(model.optimizer, masked_kernels)
    if not (trains_as_keras(model) and is_elementwise(model.optimizer)):
        for masked in masked_kernels:
            masked.raise_guard(retrace=True)
        return
    traced_with_guards = not all(model in m.unguarded for m in masked_kernels)
    use_native = native_is_usable(model)
    for masked in masked_kernels:
        masked.lower_guard(model, use_native)
    if traced_with_guards:
        model.make_train_function(force=True)


def trains_as_keras(model):
    """Whether a training step is Keras' own: at most one optimizer step a batch."""
    return type(model).train_step is keras.Model.train_step


def raise_guards(masked_kernels):
    """Guard what is traced from now on, such as another optimizer's steps."""
    for masked in masked_kernels:
        masked.raise_guard()
