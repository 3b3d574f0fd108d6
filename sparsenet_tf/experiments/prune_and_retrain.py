"""The paper's pruning experiment: prune a network, then train its masks anew.

For each seed a dense network is trained, and for each sparsity four sparse ones
(Alford et al., section II.A and Figure 7):

- "iterative": pruned while it trains, from the same initial weights;
- "iterative, retrained": new weights trained on the masks that this found;
- "one-time": the trained dense network, pruned at once and not trained further;
- "one-time, retrained": new weights trained on those masks.

Every kernel is pruned to the same sparsity, the logits' included; biases never are.
"""

import dataclasses
import gc
import itertools
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


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the outcome of the experiment.

    The paper cut every 200 steps from step 3,000 to the last, 10,000. The default here
    begins and ends earlier: 99% takes small cuts and enough steps after the last one.

    Raises:
        ValueError: an attribute is out of range; the message names it.

    >>> settings = Settings(steps=10_000)
    >>> settings.begin_step, settings.end_step, settings.frequency
    (1000, 7000, 200)
    """

    dataset: str = "mnist_5k"  # one of DATASETS
    data_dir: str | None = None  # folder of its published files, as for `load`
    model: str = "lenet_300_100"  # one of MODELS
    sparsities: tuple = (0.5, 0.75, 0.9, 0.95, 0.99)  # distinct, between 0 and 1
    steps: int = 1000  # optimizer steps of each training run
    learning_rate: float = 0.2  # as the paper
    momentum: float = 0.9  # 0 is the paper's plain SGD, which needs more steps
    begin_step: int | None = None  # of pruning; None: 10% of `steps`
    end_step: int | None = None  # of pruning, at most `steps`; None: 70% of `steps`
    frequency: int | None = None  # steps between two cuts; None: 2% of `steps`
    batch_size: int = 100
    seeds: tuple = (0, 1, 2)  # distinct; the whole experiment once for each

    def __post_init__(self):
        def settle(name, value):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        _check("dataset", self.dataset, self.dataset in DATASETS, f"one of {DATASETS}")
        _check("model", self.model, self.model in MODELS, f"one of {tuple(MODELS)}")
        _check_integer("steps", self.steps, 1)
        rate = self.learning_rate
        _check("learning_rate", rate, 0 < rate < math.inf, "a positive number")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        settle("begin_step", round(0.1 * self.steps))
        _check_integer("begin_step", self.begin_step, 0, self.steps)
        settle("end_step", max(self.begin_step, round(0.7 * self.steps)))
        _check_integer("end_step", self.end_step, self.begin_step, self.steps)
        settle("frequency", max(1, self.steps // 50))
        _check_integer("frequency", self.frequency, 1)
        _check_integer("batch_size", self.batch_size, 1)
        for name in ("sparsities", "seeds"):
            values = tuple(getattr(self, name))
            distinct = 0 < len(values) == len(set(values))
            _check(name, values, distinct, "distinct and at least one")
            object.__setattr__(self, name, values)
        for share in self.sparsities:
            _check("sparsities", share, 0 < share < 1, "between 0 and 1")
        for seed in self.seeds:
            _check_integer("seeds", seed, 0)


@dataclasses.dataclass(frozen=True)
class Record:
    """One trained or pruned network."""

    dataset: str
    model: str
    sparsity: float  # as asked for; 0.0 for the dense network
    sparsity_reached: float  # share of zeros in all kernels
    method: str  # DENSE or one of METHODS
    seed: int
    accuracy: float  # share of the test set that is classified right


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
        FloatingPointError: training diverged.
    """
    dataset = dataset or load(settings.dataset, settings.data_dir)
    # Per sparsity all but "one-time" are trained.
    runs = len(settings.seeds) * (1 + 3 * len(settings.sparsities))
    steps_before = itertools.count(0, settings.steps)

    def start_run(name):
        before, total = next(steps_before), runs * settings.steps
        return lambda step: progress and progress(before + step, total, name)

    records = []
    for seed in settings.seeds:
        records += _Repetition(settings, dataset, seed, start_run).run()
    return records


