"""Methods of sparse training beside each other: how each makes a sparse network.

All train for as many steps, but for lottery tickets, which train so long in every
round. Each method's final masks are then trained from new weights, so that one sees
which topologies are good in themselves.
"""

import dataclasses

import numpy as np

import sparsenet_tf as stf
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.pruning_runs import FRESH, measure, retrain
from sparsenet_tf.experiments.training import DENSE, check, check_integer
from sparsenet_tf.pruning import (
    SET,
    SNIP,
    CosineDecay,
    Gradient,
    GraSP,
    Movement,
    PolynomialDecay,
    PruningCallback,
    Random,
    RigL,
    SynFlow,
    Wanda,
    prune_one_shot,
)
from sparsenet_tf.topology import RadixLayer

EXAMPLES = 1000  # that criteria look at
ROUNDS = 5  # of a lottery ticket
FRACTION = 0.3  # of the connections that SET and RigL exchange at first
UPDATES = 30  # of masks while they are pruned or exchanged


@dataclasses.dataclass(frozen=True)
class Method:
    """A network made sparse by a method, and its masks trained from new weights.

    Attributes:
        training: of all networks.
        method: one of `METHODS`, or "dense".
        sparsity: of all kernels together; 0.0 of "dense".
        seed: of weights, of what is random in the method and of the images' order.
    """

    training: Training
    method: str
    sparsity: float
    seed: int = 0

    def __post_init__(self):
        known = (DENSE, *METHODS)
        check("method", self.method, self.method in known, f"one of {known}")
        dense = self.method == DENSE
        right = self.sparsity == 0 if dense else 0 < self.sparsity < 1
        check("sparsity", self.sparsity, right, "0.0 if dense, else between 0 and 1")
        check_integer("seed", self.seed, 0)

    def execute(self):
        """Train it, and its masks from new weights.

        Returns:
            `(history, result)`. The result has the "accuracy", the "sparsity" that the
            masks have, by kernel in "sparsities", and, but for "dense", the accuracies
            of the masks with new weights: "retrained", and "retrained_scaled" with
            weights scaled to the connections that are left.
        """
        dataset = self.training.load()
        model = self.training.new_model(dataset, self.seed)
        if self.method == DENSE:
            history = {"method": self.training.train(model, dataset, self.seed)}
            return history, {"accuracy": measure(model, dataset)["accuracy"]}
        model = METHODS[self.method](self, stf.sparsify(model), dataset)
        masks = stf.get_masks(model)
        kept = sum(int(mask.sum()) for mask in masks.values())
        result = {
            "accuracy": measure(model, dataset)["accuracy"],
            "sparsity": 1 - kept / sum(mask.size for mask in masks.values()),
            "sparsities": {path: float(1 - m.mean()) for path, m in masks.items()},
        }
        plain, seed, history = stf.strip(model), FRESH + self.seed, {}
        for name, scaled in (("retrained", False), ("retrained_scaled", True)):
            history[name], found = retrain(
                self.training, plain, masks, seed, dataset, scaled
            )
            result[name] = found["accuracy"]
        return history, result

    def train(self, model, dataset, callbacks=(), share=1.0):
        """Train for that share of the steps; return the model."""
        steps = round(share * self.training.steps)
        training = dataclasses.replace(self.training, steps=steps)
        training.train(model, dataset, self.seed, callbacks)
        return model


def _static(make_criterion, scope):
    """Masks before training, which stay."""

    def method(run, model, dataset):
        criterion = make_criterion(run, dataset)
        return run.train(prune_one_shot(model, run.sparsity, criterion, scope), dataset)

    return method


def _once(make_criterion):
    """Trained, pruned at once, trained on: half of the steps each."""

    def method(run, model, dataset):
        run.train(model, dataset, share=0.5)
        criterion = make_criterion(run, dataset)
        prune_one_shot(model, run.sparsity, criterion, "global")
        return run.train(model, dataset, share=0.5)

    return method


