"""What the experiments share: the checks of their settings, and how they train."""

import itertools
import math

import keras
import numpy as np
from keras import ops

from sparsenet_tf.experiments.models import lenet_5, lenet_300_100
from sparsenet_tf.topology.checks import is_integer

DATASETS = ("mnist_5k", "mnist", "fashion_mnist", "cifar10")
MODELS = {"lenet_300_100": lenet_300_100, "lenet_5": lenet_5}
DENSE = "dense"


def check(name, value, right, expected):
    """Raise a ValueError that names the setting, unless `right`.

    >>> check("momentum", 1.5, 0 <= 1.5 < 1, "in [0, 1)")
    Traceback (most recent call last):
        ...
    ValueError: `momentum` must be in [0, 1). Received: 1.5
    """
    if not right:
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")


def check_integer(name, value, least, most=2**32 - 1):
    """Raise a ValueError unless `value` is an integer from `least` to `most`."""
    right = is_integer(value) and least <= value <= most
    check(name, value, right, f"an integer from {least} to {most}")


def check_number(name, value, right, expected):
    """Raise a ValueError unless `value` is a number and `right(value)`.

    >>> check_number("momentum", 0.9, lambda value: 0 <= value < 1, "in [0, 1)")
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    check(name, value, is_number and right(value), expected)


def check_distinct(settings, name):
    """Make a setting, some sequence, a tuple.

    Raises:
        ValueError: it is empty, or values of it are equal.
    """
    values = tuple(getattr(settings, name))
    distinct = 0 < len(values) == len(set(values))
    check(name, values, distinct, "distinct and at least one")
    object.__setattr__(settings, name, values)


def check_training(settings):
    """Check the settings that every experiment has, and make `seeds` a tuple.

    Args:
        settings: a dataclass with `dataset`, `model`, `steps`, `learning_rate`,
            `momentum`, `batch_size` and `seeds`.

    Raises:
        ValueError: one of these is out of range; the message names it.
    """
    s = settings
    check("dataset", s.dataset, s.dataset in DATASETS, f"one of {DATASETS}")
    check("model", s.model, s.model in MODELS, f"one of {tuple(MODELS)}")
    check_integer("steps", s.steps, 1)
    check_optimizer(s)
    check_integer("batch_size", s.batch_size, 1)
    check_distinct(s, "seeds")
    for seed in s.seeds:
        check_integer("seeds", seed, 0)


def check_optimizer(settings):
    """Check a learning rate and a momentum.

    Raises:
        ValueError: one is no number or out of range; the message names it.
    """
    rate, momentum = settings.learning_rate, settings.momentum
    check_number("learning_rate", rate, lambda r: 0 < r < math.inf, "a positive number")
    check_number("momentum", momentum, lambda m: 0 <= m < 1, "in [0, 1)")


def compile_model(model, settings, steps_per_execution):
    """Compile `model` for logits, with SGD of the settings' rate and momentum."""
    model.compile(
        optimizer=keras.optimizers.SGD(settings.learning_rate, settings.momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )


def fit_arguments(dataset, settings, seed, report, callbacks=()):
    """Return the arguments of `model.fit` for one training run.

    The order of the images depends on `seed` alone, not on what is trained.

    Args:
        dataset: a `Dataset`.
        settings: with `steps` and `batch_size`.
        seed: integer, 0 or more.
        report: called with each step that callbacks see.
        callbacks: further ones.
    """
    return {
        "x": Batches(dataset, settings, seed),
        "y": None,
        "shuffle": False,
        # The first names a divergence before anything else trips over it.
        "callbacks": [Report(report), *callbacks],
        "verbose": 0,
    }


def report_runs(progress, runs, steps):
    """Return a function that starts a run: from its name to a function of the step.

    Args:
        progress: called with the steps done, those of all runs together, and the name
            of the run; or None.
        runs: how many there will be.
        steps: of each.

    >>> start_run = report_runs(print, runs=2, steps=10)
    >>> start_run("first")(10)
    10 20 first
    >>> start_run("second")(5)
    15 20 second
    """
    steps_before = itertools.count(0, steps)

    def start_run(name):
        before = next(steps_before)
        return lambda step: progress and progress(before + step, runs * steps, name)

    return start_run


class Batches(keras.utils.PyDataset):
    """As many batches as there are steps; every image once before any comes again.

    One long epoch, since Keras sets its input up anew for each: with 40 steps in one,
    that takes a third of the time.

    Args:
        dataset: a `Dataset`, of which the training part is taken.
        settings: with `steps` and `batch_size`.
        seed: integer, 0 or more; decides the order.
    """

    def __init__(self, dataset, settings, seed):
        super().__init__()
        self.x, self.y = dataset.x_train, dataset.y_train
        self.settings, self.seed = settings, seed
        self.passed = None

    def __len__(self):
        """Return the number of steps."""
        return self.settings.steps

    def __getitem__(self, step):
        """Return the images and labels of a step."""
        size = self.settings.batch_size
        # A rest smaller than a batch waits for the next order.
        passed, i = divmod(step, max(1, len(self.x) // size))
        if passed != self.passed:
            rng = np.random.default_rng((self.seed, passed))
            self.passed, self.order = passed, rng.permutation(len(self.x))
        batch = self.order[i * size : (i + 1) * size]
        return self.x[batch], self.y[batch]


class Report(keras.callbacks.Callback):
    """Reports the step, and stops with an error if training has diverged.

    Args:
        report: function called with the optimizer's step.
    """

    def __init__(self, report):
        super().__init__()
        self.report = report

    def on_train_batch_end(self, batch, logs=None):
        """Report the step, or raise a FloatingPointError."""
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        if not math.isfinite(loss := logs["loss"]):
            text = f"Training diverged: the loss is {loss} at step {step}. "
            raise FloatingPointError(text + "Lower `learning_rate`.")
        self.report(step)


def accuracy(model, x, y, batch_size=1000):
    """Return the share of `x` that `model` classifies as `y`."""
    hits = 0
    # Without `predict`, which would compile a function for each model.
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        scores = ops.convert_to_numpy(model(x[part], training=False))
        hits += int(np.count_nonzero(scores.argmax(axis=-1) == y[part]))
    return hits / len(x)