class _Repetition:
    """The experiment for one seed."""

    def __init__(self, settings, dataset, seed, start_run):
        self.settings = settings
        self.data = dataset
        self.seed = seed
        self.start_run = start_run

    def run(self):
        dense = self.train(self.new_model(), DENSE)
        records = [self.record(dense, DENSE)]
        for sparsity in self.settings.sparsities:
            models = self.sparse_models(dense, sparsity)
            for method, model in zip(METHODS, models, strict=True):
                records.append(self.record(model, method, sparsity))
            # Models lie in reference cycles, and Python is slow to free them at exit.
            del models, model
            gc.collect()
        return records

    def sparse_models(self, dense, sparsity):
        s = self.settings
        schedule = stf.pruning.PolynomialDecay(
            0.0, sparsity, s.begin_step, s.end_step, frequency=s.frequency
        )
        pruning = stf.pruning.PruningCallback(schedule)
        names = [f"{method}, sparsity {sparsity:g}" for method in METHODS]
        iterative = self.train(stf.sparsify(self.new_model()), names[0], [pruning])
        yield iterative
        yield self.retrain(iterative, names[1])
        one_time = stf.pruning.prune_one_shot(dense, sparsity)
        yield one_time
        yield self.retrain(one_time, names[3])

    def new_model(self):
        s = self.settings
        shape = self.data.x_train.shape[1:]
        model = MODELS[s.model](shape, self.data.num_classes, seed=self.seed)
        # Keras calls back only between executions: their length must divide every
        # step at which something happens, for that to happen exactly there.
        stops = (s.steps, s.begin_step, s.end_step, s.frequency)
        model.compile(
            optimizer=keras.optimizers.SGD(s.learning_rate, s.momentum),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=math.gcd(*stops),
        )
        return model

    def train(self, model, name, callbacks=()):
        keras.utils.set_random_seed(self.seed)
        model.fit(**self.fit_arguments(name, callbacks))
        return model

    def retrain(self, model, name):
        arguments = {"masks": stf.get_masks(model), **self.fit_arguments(name)}
        [history] = stf.retrain_from_scratch(model, seeds=self.seed, **arguments)
        return history.model

    def fit_arguments(self, name, callbacks=()):
        report = self.start_run(f"seed {self.seed}, {name}")
        return {
            "x": _Batches(self.data, self.settings, self.seed),
            "y": None,
            "shuffle": False,
            # The first names a divergence before pruning trips over it.
            "callbacks": [_Report(report), *callbacks],
            "verbose": 0,
        }

    def record(self, model, method, sparsity=0.0):
        return Record(
            dataset=self.data.name,
            model=self.settings.model,
            sparsity=sparsity,
            sparsity_reached=stf.summary(model, print_fn=None).sparsity,
            method=method,
            seed=self.seed,
            accuracy=_accuracy(model, self.data.x_test, self.data.y_test),
        )


class _Batches(keras.utils.PyDataset):
    """As many batches as there are steps; every image once before any comes again.

    One long epoch, since Keras sets its input up anew for each: with 40 steps in one,
    that takes a third of the time.
    """

    def __init__(self, dataset, settings, seed):
        super().__init__()
        self.x, self.y = dataset.x_train, dataset.y_train
        self.settings, self.seed = settings, seed
        self.passed = None

    def __len__(self):
        return self.settings.steps

    def __getitem__(self, step):
        size = self.settings.batch_size
        # A rest smaller than a batch waits for the next order.
        passed, i = divmod(step, max(1, len(self.x) // size))
        if passed != self.passed:
            rng = np.random.default_rng((self.seed, passed))
            self.passed, self.order = passed, rng.permutation(len(self.x))
        batch = self.order[i * size : (i + 1) * size]
        return self.x[batch], self.y[batch]


class _Report(keras.callbacks.Callback):
    """Reports the step, and stops with an error if training has diverged."""

    def __init__(self, report):
        super().__init__()
        self.report = report

    def on_train_batch_end(self, batch, logs=None):
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        if not math.isfinite(loss := logs["loss"]):
            text = f"Training diverged: the loss is {loss} at step {step}. "
            raise FloatingPointError(text + "Lower `learning_rate`.")
        self.report(step)


def _accuracy(model, x, y, batch_size=1000):
    hits = 0
    # Without `predict`, which would compile a function for each model.
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        scores = ops.convert_to_numpy(model(x[part], training=False))
        hits += int(np.count_nonzero(scores.argmax(axis=-1) == y[part]))
    return hits / len(x)


def _check(name, value, right, expected):
    if not right:
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")


def _check_integer(name, value, least, most=2**32 - 1):
    right = hasattr(value, "__index__") and least <= value <= most
    _check(name, value, right, f"an integer from {least} to {most}")
