"""What a `Masked` layer adds to files and to configs: its masks, as bits."""

import weakref

import keras
import numpy as np

from sparsenet_tf.layers.mask_values import decode_mask


class StoredMasks(keras.layers.Layer):
    """What a `Masked` layer adds to a file: its masks, one bit a connection.

    They are beside the weights, since a plain model must find there what it saved and
    nothing else.

    Args:
        masked: the `Masked` layer.
    """

    def __init__(self, masked):
        super().__init__()
        object.__setattr__(self, "_masked", weakref.ref(masked))

    def save_own_variables(self, store):
        """Store the masks."""
        for index, mask in enumerate(self._masked().masks.values()):
            store[str(index)] = np.packbits(mask)

    def load_own_variables(self, store):
        """Load the masks, or keep those that are there if the file has none."""
        wrapper, stored = self._masked(), list(store.keys())
        try:
            if stored and len(stored) != len(wrapper.kernels):
                raise ValueError(
                    f"Layer {wrapper.name!r} has {len(wrapper.kernels)} masks, of "
                    f"kernels {list(wrapper.kernels)}. Received: {len(stored)} masks "
                    "in the file"
                )
            masks = [
                _unpacked(np.asarray(store[str(i)]), wrapper, name) if stored else mask
                for i, (name, mask) in enumerate(wrapper.masks.items())
            ]
            for masked, mask in zip(wrapper.kernels.values(), masks, strict=True):
                masked.set_mask(mask)
        finally:
            for masked in wrapper.kernels.values():
                masked.loading = False


def config_without_masks(config):
    """A config with the layers inside its `Masked` wrappers in place of these.

    >>> config = {"layer": keras.saving.serialize_keras_object(
    ...     stf.layers.Masked(keras.layers.Dense(3)))}
    >>> config_without_masks(config)["layer"]["class_name"]
    'Dense'
    """
    if isinstance(config, dict):
        if config.get("registered_name") == "sparsenet_tf>Masked":
            return config_without_masks(config["config"]["layer"])
        return {key: config_without_masks(value) for key, value in config.items()}
    if type(config) in (list, tuple):
        return type(config)(config_without_masks(item) for item in config)
    return config


def with_masks_decoded(config):
    """A wrapper's config with its masks as arrays again."""
    config = dict(config)
    mask = config.get("mask")
    if isinstance(mask, list):
        config["mask"] = [m and decode_mask(m) for m in mask]
    elif isinstance(mask, dict) and "bits" in mask:
        config["mask"] = decode_mask(mask)
    elif isinstance(mask, dict):
        config["mask"] = {name: decode_mask(m) for name, m in mask.items()}
    return config


def _unpacked(bits, wrapper, name):
    """The mask that is stored as `bits`."""
    shape = tuple(wrapper.kernels[name].mask.shape)
    size = int(np.prod(shape))
    if bits.dtype != np.uint8 or bits.shape != ((size + 7) // 8,):
        raise ValueError(
            f"Layer {wrapper.name!r} expected a mask of {size} bits for its kernel "
            f"{name!r}. Received: {bits.dtype} of shape {bits.shape}"
        )
    return np.unpackbits(bits, count=size).reshape(shape).astype(bool)
