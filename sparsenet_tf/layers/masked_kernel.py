"""A kernel under a mask: its value, its gradient, its constraint."""

import contextlib
import dataclasses
import weakref

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope

from sparsenet_tf.kernels.masked_identity import masked_identity
from sparsenet_tf.layers.mask_values import to_numpy


@dataclasses.dataclass(eq=False)
class MaskedKernel:
    """A kernel with its mask, both Keras variables of one shape and dtype.

    Its `guard` is a constraint that sets masked weights to zero after each optimizer
    step, for which Keras compiles a pass over the kernel into the training step. A
    model may be traced without it while its optimizer cannot move masked weights.

    Attributes:
        kernel: the wrapped layer's trainable variable.
        mask: 1 where the kernel is kept, 0 where it is pruned.
        own_constraint: the constraint that the layer gave the kernel, or None.
        rows_looked_up: whether the layer reads the kernel by rows, as an Embedding.
        use_native: whether what is traced now masks the gradient by our native
            operation.
        update_masks: whether the optimizer's update masks the gradient in what is
            traced now, and so nothing else need.
        unguarded: models whose training function may have been traced without guard.
        mask_seen: the mask's value in the latest forward pass, if that was stateless.
    """

    kernel: keras.Variable
    mask: keras.Variable
    own_constraint: object = None
    rows_looked_up: bool = False
    use_native: bool = False
    update_masks: bool = False
    unguarded: weakref.WeakSet = dataclasses.field(default_factory=weakref.WeakSet)
    mask_seen: object = None

    def constrain(self, values=None):
        """Zero the kernel outside `values` and keep its masked weights from moving."""
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
        """Give the kernel its own constraint and regularizer back."""
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
        self.kernel.assign(value)
        self.mask.assign(mask.astype(value.dtype))
        if guard:
            self.raise_guard(retrace=True)

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

    def gradient_masked(self):
        """Context in which the kernel reads as usual and its gradient is masked."""
        if self.update_masks:
            return contextlib.nullcontext()
        mask = ops.convert_to_tensor(_current_value(self.mask))
        self.mask_seen = None if get_stateless_scope() is None else mask
        value = ops.convert_to_tensor(_current_value(self.kernel))
        value = masked_identity(value, mask, self.rows_looked_up, self.use_native)
        return _reads_as(self.kernel, value)


@contextlib.contextmanager
def _reads_as(variable, value):
    """Let `variable` read as `value`, a tensor, inside the context."""
    scope = get_stateless_scope()
    if scope is not None:
        previous = scope.get_current_value(variable)
        scope.state_mapping[id(variable)] = value
        try:
            yield
        finally:
            scope.state_mapping.pop(id(variable))
            if previous is not None:
                scope.state_mapping[id(variable)] = previous
    else:
        stored, variable._value = variable._value, value
        try:
            yield
        finally:
            variable._value = stored


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
