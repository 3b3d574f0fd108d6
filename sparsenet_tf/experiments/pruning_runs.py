"""The runs of the paper's pruning experiments: prune, freeze the masks, train anew.

Each run holds all that decides its outcome and depends on no other run, so that runs
can be done in any order, by any number of processes and machines. `execute` returns
`(history, result)`, which is what `sweep` stores.
"""

import dataclasses

import numpy as np
from keras import ops

import sparsenet_tf as stf
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.training import check, check_distinct, check_integer

SCOPES = ("global", "layer")
FRESH = 1000  # A retrained network's seed is its parent's and this: other weights.


@dataclasses.dataclass(frozen=True)
class OneTime:
    """A dense network, pruned at once to each sparsity, and those masks retrained.

    Source: Alford et al., section II.A, "one-time pruning".
    """

    training: Training
    sparsities: tuple
    seed: int = 0
    scope: str = "layer"

    def __post_init__(self):
        _check(self.scope, self.seed)
        check_distinct(self, "sparsities")
        for sparsity in self.sparsities:
            check("sparsities", sparsity, 0 < sparsity < 1, "between 0 and 1")

    def execute(self):
        """Train, prune and retrain.

        Returns:
            `(history, result)`. The result has the accuracy of the "dense" network
            and, by sparsity, that of the "pruned" and the "retrained" ones.
        """
        dataset = self.training.load()
        dense = self.training.new_model(dataset, self.seed)
        history = {"dense": self.training.train(dense, dataset, self.seed)}
        result = {"dense": history["dense"]["accuracy"][-1]}
        result["pruned"], result["retrained"] = {}, {}
        for sparsity in self.sparsities:
            pruned = stf.pruning.prune_one_shot(dense, sparsity, scope=self.scope)
            name = f"{sparsity:g}"
            result["pruned"][name] = measure(pruned, dataset)["accuracy"]
            curve, found = retrain(
                self.training, dense, stf.get_masks(pruned), self.seed + FRESH, dataset
            )
            history[name], result["retrained"][name] = curve, found["accuracy"]
        return history, result


@dataclasses.dataclass(frozen=True)
class Iterative:
    """A network pruned while it trains; its masks retrained from several new weights.

    Attributes:
        training: of the network that is pruned.
        sparsity: that the masks reach.
        begin_step, end_step, frequency: of the cubic schedule of pruning.
        seed: of the network that is pruned.
        scope: as for `PruningCallback`.
        retraining: of the new networks; None for `training`.
        retrainings: how many; their seeds are `FRESH + seed`, and so on.
        dense_layers: names of layers that are not pruned.
        scale_to_fan_in: as for `rebuild`, of the new weights.

    Source: Alford et al., section II.A, "iterative pruning", and Figure 8.
    """

    training: Training
    sparsity: float
    begin_step: int
    end_step: int
    frequency: int = 200
    seed: int = 0
    scope: str = "layer"
    retraining: Training | None = None
    retrainings: int = 1
    dense_layers: tuple = ()
    scale_to_fan_in: bool = False

    def __post_init__(self):
        _check(self.scope, self.seed)
        check("sparsity", self.sparsity, 0 < self.sparsity < 1, "between 0 and 1")
        check_integer("begin_step", self.begin_step, 0, self.training.steps)
        check_integer("end_step", self.end_step, self.begin_step, self.training.steps)
        check_integer("frequency", self.frequency, 1)
        check_integer("retrainings", self.retrainings, 0)
        for name in ("dataset", "data_dir", "model"):
            own, new = (getattr(t, name) for t in (self.training, self._retraining))
            check(f"retraining.{name}", new, own == new, f"{own!r}, as of `training`")

    @property
    def _retraining(self):
        return self.retraining or self.training

    def execute(self):
        """Prune and retrain.

        Returns:
            `(history, result)`. The result has the accuracy of the "pruned" network,
            and as "retrained" a list of what `measure` finds of each new one.
        """
        dataset = self.training.load()
        model = stf.sparsify(self.training.new_model(dataset, self.seed))
        schedule = stf.pruning.PolynomialDecay(
            0.0, self.sparsity, self.begin_step, self.end_step, frequency=self.frequency
        )
        pruning = stf.pruning.PruningCallback(
            schedule, scope=self.scope, exclude=self.dense_layers
        )
        history = {"pruned": self.training.train(model, dataset, self.seed, [pruning])}
        result = {"pruned": history["pruned"]["accuracy"][-1], "retrained": []}
        history["retrained"] = []
        training, masks = self._retraining, stf.get_masks(model)
        plain = training.new_model(dataset, self.seed)
        for seed in range(FRESH + self.seed, FRESH + self.seed + self.retrainings):
            curve, found = retrain(
                training, plain, masks, seed, dataset, self.scale_to_fan_in
            )
            history["retrained"].append(curve)
            result["retrained"].append(found)
        return history, result


def retrain(training, model, masks, seed, dataset, scale_to_fan_in=False):
    """Train new weights on frozen masks; return the history and what `measure` finds.

    Args:
        training: a `Training`.
        model: any built model of the architecture.
        masks: as from `get_masks`.
        seed: of the new weights and of the order of the images.
        dataset: the `Dataset`.
        scale_to_fan_in: as for `rebuild`.
    """
    new = stf.rebuild(model, masks, seed, scale_to_fan_in=scale_to_fan_in)
    training.compile(new)
    curve = training.train(new, dataset, seed)
    return curve, measure(new, dataset)


def measure(model, dataset, batch_size=1000):
    """Accuracy on the test set, and what the logits do there.

    Returns:
        Dictionary: "accuracy"; "dead_logits", how many logits are zero or less for
        every image, and so never pass a ReLU; "classes", how many distinct classes
        are predicted.
    """
    hits, alive, predicted = 0, False, set()
    for start in range(0, len(dataset.x_test), batch_size):
        part = slice(start, start + batch_size)
        logits = model(dataset.x_test[part], training=False)
        logits = ops.convert_to_numpy(logits)
        alive = alive | (logits > 0).any(axis=0)
        classes = logits.argmax(axis=-1)
        hits += int(np.count_nonzero(classes == dataset.y_test[part]))
        predicted.update(classes.tolist())
    return {
        "accuracy": hits / len(dataset.x_test),
        "dead_logits": int(np.count_nonzero(~alive)),
        "classes": len(predicted),
    }


def _check(scope, seed):
    check("scope", scope, scope in SCOPES, f"one of {SCOPES}")
    check_integer("seed", seed, 0)
