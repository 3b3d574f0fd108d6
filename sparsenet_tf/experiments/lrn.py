"""Local response normalization, which the paper's LeNet-5 still uses."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each value by the energy of its neighbouring channels.

    `y[..., c] = x[..., c] / (bias + alpha * sum(x[..., j] ** 2)) ** beta`, summed over
    the channels j with `|j - c| <= radius`: `tf.nn.local_response_normalization`, on
    any Keras backend. The defaults are those of the paper's authors
    (simonalford42/Kepner-sparse-nn, `pruning/simon/inference.py`).

    Args:
        radius: non-negative integer, how many channels on either side count.
        bias: positive number, which keeps the divisor off zero.
        alpha: number, the weight of the sum. Not divided by the window's size.
        beta: number, the exponent.

    Input and output shape: `(..., channels)`.

    Raises:
        ValueError: `radius` is no non-negative integer or `bias` is not positive.

    >>> layer = LocalResponseNormalization(radius=1, alpha=1.0, beta=1.0)
    >>> output = ops.convert_to_numpy(layer(np.array([[1.0, 0.0, 3.0]])))
    >>> output.round(4).tolist() == np.float32([[0.5, 0.0, 0.3]]).tolist()
    True
    """

    def __init__(self, radius=4, bias=1.0, alpha=0.001 / 9.0, beta=0.75, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(radius, int) or radius < 0:
            raise ValueError(
                f"`radius` must be a non-negative integer. Received: radius={radius}"
            )
        if not bias > 0:
            raise ValueError(f"`bias` must be positive. Received: bias={bias}")
        self.radius = radius
        self.bias = bias
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs):
        """Normalizes `inputs`."""
        # Every channel's window sum at once: a product with a banded 0/1 matrix.
        channel = np.arange(inputs.shape[-1])
        band = np.abs(channel[:, np.newaxis] - channel) <= self.radius
        energy = ops.matmul(ops.square(inputs), ops.cast(band, inputs.dtype))
        # Not ops.power, whose gradient is slow: the step takes a third of the time.
        scale = ops.exp(-self.beta * ops.log(self.bias + self.alpha * energy))
        return inputs * scale

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the arguments, from which `from_config` makes an equal layer."""
        return {
            **super().get_config(),
            "radius": self.radius,
            "bias": self.bias,
            "alpha": self.alpha,
            "beta": self.beta,
        }
