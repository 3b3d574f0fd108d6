"""A figure's rows by network, and what the paper published of each network."""

import dataclasses

from sparsenet_tf.experiments import paper_numbers
from sparsenet_tf.experiments.training import DENSE, check

# What the published numbers are compared with, and on what the authors had them.
_PUBLISHED = {"mnist": "mnist", "mnist_5k": "mnist", "cifar10": "cifar10"}
_PUBLISHED_ON = {"mnist": "full MNIST, 10,000 steps", "cifar10": "CIFAR-10"}


@dataclasses.dataclass(frozen=True)
class Network:
    """What the rows of one part of a table, or of one panel, have in common.

    >>> network = Network("mnist_5k", "lenet_5", "today", "linear")
    >>> network.title, network.published_on
    ('lenet_5 on mnist_5k', 'full MNIST, 10,000 steps')
    """

    dataset: str
    model: str
    network: str
    logits: str

    @property
    def title(self):
        """Model and dataset."""
        return f"{self.model} on {self.dataset}"

    @property
    def details(self):
        """Which initial values and which logits."""
        whose = {"today": "today's", "authors": "the authors'"}[self.network]
        logits = {"linear": "linear", "relu": "ReLU"}[self.logits]
        return f"{whose} network, {logits} logits"

    @property
    def published_on(self):
        """What the paper's numbers are of, or None if there are none to compare."""
        return _PUBLISHED_ON.get(_PUBLISHED.get(self.dataset))


def by_network(figure, rows):
    """Return `{Network: its rows}`, both in the order of the rows.

    Raises:
        ValueError: `figure` is none of 7, 8 and 9, or `rows` is empty.
    """
    check("figure", figure, figure in (7, 8, 9), "7, 8 or 9")
    if not rows:
        raise ValueError("`rows` must not be empty. Received: []")
    names = [field.name for field in dataclasses.fields(Network)]
    found = {}
    for row in rows:
        found.setdefault(Network(*(row[n] for n in names)), []).append(row)
    return found


def collect(rows, names, value, factor=1):
    """Return `{values of names: list of values}`, in the order of the rows.

    >>> rows = [{"seed": 0, "accuracy": 0.5}, {"seed": 1, "accuracy": 0.25}]
    >>> collect(rows, ["seed"], "accuracy", 100)
    {(0,): [50.0], (1,): [25.0]}
    """
    found = {}
    for row in rows:
        found.setdefault(tuple(row[n] for n in names), []).append(factor * row[value])
    return found


def published_pruning(network):
    """Return `{(method, sparsity): accuracy in %}` of Figure 7."""
    key = _key(network)
    methods = paper_numbers.PRUNING.get(key, {})
    found = {(m, s): v for m, values in methods.items() for s, v in values.items()}
    if key in paper_numbers.DENSE:
        found[DENSE, 0.0] = paper_numbers.DENSE[key]
    return found


def published_topologies(network):
    """Return `{(topology, density, neurons): accuracy in %}` of Figure 9."""
    key, found = _key(network), {}
    known = {"radix": paper_numbers.RADIX, "random": paper_numbers.RANDOM}
    for topology, numbers in known.items():
        densities, factors = numbers.get(key, ({}, {}))
        found |= {(topology, density, 1): v for density, v in densities.items()}
        found |= {(topology, 1 / n, n): v for n, v in factors.items()}
    if key in paper_numbers.DENSE:
        found[DENSE, 1.0, 1] = paper_numbers.DENSE[key]
    return found


def curves(rows):
    """Return Figure 8's rows as a list of curves, each a list of rows.

    A curve ends with the row that has "dead_logits".
    """
    found = [[]]
    for row in rows:
        found[-1].append(row)
        if row["dead_logits"] is not None:
            found.append([])
    return found[:-1]


def _key(network):
    return _PUBLISHED.get(network.dataset), network.model
