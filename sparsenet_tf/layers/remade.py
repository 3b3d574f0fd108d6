"""Models that make their layers themselves, and in which layers were exchanged.

The config of such a model has what its constructor takes, and nothing of masks. So that
it is saved with them, its class becomes a subclass of the same name, whose config has
the layers that were exchanged too, and which a file names as `sparsenet_tf>Remade`.
"""

import keras

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import is_plain_graph
from sparsenet_tf.layers.exchange import exchange_layers
from sparsenet_tf.layers.masked import Masked

_KEY = "exchanged_layers"


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Remade:
    """Mixed into a model's class: its config has the layers that were exchanged."""

    def get_config(self):
        """The config of the class as it was, and the layers that were exchanged."""
        kind = original_class(self)
        config = config_without_exchanges(self)
        layers, position = {}, 0
        for _, part in tree.walk(self):
            if tree.is_masked(part):
                layers[str(position)] = {"masked": part.get_own_config()}
                continue
            if tree.is_sparse(part):
                layers[str(position)] = {
                    "layer": keras.saving.serialize_keras_object(part)
                }
            position += 1
        of = {
            "module": kind.__module__,
            "class_name": kind.__name__,
            "registered_name": keras.saving.get_registered_name(kind),
        }
        return {**config, _KEY: {"model": of, "layers": layers}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model of the class as it was, with the layers exchanged again."""
        config = dict(config)
        exchanged = config.pop(_KEY)
        model = keras.saving.deserialize_keras_object(
            {**exchanged["model"], "config": config}, custom_objects=custom_objects
        )
        parts = [part for _, part in tree.walk(model) if not tree.is_masked(part)]
        wanted = {id(parts[int(i)]): of for i, of in exchanged["layers"].items()}

        def replace(path, layer):
            of = wanted.get(id(layer))
            if of is None or tree.is_sparse(layer) or tree.is_masked(layer):
                return layer
            if "masked" in of:
                return Masked.around(layer, of["masked"])
            return keras.saving.deserialize_keras_object(
                of["layer"], custom_objects=custom_objects
            )

        exchange_and_remember(model, replace)
        return model


def exchange_and_remember(model, replace):
    """Exchange layers in place, as `exchange_layers`; models are saved with them."""
    for part in exchange_layers(model, replace):
        if not is_plain_graph(part):
            _remember(part)


def _remember(model):
    """Let the model's config have the layers that are exchanged in it, if any are."""
    kind = type(model)
    if not _has_exchanges(model):
        model.__class__ = original_class(model)
        return
    if issubclass(kind, Remade):
        return
    namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    new = type(kind.__name__, (Remade, kind), namespace)
    # By the one name; that the latest class stands for it does no harm, since all of
    # them read a config alike.
    register = keras.saving.register_keras_serializable("sparsenet_tf", "Remade")
    model.__class__ = register(new)


def original_class(model):
    """The class of a model, without what was mixed in here."""
    return type(model).__mro__[2] if isinstance(model, Remade) else type(model)


def config_without_exchanges(model):
    """The config as the model's own class gives it, of models below it too."""
    parts = [model, *(part for _, part in tree.walk(model))]
    kinds = [(part, type(part)) for part in parts if isinstance(part, Remade)]
    # Keras gives a config by itself only if the class of the model has none.
    for part, _ in kinds:
        part.__class__ = original_class(part)
    try:
        return model.get_config()
    finally:
        for part, kind in kinds:
            part.__class__ = kind


def _has_exchanges(model):
    return any(
        tree.is_masked(part) or tree.is_sparse(part) for _, part in tree.walk(model)
    )
