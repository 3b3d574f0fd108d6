"""A kernel under a mask: its value, its gradient, its constraint."""

import contextlib
import dataclasses
import warnings
import weakref

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope

from sparsenet_tf.kernels.masked_identity import masked_identity
from sparsenet_tf.kernels.tracing import is_traced_by_tensorflow
from sparsenet_tf.layers.mask_values import as_mask, to_numpy


@dataclasses.dataclass(eq=False)
class MaskedKernel:
    """A kernel with its mask, both Keras variables of one shape and dtype.

    Its `guard` is a constraint that sets masked weights to zero after each optimizer
    step, for which Keras compiles a pass over the kernel into the training step. A
    model may be traced without it while its optimizer cannot move masked weights.

    Values that are assigned to the kernel by hand, by `set_weights`, or by a callback
    that swaps weights, are zero where it is masked. The mask takes only 0 and 1.

    Attributes:
        kernel: the wrapped layer's trainable variable.
        mask: 1 where the kernel is kept, 0 where it is pruned.
        owner: the layer that holds the kernel.
        name: of the kernel in messages.
        own_constraint: the constraint that the layer gave the kernel, or None.
        rows_looked_up: whether the layer reads the kernel by rows, as an Embedding.
        use_native: whether what is traced now masks the gradient by our native
            operation.
        update_masks: whether the optimizer's update masks the gradient in what is
            traced now, and so nothing else need.
        unguarded: models whose training function may have been traced without guard.
        mask_seen: the mask's value in the latest forward pass, if that was stateless.
        loading: whether weights are being loaded whose mask is yet to come.
        saved_mask_count: how many weights were kept when they were last saved; None if
            they were not, or not since `PruningCallback` began.
    """

    kernel: keras.Variable
    mask: keras.Variable
    owner: keras.layers.Layer
    name: str
    own_constraint: object = None
    rows_looked_up: bool = False
    use_native: bool = False
    update_masks: bool = False
    unguarded: weakref.WeakSet = dataclasses.field(default_factory=weakref.WeakSet)
    mask_seen: object = None
    loading: bool = False
    saved_mask_count: object = None
    _read_as: list = dataclasses.field(default_factory=list)

    def constrain(self, values=None):
        """Zero the kernel outside `values` and keep its masked weights from moving."""
        self.kernel.assign, self.mask.assign = self._assign, self._assign_mask
        self.raise_guard()
        regularizer = self.kernel.regularizer
        if regularizer is not None and not is_flat_at_zero(regularizer):
            self.kernel.regularizer = RegularizeKept(self, regularizer)
        if values is not None:
            zero_initially(self.kernel, values)

    def raise_guard(self, retrace=False):
        """Guard the kernel in what is traced from now on, or also in what was."""
        self.kernel.constraint = ZeroMasked(self)
        self.use_native = False
        if retrace:
            for model in self.unguarded:
                model.make_train_function(force=True)
            self.unguarded.clear()

    def lower_guard(self, model, use_native=False):
        """Let `model` be traced without guard; a layer's own constraint needs it."""
        self.use_native = use_native
        if self.own_constraint is None:
            self.kernel.constraint = None
        self.unguarded.add(model)

    def release(self):
        """Give the kernel its own constraint, regularizer and `assign` back.

        What LoRA has learned is merged into the kernel, where it is not masked.
        """
        if has_lora(self.owner):
            self.merge_lora()
        vars(self.kernel).pop("assign", None)
        self.kernel.constraint = self.own_constraint
        if isinstance(self.kernel.regularizer, RegularizeKept):
            self.kernel.regularizer = self.kernel.regularizer.regularizer

    def mask_value(self):
        """The mask as a boolean NumPy array."""
        return to_numpy(self.mask) != 0

    def kernel_value(self):
        """The kernel as a NumPy array."""
        return to_numpy(self.kernel)

    def set_mask(self, mask, value=None, guard=True):
        """Assign a boolean array as the mask and zero the kernel there.

        Args:
            mask: boolean NumPy array.
            value: the kernel's value, if it is known and finite. By default it is
                read, and selected rather than multiplied, so that NaN is masked too.
            guard: whether to guard the kernel. If not, the caller must clear the
                optimizer's slots, or newly masked weights move on.
        """
        # In NumPy, in few transfers: this runs every few steps of a training run.
        if value is None:
            value = self.kernel_value()
            value = np.where(mask, value, np.zeros((), value.dtype))
        else:
            value = value * mask + 0.0  # with which -0.0 becomes 0.0
        _assign_as_usual(self.kernel, value)
        _assign_as_usual(self.mask, mask.astype(value.dtype))
        if guard:
            self.raise_guard(retrace=True)

    def _assign(self, value):
        """Assign to the kernel, zero where it is masked: its `assign`.

        In a compiled step nothing is masked here: there the constraint does it, or
        the cleared slots of the optimizer.
        """
        if self._read_as:  # by a layer that assigns to its kernel while it is called
            return self._assign_while_read(value)
        if self.loading or _is_in_step(self.kernel):
            return _assign_as_usual(self.kernel, value)
        if isinstance(value, np.ndarray) and value.shape == tuple(self.kernel.shape):
            mask = self.mask_value()
            lost = np.count_nonzero(value[~mask])
            if lost:
                warnings.warn(
                    f"Values were assigned to kernel {self.name!r} with {lost} weights "
                    "that its mask has pruned; these stay zero. This is also how "
                    "`EarlyStopping(restore_best_weights=True)` brings back weights of "
                    "before the model was pruned: see `stf.pruning.AtFinalSparsity`. "
                    "To unprune weights, set the mask first, by `set_masks`.",
                    stacklevel=3,
                )
            value = np.where(mask, value, np.zeros((), value.dtype))
        else:
            value = ops.convert_to_tensor(value, self.kernel.dtype)
            if tuple(value.shape) == tuple(self.kernel.shape):
                value = self.kept(value)
        return _assign_as_usual(self.kernel, value)

    def _assign_while_read(self, value):
        reading = self._read_as[-1]
        value = ops.convert_to_tensor(value, self.kernel.dtype)
        value = ops.where(ops.cast(reading.mask, "bool"), value, ops.zeros_like(value))
        reading.assign(value)
        return value

    def _assign_mask(self, value):
        """Assign to the mask, and mask the kernel by it: the mask's `assign`.

        Raises:
            ValueError: there are other values than 0 and 1.
        """
        if _is_in_step(self.mask):
            return _assign_as_usual(self.mask, value)
        shape = tuple(self.mask.shape)
        if isinstance(value, np.ndarray) or not hasattr(value, "shape"):
            new = as_mask(value, shape, self.name)
        else:
            value = ops.convert_to_tensor(value)
            if ops.shape(value) == shape and ops.all(
                ops.equal(ops.cast(value, self.mask.dtype), self.mask.value)
            ):
                return value  # such as what JAX brings back from a step
            new = as_mask(to_numpy(value), shape, self.name)
        if not np.array_equal(new, self.mask_value()):
            self.set_mask(new)
        return self.mask.value

    def merge_lora(self):
        """Add what LoRA has learned to the kernel, and let LoRA learn from zero."""
        value = to_numpy(_with_lora(self.owner))
        mask = self.mask_value()
        _assign_as_usual(self.kernel, np.where(mask, value, np.zeros((), value.dtype)))
        lora_b = _lora_b(self.owner)
        lora_b.assign(ops.zeros(lora_b.shape, lora_b.dtype))

    def kept(self, value):
        """A value of the kernel, zero where it is masked, in the optimizer's step too.

        With JAX that step is stateless and is given the trainable variables alone. The
        mask is then what the forward pass of the same step saw.
        """
        scope, mask = get_stateless_scope(), None
        if scope is not None:
            mask = scope.get_current_value(self.mask)
            if mask is None and _lasts(self.mask_seen):
                mask = self.mask_seen
        if mask is None:
            if self.mask._value is None:  # in a step that did not call the layer
                return value
            mask = self.mask.value
        return ops.where(ops.cast(mask, "bool"), value, ops.zeros_like(value))

    @contextlib.contextmanager
    def gradient_masked(self):
        """Context in which the kernel reads as usual and its gradient is masked.

        If the layer has LoRA, its kernel reads as `M * (W + A @ B)`.
        """
        if self.update_masks:
            yield
            return
        mask = ops.convert_to_tensor(_current_value(self.mask))
        self.mask_seen = None if get_stateless_scope() is None else mask
        with_lora = has_lora(self.owner)
        if with_lora:
            value, native = _with_lora(self.owner), False
            mask = ops.cast(mask, value.dtype)
        else:
            value, native = _current_value(self.kernel), self.use_native
            value = ops.convert_to_tensor(value)
        looked_up = self.rows_looked_up and not with_lora
        value = masked_identity(value, mask, looked_up, native)
        reading = _Reading(self.kernel, value, mask)
        self._read_as.append(reading)
        try:
            with reading, _without_lora(self.owner) if with_lora else _NOTHING:
                yield
        finally:
            self._read_as.pop()


