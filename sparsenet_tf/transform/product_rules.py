"""Dense layers and convolutions: where channels begin, die, and are read."""

import numpy as np
from keras import layers, ops

from sparsenet_tf.transform.channel_rules import (
    Keep,
    as_channels,
    as_numpy,
    channel_axis,
    clear,
    is_elementwise,
)


class Product(Keep):
    """Dense layers and convolutions: every output from all inputs."""

    def __init__(self, node):
        super().__init__(node)
        kernel = as_numpy(self.layer.kernel)
        self.window = kernel.shape[:-2]
        self.kernel = kernel.reshape(-1, *kernel.shape[-2:])
        # A constant is the same at all positions only where no zeros are padded to it.
        self.pads = len(self.kernel) > 1 and self.layer.padding != "valid"
        self.absorbed = np.zeros(self.kernel.shape[1], bool)
        self.value = np.zeros(self.kernel.shape[1])

    def constants(self, channels):
        """As `Keep.constants`."""
        self._absorb(channels[0])
        fed = self.kernel[:, ~self.absorbed] != 0
        value = self._bias(self.absorbed)
        return self._activated(~fed.any(axis=(0, 1)), value)

    def _absorb(self, found):
        """Remember the inputs whose constants the bias can take over."""
        axis = channel_axis(self.layer, self.inputs[0])
        self.reads = found is not None and found.axis == axis
        if self.reads:
            self.value = found.value
            self.absorbed = found.dead & ((found.value == 0) | (not self.pads))

    def _bias(self, gone):
        """The bias and what these inputs always add to it."""
        weights = self.kernel[:, gone].sum(axis=0, dtype=np.float64)
        given = as_numpy(self.layer.bias) if self.layer.use_bias else 0.0
        return given + self.value[gone] @ weights

    def _activated(self, dead, value):
        if not is_elementwise(self.layer.activation):
            return None
        value = ops.convert_to_tensor(value, dtype=self.layer.compute_dtype)
        axis = channel_axis(self.layer, self.output)
        return as_channels(axis, dead, self.layer.activation(value))

    def agree(self, inputs, output):
        """As `Keep.agree`."""
        if not self.reads:
            clear(inputs)
        elif inputs[0] is not None:
            inputs[0] &= self.absorbed
        if output is not None and output.all():
            output[0] = False  # A layer without units does not exist.

    def smaller(self, inputs, output):
        """As `Keep.smaller`."""
        _, rows, columns = self.kernel.shape
        gone_in = np.zeros(rows, bool) if inputs[0] is None else inputs[0]
        gone_out = np.zeros(columns, bool) if output is None else output
        if not (gone_in.any() or gone_out.any()):
            return None
        kernel = self.kernel[:, ~gone_in][:, :, ~gone_out]
        bias = self._bias(gone_in)[~gone_out]
        use_bias = self.layer.use_bias or bool(bias.any())
        size = "units" if type(self.layer) is layers.Dense else "filters"
        return (
            {size: kernel.shape[2], "use_bias": use_bias},
            [kernel.reshape(*self.window, *kernel.shape[1:]), bias][: 1 + use_bias],
        )


class Depthwise(Product):
    """Depthwise convolutions: every output from one input."""

    def constants(self, channels):
        """As `Keep.constants`."""
        self._absorb(channels[0])
        value = self.value[:, None] * self.kernel.sum(axis=0, dtype=np.float64)
        value = np.where(self.absorbed[:, None], value, 0.0).reshape(-1)
        if self.layer.use_bias:
            value = value + as_numpy(self.layer.bias)
        fed = (self.kernel != 0).any(axis=0) & ~self.absorbed[:, None]
        return self._activated(~fed.reshape(-1), value)

    def agree(self, inputs, output):
        """As `Keep.agree`."""
        (given,) = inputs
        if given is None or output is None:
            clear([given, output])
            return
        given &= output.reshape(given.size, -1).all(axis=1)
        output[:] = np.repeat(given, output.size // given.size)

    def smaller(self, inputs, output):
        """As `Keep.smaller`."""
        if output is None or not output.any():
            return None
        kernel = self.kernel[:, ~inputs[0]]
        weights = [kernel.reshape(*self.window, *kernel.shape[1:])]
        if self.layer.use_bias:
            weights.append(as_numpy(self.layer.bias)[~output])
        return {}, weights
