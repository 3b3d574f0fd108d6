"""`ScheduledUpdates`: what callbacks that change masks on schedule have in common."""

import weakref

import keras

from sparsenet_tf.kernels.dead_graphs import forget_dead_graphs
from sparsenet_tf.layers import tree
from sparsenet_tf.pruning.guards import Guards
from sparsenet_tf.pruning.steps import Steps


class ScheduledUpdates(keras.callbacks.Callback):
    """Follows the optimizer's step through `fit`, and updates when it is due.

    A subclass has two methods. `begin(exclude)` finds the kernels of `self.model` when
    training begins, and sets `sparsity`; it has the guards lowered and returns the
    scheduled step of the last update that has been made, or None. `update(due)` makes
    the one scheduled at the step `due` and returns what `updates` says of it.

    Args:
        schedule: has `last_update(step)`.
        exclude: layer name or names that stay as they are.

    Attributes:
        sparsity: share of the weights that are not there, in the kernels of this
            callback.
        updates: dict from the optimizer's steps to what was done at them.
    """

    def __init__(self, schedule, exclude):
        super().__init__()
        self.schedule = schedule
        self.exclude = tree.as_names(exclude, "exclude")
        self.sparsity = 0.0
        self.updates = {}
        self.guards = Guards()
        self._steps = None
        self._updated_at = None
        self._has_begun = False

    def on_train_begin(self, logs=None):
        """Find the kernels, and update them if that is due at this step."""
        tree.check_model(self.model)
        forget_dead_graphs()
        exclude = tree.check_names(self.model, self.exclude, "exclude")
        self._steps = Steps(self.model)
        self._updated_at = self.begin(exclude)
        # A model that starts again, or from an earlier checkpoint, has no such past.
        step = self._steps.read
        self.updates = {s: seen for s, seen in self.updates.items() if s <= step}
        self._update_if_due()
        self._has_begun = True

    def on_epoch_begin(self, epoch, logs=None):
        """Batches are counted from 0 in each epoch."""
        self._steps.begin_epoch()
        # When training began, a callback after this one, such as `BackupAndRestore`,
        # may have gone back to an earlier training.
        if self._has_begun and self._steps.now(self.model) != self._steps.read:
            self.on_train_begin()
        self._has_begun = False

    def on_train_batch_end(self, batch, logs=None):
        """Update if that has come due, and report the sparsity."""
        self.guards.raise_once_traced()
        if self._steps.has_come(self.schedule, batch, self._updated_at):
            self._update_if_due()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_epoch_end(self, epoch, logs=None):
        """Report the sparsity."""
        self.model  # noqa: B018  Keras gives variables their values back with JAX.
        self._steps.check_advance()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs=None):
        """Guard masked weights against what else may train them."""
        self.guards.raise_once_traced()

    def claim(self, holders):
        """Have no other callback of this `fit` change the same connections.

        Args:
            holders: dict `{path: object}` of what holds each kernel's connections.

        Raises:
            ValueError: another callback of this `fit` changes them.
        """
        for path, holder in holders.items():
            other = getattr(holder, "_changed_by", lambda: None)()
            # Callbacks of one `fit` are given the same `params`.
            in_one_fit = other is not None and other.params is self.params is not None
            if in_one_fit and other is not self:
                names = [type(other).__name__, type(self).__name__]
                raise ValueError(
                    "`callbacks` must have one callback that changes the connections "
                    f"of a kernel. Received: {names}, both for {path!r}. Give each an "
                    "`exclude` with the layers of the other, or use one of them"
                )
        for holder in holders.values():
            object.__setattr__(holder, "_changed_by", weakref.ref(self))

    def _update_if_due(self):
        step = self._steps.read_now(self.model)
        due = self.schedule.last_update(step)
        if due is not None and due != self._updated_at:
            self.updates[step] = self.update(due)
            self._updated_at = due
