"""The connections of a kernel, as dynamic sparse training moves them.

Those of a kernel under a mask and those of a layer that holds only its nonzeros look
alike here: a connection is its position in the flat dense kernel.
"""

import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.sparse_dense import taken
from sparsenet_tf.pruning.slots import clear_slots, slots_of
from sparsenet_tf.pruning.update import finite_values, frozen_of, score
from sparsenet_tf.topology import SparsePattern


class MaskedConnections:
    """Where the mask of a `MaskedKernel` is 1."""

    def __init__(self, path, masked):
        self.path, self.masked = path, masked
        self.shape = tuple(masked.kernel.shape)
        self.kernel, self.holder = masked.kernel, masked

    def positions(self):
        """Positions of the connections, rising."""
        return np.flatnonzero(self.masked.mask_value())

    def scores(self, criterion, positions):
        """Scores of the connections, which are at `positions`, in that order."""
        values = finite_values(self.path, self.masked.kernel)
        found = score(None, {}, {self.path: values}, criterion, "drop")[self.path]
        return found.ravel()[positions]

    def move(self, kept, new, optimizers):
        """Connect positions that were and `new` ones, with zero weights and slots."""
        old = self.masked.kernel_value().ravel()
        mask, value = np.zeros(old.shape, bool), np.zeros_like(old)
        mask[kept] = mask[new] = True
        value[kept] = old[kept]
        # The slots of what the old mask hid are zero.
        shaped = mask.reshape(self.shape), value.reshape(self.shape)
        self.masked.set_mask(*shaped, guard=False)
        for optimizer in optimizers:
            clear_slots(optimizer, [self.masked])


class NonzeroConnections:
    """The pattern of a layer that has `set_pattern`, such as `SparseDense`."""

    def __init__(self, path, layer):
        self.path, self.layer = path, layer
        self.kernel, self.holder = layer.kernel, layer
        self.shape = tuple(layer.dense_shape)

    def positions(self):
        """Positions of the connections, rising."""
        pattern = self.layer.pattern
        _, outputs, order = pattern.by_input
        return pattern.inputs[order].astype(np.int64) * self.shape[1] + outputs

    def scores(self, criterion, positions):
        """Scores of the connections, which are at `positions`, in that order."""
        values = finite_values(self.path, self.layer.kernel)
        found = score(None, {}, {self.path: values}, criterion, "drop")[self.path]
        return found[self.layer.pattern.by_input[2]]

    def move(self, kept, new, optimizers):
        """Connect positions that were and `new` ones, with zero weights and slots."""
        edges = np.divmod(np.concatenate([kept, new]), self.shape[1])
        source = self.layer.set_pattern(SparsePattern.from_edges(*self.shape, *edges))
        seen = set()  # A `LossScaleOptimizer` has those of the optimizer inside it.
        for optimizer in optimizers:
            for _, slot in slots_of(optimizer, self.layer.kernel):
                if id(slot) not in seen:
                    slot.assign(taken(to_numpy(slot), source))
                seen.add(id(slot))


def find_connections(model, exclude=()):
    """Return `{path: connections}` of the kernels that may exchange connections.

    Args:
        model: a built model.
        exclude: layer names or paths of kernels to leave out.

    Raises:
        ValueError: there are none, or each has all its connections.
    """
    found = {p: MaskedConnections(p, m) for p, m in masked_kernels(model).items()}
    for path, layer in tree.walk(model):
        if hasattr(layer, "set_pattern"):
            path = f"{path}/kernel"
            found[path] = NonzeroConnections(path, layer)
    kept = {p: c for p, c in found.items() if not tree.matches(p, exclude)}
    frozen = frozen_of(model, {path: c.kernel for path, c in kept.items()})
    kept = {path: c for path, c in kept.items() if path not in frozen}
    if not any(c.positions().size < np.prod(c.shape) for c in kept.values()):
        raise ValueError(
            "`model` must have sparse kernels whose connections can be exchanged: "
            "masks with zeros, as of `stf.pruning.prune_one_shot`, or SparseDense "
            f"layers. Received: model {model.name!r} with "
            f"{list(kept) or 'no kernels of either kind'}"
        )
    return kept
