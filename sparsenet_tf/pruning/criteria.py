"""Which weights to prune, by their values alone or by chance."""

import zlib

import keras
import numpy as np

from sparsenet_tf.pruning.not_a_callback import NotACallback
from sparsenet_tf.topology.checks import check_integer


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


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Random(NotACallback, place="criterion"):
    """Scores that are drawn at random, uniform in [0, 1), whatever the weights are.

    A kernel's scores depend on the seed and the kernel's path alone, so that a run
    repeats, and goes on after it was interrupted as if it had not been.

    Args:
        seed: integer, 0 or more.

    Raises:
        TypeError: `seed` is no integer.
        ValueError: it is negative.

    Source: Liu et al., "The Unreasonable Effectiveness of Random Pruning", arXiv
    2202.02643, with `scope="erk"`.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> pruned = stf.pruning.prune_one_shot(model, 0.75, Random(seed=1))
    >>> int(np.count_nonzero(pruned.layers[0].kernel))
    5
    """

    def __init__(self, seed):
        self.seed = check_integer(seed, "seed", 0)

    def scores(self, model, kernels):
        """Return `{path: array}` of the kernels' shapes."""
        return {
            path: np.random.default_rng([self.seed, zlib.crc32(path.encode())]).random(
                tuple(masked.kernel.shape)
            )
            for path, masked in kernels.items()
        }

    def get_config(self):
        """The arguments."""
        return {"seed": self.seed}

    @classmethod
    def from_config(cls, config):
        """The criterion of `get_config`."""
        return cls(**config)
