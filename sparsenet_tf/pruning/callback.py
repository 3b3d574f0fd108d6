"""`PruningCallback`: prunes on schedule inside `model.fit`."""

import warnings

import keras

from sparsenet_tf.pruning.criteria import magnitude
from sparsenet_tf.pruning.scheduled import ScheduledUpdates
from sparsenet_tf.pruning.schedules import as_schedule
from sparsenet_tf.pruning.scope import check_scope
from sparsenet_tf.pruning.slots import clear_slots_of
from sparsenet_tf.pruning.update import (
    check_criterion,
    check_structure,
    prunable_kernels,
    prune_kernels,
    sparsity_of,
)


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class PruningCallback(ScheduledUpdates):
    """Prunes a sparsified model on schedule while `model.fit` trains it.

    The step is the optimizer's (`optimizer.iterations`), so the schedule goes on over
    several calls of `fit` and from a restored checkpoint. Masks change between two
    optimizer steps, as soon after a scheduled update as Keras calls back: at once, or
    with `steps_per_execution=n` up to `n - 1` steps late. Each update zeroes exactly
    `min(round(s * size), size - 1)` weights of each kernel (or of all together);
    among equals the later ones; pruned weights do not return. The optimizer's
    momentum and averages of pruned weights are cleared.

    It adds `sparsity`, the share of masked weights in the kernels that it prunes, to
    the logs of batches and epochs, for progress bars, `History` and TensorBoard. List
    it before callbacks that read it. What each update left of each kernel is in
    `updates`, which `stf.plot_sparsity` draws.

    Args:
        schedule: a `PolynomialDecay` or `ConstantSparsity`, of this package or of
            tensorflow-model-optimization.
        criterion: function from a kernel's values (NumPy array) to scores of the same
            shape, of which the lowest are pruned; or an object of this package that
            needs more than values, such as `Gradient(x, y)`. Default: their magnitude.
        scope: "layer" for the schedule's share of each kernel, "global" to rank the
            weights of all kernels together, "erdos_renyi" or "erk" for shares that
            keep small kernels denser (`stf.topology.allocate`), or a dict `{layer
            name: sparsity}` of layers that end at a sparsity of their own.
        exclude: layer name or names that stay as they are.
        structure: which weights go together: `NM`, `Blocks` or `Units`. None: each
            goes by itself.

    Attributes:
        sparsity: share of masked weights in the kernels that are pruned.
        updates: dict `{step: {path: sparsity}}`: at which optimizer steps masks were
            updated, and the share of each kernel that was masked then.

    Raises:
        TypeError: `schedule` is no schedule, `criterion` not callable, or `structure`
            no structure.
        ValueError: `scope` is unknown, or the schedule prunes more than `structure`
            has zeros; when training begins, the model has no masked
            kernels or `exclude` names a layer that it does not have; at an update,
            weights are NaN or infinite.

    Warns:
        UserWarning: training ended before the schedule did; a kernel lost all weights;
            files were saved, but none of the model at its final sparsity.

    Source: Zhu and Gupta, arXiv 1710.01878, section 3; Alford et al., section II.A,
    who update every 200 steps.

    Example:
    >>> from sparsenet_tf.layers import sparsify
    >>> from sparsenet_tf.pruning import PolynomialDecay
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = sparsify(model)
    >>> model.compile("sgd", "mse")
    >>> schedule = PolynomialDecay(0.0, 0.5, begin_step=0, end_step=4, frequency=2)
    >>> x = np.ones((40, 4), "float32")
    >>> history = model.fit(x, np.ones((40, 5)), batch_size=10, verbose=0,
    ...                     callbacks=[PruningCallback(schedule)])
    >>> history.history["sparsity"]
    [0.5]
    """

    def __init__(
        self,
        schedule,
        criterion=magnitude,
        scope="layer",
        exclude=(),
        structure=None,
    ):
        super().__init__(as_schedule(schedule), exclude)
        check_criterion(criterion)
        check_structure(structure, self.schedule.final_sparsity, "final_sparsity")
        self.criterion = criterion
        self.scope = check_scope(scope)
        self.structure = structure
        self._kernels = {}

    @property
    def observes_steps(self):
        """Whether the criterion looks at the weights after every step."""
        return hasattr(self.criterion, "observe")

    @property
    def has_ended(self):
        """Whether the model has been pruned to the schedule's final sparsity."""
        final = self.schedule.final_sparsity
        return self._updated_at is not None and self.schedule(self._updated_at) >= final

    def begin(self, exclude):
        """Find the masked kernels; the update of this step is yet to be made."""
        check_scope(self.scope, self.model)
        self._kernels = prunable_kernels(self.model, exclude)
        self.claim(self._kernels)
        masks = {path: masked.mask_value() for path, masked in self._kernels.items()}
        self.sparsity = sparsity_of(masks.values())
        for path, mask in masks.items():  # whatever was assigned to them since
            self._kernels[path].set_mask(mask, guard=False)
        self.guards.lower(self.model, self._kernels.values())
        for masked in self._kernels.values():
            masked.saved_mask_count = None
        if self.observes_steps:
            self.criterion.begin(self._kernels)

    def on_train_batch_end(self, batch, logs=None):
        """Prune if an update has come due, and report the sparsity."""
        if self.observes_steps:
            self.model  # noqa: B018  Keras gives variables their values back with JAX.
            self.criterion.observe(self._kernels)
        super().on_train_batch_end(batch, logs)

    def update(self, due):
        """Prune, and return the share of each kernel that is masked."""
        masks = prune_kernels(
            self.model,
            self._kernels,
            self.schedule(due),
            self.criterion,
            self.scope,
            self.structure,
            self.schedule.final_sparsity,
        )
        self.sparsity = sparsity_of(masks.values())
        clear_slots_of(self.model, self._kernels.values())
        return {path: sparsity_of([mask]) for path, mask in masks.items()}

    def on_train_end(self, logs=None):
        """Warn if the schedule has not ended, or if no file has the pruned model."""
        super().on_train_end(logs)
        final = self.schedule.final_sparsity
        if self.has_ended:
            self._warn_of_denser_files()
        else:
            step = self._steps.read_now(self.model)
            warnings.warn(
                f"Training ended at step {step} before the "
                f"pruning schedule did: the sparsity reached is {self.sparsity:.4f}, "
                f"its final one {final:.4f}. Train longer, or call `fit` again to go "
                "on.",
                stacklevel=2,
            )

    def _warn_of_denser_files(self):
        kernels = self._kernels.values()
        saved = [masked.saved_mask_count for masked in kernels]
        if None in saved:
            return
        size = sum(masked.mask_value().size for masked in kernels)
        sparsity = 1 - sum(saved) / size
        if sparsity < self.sparsity:
            warnings.warn(
                "The model was saved during training, but not after it was pruned to "
                f"its final sparsity {self.sparsity:.4f}: the last file has sparsity "
                f"{sparsity:.4f}. If a `ModelCheckpoint(save_best_only=True)` wrote "
                "it, pass that as `stf.AtFinalSparsity(pruning, checkpoint)`, which "
                "looks only at models of the final sparsity.",
                stacklevel=3,
            )

    def get_config(self):
        """The arguments."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "criterion": keras.saving.serialize_keras_object(self.criterion),
            "scope": self.scope,
            "exclude": self.exclude,
            "structure": keras.saving.serialize_keras_object(self.structure),
        }

    @classmethod
    def from_config(cls, config):
        """The callback of `get_config`; it has yet to train."""
        config = dict(config)
        for name in ("schedule", "criterion", "structure"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)
