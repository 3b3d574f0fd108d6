"""`Masked`: a Keras wrapper that holds a fixed boolean mask for each kernel.

How a masked weight stays exactly zero, at the least cost in the training step:

1. The gradient of each kernel is multiplied by its mask on the way back, so clipping,
   momentum, moving averages and gradient accumulation see the sparse network alone.
   An element-wise optimizer leaves a weight at zero whose gradient was always zero.
2. Optimizer slots from before a mask was set could still move it. So a *guard*, the
   kernel's constraint, which Keras applies inside the compiled step, sets masked
   weights to zero. It is lowered only for a training function that is traced by code
   which clears the optimizer's slots with every change of a mask
   (`sparsenet_tf.pruning.guards`).
"""

import contextlib
import functools

import keras
import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.building import build_by_call, is_wholly_built
from sparsenet_tf.layers.given_masks import assign_names
from sparsenet_tf.layers.mask_values import as_mask, encode_mask
from sparsenet_tf.layers.masked_kernel import MaskedKernel, constant, has_lora
from sparsenet_tf.layers.quantization import (
    allow_quantization,
    refuse_quantization,
    unquantized,
)
from sparsenet_tf.layers.stored_masks import StoredMasks, with_masks_decoded
from sparsenet_tf.topology.checks import check_flag, shown

_STORED_MASKS = "stored_masks"


