"""`AtFinalSparsity`: callbacks that look only at models of the final sparsity."""

import warnings

import keras

from sparsenet_tf.pruning.callback import PruningCallback
from sparsenet_tf.topology.checks import shown


class AtFinalSparsity(keras.callbacks.Callback):
    """Passes on to callbacks only what happens once the model is fully pruned.

    `EarlyStopping` and `ModelCheckpoint(save_best_only=True)` choose the best model of
    all epochs. While a schedule prunes, this is often one from before the pruning.
    Wrapped in this callback they choose among epochs that end at the final sparsity of
    the schedule, so that `fit` ends with, and saves, the best of these models.

    The ends of batches, epochs and evaluations are passed on from then on, everything
    else always. The epoch in which the final sparsity is reached counts where a
    callback monitors a value of the validation. A value of the training (`monitor` does
    not begin with ``"val_"``) is a mean over that epoch, and so over denser models too:
    it counts from the next epoch on.

    Args:
        pruning: the `PruningCallback` of the same `fit`, listed before this callback.
        callbacks: a Keras callback, or a list of them.

    Raises:
        TypeError: `pruning` is not a `PruningCallback`, or `callbacks` are not Keras
            callbacks.
        ValueError: `callbacks` is empty; when training begins, `pruning` is not in the
            callbacks of the same `fit`.

    Warns:
        UserWarning: training ended before the callbacks saw an epoch.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = stf.sparsify(model)
    >>> model.compile("sgd", "mse")
    >>> pruning = stf.pruning.PruningCallback(
    ...     stf.pruning.ConstantSparsity(0.5, begin_step=6))
    >>> best = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    >>> x, y = np.ones((40, 4), "float32"), np.ones((40, 5), "float32")
    >>> history = model.fit(x, y, batch_size=10, epochs=3, verbose=0,
    ...                     callbacks=[pruning, AtFinalSparsity(pruning, best)])
    >>> best.best_epoch  # the last of three, the first that began at half the weights
    2
    """

    def __init__(self, pruning, callbacks):
        super().__init__()
        if not isinstance(pruning, PruningCallback):
            raise TypeError(
                "`pruning` must be the PruningCallback of the same `fit`. Received: "
                f"{shown(pruning)}"
            )
        self.pruning = pruning
        self.callbacks = keras.tree.flatten(callbacks)
        if not self.callbacks:
            raise ValueError(
                "`callbacks` must be a Keras callback or a list of them. Received: "
                f"{shown(callbacks)}"
            )
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise TypeError(
                    "`callbacks` must be Keras callbacks, such as "
                    f"`keras.callbacks.EarlyStopping`. Received: {shown(callback)}"
                )
        self._began_final = self._passed_on = False

    def set_params(self, params):
        """Give the callbacks the parameters of the `fit`."""
        super().set_params(params)
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model):
        """Give the callbacks the model."""
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def on_train_begin(self, logs=None):
        """Check that `pruning` is in the same `fit`."""
        if self.pruning.params is not self.params:
            raise ValueError(
                "`pruning` must be in the callbacks of the same `fit`: "
                "`callbacks=[pruning, AtFinalSparsity(pruning, ...)]`. Received: a "
                "PruningCallback that is not among them"
            )
        self._passed_on = False
        self._pass_on("on_train_begin", logs)

    def on_epoch_begin(self, epoch, logs=None):
        """Note whether the whole epoch is at the final sparsity."""
        self._began_final = self.pruning.has_ended
        self._pass_on("on_epoch_begin", epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        """Pass it on."""
        self._pass_on("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """Pass it on at the final sparsity."""
        self._pass_on_if_ended("on_train_batch_end", batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Pass it on at the final sparsity."""
        self._pass_on_if_ended("on_epoch_end", epoch, logs)

    def on_test_begin(self, logs=None):
        """Pass it on at the final sparsity, as the end of the evaluation."""
        self._pass_on_if_ended("on_test_begin", logs)

    def on_test_batch_begin(self, batch, logs=None):
        """Pass it on at the final sparsity."""
        self._pass_on_if_ended("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        """Pass it on at the final sparsity."""
        self._pass_on_if_ended("on_test_batch_end", batch, logs)

    def on_test_end(self, logs=None):
        """Pass it on at the final sparsity."""
        self._pass_on_if_ended("on_test_end", logs)

    def on_train_end(self, logs=None):
        """Pass it on, or warn if the callbacks saw no epoch."""
        self._pass_on("on_train_end", logs)
        if not self._passed_on:
            names = [type(callback).__name__ for callback in self.callbacks]
            warnings.warn(
                f"{names} in `AtFinalSparsity` saw no epoch of the final sparsity "
                f"{self.pruning.schedule.final_sparsity:.4f}, so no best model was "
                "restored or saved. Train longer, or let the schedule end earlier.",
                stacklevel=2,
            )

    def _pass_on(self, event, *args):
        for callback in self.callbacks:
            getattr(callback, event)(*args)

    def _pass_on_if_ended(self, event, *args):
        if not self.pruning.has_ended:
            return
        for callback in self.callbacks:
            # Keras' means over the training are of the epoch from its begin.
            of_training = not getattr(callback, "monitor", "val_").startswith("val_")
            if self._began_final or not of_training:
                getattr(callback, event)(*args)
                self._passed_on |= event == "on_epoch_end"
