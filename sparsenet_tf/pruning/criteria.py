"""Which weights to prune: functions from a kernel's values to scores."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="sparsenet_tf")
def magnitude(weights):
    """Score a weight by its absolute value, so that the smallest are pruned first.

    Args:
        weights: array of a kernel's values.

    Returns:
        Array of the same shape, `abs(weights)`.

    Source: Han et al., "Learning both Weights and Connections", 2015; the criterion
    of Alford et al., section II.A.

    Example:
    >>> magnitude(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    return np.abs(weights)
