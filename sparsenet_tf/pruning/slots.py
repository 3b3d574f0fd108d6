"""Optimizer slots at masked weights: zeroed, so that they cannot move the weights."""

import keras

from sparsenet_tf.pruning.optimizers import optimizers_of

# Optimizers whose update of a weight depends on that weight's own gradients and slots
# alone (or a scalar), and is zero while these are zero. For any other the kernels stay
# guarded. So do subclasses of a user, which may update in another way.
_ELEMENTWISE = (
    keras.optimizers.SGD,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
    keras.optimizers.Adagrad,
    keras.optimizers.Adadelta,
    keras.optimizers.Lamb,
    keras.optimizers.Lion,
)
# Slots that are an average or a sum of weights or gradients, whatever the optimizer.
_OF_ANY_OPTIMIZER = ("_model_variables_moving_average", "_accumulated_gradients")


def is_elementwise(optimizer):
    """Whether the optimizer leaves a weight at zero whose gradients were all zero."""
    kind = type(getattr(optimizer, "inner_optimizer", optimizer))
    # With PyTorch Keras makes them of subclasses of its own.
    return kind.__module__.startswith("keras.") and issubclass(kind, _ELEMENTWISE)


def clear_slots(optimizer, masked_kernels):
    """Zero the optimizer's memory of masked weights.

    Momentum, second moments, moving averages of the weights (`use_ema`) and
    accumulated gradients are multiplied by the mask. Afterwards an element-wise
    optimizer (SGD, the Adam family, Lion, ...) leaves the masked weights at zero by
    itself. Of any other optimizer only averages and accumulated gradients are cleared,
    since nothing is known of its other slots.

    Args:
        optimizer: a Keras optimizer, built or not; a `LossScaleOptimizer` stands for
            the optimizer inside it.
        masked_kernels: iterable of `MaskedKernel`.
    """
    elementwise = is_elementwise(optimizer)
    for masked in masked_kernels:
        for name, slot in slots_of(optimizer, masked.kernel):
            if elementwise or name in _OF_ANY_OPTIMIZER:
                slot.assign(slot * masked.mask)


def clear_slots_of(model, masked_kernels):
    """Zero the memory of masked weights in every optimizer of the model."""
    for optimizer in optimizers_of(model):
        clear_slots(optimizer, masked_kernels)


def slots_of(optimizer, variable):
    """Return `(name of the list, slot)` of the slots with an entry for each weight.

    Args:
        optimizer: as for `clear_slots`.
        variable: a trainable variable, of the optimizer's or not.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    variables = optimizer._trainable_variables if optimizer.built else []
    index = next((i for i, v in enumerate(variables) if v is variable), None)
    if index is None:
        return []
    return [
        (name, value[index])
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and len(value) == len(variables)
        and value is not variables
        and getattr(value[index], "shape", None) == variable.shape
    ]
