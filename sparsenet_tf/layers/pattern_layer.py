"""`PatternLayer`: what layers that hold the nonzeros of a `SparsePattern` share."""

import numpy as np

from sparsenet_tf.kernels import sparse
from sparsenet_tf.topology import SparsePattern


class PatternLayer:
    """Mixed into a layer with a `pattern`: one vector of nonzeros, saved with it.

    The pattern is in the layer's config. Saved weights have its digest, so that they
    are not loaded into a layer of another pattern. Once it has changed they have the
    pattern itself, which the layer that loads them then takes.
    """

    CONNECTIONS = "pattern"
    OWN_SETTINGS = ("scale_to_fan_in", "implementation")
    pattern_has_changed = False  # since the layer was made

    def choose_implementation(self, implementation):
        """Keep a checked `implementation`; Keras asks whether XLA may compile it."""
        self.implementation = implementation
        self.supports_jit = sparse.supports_jit(implementation)

    def kernel_shape(self):
        """Shape of the nonzeros."""
        return (self.pattern.num_connections,)

    def save_own_variables(self, store):
        """Save the weights, and by what pattern they are ordered."""
        super().save_own_variables(store)
        store["pattern"] = self.pattern.digest()
        if self.pattern_has_changed:
            store["splits"], store["inputs"] = self.pattern.splits, self.pattern.inputs

    def load_own_variables(self, store):
        """Load the weights, unless they are of another pattern.

        Raises:
            ValueError: they are.
        """
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118 (no dict)
        found = values.pop("pattern", None)
        changed = [
            np.asarray(values.pop(n)) for n in ("splits", "inputs") if n in values
        ]
        if found is None or np.array_equal(found, self.pattern.digest()):
            pass
        elif changed:
            sizes = self.pattern.input_size, self.pattern.output_size
            self.set_pattern(SparsePattern(*sizes, *changed))
        else:
            raise ValueError(
                f"The weights of layer {self.name!r} must be of its own pattern, "
                f"{self.pattern}. Received: weights of another one"
            )
        super().load_own_variables(values)

    def get_config(self):
        """Return what the layer is made of."""
        return {
            **super().get_config(),
            "pattern": self.pattern.get_config(),
            "implementation": self.implementation,
        }
