"""The runs of the paper's Figure 9: networks that are sparse before training."""

import dataclasses
import math

import numpy as np

import sparsenet_tf as stf
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.pruning_runs import measure
from sparsenet_tf.experiments.training import check, check_integer
from sparsenet_tf.topology import RadixLayer, random_mask
from sparsenet_tf.transform.rebuild import scale_kernels

KINDS = ("dense", "radix", "random")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A network with sparse hidden layers, more neurons than usual, or both.

    LeNet-300-100 has `300 * neurons` units in its first layer, and its logits stay
    dense. LeNet-5 has `50 * neurons` filters in its second convolution; its first
    convolution and its logits stay dense. So with a density of `1 / neurons` either
    has as many connections as the dense network of 1 times the neurons.

    Attributes:
        training: how it is trained.
        kind: one of `KINDS`. "radix": layers that hold their nonzeros alone.
            "random": masks in which each connection exists with the probability that
            gives as many of them, on the average, as the RadiX layer has.
        density: wanted share of connections in each sparse layer.
        neurons: factor of the number of neurons.
        seed: of weights, random masks and the order of the images.

    Source: Alford et al., section II.B and Figure 9.
    """

    training: Training
    kind: str = "dense"
    density: float = 1.0
    neurons: int = 1
    seed: int = 0

    def __post_init__(self):
        check("kind", self.kind, self.kind in KINDS, f"one of {KINDS}")
        dense = self.kind == "dense"
        expected = "1.0, since it is dense" if dense else "in (0, 1)"
        right = self.density == 1 if dense else 0 < self.density < 1
        check("density", self.density, right, expected)
        object.__setattr__(self, "density", float(self.density))
        check_integer("neurons", self.neurons, 1)
        check_integer("seed", self.seed, 0)

    def execute(self):
        """Train it.

        Returns:
            `(history, result)`. The result has its "accuracy" and the numbers of its
            "connections", those of all kernels.
        """
        dataset = self.training.load()
        model = self.build(dataset)
        history = self.training.train(model, dataset, self.seed)
        found = {"accuracy": measure(model, dataset)["accuracy"]}
        return history, {**found, "connections": _count_connections(model)}

    def build(self, dataset):
        """Return the model, compiled and not trained."""
        widths = self._widths()
        if self.kind == "dense":
            return self.training.new_model(dataset, self.seed, **widths)
        layers = self._radix_layers(dataset)
        if self.kind == "radix":
            widths["topologies"] = layers
            return self.training.new_model(dataset, self.seed, **widths)
        model = self.training.new_model(dataset, self.seed, **widths)
        rng = np.random.default_rng((self.seed, self.neurons))
        masks = {
            f"{name}/kernel": random_mask(
                model.get_layer(name).kernel.shape, layer.sparsity, rng
            )
            for name, layer in layers.items()
        }
        dense = [x.name for x in model.layers if x.weights and x.name not in layers]
        model = stf.sparsify(model, masks, exclude=dense)
        if self.training.network == "today":
            scale_kernels(model)  # RadiX layers begin with values for their fan-in too.
        self.training.compile(model)
        return model

    def _widths(self):
        if self.training.model == "lenet_300_100":
            return {"units": (300 * self.neurons, 100)}
        return {"filters": (20, 50 * self.neurons), "units": 384}

    def _radix_layers(self, dataset):
        """{name of a sparse layer: its `RadixLayer`}."""
        widths, sparsity = self._widths(), 1 - self.density
        if self.training.model == "lenet_300_100":
            inputs = math.prod(self.training.input_shape(dataset))
            first, second = widths["units"]
            return {
                "dense1": RadixLayer.near(inputs, first, sparsity),
                "dense2": RadixLayer.near(first, second, sparsity, stage=1),
            }
        channels, filters = widths["filters"]
        pixels = self._positions(dataset)
        return {
            "conv2": _conv_layer(channels, filters, sparsity),
            "dense1": RadixLayer.near(pixels * filters, widths["units"], sparsity),
        }

    def _positions(self, dataset):
        """Pixels of LeNet-5's second pooling."""
        shape = self.training.input_shape(dataset)
        return math.prod(-(-side // 4) for side in shape[:2])


def _conv_layer(channels, filters, sparsity):
    """Connections of channels; of patches, if less than a channel a filter is wanted.

    What few channels cannot be near to, patches are as well.
    """
    layer = RadixLayer.near(channels, filters, sparsity)
    wanted = 1 - sparsity
    if abs(layer.density - wanted) <= 0.1 * wanted:
        return layer
    return RadixLayer.near(5 * 5 * channels, filters, sparsity)


def _count_connections(model):
    total = 0
    for layer in model.layers:
        if isinstance(layer, stf.layers.Masked):
            total += int(np.count_nonzero(layer.masks["kernel"]))
        elif hasattr(layer, "kernel"):
            total += math.prod(layer.kernel.shape)
    return total
