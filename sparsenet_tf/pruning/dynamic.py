"""`DynamicTraining`: what the methods of dynamic sparse training have in common."""

import keras
import numpy as np

from sparsenet_tf.pruning.connections import (
    MaskedConnections,
    NonzeroConnections,
    find_connections,
)
from sparsenet_tf.pruning.optimizers import optimizers_of
from sparsenet_tf.pruning.scheduled import ScheduledUpdates
from sparsenet_tf.topology.checks import check_integer, shown
from sparsenet_tf.topology.selection import highest


class DynamicTraining(ScheduledUpdates):
    """Exchanges connections on schedule, each kernel keeping as many as it has.

    At an update a kernel of n connections loses the `round(f * n)` with the lowest
    scores, among equals the later ones, and gains as many among all that are free
    then, the lost ones too. Of those, a subclass says which, by a method `grow(kept,
    counts, due)`: from dicts by path of the positions kept, of how many are to grow,
    and the step at which the schedule has the update, to one of the positions grown. A
    position is an index into the flat dense kernel. A connection that is lost and
    grown again keeps its weight; any other that grows begins at zero, as do its
    optimizer slots.
    """

    def __init__(self, schedule, drop, exclude, seed):
        is_object = not isinstance(schedule, type)
        is_schedule = (
            is_object and callable(schedule) and hasattr(schedule, "last_update")
        )
        # A sparsity is no share of connections to exchange.
        if not is_schedule or hasattr(schedule, "final_sparsity"):
            raise TypeError(
                "`schedule` must be the share of connections to exchange, such as "
                f"stf.pruning.CosineDecay. Received: {shown(schedule)}"
            )
        if not callable(drop) or isinstance(drop, type):
            raise TypeError(
                "`drop` must be a function from a kernel's values to scores. "
                f"Received: {shown(drop)}"
            )
        super().__init__(schedule, exclude)
        self.drop = drop
        self.seed = check_integer(seed, "seed", 0)
        self.connections = {}

    def begin(self, exclude):
        """Find the kernels; an update of this very step was made before."""
        self.connections = find_connections(self.model, exclude)
        self.claim({path: c.holder for path, c in self.connections.items()})
        count = {p: c.positions().size for p, c in self.connections.items()}
        size = sum(np.prod(c.shape) for c in self.connections.values())
        self.sparsity = float(1 - sum(count.values()) / size)
        for masked in self._masked():  # whatever was assigned to them since
            masked.set_mask(masked.mask_value(), guard=False)
        self.guards.lower(self.model, self._masked())
        self._let_patterns_change()
        return self.schedule.last_update(self._steps.read)

    def get_config(self):
        """The arguments that all methods have."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "drop": keras.saving.serialize_keras_object(self.drop),
            "exclude": self.exclude,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        """The callback of `get_config`; it has yet to train."""
        revive = keras.saving.deserialize_keras_object
        return cls(**{name: revive(value) for name, value in config.items()})

    def _masked(self):
        found = self.connections.values()
        return [c.masked for c in found if isinstance(c, MaskedConnections)]

    def _layers(self):
        found = self.connections.values()
        return [c.layer for c in found if isinstance(c, NonzeroConnections)]

    def _let_patterns_change(self):
        constant = [layer for layer in self._layers() if layer.pattern_is_constant]
        for layer in constant:
            layer.let_pattern_change()
        if not all(layer.pattern_is_constant for layer in constant):
            _trace_again(self.model)

    def update(self, due):
        """Exchange connections, and return how many are new by path."""
        fraction = self.schedule(due)
        before, kept, counts = {}, {}, {}
        for path, connections in self.connections.items():
            before[path] = positions = connections.positions()
            counts[path] = round(fraction * positions.size)
            scores = connections.scores(self.drop, positions)
            kept[path] = positions[highest(scores, positions.size - counts[path])]
        if not any(counts.values()):
            return counts
        grown = self.grow(kept, counts, due)
        numbers, optimizers = {}, optimizers_of(self.model)
        for path, connections in self.connections.items():
            # By sorting, which is fast for what is sorted already.
            known = np.isin(grown[path], before[path], assume_unique=True, kind="sort")
            old = np.concatenate([kept[path], grown[path][known]])
            new = grown[path][~known]
            numbers[path] = new.size
            if new.size:
                connections.move(old, new, optimizers)
        if any(layer.pattern_is_constant for layer in self._layers()):
            _trace_again(self.model)
        return numbers


def _trace_again(model):
    model.make_train_function(force=True)
    model.test_function = model.predict_function = None
