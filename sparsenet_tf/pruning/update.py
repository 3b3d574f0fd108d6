"""One update of masks: scores, how much of each kernel, which weights go."""

import warnings

import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.masked_kernel import has_lora
from sparsenet_tf.layers.units import unit_axes
from sparsenet_tf.pruning.scope import groups
from sparsenet_tf.pruning.structures import check_max_sparsity
from sparsenet_tf.topology.checks import as_array, shown
from sparsenet_tf.topology.selection import select_masks


def prune_kernels(
    model, kernels, sparsity, criterion, scope, structure=None, final_sparsity=None
):
    """Update the masks of kernels; all are computed before any is set.

    The caller then clears the optimizer's slots or raises the guards.

    Args:
        model: the sparsified model.
        kernels: dict `{path: MaskedKernel}`, those to prune.
        sparsity: overall share to prune.
        criterion: as for `PruningCallback`.
        scope: as for `PruningCallback`.
        structure: as for `PruningCallback`.
        final_sparsity: that of the schedule; None if `sparsity` is.

    Returns:
        `{path: mask}`, the new masks as boolean arrays.

    Raises:
        ValueError: a kernel or its scores have NaN or infinity, or another shape.
    """
    values = {path: finite_values(path, m.kernel) for path, m in kernels.items()}
    scores = score(model, kernels, values, criterion)
    masks = {path: masked.mask_value() for path, masked in kernels.items()}
    select = select_masks if structure is None else _by(structure, model)
    shapes = {path: value.shape for path, value in values.items()}
    new_masks = {}
    for paths, share in groups(scope, shapes, sparsity, final_sparsity):
        arguments = [scores[p] for p in paths], share, [masks[p] for p in paths]
        if structure is not None:
            arguments = *arguments, paths
        new_masks.update(zip(paths, select(*arguments), strict=True))
    warn_of_collapse(masks, new_masks)
    for path, masked in kernels.items():
        if not np.array_equal(new_masks[path], masks[path]):
            masked.set_mask(new_masks[path], values[path], guard=False)
    return {path: new_masks[path] for path in kernels}


def score(model, kernels, values, criterion, name="criterion"):
    """Return `{path: scores}` by a criterion, of the kernels' shapes and finite.

    Args:
        model: the sparsified model.
        kernels: dict `{path: MaskedKernel}`.
        values: dict `{path: array}`, the kernels' values.
        criterion: as for `PruningCallback`.
        name: what errors call it.

    Raises:
        ValueError: scores have NaN or infinity, or another shape.
    """
    if hasattr(criterion, "scores"):
        found = criterion.scores(model, kernels)
    else:
        found = {path: criterion(value) for path, value in values.items()}
    for path, value in values.items():
        array = found[path] = as_array(found.get(path), name)
        is_real = array.dtype.kind in "fiub"
        if not is_real or array.shape != value.shape or not np.isfinite(array).all():
            bad = np.count_nonzero(~np.isfinite(array)) if is_real else "all"
            raise ValueError(
                f"`{name}` must return finite scores of shape {value.shape} for "
                f"kernel {path!r}. Received: shape {array.shape}, {array.dtype}, "
                f"{bad} of them not finite"
            )
    return found


def _by(structure, model):
    owners = tree.kernel_owners(model)
    axes = {path: unit_axes(*owners[path]) for path in owners}
    return lambda scores, sparsity, masks, paths: structure.select(
        scores, sparsity, masks, [axes[path] for path in paths]
    )


def warn_of_collapse(masks, new_masks):
    """Warn of each kernel that had weights and has none now."""
    collapsed = [p for p in masks if masks[p].any() and not new_masks[p].any()]
    if collapsed:
        warnings.warn(
            f"Pruning left no weight in {collapsed}: nothing passes through such a "
            "layer any more. Exclude it, prune less, or use scope='layer'.",
            stacklevel=4,
        )