_NOTHING = contextlib.nullcontext()


class _Reading:
    """A context in which `variable` reads as `value`, a tensor."""

    def __init__(self, variable, value, mask):
        self.variable, self.value, self.mask = variable, value, mask
        self.scope = get_stateless_scope()

    def __enter__(self):
        if self.scope is None:
            self.stored = self.variable._value
            self.variable._value = self.value
        else:
            self.stored = self.scope.get_current_value(self.variable)
            self.scope.state_mapping[id(self.variable)] = self.value

    def assign(self, value):
        """Assign to the variable itself, which reads as the new value from now on."""
        if self.scope is None:
            self.variable._value = self.stored
            _assign_as_usual(self.variable, value)
            self.stored, self.variable._value = self.variable._value, value
        else:
            self.stored = value
            self.scope.state_mapping[id(self.variable)] = value

    def __exit__(self, *error):
        if self.scope is None:
            self.variable._value = self.stored
        elif self.stored is None:
            self.scope.state_mapping.pop(id(self.variable))
        else:
            self.scope.state_mapping[id(self.variable)] = self.stored


def _assign_as_usual(variable, value):
    """Assign by the method of the variable's class, not by one of its own."""
    return type(variable).assign(variable, value)


def _is_in_step(variable):
    """Whether a compiled step assigns, or what it returned is put back."""
    if get_stateless_scope() is not None or variable._value is None:
        return True  # With JAX, variables have no values while steps run.
    return is_traced_by_tensorflow()


