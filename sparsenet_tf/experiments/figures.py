"""Which runs make the paper's Figures 7, 8 and 9, at three scales."""

import dataclasses

from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.pruning_runs import Iterative, OneTime
from sparsenet_tf.experiments.topology_runs import Topology
from sparsenet_tf.experiments.training import check, check_distinct, check_integer

FIGURES = (7, 8, 9)
SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.99)
RETRAINED_SPARSITIES = (0.75, 0.9, 0.95, 0.99)  # of Figure 8
DENSITIES = (0.5, 0.1, 0.05, 0.01)  # of as many neurons as usual
NEURONS = (2, 10, 100)  # times as many, each with a part of its connections
L300, L5 = "lenet_300_100", "lenet_5"
PAPERS_RETRAINING = {
    "network": "authors",
    "logits": "relu",
    "learning_rate": 0.2,
    "momentum": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of the paper is done.

    Attributes:
        steps: optimizer steps, by model.
        learning_rate: of SGD, by model.
        momentum: of SGD.
        network, logits: as for `Training`.
        evaluate_every: steps, by model.
        begin, end: of pruning, as shares of the steps.
        updates: of the masks between them.
        scope: as for `PruningCallback`.
        seeds: how many networks of each kind, by model.
        retrainings: curves for each sparsity of Figure 8.
        neurons: factors of Figure 9, by model. Of the largest, which take most of the
            time, there is one network of each kind.
        sparsities, retrained_sparsities, densities: of Figures 7, 8 and 9.
        datasets: pairs of a dataset and the models that are trained on it.
    """

    steps: dict
    evaluate_every: dict
    seeds: dict
    neurons: dict
    retrainings: int
    datasets: tuple
    learning_rate: dict
    momentum: float = 0.0
    network: str = "today"
    logits: str = "linear"
    begin: float = 0.1
    end: float = 0.7
    updates: int = 30
    scope: str = "global"
    sparsities: tuple = SPARSITIES
    retrained_sparsities: tuple = RETRAINED_SPARSITIES
    densities: tuple = DENSITIES

    def training(self, dataset, model, data_dir=None, **changes):
        """Return the `Training` of a model on a dataset."""
        return Training(
            dataset=dataset,
            model=model,
            network=self.network,
            logits=self.logits,
            steps=self.steps[model],
            learning_rate=changes.get("learning_rate", self.learning_rate[model]),
            momentum=self.momentum,
            evaluate_every=self.evaluate_every[model],
            data_dir=data_dir,
        )


# "small" is what a laptop does in half an hour on the digits that ship with the
# package. Without the paper's time, momentum takes the place of steps.
SCALES = {
    "smoke": Scale(
        steps={L300: 20, L5: 4},
        evaluate_every={L300: 10, L5: 2},
        seeds={L300: 2, L5: 1},
        neurons={L300: (2,), L5: (2,)},
        retrainings=2,
        datasets=(("mnist_5k", (L300, L5)),),
        learning_rate={L300: 0.2, L5: 0.2},
        updates=3,
        sparsities=(0.5, 0.9),
        retrained_sparsities=(0.75, 0.99),
        densities=(0.5,),
    ),
    "small": Scale(
        steps={L300: 600, L5: 200},
        evaluate_every={L300: 100, L5: 20},
        seeds={L300: 3, L5: 1},
        neurons={L300: (2, 10, 100), L5: (2, 10)},
        retrainings=5,
        datasets=(("mnist_5k", (L300, L5)),),
        learning_rate={L300: 0.2, L5: 0.05},
        momentum=0.9,
    ),
    "full": Scale(
        steps={L300: 10_000, L5: 10_000},
        evaluate_every={L300: 200, L5: 200},
        seeds={L300: 3, L5: 3},
        neurons={L300: NEURONS, L5: NEURONS},
        retrainings=10,
        datasets=(("mnist", (L300, L5)), ("cifar10", (L5,))),
        learning_rate={L300: 0.2, L5: 0.2},
        network="authors",
        logits="relu",
        begin=0.3,
        end=1.0,
        updates=35,
        scope="layer",
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to do.

    Raises:
        ValueError: an attribute is out of range; the message names it.

    >>> Settings(figures=(7,), models=("lenet_300_100",)).models
    ('lenet_300_100',)
    """

    figures: tuple = FIGURES
    scale: str = "small"
    dataset: str | None = None  # None: those of the scale
    data_dir: str | None = None  # folder of the dataset's published files
    models: tuple = (L300, L5)
    seeds: int | None = None  # how many; None: as the scale says
    learning_rate: float | None = None  # None: the scale's

    def __post_init__(self):
        check_distinct(self, "figures")
        for figure in self.figures:
            check("figure", figure, figure in FIGURES, f"one of {FIGURES}")
        check("scale", self.scale, self.scale in SCALES, f"one of {tuple(SCALES)}")
        check_distinct(self, "models")
        for model in self.models:
            check("models", model, model in (L300, L5), f"of {(L300, L5)}")
        if self.seeds is not None:
            check_integer("seeds", self.seeds, 1)


def runs(settings):
    """Return `{figure: list of runs}`. Some runs may serve two figures.

    Raises:
        ValueError: no network of a figure is among the models of `settings`.
    """
    made = {7: _figure_7, 8: _figure_8, 9: _figure_9}
    found = {figure: made[figure](settings) for figure in settings.figures}
    for figure, listed in found.items():
        if not listed:
            raise ValueError(
                f"Figure {figure} has no networks of `models`. "
                f"Received: {settings.models}"
            )
    return found


def _trainings(settings, **changes):
    """Yield `(training, scale, seeds)` of each model on each dataset."""
    scale = SCALES[settings.scale]
    if settings.learning_rate is not None:
        changes["learning_rate"] = settings.learning_rate
    datasets = scale.datasets
    if settings.dataset is not None:
        models = (L5,) if settings.dataset == "cifar10" else (L300, L5)
        datasets = ((settings.dataset, models),)
    for dataset, models in datasets:
        for model in models:
            if model in settings.models:
                count = settings.seeds or scale.seeds[model]
                training = scale.training(dataset, model, settings.data_dir, **changes)
                yield training, scale, range(count)


def _iterative(training, scale, sparsity, seed, **changes):
    begin = round(scale.begin * training.steps)
    end = round(scale.end * training.steps)
    return Iterative(
        training,
        sparsity,
        begin,
        end,
        frequency=max(1, (end - begin) // scale.updates),
        seed=seed,
        scope=scale.scope,
        **changes,
    )


def _figure_7(settings):
    found = []
    for training, scale, seeds in _trainings(settings):
        for seed in seeds:
            found.append(OneTime(training, scale.sparsities, seed, scale.scope))
            found += [_iterative(training, scale, s, seed) for s in scale.sparsities]
    return found


def _figure_8(settings):
    """LeNet-5 alone, whose masks are retrained as the authors did."""
    found = []
    for training, scale, _ in _trainings(settings):
        if training.model == L5:
            retraining = dataclasses.replace(training, **PAPERS_RETRAINING)
            for sparsity in scale.retrained_sparsities:
                run = _iterative(
                    training,
                    scale,
                    sparsity,
                    seed=0,
                    retraining=retraining,
                    retrainings=scale.retrainings,
                )
                found.append(run)
    return found


def _figure_9(settings):
    found = []
    for training, scale, seeds in _trainings(settings):
        factors = scale.neurons[training.model]
        for seed in seeds:
            found.append(Topology(training, seed=seed))
            sizes = [(density, 1) for density in scale.densities]
            sizes += [(1 / n, n) for n in factors if seed == 0 or n < max(factors)]
            for kind in ("radix", "random"):
                found += [Topology(training, kind, d, n, seed) for d, n in sizes]
    return found
