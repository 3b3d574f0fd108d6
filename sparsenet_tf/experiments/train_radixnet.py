"""The paper's experiment with topologies that are sparse before training begins.

For each seed a dense network is trained, and for each of some sparse ones two (Alford
et al., section II.B and Figure 9):

- "radix": RadiX-Net layers, which hold their nonzeros only;
- "random": masks in which each connection exists with one probability, so that about
  as many do as in the RadiX-Net.

LeNet-300-100 keeps its logits dense; LeNet-5 its first convolution as well.
"""

import dataclasses
import gc
import math
import time

import keras
import numpy as np

import sparsenet_tf as stf
from sparsenet_tf.experiments import training
from sparsenet_tf.experiments.data import load
from sparsenet_tf.experiments.training import DENSE, MODELS

TOPOLOGIES = ("radix", "random")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the experiment.

    Attributes:
        name: of it, unique among the networks of a model.
        sparsity: of its sparse layers; 0.0 for a dense network.
        widths: arguments of the model's function that set other widths than its own.
    """

    name: str
    sparsity: float = 0.0
    widths: dict = dataclasses.field(default_factory=dict)


# The small and the large ones of 90% are the paper's RadiX-Nets: radices (10, 10),
# widths (8, 3, 1) and (8, 30, 1).
NETWORKS = {
    "lenet_300_100": (
        Network(DENSE),
        Network("small, 50% sparse", 0.5),
        Network("small, 90% sparse", 0.9),
        Network("large, 90% sparse", 0.9, {"units": (3000, 100)}),
    ),
    "lenet_5": (
        Network(DENSE),
        Network("50% sparse", 0.5),
        Network("90% sparse", 0.9),
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the outcome of the experiment.

    Raises:
        ValueError: an attribute is out of range; the message names it.

    >>> Settings(seeds=[0, 1]).seeds
    (0, 1)
    """

    dataset: str = "mnist_5k"  # one of training.DATASETS
    data_dir: str | None = None  # folder of its published files, as for `load`
    model: str = "lenet_300_100"  # one of NETWORKS
    steps: int = 1000  # optimizer steps of each training run; the paper: 10,000
    learning_rate: float = 0.1
    momentum: float = 0.9  # 0 is the paper's plain SGD, which needs more steps
    batch_size: int = 100
    seeds: tuple = (0, 1, 2)  # distinct; the whole experiment once for each

    def __post_init__(self):
        training.check_training(self)


@dataclasses.dataclass(frozen=True)
class Record:
    """One trained network."""

    dataset: str
    model: str
    network: str  # name of one of NETWORKS
    topology: str  # DENSE or one of TOPOLOGIES
    hidden: str  # units or filters of its hidden layers, such as "300-100"
    connections: int  # kernel weights that exist, those of all kernels
    stored_weights: int  # kernel entries in memory, masked ones included
    seed: int
    accuracy: float  # share of the test set that is classified right
    milliseconds_per_step: float | None  # after the first execution; None: had no other


def run(settings, dataset=None, progress=None):
    """Run the experiment. On one machine equal settings give equal accuracies.

    The order of the images depends on the seed alone. Sets the global random seed of
    Keras, of its backend and of NumPy.

    Args:
        settings: a `Settings`.
        dataset: a `Dataset` to use instead of `settings.dataset`, such as a part of it.
        progress: function called during training with the steps done, the steps of
            all runs together, and a text that says what is being trained.

    Returns:
        List of `Record`: for each seed the model's `NETWORKS`, the sparse ones once
        for each of `TOPOLOGIES`.

    Raises:
        ValueError, OSError, ImportError, RuntimeError: as `load`.
        FloatingPointError: training diverged.
    """
    dataset = dataset or load(settings.dataset, settings.data_dir)
    networks = NETWORKS[settings.model]
    runs = sum(len(TOPOLOGIES) if network.sparsity else 1 for network in networks)
    runs *= len(settings.seeds)
    start_run = training.report_runs(progress, runs, settings.steps)
    records = []
    for seed in settings.seeds:
        for network in networks:
            for topology, model in build(network, settings.model, dataset, seed):
                report = start_run(f"seed {seed}, {_full_name(network, topology)}")
                spent = _train(model, settings, dataset, seed, report)
                sizes = {"hidden": _hidden(model), **_count(model)}
                correct = training.accuracy(model, dataset.x_test, dataset.y_test)
                records.append(
                    Record(
                        dataset=dataset.name,
                        model=settings.model,
                        network=network.name,
                        topology=topology,
                        **sizes,
                        seed=seed,
                        accuracy=correct,
                        milliseconds_per_step=spent,
                    )
                )
                # Models lie in reference cycles, and Python is slow to free them.
                del model
                gc.collect()
    return records


