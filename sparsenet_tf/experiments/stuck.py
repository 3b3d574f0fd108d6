"""Why retrained LeNet-5s get stuck: the runs that test one claim and three suspicions.

In the paper's Figure 8, networks retrained on a frozen mask "appear to get stuck at
different levels", and the authors do not know why. Their network has a ReLU on its
logits. The claim: a logit that is negative for every image gets no gradient any more,
its class is never predicted again, and each such class costs a tenth of the accuracy.

Each mask comes from a network with linear logits, pruned while it trains, so that all
variants of the retrained network start from equal masks and equal weights.
"""

import dataclasses

from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.pruning_runs import Iterative
from sparsenet_tf.experiments.training import check, check_integer

SPARSITIES = {
    "smoke": (0.75,),
    "small": (0.75, 0.9, 0.95, 0.99),
    "full": (0.75, 0.9, 0.95, 0.99),
}
LEARNING_RATES = (0.02, 0.1, 0.2)
RATE = 0.2  # the paper's, at which the suspicions are tested
SCALED = "scaled to fan-in"
SUSPICIONS = ("first convolution dense", SCALED, "warmup")
STEPS = {"smoke": 6, "small": 250, "full": 10_000}
RETRAININGS = {"smoke": 1, "small": 5, "full": 20}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to retrain.

    Attributes:
        sparsity: of the mask.
        logits: "relu" or "linear".
        learning_rate: of SGD without momentum.
        suspicion: one of `SUSPICIONS`, or "" for the authors' way.
    """

    sparsity: float
    logits: str
    learning_rate: float
    suspicion: str = ""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to do.

    Raises:
        ValueError: an attribute is out of range; the message names it.

    >>> Settings("smoke").retrainings
    1
    """

    scale: str = "small"
    dataset: str | None = None  # None: "mnist" at scale "full", else "mnist_5k"
    data_dir: str | None = None
    retrainings: int | None = None  # of each variant; None: as the scale says

    def __post_init__(self):
        check("scale", self.scale, self.scale in STEPS, f"one of {tuple(STEPS)}")
        dataset = self.dataset
        if dataset is None:
            dataset = "mnist" if self.scale == "full" else "mnist_5k"
            object.__setattr__(self, "dataset", dataset)
        check("dataset", dataset, dataset != "cifar10", "one of 28 x 28 images")
        if self.retrainings is None:
            object.__setattr__(self, "retrainings", RETRAININGS[self.scale])
        check_integer("retrainings", self.retrainings, 1)


def variants(sparsities):
    """Return all `Variant`s, for each sparsity: logits by rates, and each suspicion.

    Values scaled to the fan-in come with both kinds of logits, since they may be what
    lets a very sparse network train at all.

    >>> len(variants((0.75, 0.99)))
    20
    """
    found = []
    for sparsity in sparsities:
        for logits in ("relu", "linear"):
            found += [Variant(sparsity, logits, rate) for rate in LEARNING_RATES]
        found += [Variant(sparsity, "relu", RATE, s) for s in SUSPICIONS]
        found.append(Variant(sparsity, "linear", RATE, SCALED))
    return found


def runs(settings):
    """Return `{variant: run}`."""
    wanted = variants(SPARSITIES[settings.scale])
    return {variant: _run(variant, settings) for variant in wanted}


def _run(variant, settings):
    steps = STEPS[settings.scale]
    parent = Training(
        dataset=settings.dataset,
        model="lenet_5",
        network="authors",
        steps=steps,
        learning_rate=RATE,
        momentum=0.0,
        evaluate_every=max(1, steps // 10),
        data_dir=settings.data_dir,
    )
    retraining = dataclasses.replace(
        parent,
        logits=variant.logits,
        learning_rate=variant.learning_rate,
        warmup=steps // 5 if variant.suspicion == "warmup" else 0,
    )
    first_dense = variant.suspicion == "first convolution dense"
    return Iterative(
        parent,
        variant.sparsity,
        begin_step=steps // 10,
        end_step=steps * 7 // 10,
        frequency=max(1, steps // 50),
        retraining=retraining,
        retrainings=settings.retrainings,
        dense_layers=("conv1",) if first_dense else (),
        scale_to_fan_in=variant.suspicion == SCALED,
    )