def prunable_kernels(model, exclude=()):
    """Return `{path: MaskedKernel}` without those that `exclude` names or are frozen.

    Raises:
        ValueError: the model has no masked kernels, `exclude` leaves none, or all that
            are left are frozen.

    Warns:
        UserWarning: some are frozen.
    """
    found = masked_kernels(model)
    if not found:
        raise ValueError(
            f"`model` must have masked kernels. Received: model {model.name!r} "
            f"without any; {_how_to_mask(model)}"
        )
    kept = {p: k for p, k in found.items() if not tree.matches(p, exclude)}
    if not kept:
        raise ValueError(f"`exclude` leaves no kernel to prune of {list(found)}")
    frozen = frozen_of(model, {path: m.kernel for path, m in kept.items()})
    return {path: masked for path, masked in kept.items() if path not in frozen}


def _how_to_mask(model):
    if any(tree.is_sparse(layer) for _, layer in tree.walk(model)):
        return (
            "its sparse layers hold only their nonzeros, as after `stf.to_sparse`. "
            "`model = stf.to_dense(model)` gives masked layers back; then compile it"
        )
    if not model.built:
        masked = any(tree.is_masked(layer) for _, layer in tree.walk(model))
        return (
            "it is not built, and has no kernels yet. Build it first, by "
            "`model.build(input_shape)` or with a `keras.Input` in front"
            + ("" if masked else "; then use `model = stf.sparsify(model)`")
        )
    return (
        "use `model = stf.sparsify(model)`, which returns a new model, then compile "
        "and fit that"
    )


def frozen_of(model, kernels):
    """Return the paths of frozen kernels, which stay as they are, and warn of them.

    A kernel that only LoRA holds still is not frozen: what LoRA adds to it trains.

    Args:
        model: the model.
        kernels: dict `{path: variable}`, those to prune.

    Raises:
        ValueError: all are frozen.

    Warns:
        UserWarning: some are frozen.
    """
    by_lora = {
        id(kernel)
        for owner, kernel in tree.kernel_owners(model).values()
        if has_lora(owner) and owner.trainable
    }
    frozen = [
        path
        for path, kernel in kernels.items()
        if not kernel.trainable and id(kernel) not in by_lora
    ]
    if not frozen:
        return frozen
    advice = (
        "To prune such a kernel, set `layer.trainable = True`, prune, and freeze the "
        "layer again: it keeps its zeros"
    )
    if len(frozen) == len(kernels):
        raise ValueError(
            "`model` must have kernels that are not frozen, since frozen ones are not "
            f"pruned. Received: {frozen}, all with trainable=False. {advice}"
        )
    warnings.warn(
        f"Frozen kernels are not pruned: {frozen} have trainable=False. {advice}.",
        stacklevel=4,
    )
    return frozen


def sparsity_of(masks):
    """Share of zeros in these boolean arrays together, 0.0 when all is kept."""
    kept = sum(int(np.count_nonzero(mask)) for mask in masks)
    return 1.0 - kept / sum(mask.size for mask in masks)


def check_criterion(criterion):
    """Raise a TypeError unless `criterion` is callable or has scores."""
    usable = callable(criterion) or hasattr(criterion, "scores")
    if isinstance(criterion, type) or not usable:
        raise TypeError(
            "`criterion` must be callable, or an object with a method `scores`. "
            f"Received: {shown(criterion)}"
        )


def check_structure(structure, sparsity, name="sparsity"):
    """Raise an error unless `structure` is None, or can prune to `sparsity`.

    Raises:
        TypeError: it has no method `select`.
        ValueError: its pattern has fewer zeros than that; `name` names the sparsity.
    """
    if structure is None:
        return
    if isinstance(structure, type) or not hasattr(structure, "select"):
        raise TypeError(
            "`structure` must be None, or an object with a method `select`, such as "
            f"stf.pruning.NM(2, 4). Received: {shown(structure)}"
        )
    check_max_sparsity(structure, sparsity, name)


def finite_values(path, kernel):
    """The kernel as a NumPy array.

    Raises:
        ValueError: it has NaN or infinity.
    """
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
