"""The paper's pruning experiment: prune a network, then train its masks anew.

For each seed a dense network is trained, and for each sparsity four sparse ones
(Alford et al., section II.A and Figure 7):

- "iterative": pruned while it trains, from the same initial weights;
- "iterative, retrained": new weights trained on the masks that this found;
- "one-time": the trained dense network, pruned at once and not trained further;
- "one-time, retrained": new weights trained on those masks.

All kernels together are pruned to the sparsity, the logits' included; or, as in the
paper, each of them with `scope="layer"`. Biases never are.
"""

import dataclasses
import gc
import math

import keras

import sparsenet_tf as stf
from sparsenet_tf.experiments import training
from sparsenet_tf.experiments.data import load
from sparsenet_tf.experiments.training import DENSE, MODELS, check, check_integer

SCOPES = ("global", "layer")
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
    scope: str = "global"  # or "layer": at 99%, that leaves the ten logits ten weights
    batch_size: int = 100
    seeds: tuple = (0, 1, 2)  # distinct; the whole experiment once for each

    def __post_init__(self):
        def settle(name, value):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        training.check_training(self)
        settle("begin_step", round(0.1 * self.steps))
        check_integer("begin_step", self.begin_step, 0, self.steps)
        settle("end_step", max(self.begin_step, round(0.7 * self.steps)))
        check_integer("end_step", self.end_step, self.begin_step, self.steps)
        settle("frequency", max(1, self.steps // 50))
        check_integer("frequency", self.frequency, 1)
        check("scope", self.scope, self.scope in SCOPES, f"one of {SCOPES}")
        training.check_distinct(self, "sparsities")
        for share in self.sparsities:
            check("sparsities", share, 0 < share < 1, "between 0 and 1")


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
    start_run = training.report_runs(progress, runs, settings.steps)
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
        pruning = stf.pruning.PruningCallback(schedule, scope=s.scope)
        names = [f"{method}, sparsity {sparsity:g}" for method in METHODS]
        iterative = self.train(stf.sparsify(self.new_model()), names[0], [pruning])
        yield iterative
        yield self.retrain(iterative, names[1])
        one_time = stf.pruning.prune_one_shot(dense, sparsity, scope=s.scope)
        yield one_time
        yield self.retrain(one_time, names[3])

    def new_model(self):
        s = self.settings
        shape = self.data.x_train.shape[1:]
        model = MODELS[s.model](shape, self.data.num_classes, seed=self.seed)
        # Keras calls back only between executions: their length must divide every
        # step at which something happens, for that to happen exactly there.
        stops = (s.steps, s.begin_step, s.end_step, s.frequency)
        training.compile_model(model, s, steps_per_execution=math.gcd(*stops))
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
        return training.fit_arguments(
            self.data, self.settings, self.seed, report, callbacks
        )

    def record(self, model, method, sparsity=0.0):
        return Record(
            dataset=self.data.name,
            model=self.settings.model,
            sparsity=sparsity,
            sparsity_reached=stf.summary(model, print_fn=None).sparsity,
            method=method,
            seed=self.seed,
            accuracy=training.accuracy(model, self.data.x_test, self.data.y_test),
        )
