"""`OptimizerState`: an optimizer's slots, for weights that are stored otherwise."""

import keras
from keras import ops

from sparsenet_tf.layers.copying import sparse_kernels


class OptimizerState:
    """The state of `model.optimizer`, with the slots of sparse kernels as dense ones.

    It may be restored to the optimizer of a model whose trainable variables are the
    same, in the same order, but for dense kernels where this one stores nonzeros alone
    or the other way round.

    Raises:
        ValueError: the model is not compiled.
    """

    def __init__(self, model):
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                "`optimizer_state` needs a compiled model. Received: model "
                f"{model.name!r}, not compiled"
            )
        self.name = model.name
        kernels = _kernels_of_slots(model)
        self.values = []
        for variable in optimizer.variables:
            value = ops.convert_to_numpy(variable)
            layer, kernel = kernels.get(id(variable), (None, None))
            if layer is not None:
                if variable.shape != kernel.shape:
                    raise ValueError(
                        f"`optimizer_state` cannot be carried over for a "
                        f"{type(optimizer).__name__}: {variable.path!r} has no entry "
                        f"for each weight of layer {layer.name!r}"
                    )
                value = layer.dense_of(value)
            self.values.append(value)

    def restore(self, model):
        """Assign it to the optimizer of `model`.

        Raises:
            ValueError: that optimizer has other variables.
        """
        kernels = _kernels_of_slots(model)
        variables = model.optimizer.variables
        values, known = [], len(variables) == len(self.values)
        for value, variable in zip(self.values, variables, strict=False):
            layer, _ = kernels.get(id(variable), (None, None))
            if layer is not None and value.shape == tuple(layer.dense_shape):
                value = layer.stored_kernel(value)
            values.append(value)
        if not known or any(
            value.shape != tuple(variable.shape)
            for value, variable in zip(values, variables, strict=True)
        ):
            raise ValueError(
                f"`optimizer_state` of model {self.name!r} could not be carried over "
                f"to a {type(model.optimizer).__name__}: its variables differ"
            )
        for value, variable in zip(values, variables, strict=True):
            variable.assign(value)


def _kernels_of_slots(model):
    """`{id of a slot: (layer, kernel)}` for the kernels that are stored as nonzeros."""
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.built:
        return {}
    layers = sparse_kernels(model)
    kernels = optimizer._trainable_variables
    found = {}
    for slots in vars(optimizer).values():
        if (
            not isinstance(slots, list)
            or slots is kernels
            or len(slots) != len(kernels)
        ):
            continue
        for slot, kernel in zip(slots, kernels, strict=True):
            if isinstance(slot, keras.Variable) and id(kernel) in layers:
                found[id(slot)] = layers[id(kernel)], kernel
    return found