def has_lora(layer):
    """Whether `layer` adds `A @ B` to its kernel, as Keras' `enable_lora` has it."""
    return getattr(layer, "lora_enabled", False)


def _with_lora(layer):
    """The layer's kernel as it computes with it, LoRA included."""
    name = "embeddings" if hasattr(layer, "lora_embeddings_a") else "kernel"
    return ops.convert_to_tensor(getattr(layer, name))


def _lora_b(layer):
    if hasattr(layer, "lora_embeddings_b"):
        return layer.lora_embeddings_b
    return layer.lora_kernel_b


@contextlib.contextmanager
def _without_lora(layer):
    """A context in which the layer adds nothing to its kernel."""
    layer.lora_enabled = False
    try:
        yield
    finally:
        layer.lora_enabled = True


def _current_value(variable):
    """The variable's value in its own dtype, also inside an autocast scope."""
    scope = get_stateless_scope()
    value = None if scope is None else scope.get_current_value(variable)
    if value is not None:
        return value
    if variable._value is None:  # created in a stateless scope: filled in later
        return ops.zeros(variable.shape, variable.dtype)
    return variable._value


def _lasts(value):
    """Whether a value may still be used: JAX ends those of a trace with it."""
    trace = getattr(value, "_trace", None)
    return trace is None or trace.is_valid()


class ZeroMasked(keras.constraints.Constraint):
    """The kernel's own constraint, then zero where the mask is."""

    def __init__(self, masked):
        self.masked = masked

    def __call__(self, w):
        """Constrain the value of the kernel."""
        value = ops.convert_to_tensor(w)
        if self.masked.own_constraint is not None:
            value = self.masked.own_constraint(value)
        return self.masked.kept(value)


class RegularizeKept(keras.regularizers.Regularizer):
    """The kernel's own regularizer, seeing (and so moving) only kept weights."""

    def __init__(self, masked, regularizer):
        self.masked, self.regularizer = masked, regularizer

    def __call__(self, x):
        """Penalize the kept weights."""
        # Selected: a regularizer may have no finite gradient at an empty row.
        return self.regularizer(self.masked.kept(ops.convert_to_tensor(x)))


def is_flat_at_zero(regularizer):
    """Whether a weight at zero gets no gradient from it, with no need to mask."""
    return type(regularizer) in (
        keras.regularizers.L1,
        keras.regularizers.L2,
        keras.regularizers.L1L2,
    )


def zero_initially(kernel, values):
    """Zero the kernel outside `values`, also when it is yet to be initialized."""
    if kernel._value is None:
        initializer = kernel._initializer
        kernel._initializer = lambda shape, dtype=None: ops.where(
            values, initializer(shape, dtype=dtype), ops.zeros(shape, dtype)
        )
    else:
        kernel.assign(ops.where(values, ops.convert_to_tensor(kernel), 0))


def constant(values):
    """An initializer that gives `values`."""
    return lambda shape, dtype=None: ops.convert_to_tensor(values.astype(dtype))
