"""Train without guards where the optimizer cannot move a masked weight."""

import keras

from sparsenet_tf.kernels.masked_identity import native_is_usable
from sparsenet_tf.layers import tree
from sparsenet_tf.pruning.slots import clear_slots_of, is_elementwise


def lower_guards(model, masked_kernels):
    """Let the `fit` that begins be traced without guards, if that is safe.

    It is while the optimizer is element-wise and the only one, its slots are clear, and
    whoever changes a mask clears them again or raises the guards (`set_mask` does that
    unless told not to). With another optimizer, or a `train_step` of the user's, which
    may have several, the guards are raised. So they are with layers of the user's,
    which may read a kernel of another layer, where its gradient is not masked.

    Args:
        model: a compiled model whose training has not begun.
        masked_kernels: collection of its `MaskedKernel`.
    """
    clear_slots_of(model, masked_kernels)
    known = trains_as_keras(model) and tree.is_made_of_keras_layers(model)
    if not (known and is_elementwise(model.optimizer)):
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


class Guards:
    """The guards that a callback lowers for the `fit` that it is in.

    They are down while its first batch is traced, and up for what is traced later:
    Keras tells no callback of a Ctrl-C, after which another optimizer may train.
    """

    def __init__(self):
        self._lowered = ()

    def lower(self, model, masked_kernels):
        """Lower them, as `lower_guards`."""
        self._lowered = tuple(masked_kernels)
        lower_guards(model, self._lowered)

    def raise_once_traced(self):
        """Raise them, the first time after they were lowered."""
        raise_guards(self._lowered)
        self._lowered = ()
