"""What calls of layers do with channels that are constant, and how they get smaller.

Each rule stands for one call of a layer in a model's graph and answers three
questions: which channels of its output are dead, that is, have one value for all
inputs; on which channels of its inputs and its output it agrees that they may go; and
which settings and weights are left when they are gone. A layer without a rule keeps
everything. Deadness is that of inference: dropout and the like do nothing then.
"""

import dataclasses

import keras
import numpy as np
from keras import layers, ops

from sparsenet_tf.layers.mask_values import to_numpy

ELEMENTWISE_ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "tanh", "hard_tanh", "softplus"),
    *("softsign", "hard_silu", "mish", "exponential"),
)
MERGING_LAYERS = (
    *(layers.Add, layers.Subtract, layers.Multiply),
    *(layers.Average, layers.Maximum, layers.Minimum),
)
PADDING_LAYERS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)


@dataclasses.dataclass
class Channels:
    """The channels of a tensor.

    Args:
        axis: which axis of the tensor they are.
        dead: boolean array, True for those that are constant.
        value: array, their constants; 0.0 for the others.
    """

    axis: int
    dead: np.ndarray
    value: np.ndarray


class Keep:
    """A layer of which nothing is known: all of its inputs and outputs stay."""

    def __init__(self, node):
        self.layer = node.operation
        self.inputs = node.input_tensors
        self.output = node.output_tensors[0]
        self.ndim = len(self.output.shape)

    def constants(self, channels):
        """Return the output's `Channels`, or None if all of it has to stay.

        Args:
            channels: list of the inputs' `Channels`, or None.
        """
        return None

    def agree(self, inputs, output):
        """Clear the flags of channels that may not go.

        Args:
            inputs: list of boolean arrays, True for channels that may go; None where
                all stay.
            output: the same for the output.
        """
        clear(inputs)

    def smaller(self, inputs, output):
        """Return `(attributes, weights)` of the smaller layer, None if it is the same.

        Args:
            inputs: as for `agree`; what is True goes.
            output: the same for the output.
        """
        return None


class Elementwise(Keep):
    """Each channel of the output comes from that channel of the inputs alone."""

    def constants(self, channels):
        """As `Keep.constants`."""
        first = channels[0]
        if any(
            c is None or c.axis != first.axis or c.dead.size != first.dead.size
            for c in channels
        ) or {len(x.shape) for x in self.inputs} != {self.ndim}:
            return None
        norm = isinstance(self.layer, layers.BatchNormalization)
        if norm and self.layer.axis % self.ndim != first.axis:
            return None
        shape = [1] * self.ndim
        shape[first.axis] = -1
        tensors = [
            ops.convert_to_tensor(c.value.reshape(shape), dtype=x.dtype)
            for c, x in zip(channels, self.inputs, strict=True)
        ]
        dead = np.logical_and.reduce([c.dead for c in channels])
        return as_channels(first.axis, dead, self._call(tensors))

    def _call(self, tensors):
        if type(self.layer) in MERGING_LAYERS:
            return self.layer(tensors)
        return self.layer(*tensors)

    def agree(self, inputs, output):
        """As `Keep.agree`."""
        make_equal([*inputs, output])

    def smaller(self, inputs, output):
        """As `Keep.smaller`."""
        weights = getattr(self.layer, "weights", [])
        if output is None or not weights:
            return None
        return {}, [as_numpy(weight)[~output] for weight in weights]


class Window(Keep):
    """Pools, crops and pads each channel by itself."""

    def constants(self, channels):
        """As `Keep.constants`."""
        (found,) = channels
        if found is None or found.axis != channel_axis(self.layer, self.inputs[0]):
            return None
        axis = min(found.axis, self.ndim - 1)  # fewer are left by a global pool
        dead = found.dead
        if type(self.layer) in PADDING_LAYERS:
            dead = dead & (found.value == 0)
        return as_channels(axis, dead, found.value)

    def agree(self, inputs, output):
        """As `Keep.agree`."""
        make_equal([*inputs, output])


class Flatten(Keep):
    """All positions of a channel side by side."""

    def constants(self, channels):
        """As `Keep.constants`."""
        (found,), (tensor,) = channels, self.inputs
        if found is None or None in tensor.shape[1:]:
            return None
        if found.axis != channel_axis(self.layer, tensor):
            return None
        return as_channels(1, self._spread(found.dead), self._spread(found.value))

    def _spread(self, array):
        """From the channels to what is behind them; Keras puts channels last."""
        return np.tile(array, self.output.shape[1] // array.size)

    def agree(self, inputs, output):
        """As `Keep.agree`."""
        (given,) = inputs
        if given is None or output is None:
            clear([given, output])
            return
        given &= output.reshape(-1, given.size).all(axis=0)
        output[:] = self._spread(given)


class Concatenate(Keep):
    """Channels of several tensors behind each other."""

    def constants(self, channels):
        """As `Keep.constants`."""
        axis = self.layer.axis % self.ndim
        sizes = self._sizes()
        if None in sizes or any(c is not None and c.axis != axis for c in channels):
            return None
        known = [
            (np.zeros(size, bool), np.zeros(size)) if c is None else (c.dead, c.value)
            for c, size in zip(channels, sizes, strict=True)
        ]
        dead, value = (np.concatenate(parts) for parts in zip(*known, strict=True))
        return as_channels(axis, dead, value)

    def _sizes(self):
        return [x.shape[self.layer.axis] for x in self.inputs]

    def agree(self, inputs, output):
        """As `Keep.agree`."""
        if output is None:
            clear(inputs)
            return
        starts = np.cumsum(self._sizes())[:-1]
        for given, part in zip(inputs, np.split(output, starts), strict=True):
            make_equal([given, part])  # the part is a view


def is_elementwise(activation):
    """Whether an activation treats each number by itself, as `softmax` does not.

    >>> is_elementwise(keras.activations.relu)
    True
    """
    return any(
        activation is getattr(keras.activations, name, None)
        for name in ELEMENTWISE_ACTIVATIONS
    )


def channel_axis(layer, tensor):
    """Where the layer takes the channels of a tensor to be."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else len(tensor.shape) - 1


def as_channels(axis, dead, value):
    """`Channels` of a tensor or array of constants; infinite ones are not dead."""
    value = to_numpy(value).astype(np.float64).reshape(-1)
    dead = dead & np.isfinite(value)
    return Channels(axis, dead, np.where(dead, value, 0.0))


def as_numpy(variable):
    """The value as NumPy computes with it: bfloat16 as float32."""
    value = to_numpy(variable)
    return value if value.dtype.kind == "f" else value.astype(np.float32)


def clear(arrays):
    """Let nothing go; an array may be None."""
    for array in arrays:
        if array is not None:
            array[:] = False


def make_equal(arrays):
    """Leave the flags that all have; none where one of the arrays is None."""
    if any(array is None for array in arrays):
        clear(arrays)
        return
    common = np.logical_and.reduce(arrays)
    for array in arrays:
        array[:] = common
