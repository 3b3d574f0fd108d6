"""Prune at once: the pruning step itself, and a function for users."""

import warnings

import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.sparsify import sparsify
from sparsenet_tf.pruning.criteria import magnitude
from sparsenet_tf.pruning.slots import clear_slots
from sparsenet_tf.topology.selection import check_sparsity, select_masks

SCOPES = ("layer", "global")


def prune_one_shot(
    model, sparsity, criterion=magnitude, scope="layer", exclude=(), optimizer=None
):
    """Prune a model at once to a sparsity, and freeze what survives as masks.

    Exactly `min(round(sparsity * size), size - 1)` weights of each kernel (or of all
    together) are zero afterwards, those with the lowest scores; what was pruned
    before stays pruned.

    Args:
        model: a built `keras.Model`. One from `sparsify` is pruned in place; any other
            is sparsified first.
        sparsity: share of weights to prune, in [0, 1).
        criterion: function from a kernel's values (NumPy array) to scores of the same
            shape; the lowest are pruned. Default: their magnitude.
        scope: "layer" for that share of each kernel, "global" to rank the weights of
            all kernels together.
        exclude: layer name or names that are not pruned.
        optimizer: the optimizer of your own training loop, if one is under way, whose
            memory of pruned weights is then cleared. Default: the model's.

    Returns:
        The sparsified model; `model` itself if that was sparsified.

    Raises:
        TypeError: `model` is no Keras model, or `criterion` not callable.
        ValueError: `sparsity`, `scope` or `exclude` is wrong, the model is not built
            or has no kernels, or a kernel or its scores have NaN or infinity. Nothing
            is changed then.

    Source: "one-time pruning" of Alford et al., section II.A.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> pruned = prune_one_shot(model, 0.75)
    >>> int(np.count_nonzero(pruned.layers[0].kernel))
    5
    """
    tree.check_model(model)
    sparsity = check_sparsity(sparsity)
    check_scope(scope)
    check_criterion(criterion)
    exclude = tree.check_names(model, exclude, "exclude")
    paths = tree.kernels(model)
    if not paths:
        raise ValueError(
            f"`model` must have kernels to prune. Received: model {model.name!r}, "
            + ("which has none" if model.built else "which is not built")
        )
    for path, kernel in paths.items():
        if not tree.matches(path, exclude):
            _finite_values(path, kernel)
    if not masked_kernels(model):
        model = sparsify(model, exclude=exclude)
    kernels = prunable_kernels(model, exclude)
    prune_kernels(kernels, sparsity, criterion, scope)
    for known in (optimizer, getattr(model, "optimizer", None)):
        if known is not None:
            clear_slots(known, kernels.values())
    for masked in kernels.values():  # There may be optimizers that are not known.
        masked.raise_guard(retrace=True)
    return model


def prune_kernels(kernels, sparsity, criterion=magnitude, scope="layer"):
    """Update the masks of `{path: MaskedKernel}`; all are computed before any is set.

    The caller then clears the optimizer's slots or raises the guards.

    Returns:
        `{path: mask}`, the new masks as boolean arrays.

    Raises:
        ValueError: a kernel or its scores have NaN or infinity, or another shape.
    """
    values, scores, masks = [], [], []
    for path, masked in kernels.items():
        value = _finite_values(path, masked.kernel)
        score = np.asarray(criterion(value))
        if score.shape != value.shape or not np.isfinite(score).all():
            raise ValueError(
                f"`criterion` must return finite scores of shape {value.shape} for "
                f"kernel {path!r}. Received: shape {score.shape}, "
                f"{np.count_nonzero(~np.isfinite(score))} of them not finite"
            )
        values.append(value)
        scores.append(score)
        masks.append(masked.mask_value())
    if scope == "global":
        new_masks = select_masks(scores, sparsity, masks)
    else:
        new_masks = [
            select_masks([score], sparsity, [mask])[0]
            for score, mask in zip(scores, masks, strict=True)
        ]
    collapsed = [
        path
        for path, old, new in zip(kernels, masks, new_masks, strict=True)
        if old.any() and not new.any()
    ]
    for masked, value, old, new in zip(
        kernels.values(), values, masks, new_masks, strict=True
    ):
        if not np.array_equal(new, old):
            masked.set_mask(new, value, guard=False)
    if collapsed:
        warnings.warn(
            f"Pruning left no weight in {collapsed}: nothing passes through such a "
            "layer any more. Exclude it, prune less, or use scope='layer'.",
            stacklevel=2,
        )
    return dict(zip(kernels, new_masks, strict=True))


def prunable_kernels(model, exclude=()):
    """Return `{path: MaskedKernel}` without those that `exclude` names.

    Raises:
        ValueError: the model has no masked kernels, or `exclude` leaves none.
    """
    found = masked_kernels(model)
    if not found:
        raise ValueError(
            f"`model` must have masked kernels. Received: model {model.name!r} "
            "without any; use `sparsenet_tf.sparsify(model)`"
            + ("" if model.built else ", and build it")
        )
    kept = {p: k for p, k in found.items() if not tree.matches(p, exclude)}
    if not kept:
        raise ValueError(f"`exclude` leaves no kernel to prune of {list(found)}")
    return kept


def sparsity_of(masks):
    """Share of zeros in these boolean arrays together, 0.0 when all is kept."""
    kept = sum(int(np.count_nonzero(mask)) for mask in masks)
    return 1.0 - kept / sum(mask.size for mask in masks)


def check_scope(scope):
    """Raise a ValueError unless `scope` is "layer" or "global"."""
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {SCOPES}. Received: {scope!r}")


def check_criterion(criterion):
    """Raise a TypeError unless `criterion` is callable."""
    if not callable(criterion):
        raise TypeError(f"`criterion` must be callable. Received: {criterion!r}")


def _finite_values(path, kernel):
    values = to_numpy(kernel)
    if values.dtype.kind != "f":  # bfloat16, which NumPy does not know
        values = values.astype("float32")
    if not np.isfinite(values).all():
        raise ValueError(
            f"`model` must have finite weights. Received: "
            f"{np.count_nonzero(~np.isfinite(values))} NaN or infinite values in "
            f"kernel {path!r}"
        )
    return values