def _gradual(make_criterion):
    """Pruned while it trains, from a tenth to seven tenths of the steps."""

    def method(run, model, dataset):
        steps = run.training.steps
        begin, end = steps // 10, steps * 7 // 10
        frequency = max(1, (end - begin) // UPDATES)
        schedule = PolynomialDecay(0.0, run.sparsity, begin, end, frequency=frequency)
        criterion = make_criterion(run, dataset)
        pruning = PruningCallback(schedule, criterion, scope="global")
        return run.train(model, dataset, [pruning])

    return method


def _dynamic(make_callback):
    """Random masks by ERK, of which connections are exchanged while it trains."""

    def method(run, model, dataset):
        model = prune_one_shot(model, run.sparsity, Random(run.seed), scope="erk")
        end = run.training.steps * 3 // 4
        frequency = max(1, end // UPDATES)
        schedule = CosineDecay(FRACTION, end_step=end, frequency=frequency)
        return run.train(model, dataset, [make_callback(run, schedule, dataset)])

    return method


def _radix(run, model, dataset):
    """RadiX layers, with dense logits, of about as many connections in all."""
    shapes = {path: mask.shape for path, mask in stf.get_masks(model).items()}
    *hidden, logits = shapes
    kept = (1 - run.sparsity) * sum(np.prod(shape) for shape in shapes.values())
    size = sum(np.prod(shapes[path]) for path in hidden)
    share = 1 - (kept - np.prod(shapes[logits])) / size
    masks = {
        path: RadixLayer.near(*shapes[path], share, stage=stage).mask()
        for stage, path in enumerate(hidden)
    }
    masks[logits] = np.ones(shapes[logits], bool)
    model = stf.rebuild(model, masks, run.seed)
    run.training.compile(model)
    return run.train(model, dataset)


def _ticket(rewind_share, control=None):
    """A lottery ticket, from the weights of an early step, then trained."""

    def method(run, model, dataset):
        ticket = stf.training.lottery_ticket(
            model,
            lambda model, callbacks: run.train(model, dataset, callbacks) and None,
            run.sparsity,
            rounds=ROUNDS,
            rewind_step=round(rewind_share * run.training.steps),
        )
        found = ticket.model
        if control == "shuffled":
            found = ticket.on(stf.transform.shuffle_masks(ticket.masks, run.seed))
        return run.train(found, dataset)

    return method


def _examples(dataset):
    return dataset.x_train[:EXAMPLES], dataset.y_train[:EXAMPLES]


def _by(criterion):
    return lambda run, dataset: criterion(*_examples(dataset))


def _magnitude(run, dataset):
    return stf.pruning.magnitude


def _at_random(run, dataset):
    return Random(run.seed)


METHODS = {
    "random, uniform": _static(_at_random, "layer"),
    "random, ERK": _static(_at_random, "erk"),
    "RadiX": _radix,
    "SNIP": _static(_by(SNIP), "global"),
    "GraSP": _static(_by(GraSP), "global"),
    "SynFlow": _static(lambda run, dataset: SynFlow(), "global"),
    "SET": _dynamic(lambda run, schedule, dataset: SET(schedule, seed=run.seed)),
    "RigL": _dynamic(
        lambda run, schedule, dataset: RigL(
            schedule, dataset.x_train, dataset.y_train, seed=run.seed
        )
    ),
    "magnitude, at once": _once(_magnitude),
    "Wanda, at once": _once(lambda run, dataset: Wanda(_examples(dataset)[0])),
    "magnitude, iterative": _gradual(_magnitude),
    "gradient, iterative": _gradual(_by(Gradient)),
    "movement, iterative": _gradual(lambda run, dataset: Movement()),
    "lottery ticket": _ticket(0.0),
    "lottery ticket, rewound": _ticket(0.05),
    "lottery ticket, shuffled": _ticket(0.05, "shuffled"),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is compared."""

    steps: int
    seeds: int
    sparsities: tuple
    dataset: str = "mnist_5k"


SCALES = {
    "smoke": Scale(10, 1, (0.95,)),
    "small": Scale(1000, 3, (0.9, 0.95, 0.98, 0.99)),
    "full": Scale(10_000, 5, (0.9, 0.95, 0.98, 0.99), "mnist"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to compare.

    Raises:
        ValueError: an attribute is out of range; the message names it.

    >>> Settings("smoke").dataset
    'mnist_5k'
    """

    scale: str = "small"
    dataset: str | None = None  # None: the scale's
    data_dir: str | None = None
    methods: tuple = tuple(METHODS)

    def __post_init__(self):
        check("scale", self.scale, self.scale in SCALES, f"one of {tuple(SCALES)}")
        if self.dataset is None:
            object.__setattr__(self, "dataset", SCALES[self.scale].dataset)
        check("dataset", self.dataset, self.dataset != "cifar10", "of 28 x 28 images")
        known = tuple(METHODS)
        right = self.methods and set(self.methods) <= set(known)
        check("methods", self.methods, right, f"some of {known}")


def runs(settings):
    """Return the list of runs: the dense networks, then each method's."""
    scale = SCALES[settings.scale]
    training = Training(
        dataset=settings.dataset,
        learning_rate=0.1,
        steps=scale.steps,
        evaluate_every=scale.steps,
        data_dir=settings.data_dir,
    )
    seeds = range(scale.seeds)
    return [Method(training, DENSE, 0.0, seed) for seed in seeds] + [
        Method(training, method, sparsity, seed)
        for method in settings.methods
        for sparsity in scale.sparsities
        for seed in seeds
    ]
