"""The paper's pruning experiment: prune a network, then train its masks anew.

For each seed a dense network is trained, and for each sparsity four sparse ones
(Alford et al., section II.A and Figure 7):

- "iterative": the same initial weights and as many steps, pruned while it trains;
- "iterative, retrained": new weights trained on the masks that this found;
- "one-time": the trained dense network, pruned at once and not trained further;
- "one-time, retrained": new weights trained on those masks.

Every kernel is pruned to the same sparsity, the logits' included; biases never are.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

import sparsenet_tf as stf
from sparsenet_tf.experiments.data import load
from sparsenet_tf.experiments.models import lenet_5, lenet_300_100

DATASETS = ("mnist_5k", "mnist", "fashion_mnist", "cifar10")
MODELS = {"lenet_300_100": lenet_300_100, "lenet_5": lenet_5}
DENSE = "dense"
METHODS = ("iterative", "iterative, retrained", "one-time", "one-time, retrained")
_TRAINED_PER_SPARSITY = 3  # all but "one-time"


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the outcome of the experiment.

    Attributes:
        dataset: one of `DATASETS`.
        data_dir: folder of its published files, or None, as for `load`.
        model: a key of `MODELS`.
        sparsities: distinct numbers between 0 and 1.
        steps: optimizer steps of each training run.
        learning_rate: of plain SGD.
        begin_step: first step at which iterative pruning prunes. None: 30% of
            `steps`, as in the paper.
        end_step: the last one, `begin_step` to `steps`. None: 75% of `steps`; the
            rest lets the network recover from the last cut, which the paper's
            schedule leaves no time for.
        frequency: steps between two cuts. None: 2% of `steps`, as in the paper.
        batch_size: examples a step.
        seeds: distinct integers, 0 or more; one repetition of everything each.

    Raises:
        ValueError: an attribute is out of range.

    Example:

    >>> settings = Settings(steps=10_000)
    >>> settings.begin_step, settings.end_step, settings.frequency
    (3000, 7500, 200)
    """

    dataset: str = "mnist_5k"
    data_dir: str | None = None
    model: str = "lenet_300_100"
    sparsities: tuple = (0.5, 0.75, 0.9, 0.95, 0.99)
    steps: int = 1000
    learning_rate: float = 0.2
    begin_step: int | None = None
    end_step: int | None = None
    frequency: int | None = None
    batch_size: int = 100
    seeds: tuple = (0, 1, 2)

    def __post_init__(self):
        _check_choice("dataset", self.dataset, DATASETS)
        _check_choice("model", self.model, MODELS)
        _check_integer("steps", self.steps, 1)
        _check_integer("batch_size", self.batch_size, 1)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                "`learning_rate` must be a positive number. "
                f"Received: {self.learning_rate!r}"
            )
        self._set_default("begin_step", round(0.3 * self.steps))
        self._set_default("end_step", max(self.begin_step, round(0.75 * self.steps)))
        self._set_default("frequency", max(1, self.steps // 50))
        _check_integer("begin_step", self.begin_step, 0, self.steps)
        _check_integer("end_step", self.end_step, self.begin_step, self.steps)
        _check_integer("frequency", self.frequency, 1)
        for name in ("sparsities", "seeds"):
            values = tuple(getattr(self, name))
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"`{name}` must be distinct, and at least one. Received: {values}"
                )
            object.__setattr__(self, name, values)
        for sparsity in self.sparsities:
            if not 0 < sparsity < 1:
                raise ValueError(
                    f"`sparsities` must be between 0 and 1. Received: {sparsity!r}"
                )
        for seed in self.seeds:
            _check_integer("seeds", seed, 0, 2**32 - 1)

    def _set_default(self, name, value):
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True)
class Record:
    """One trained or pruned network.

    Attributes:
        dataset: its name.
        model: its name.
        sparsity: the sparsity asked for; 0.0 for the dense network.
        sparsity_reached: share of masked weights in all kernels together.
        method: `DENSE` or one of `METHODS`.
        seed: the repetition.
        accuracy: share of the test set that is classified right.
    """

    dataset: str
    model: str
    sparsity: float
    sparsity_reached: float
    method: str
    seed: int
    accuracy: float


def run(settings, dataset=None, progress=None):
    """Run the experiment. Equal settings on the same machine give equal records.

    Sets the global random seed of Keras, of its backend and of NumPy.

    Args:
        settings: a `Settings`.
        dataset: a `Dataset` to use instead of `settings.dataset`, such as a part of it.
        progress: function called during training with the steps done, the steps of
            all runs together, and a text that says what is being trained.

    Returns:
        List of `Record`: for each seed the dense one, then `METHODS` by sparsity.

    Raises:
        ValueError, OSError, ImportError, RuntimeError: as `load`.
        ValueError: training diverged.
    """
    dataset = dataset or load(settings.dataset, settings.data_dir)
    runs = 1 + _TRAINED_PER_SPARSITY * len(settings.sparsities)
    meter = _Meter(progress, settings.steps, runs * len(settings.seeds))
    records = []
    for seed in settings.seeds:
        repetition = _Repetition(settings, dataset, seed, meter)
        records += repetition.run()
    return records


