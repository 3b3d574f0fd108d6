"""`SynFlow`: which weights to prune, by the paths that go through them."""

import contextlib

import keras
import numpy as np
from keras import ops

from sparsenet_tf.kernels.gradients import gradients
from sparsenet_tf.layers import tree
from sparsenet_tf.pruning.loss_gradients import as_float, kernel_values, kernels_read_as
from sparsenet_tf.pruning.not_a_callback import NotACallback
from sparsenet_tf.topology.checks import check_integer


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class SynFlow(NotACallback, place="criterion"):
    """Scores a weight by the sum over all paths through it of their weights' sizes.

    Let R be the sum of the outputs for an input of ones, of the network with the
    absolute value of each weight and without activations::

        score = abs(w) * dR / d abs(w)

    No data and no loss. Each hidden unit's incoming scores sum to its outgoing ones,
    and with many rounds no kernel loses its last weight while another has two. In
    `prune_one_shot` it prunes in `rounds` rounds, as its authors do; with a
    `PruningCallback` the schedule has its own. `scope="global"` is meant.

    What has a `.activation` (Dense, convolutions, `Activation`, ...) passes its input
    on as it is; layers such as `ReLU` do so with positive values; normalizations are
    used as in inference.

    Args:
        rounds: how many times to prune and to score anew, 1 or more.
        example: inputs of one batch for their shapes and dtypes, for a model that
            does not have them itself (a subclassed one).

    Raises:
        TypeError: `rounds` is no integer, or `example` no arrays.
        ValueError: `rounds` is less than 1; when it is used, the model's inputs are
            not known, or no path leads through it.

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively
    conserving synaptic flow", arXiv 2006.05467, Algorithm 1.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> pruned = stf.pruning.prune_one_shot(model, 0.75, SynFlow(), scope="global")
    >>> int(np.count_nonzero(pruned.layers[0].kernel))
    5
    """

    def __init__(self, rounds=100, example=None):
        self.rounds = check_integer(rounds, "rounds", 1)
        for part in keras.tree.flatten(example):
            if part is not None and not len(getattr(part, "shape", ())):
                raise TypeError(
                    "`example` must be arrays with an axis of examples. Received: "
                    f"{example!r:.200}"
                )
        self.example = example

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        ones = _ones(model, self.example)
        others = [
            (variable, ops.abs(ops.convert_to_tensor(variable.value)))
            for variable in model.variables
            if "float" in keras.backend.standardize_dtype(variable.dtype)
        ]

        def flow(values):
            mapping = kernels_read_as(kernels, values)
            with keras.StatelessScope(others) as scope:
                scope.state_mapping.update(mapping.state_mapping)
                outputs = keras.tree.flatten(model(ones, training=False))
            return sum(ops.sum(ops.cast(o, "float32")) for o in outputs)

        with _linear(model):
            sizes = [ops.abs(value) for value in kernel_values(kernels)]
            _, found = gradients(flow, sizes)
        found = [as_float(ops.stop_gradient(g)) for g in found]
        if not any(np.any(g) for g in found):
            raise ValueError(
                f"`model` must have a path from an input to an output. Received: model "
                f"{model.name!r}, whose outputs do not depend on its weights, as "
                "with a Softmax layer, or where masks have cut all paths"
            )
        return {
            path: g * np.abs(as_float(masked.kernel))
            for (path, masked), g in zip(kernels.items(), found, strict=True)
        }

    def get_config(self):
        """The arguments."""
        example = keras.saving.serialize_keras_object(self.example)
        return {"rounds": self.rounds, "example": example}

    @classmethod
    def from_config(cls, config):
        """The criterion of `get_config`."""
        example = keras.saving.deserialize_keras_object(config["example"])
        return cls(config["rounds"], example)


def _ones(model, example):
    if example is None:
        functional = getattr(model, "_functional", model)  # of a Sequential one
        example = getattr(functional, "_inputs_struct", None)
    shapes = [tuple(x.shape[1:]) for x in keras.tree.flatten(example) if x is not None]
    if not shapes or any(None in shape for shape in shapes):
        raise ValueError(
            f"`example` must be given for model {model.name!r}, since not all sizes of "
            f"its inputs are known. Received: {shapes or None}"
        )
    return keras.tree.map_structure(
        lambda x: ops.ones((1, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)),
        example,
    )


@contextlib.contextmanager
def _linear(model):
    """A context in which no layer of `model` has an activation."""
    layers = [layer for _, layer in tree.walk(model) if "activation" in vars(layer)]
    before = [layer.activation for layer in layers]
    for layer in layers:
        object.__setattr__(layer, "activation", keras.activations.linear)
    try:
        yield
    finally:
        for layer, activation in zip(layers, before, strict=True):
            object.__setattr__(layer, "activation", activation)
