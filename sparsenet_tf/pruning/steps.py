"""The optimizer's step, as a callback sees it inside `fit`."""

from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.pruning.guards import trains_as_keras


class Steps:
    """Bounds the optimizer's step by counting batches, and reads it if asked to.

    Reading it from the device costs more than all else that is done after a batch.

    Args:
        model: a compiled model whose training begins.

    Attributes:
        read: the step when it was last read.
    """

    def __init__(self, model):
        # Keras' own training steps make at most one optimizer step a batch.
        self.count_batches = trains_as_keras(model)
        self._last_batch = -1
        self.read_now(model)

    def read_now(self, model):
        """Read the step from the model's optimizer, and return it."""
        # With JAX a callback's `self.model` is up to date whenever it is asked for,
        # so none is kept here.
        self.read, self._batches_since = optimizer_step(model), 0
        return self.read

    def begin_epoch(self):
        """Batches are counted from 0 in each epoch."""
        self._last_batch = -1

    def has_come(self, schedule, batch, last):
        """Whether an update later than `last` may be due after this batch."""
        self._batches_since += batch - self._last_batch
        self._last_batch = batch
        if not self.count_batches:
            return True
        return schedule.last_update(self.read + self._batches_since) != last


def optimizer_step(model):
    """How many steps the model's optimizer has made."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return int(to_numpy(optimizer.iterations))
