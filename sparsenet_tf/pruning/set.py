"""`SET`: sparse evolutionary training, which grows connections at random."""

import zlib

import keras
import numpy as np

from sparsenet_tf.pruning.criteria import magnitude
from sparsenet_tf.pruning.dynamic import DynamicTraining
from sparsenet_tf.topology.random import random_positions


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class SET(DynamicTraining):
    """Drops the weakest connections and grows others at random while `fit` trains.

    The model is sparse from the start: under masks, as from `prune_one_shot`, or in
    `SparseDense` layers. Each kernel keeps its number of connections. At an update a
    kernel of n connections loses the `round(f * n)` with the lowest scores, among
    equals the later ones. As many of all that are then free, the lost ones too, are
    drawn at random and begin at zero, as do their optimizer slots; a lost one that is
    drawn keeps its weight. Updates come after a training step, as soon as Keras calls
    back. What is drawn depends on the seed, the kernel's path and the step alone, so
    that a training that was interrupted goes on as if it had not been.

    Layers of other kinds that hold only nonzeros, such as `RadixDense`, stay as they
    are. It adds `sparsity`, which stays as it is, to the logs. List it before
    callbacks that read it or that save the model.

    Args:
        schedule: the share f of the connections to exchange, by step: a `CosineDecay`.
            One of 0 is static sparse training.
        drop: function from a kernel's values (NumPy array) to scores of the same
            shape, of which the lowest are dropped. It is given the nonzeros, a vector,
            of a `SparseDense`. Default: their magnitude.
        exclude: layer name or names whose connections stay.
        seed: integer of 0 or more.

    Attributes:
        updates: dict `{step: {path: number}}`: at which optimizer steps connections
            moved, and how many of each kernel are new since.

    Raises:
        TypeError: `schedule` is no such schedule, `drop` no function, or `seed` no
            integer.
        ValueError: `seed` is negative; when training begins, the model has no
            connections to exchange or `exclude` names a layer that it does not have;
            at an update, weights are NaN or infinite.

    Source: Mocanu et al., "Scalable training of artificial neural networks with
    adaptive sparse connectivity inspired by network science", 2018; with the decaying
    share of Evci et al., arXiv 1911.11134.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = stf.pruning.prune_one_shot(model, 0.75)
    >>> model.compile("sgd", "mse")
    >>> method = SET(stf.pruning.CosineDecay(0.5, end_step=4, frequency=2))
    >>> x = np.ones((40, 4), "float32")
    >>> history = model.fit(x, np.ones((40, 5)), batch_size=10, verbose=0,
    ...                     callbacks=[method])
    >>> list(method.updates), int(np.count_nonzero(model.layers[0].masks["kernel"]))
    ([2], 5)
    """

    def __init__(self, schedule, drop=magnitude, exclude=(), seed=0):
        super().__init__(schedule, drop, exclude, seed)

    def grow(self, kept, counts, due):
        """Draw as many positions as `counts` says of those that are free."""
        grown = {}
        for path, positions in kept.items():
            size = np.prod(self.connections[path].shape).item()
            seed = [self.seed, zlib.crc32(path.encode()), due]
            grown[path] = random_positions(size, positions, counts[path], seed)
        return grown
