"""Which weights to prune, by the gradient of the loss on some data."""

import keras
import numpy as np
from keras import ops

from sparsenet_tf.kernels.gradients import hessian_gradient_products
from sparsenet_tf.pruning.loss_gradients import (
    as_float,
    batches,
    check_data,
    kernel_values,
    loss_of_kernels,
    mean_gradients,
    unmasked,
)
from sparsenet_tf.pruning.not_a_callback import NotACallback
from sparsenet_tf.topology.checks import check_number


class _FromData(NotACallback, place="criterion"):
    """A criterion that holds the examples on which it looks at the loss."""

    def __init__(self, x, y, batch_size=256):
        self.x, self.y, self.batch_size = check_data(x, y, batch_size)

    def get_config(self):
        """The arguments, the data included."""
        return {
            "x": keras.saving.serialize_keras_object(self.x),
            "y": keras.saving.serialize_keras_object(self.y),
            "batch_size": self.batch_size,
        }

    @classmethod
    def from_config(cls, config):
        """The criterion of `get_config`."""
        config = dict(config)
        for name in ("x", "y"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Gradient(_FromData):
    """Scores a weight by what the loss would change without it, to first order.

    For the gradient `g_b` of the mean loss of batch `b`, and `n_b` of its examples::

        score = sum over b of n_b * abs(w * g_b) / sum over b of n_b

    Args:
        x: inputs, an array or a structure of arrays.
        y: targets, likewise.
        batch_size: examples in a batch.

    Raises:
        ValueError: there are no examples, or `x` and `y` differ in length; when it is
            used, the model is not compiled.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource
    Efficient Inference", arXiv 1611.06440, section 2.2, for single weights.

    Example:
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> model.set_weights([np.array([[1.0], [2.0]]), np.zeros(1)])
    >>> x, y = np.array([[3.0, 0.0]]), np.array([[2.0]])  # the loss: (3 - 2) ** 2
    >>> pruned = stf.pruning.prune_one_shot(model, 0.5, Gradient(x, y))
    >>> np.asarray(pruned.layers[0].kernel).tolist()
    [[1.0], [0.0]]
    """

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        total = dict.fromkeys(kernels, 0.0)
        for x, y, size in batches(self.x, self.y, self.batch_size):
            found = mean_gradients(model, kernels, x, y, size)
            for path, gradient in found.items():
                total[path] = total[path] + size * np.abs(gradient)
        return {
            path: total[path] * np.abs(as_float(masked.kernel)) / len_of(self.x)
            for path, masked in kernels.items()
        }


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class SNIP(_FromData):
    """Scores a connection by how the loss depends on its being there.

    For the gradient `g` of the mean loss over all examples::

        score = abs(w * g) / (sum of abs(w * g) over all kernels that are pruned)

    which is the derivative of the loss by a factor c = 1 of the weight. It is meant
    for a model that is not trained yet, and `scope="global"`.

    Args:
        x: inputs, an array or a structure of arrays.
        y: targets, likewise.
        batch_size: examples at a time.

    Raises:
        ValueError: there are no examples, or `x` and `y` differ in length; when it is
            used, the model is not compiled, or no weight matters to the loss.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection
    Sensitivity", arXiv 1810.02340, section 4.1.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> pruned = stf.pruning.prune_one_shot(model, 0.75, SNIP(x, y), scope="global")
    >>> int(np.count_nonzero(pruned.layers[0].kernel))
    5
    """

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        found = mean_gradients(model, kernels, self.x, self.y, self.batch_size)
        found = {
            path: np.abs(gradient * as_float(kernels[path].kernel))
            for path, gradient in found.items()
        }
        total = sum(float(s.sum(dtype="float64")) for s in found.values())
        if total == 0:  # NaN is for the caller to find in the scores.
            raise ValueError(
                f"`model` must have weights that its loss depends on. Received: model "
                f"{model.name!r}, whose gradients times weights are all zero"
            )
        return {path: s / total for path, s in found.items()}


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class GraSP(_FromData):
    """Scores a weight by what the gradient's norm would lose without it.

    For the gradient `g` of the mean loss and its Hessian `H`, over the kernels that are
    pruned::

        score = w * (H g)

    To first order `g . g / 2` falls by the score when the weight goes, so those whose
    removal keeps the most gradient flow are pruned, with scores below zero first. It is
    meant for a model that is not trained yet, and `scope="global"`. With several
    batches `H g` is their mean.

    Args:
        x: inputs, an array or a structure of arrays.
        y: targets, likewise.
        batch_size: examples at a time.
        temperature: what the model's outputs are divided by before the loss. The
            authors' 200 is for logits; without it LeNet-300-100 is left with weights
            of so large a gradient that it does not train.

    Raises:
        ValueError: there are no examples, `x` and `y` differ in length, or the
            temperature is not positive; when it is used, the model is not compiled.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving
    Gradient Flow", arXiv 2002.07376, section 4.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> pruned = stf.pruning.prune_one_shot(model, 0.75, GraSP(x, y), scope="global")
    >>> int(np.count_nonzero(pruned.layers[0].kernel))
    5
    """

    def __init__(self, x, y, batch_size=256, temperature=200):
        super().__init__(x, y, batch_size)
        check_number(temperature, "temperature", "more than 0")
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be more than 0. Received: {temperature!r}"
            )
        self.temperature = float(temperature)

    def get_config(self):
        """The arguments, the data included."""
        return {**super().get_config(), "temperature": self.temperature}

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        total = [0.0] * len(kernels)
        for x, y, size in batches(self.x, self.y, self.batch_size):
            loss = loss_of_kernels(model, kernels, x, y, self.temperature)
            with unmasked(kernels):
                found = hessian_gradient_products(loss, kernel_values(kernels))
            total = [
                t + size * as_float(ops.stop_gradient(h))
                for t, h in zip(total, found, strict=True)
            ]
        return {
            path: as_float(masked.kernel) * product / len_of(self.x)
            for (path, masked), product in zip(kernels.items(), total, strict=True)
        }


def len_of(data):
    """How many examples a structure of arrays has."""
    return len(keras.tree.flatten(data)[0])