def released(layer):
    """The layer inside a `Masked` wrapper, with its kernels free; others as they are.

    >>> released(Masked(keras.layers.Dense(3, name="out"))).name
    'out'
    """
    if not tree.is_masked(layer):
        return layer
    for masked in layer.kernels.values():
        masked.release()
        allow_quantization(masked.owner)
    return layer.layer


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class Masked(keras.layers.Wrapper):
    """Wraps a layer so that each of its kernels keeps a fixed pattern of zeros.

    For a kernel `W` and its mask `M` (same shape, boolean), `W[~M]` is exactly 0.0
    when the layer is built and after every optimizer step, whatever the optimizer;
    the gradient that reaches the optimizer is `M * dL/dW`. A mask of ones changes
    nothing, to the last bit. Any layer will do: its kernels are all floating-point
    weights of two or more axes in it or below it that are no bias and no
    normalization parameter (see `get_prunable_weights` below), so a
    `MultiHeadAttention` has four and an `LSTM` two.

    The masks are non-trainable weights of the wrapper: they save with the model, one
    bit a connection, and `get_config` holds those with zeros, so that clones keep
    them. The wrapper has the layer's name, call signature and public attributes.

    Args:
        layer: a Keras layer, built or not, not yet masked. A layer of your own may
            define `get_prunable_weights()` to say which weights are its kernels.
        mask: `None` for masks of ones; an array for a layer with one kernel; a dict
            from kernel names (keys of `masks`, or their last part if unique) to
            arrays; or a list with an array or None for each kernel. Arrays have the
            kernel's shape and hold booleans, or 0 and 1.
        exclude: name or names of sublayers or kernels that get no mask.
        depthwise: whether depthwise kernels (see `sparsify`) get masks too.
        **kwargs: as for any Keras layer. `name` defaults to the layer's.

    Raises:
        TypeError: `layer` is no Keras layer, `exclude` no names, or `depthwise` no
            boolean.
        ValueError: `layer` is masked already; a mask has another shape than its
            kernel, another dtype than bool or numbers, other values than 0 and 1, or
            names no kernel. For an unbuilt layer, shapes are checked when it is built.

    Source: Alford et al., "Training Behavior of Sparse Neural Network Topologies",
    section II.A: pruned connections "remain zero for the rest of the procedure".

    Example:
    >>> layer = Masked(keras.layers.Dense(2), mask=np.array([[1, 0], [0, 1], [1, 1]]))
    >>> layer.build((None, 3))
    >>> int(np.count_nonzero(layer.kernel)), int(layer.masks["kernel"].sum())
    (4, 4)
    """

    holds_masks = True

    @property
    def __class__(self):
        """A class of the name of the layer's, by which Keras names places in files.

        So a file of the model has the weights where the plain model's file has them,
        and each of the two can load the other's.
        """
        layer = _inner_layer(self)
        return Masked if layer is None else _masked_named(type(layer).__name__)

    def __init__(self, layer, mask=None, exclude=(), depthwise=True, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"`layer` must be a Keras layer. Received: {shown(layer)}")
        if tree.is_masked(layer):
            raise ValueError(
                f"`layer` must not be masked already. Received: {layer.name!r}; "
                "set its masks with `set_masks`"
            )

        for name in ("exclude", "kernels", "masks"):
            if tree.holds_layers(getattr(layer, name, None)):
                raise ValueError(
                    f"`layer` must not keep layers in an attribute {name!r}, which a "
                    f"`Masked` layer needs itself. Received: {layer.name!r} of class "
                    f"{type(layer).__name__}; rename the attribute"
                )

        # Keras reads the signature of `call` to route `training`, masks and shapes:
        # with the layer's own, the wrapper is called just as the layer was.
        @functools.wraps(layer.call)
        def call(*args, **kwargs):
            return self._call_layer(*args, **kwargs)

        object.__setattr__(self, "call", call)
        own = {"name": layer.name, "trainable": layer.trainable}
        kwargs = {**own, "dtype": layer.dtype_policy, **kwargs}
        kwargs["dtype"] = unquantized(kwargs["dtype"])
        super().__init__(layer, **kwargs)
        self.supports_masking = layer.supports_masking
        self._convert_input_args = False  # the layer converts its inputs itself
        self._allow_non_tensor_positional_args = True
        self.exclude = tree.as_names(exclude, "exclude")
        self.masks_depthwise = check_flag(depthwise, "depthwise")
        # A plain attribute: the dict holds records, not layers, for Keras to track.
        object.__setattr__(self, "kernels", {})
        object.__setattr__(self, _STORED_MASKS, StoredMasks(self))
        if mask is not None and not isinstance(mask, (dict, list)):
            mask = {None: as_mask(mask)}
        object.__setattr__(self, "_given_masks", mask)
        # Not the same as `built`: the kernels may be made by the layer's first call.
        object.__setattr__(self, "has_found_kernels", False)
        if layer.built:
            self.build()

    def __call__(self, *args, **kwargs):
        """Build the layer and its masks if need be, then call it."""
        if not self.has_found_kernels:
            # Outside of the wrapper's name scope, so that weights are named as those
            # of the plain layer are.
            build_by_call(self.layer, args, kwargs)
            self.build()
        return super().__call__(*args, **kwargs)

    def build(self, *args, **kwargs):
        """Build the layer if need be, from the arguments of its own `build`."""
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
            self.layer.built = True
        found = {
            name: (owner, kernel)
            for name, (owner, kernel) in tree.kernel_owners(self.layer).items()
            if not tree.matches(f"{self.name}/{name}", self.exclude)
            and (self.masks_depthwise or not tree.is_depthwise(owner, kernel))
        }
        kernels = {name: kernel for name, (_, kernel) in found.items()}
        given = assign_names(self._given_masks, kernels, self.name)
        for name, (owner, kernel) in found.items():
            self.kernels[name] = self._attach(name, owner, kernel, given.get(name))
            refuse_quantization(owner, self.name)
        object.__setattr__(self, "_given_masks", None)
        object.__setattr__(self, "has_found_kernels", True)
        self.built = True

    def _attach(self, name, owner, kernel, values):
        known = getattr(vars(kernel).get("assign"), "__self__", None)
        if known is not None:  # a kernel that another masked layer has too
            setattr(self, known.mask.name, known.mask)
            if values is not None:
                known.set_mask(values)
            return known
        mask = self.add_weight(
            shape=kernel.shape,
            # The kernel's dtype, since multiplying by it is the fastest way to mask.
            dtype=kernel.dtype,
            initializer="ones" if values is None else constant(values),
            trainable=False,
            autocast=False,
            name=f"{name.replace('/', '_')}_mask",
        )
        setattr(self, mask.name, mask)  # TensorFlow checkpoints go by attributes
        masked = MaskedKernel(
            kernel,
            mask,
            owner,
            f"{self.name}/{name}",
            own_constraint=kernel.constraint,
            rows_looked_up=isinstance(self.layer, keras.layers.Embedding),
        )
        masked.constrain(values)
        return masked

    def _call_layer(self, *args, **kwargs):
        with contextlib.ExitStack() as stack:
            for masked in self.kernels.values():
                stack.enter_context(masked.gradient_masked())
            return self.layer(*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)  # where PyTorch keeps layers
        except AttributeError:
            if name == "layer" or (name.startswith("_") and not self._forwards(name)):
                raise
        return getattr(self.layer, name)

    def _forwards(self, name):
        """Whether a private attribute is one where the layer keeps layers."""
        layer = _inner_layer(self)
        if layer is None or name.startswith("__"):
            return False
        return tree.holds_layers(getattr(layer, name, None))

    def __dir__(self):
        """The attributes of the wrapper and of the layer, which are read through it.

        By them Keras finds what to save, in the places where the plain model has it.
        """
        own = set(super().__dir__()) - {"layer"}
        return sorted(own | set(dir(self.layer)) | {_STORED_MASKS})

    @property
    def weights(self):
        """The layer's: masks are state, as the seeds of random generators are.

        So `get_weights` and `set_weights` take what they take of the plain layer.
        `variables` has the masks too.
        """
        return self.layer.weights

    @property
    def masks(self):
        """Dict from kernel name to its mask, a boolean NumPy array (a copy)."""
        return {name: masked.mask_value() for name, masked in self.kernels.items()}

    def set_masks(self, masks):
        """Replace masks and set the newly masked weights to zero.

        Args:
            masks: an array or a dict, as the constructor's `mask`. Kernels that are
                not named keep their masks.

        Raises:
            ValueError: the layer is not built, or as the constructor.
        """
        if not self.has_found_kernels:
            raise ValueError(
                f"Layer {self.name!r} must be built before `set_masks` is called. "
                "Received: masks for a layer that is not built"
            )
        masks = masks if isinstance(masks, dict) else {None: as_mask(masks)}
        checked = assign_names(masks, self.kernels, self.name)
        for name, values in checked.items():
            self.kernels[name].set_mask(values)

    def compute_mask(self, *args, **kwargs):
        """Delegates to the layer (Keras' timestep masks, not kernel masks)."""
        return self.layer.compute_mask(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        """Delegates to the layer."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        """Delegates to the layer."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def get_config(self):
        """The layer's config, and the masks that have zeros, packed into text."""
        config = super().get_config()
        # The layer is built by `build_from_config` or by its first call: see there.
        config["layer"].pop("build_config", None)
        return {**config, **self.get_own_config()}

    def get_own_config(self):
        """What `get_config` has beside the layer, as `around` takes it."""
        config = {}
        if self.exclude:
            config["exclude"] = list(self.exclude)
        if not self.masks_depthwise:
            config["depthwise"] = False
        found = self.has_found_kernels
        masks = list(self.masks.values()) if found else self._given_masks
        if isinstance(masks, dict):  # not built yet
            config["mask"] = (
                encode_mask(masks[None])
                if None in masks
                else {name: encode_mask(as_mask(mask)) for name, mask in masks.items()}
            )
        elif masks and not all(m is None or np.all(m) for m in masks):
            # By order, since sublayers may be named anew when the layer is remade.
            config["mask"] = [
                None if m is None or np.all(m) else encode_mask(as_mask(m))
                for m in masks
            ]
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuild the wrapper and its layer from `get_config`."""
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(
            config.pop("layer"), custom_objects=custom_objects
        )
        return Masked.around(layer, config)

    @staticmethod
    def around(layer, config):
        """A wrapper of `layer` with the settings of `get_own_config`."""
        return Masked(layer, **with_masks_decoded(config))

    def __repr__(self):
        return f"<Masked {_inner_layer(self)!r}>"

    def get_build_config(self):
        """What the layer needs to build itself; None if only a call can build it."""
        if not self.built or getattr(type(self.layer).build, "_is_default", False):
            return None
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config):
        """Build the layer as it was built, then its masks."""
        if not self.layer.built:
            self.layer.build_from_config(config["layer"])
        if not self.has_found_kernels and is_wholly_built(self.layer):
            self.build()

    def save_own_variables(self, store):
        """Store what the layer stores, LoRA merged where the kernel is not masked."""
        with contextlib.ExitStack() as stack:
            for masked in self.kernels.values():
                if has_lora(masked.owner):
                    stack.enter_context(masked.gradient_masked())
            self.layer.save_own_variables(store)
        for masked in self.kernels.values():
            masked.saved_mask_count = int(masked.mask_value().sum())

    def load_own_variables(self, store):
        """Load what the layer stored; masks follow, where there are any."""
        for masked in self.kernels.values():
            masked.loading = True
        try:
            self.layer.load_own_variables(store)
        except Exception:
            for masked in self.kernels.values():
                masked.loading = False
            raise


def _inner_layer(wrapper):
    """The wrapped layer, or None while there is none yet."""
    found = vars(wrapper).get("layer")
    # With PyTorch, layers that are attributes are kept in `_modules`.
    return vars(wrapper).get("_modules", {}).get("layer") if found is None else found


@functools.cache
def _masked_named(name):
    """A subclass of `Masked` that is called `name` and saved as a `Masked` layer."""
    named = type(name, (Masked,), {"__module__": Masked.__module__})
    keras.saving.register_keras_serializable("sparsenet_tf", "Masked")(named)
    keras.saving.get_custom_objects()["sparsenet_tf>Masked"] = Masked
    return named


def masked_kernels(model):
    """Return `{path: MaskedKernel}` of all masked kernels in `model`, in its order.

    The paths are those of `sparsenet_tf.layers.tree.kernels`.
    """
    masked = {
        id(masked.kernel): masked
        for _, layer in tree.walk(model)
        if tree.is_masked(layer)
        for masked in layer.kernels.values()
    }
    return {
        path: masked[id(kernel)]
        for path, kernel in tree.kernels(model).items()
        if id(kernel) in masked
    }
