"""The optimizer's step, as a callback sees it inside `fit`."""

from sparsenet_tf.pruning.guards import trains_as_keras
from sparsenet_tf.pruning.optimizers import (
    activity,
    optimizers_of,
    own_optimizers,
    steps_made,
)

# Batches after which some optimizer must have been applied. A training step of the
# user's own may do that after several batches, whose gradients it adds up itself.
_PATIENCE = 32


class Steps:
    """Bounds the optimizer's step by counting batches, and reads it if asked to.

    Reading it from the device costs more than all else that is done after a batch.

    The step is that of the optimizer of `compile`. If a training step of the user's
    own leaves that alone, it is the largest of the optimizers that it applies, as the
    first batches show.

    Args:
        model: a compiled model whose training begins.

    Attributes:
        read: the step when it was last read.

    Raises:
        ValueError: the model has no optimizer.
    """

    def __init__(self, model):
        # Keras' own training steps make at most one optimizer step a batch.
        self.count_batches = trains_as_keras(model)
        self._last_batch, self._batches = -1, 0
        self._leader, self._known = None, {}
        optimizer = getattr(model, "optimizer", None)
        if self.count_batches and optimizer is not None:
            self._leader = None if hasattr(optimizer, "optimizers") else optimizer
        if self._leader is None:
            self._known = {id(o): (o, activity(o)) for o in optimizers_of(model)}
            if not self._known:
                raise ValueError(
                    "`model` must have an optimizer, whose steps the schedule counts: "
                    "that of `compile`, or an attribute of the model. Received: model "
                    f"{model.name!r} without any; write `self.optimizer = ...` in it"
                )
        self.read_now(model)

    def read_now(self, model):
        """Read the step from the model's optimizer, and return it."""
        # With JAX a callback's `self.model` is up to date whenever it is asked for,
        # so none is kept here.
        if self._leader is None:
            self._find_leader(model)
        self.read, self._batches_since = self.now(model), 0
        return self.read

    def now(self, model):
        """The step, without noting it."""
        leader = self._leader
        return optimizer_step(model) if leader is None else steps_made(leader)

    def _find_leader(self, model):
        active = [o for o, before in self._known.values() if activity(o) != before]
        if any(optimizer is model.optimizer for optimizer in active):
            self._leader = model.optimizer
        elif active:
            self._leader = max(active, key=steps_made)

    def begin_epoch(self):
        """Batches are counted from 0 in each epoch."""
        self._last_batch = -1

    def has_come(self, schedule, batch, last):
        """Whether an update later than `last` may be due after this batch.

        Raises:
            ValueError: no optimizer is applied, so that none ever will be.
        """
        self._batches_since += batch - self._last_batch
        self._batches += batch - self._last_batch
        self._last_batch = batch
        if self._leader is None and self._batches >= _PATIENCE:
            self.check_advance()
        if not self.count_batches:
            return True
        return schedule.last_update(self.read + self._batches_since) != last

    def check_advance(self):
        """Raise an error if no optimizer has been applied since training began.

        Raises:
            ValueError: so it is.
        """
        if self._leader is not None:
            return
        known = [optimizer for optimizer, _ in self._known.values()]
        if any(
            activity(optimizer) != self._known[id(optimizer)][1] for optimizer in known
        ):
            return
        names = [f"{type(o).__name__} {o.name!r}" for o in known]
        raise ValueError(
            "`schedule` cannot advance: it counts optimizer steps, and after "
            f"{self._batches} batches no optimizer of the model has made any. "
            f"Received: {names}. Keep the optimizers that `train_step` applies in "
            "attributes of the model, such as `self.optimizer`"
        )


def optimizer_step(model):
    """How many steps have trained the model, as far as its optimizers tell.

    Those of the optimizer of `compile`, or, if it has made none, the most that another
    one has made. A model inside this one may have been trained before, by its own
    optimizer: that does not count.
    """
    own = own_optimizers(model)
    optimizer = getattr(model, "optimizer", None)
    step = 0 if optimizer is None else steps_made(optimizer)
    if trains_as_keras(model) and not hasattr(optimizer, "optimizers"):
        return step
    return step or max(map(steps_made, own), default=0)