class _Repetition:
    """The experiment for one seed."""

    def __init__(self, settings, dataset, seed, meter):
        self.settings = settings
        self.dataset = dataset
        self.seed = seed
        self.meter = meter
        self.steps_per_epoch = -(-len(dataset.x_train) // settings.batch_size)

    def run(self):
        dense = self.new_model()
        self.fit(dense, DENSE)
        records = [self.record(dense, DENSE, 0.0)]
        for sparsity in self.settings.sparsities:
            iterative = stf.sparsify(self.new_model())
            self.fit(iterative, METHODS[0], sparsity, [self.pruning(sparsity)])
            one_time = stf.pruning.prune_one_shot(dense, sparsity)
            models = (
                iterative,
                self.retrain(iterative, METHODS[1], sparsity),
                one_time,
                self.retrain(one_time, METHODS[3], sparsity),
            )
            for model, method in zip(models, METHODS, strict=True):
                records.append(self.record(model, method, sparsity))
        return records

    def new_model(self):
        s = self.settings
        model = MODELS[s.model](
            self.dataset.x_train.shape[1:], self.dataset.num_classes, seed=self.seed
        )
        # Keras calls back only between executions: their length must divide every
        # step at which something happens, for that to happen exactly there.
        stops = (s.steps, s.begin_step, s.end_step, s.frequency)
        model.compile(
            optimizer=keras.optimizers.SGD(s.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=math.gcd(self.steps_per_epoch, *stops),
        )
        return model

    def pruning(self, sparsity):
        s = self.settings
        schedule = stf.pruning.PolynomialDecay(
            0.0, sparsity, s.begin_step, s.end_step, frequency=s.frequency
        )
        return stf.pruning.PruningCallback(schedule)

    def fit(self, model, method, sparsity=0.0, callbacks=()):
        keras.utils.set_random_seed(self.seed)
        arguments = self.fit_arguments(method, sparsity, callbacks)
        model.fit(self.dataset.x_train, self.dataset.y_train, **arguments)

    def retrain(self, model, method, sparsity):
        (history,) = stf.retrain_from_scratch(
            model,
            stf.get_masks(model),
            self.dataset.x_train,
            self.dataset.y_train,
            seeds=self.seed,
            **self.fit_arguments(method, sparsity),
        )
        return history.model

    def fit_arguments(self, method, sparsity, callbacks=()):
        label = f"seed {self.seed}, {method}"
        label += f", {percent(sparsity)}" if sparsity else ""
        last = _StopAtStep(self.settings.steps, self.meter.start(label))
        return {
            "batch_size": self.settings.batch_size,
            "epochs": -(-self.settings.steps // self.steps_per_epoch),
            "callbacks": [*callbacks, last],
            "verbose": 0,
        }

    def record(self, model, method, sparsity):
        accuracy = _accuracy(model, self.dataset.x_test, self.dataset.y_test)
        return Record(
            dataset=self.dataset.name,
            model=self.settings.model,
            sparsity=sparsity,
            sparsity_reached=_sparsity(model) if sparsity else 0.0,
            method=method,
            seed=self.seed,
            accuracy=accuracy,
        )


class _StopAtStep(keras.callbacks.Callback):
    """Ends training at a step, also within an epoch, and reports each step on the way.

    Raises a ValueError if training has diverged.
    """

    def __init__(self, steps, report):
        super().__init__()
        self.steps = steps
        self.report = report

    def on_train_batch_end(self, batch, logs=None):
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise ValueError(
                f"Training diverged: the loss is {logs['loss']} at step {step}. "
                "Lower `learning_rate`."
            )
        self.report(step)
        if step >= self.steps:
            self.model.stop_training = True


class _Meter:
    """Adds up the steps of run after run."""

    def __init__(self, progress, steps, runs):
        self.progress = progress
        self.steps = steps
        self.total = steps * runs
        self.before = -steps

    def start(self, label):
        self.before += self.steps
        before = self.before

        def report(step):
            if self.progress is not None:
                self.progress(before + step, self.total, label)

        report(0)
        return report


def percent(share):
    """A share as a percentage, such as "99.5%"."""
    return f"{100 * share:.6g}%"


def _accuracy(model, x, y, batch_size=1000):
    hits = 0
    # Without `predict`, which would compile a function for each model.
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        scores = ops.convert_to_numpy(model(x[part], training=False))
        hits += int(np.count_nonzero(scores.argmax(axis=-1) == y[part]))
    return hits / len(x)


def _sparsity(model):
    masks = stf.get_masks(model).values()
    return 1 - sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}"
        )


def _check_integer(name, value, least, most=None):
    limits = f"{least} or more" if most is None else f"from {least} to {most}"
    if (
        isinstance(value, bool)
        or not hasattr(value, "__index__")
        or value < least
        or (most is not None and value > most)
    ):
        raise ValueError(f"`{name}` must be an integer, {limits}. Received: {value!r}")