def build(network, model, dataset, seed):
    """Yield `(topology, model)` for a network: dense, or of each of `TOPOLOGIES`.

    A random one has the density that the RadiX-Net has reached, all of its sparse
    layers together.

    Args:
        network: a `Network`.
        model: name of one of `training.MODELS`.
        dataset: a `Dataset`, whose images and classes it takes.
        seed: integer, 0 or more: of the weights and of the random topologies.
    """
    shape, classes = dataset.x_train.shape[1:], dataset.num_classes
    dense = MODELS[model](shape, classes, seed=seed, **network.widths)
    if not network.sparsity:
        yield DENSE, dense
        return
    dense_first = model == "lenet_5"
    radix = stf.sparse_net(dense, network.sparsity, "radix", dense_first, seed=seed)
    sparsity = _sparsity(dense, radix)
    yield "radix", radix
    yield "random", stf.sparse_net(dense, sparsity, "random", dense_first, seed=seed)


def _sparsity(dense, radix):
    """Share of connections missing in the layers of `radix` that have a topology."""
    sparse = [layer for layer in radix.layers if hasattr(layer, "topology")]
    possible = sum(_size(dense.get_layer(layer.name)) for layer in sparse)
    return 1 - sum(map(_size, sparse)) / possible


def _train(model, settings, dataset, seed, report):
    """Train and return the milliseconds a step took, or None."""
    size = _steps_per_execution(settings.steps)
    training.compile_model(model, settings, size)
    keras.utils.set_random_seed(seed)
    clock = _Clock()
    model.fit(**training.fit_arguments(dataset, settings, seed, report, [clock]))
    # The first execution is left out, since it traces and compiles.
    steps = settings.steps - size
    return 1000 * (clock.last - clock.first) / steps if steps else None


def _steps_per_execution(steps):
    """At most 50, and so few that an untimed first execution is a small share.

    >>> [_steps_per_execution(steps) for steps in (1, 30, 100, 1000)]
    [1, 1, 5, 50]
    """
    most = max(1, min(50, steps // 20))
    return max(size for size in range(1, most + 1) if steps % size == 0)


class _Clock(keras.callbacks.Callback):
    """Notes when the first and the last execution ended."""

    first = last = None

    def on_train_batch_end(self, batch, logs=None):
        self.last = time.perf_counter()
        self.first = self.first or self.last


def _kernel_layers(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def _size(layer):
    return math.prod(layer.kernel.shape)


def _count(model):
    layers = _kernel_layers(model)
    connections = [
        int(np.count_nonzero(layer.masks["kernel"]))
        if isinstance(layer, stf.layers.Masked)
        else _size(layer)
        for layer in layers
    ]
    return {
        "connections": sum(connections),
        "stored_weights": sum(map(_size, layers)),
    }


def _hidden(model):
    sizes = [layer.bias.shape[0] for layer in _kernel_layers(model)]
    return "-".join(map(str, sizes[:-1]))


def _full_name(network, topology):
    return network.name if topology == DENSE else f"{network.name}, {topology}"
