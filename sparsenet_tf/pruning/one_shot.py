"""Prune at once."""

import keras

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.masked import masked_kernels, released
from sparsenet_tf.layers.replace import replace_layers
from sparsenet_tf.layers.sparsify import sparsify
from sparsenet_tf.pruning.criteria import magnitude
from sparsenet_tf.pruning.scope import check_scope
from sparsenet_tf.pruning.slots import clear_slots, clear_slots_of
from sparsenet_tf.pruning.update import (
    check_criterion,
    check_structure,
    finite_values,
    frozen_of,
    prunable_kernels,
    prune_kernels,
)
from sparsenet_tf.topology.checks import shown
from sparsenet_tf.topology.selection import check_sparsity


def prune_one_shot(
    model,
    sparsity,
    criterion=magnitude,
    scope="layer",
    exclude=(),
    optimizer=None,
    structure=None,
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
            shape, of which the lowest are pruned; or an object of this package that
            needs more than values, such as `SNIP(x, y)`. Default: their magnitude.
            One with `rounds`, as `SynFlow`, prunes step by step: after round k of n
            `(1 - sparsity) ** (k / n)` of the weights are left.
        scope: "layer" for that share of each kernel, "global" to rank the weights of
            all kernels together, "erdos_renyi" or "erk" for shares that keep small
            kernels denser (`stf.topology.allocate`), or a dict `{layer name:
            sparsity}` of layers with a sparsity of their own.
        exclude: layer name or names that are not pruned.
        optimizer: the optimizer of your own training loop, if one is under way, whose
            memory of pruned weights is then cleared. Default: the model's.
        structure: which weights go together: `NM`, `Blocks` or `Units`. None: each
            goes by itself.

    Returns:
        The sparsified model; `model` itself if that was sparsified.

    Raises:
        TypeError: `model` is no Keras model, `criterion` not callable, `structure` no
            structure, or `optimizer` no optimizer.
        ValueError: `sparsity`, `scope` or `exclude` is wrong, `structure` has fewer
            zeros than `sparsity` asks for, the model is not built
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
    scope = check_scope(scope, model)
    check_criterion(criterion)
    check_structure(structure, sparsity)
    if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizer` must be a keras.optimizers.Optimizer or None. Received: "
            f"{shown(optimizer)}"
        )
    exclude = tree.check_names(model, exclude, "exclude")
    paths = tree.kernels(model)
    if not paths:
        raise ValueError(
            f"`model` must have kernels to prune. Received: model {model.name!r}, "
            + ("which has none" if model.built else "which is not built")
        )
    wanted = {p: k for p, k in paths.items() if not tree.matches(p, exclude)}
    if not wanted:
        raise ValueError(f"`exclude` leaves no kernel to prune of {list(paths)}")
    frozen = frozen_of(model, wanted)
    for path, kernel in wanted.items():
        if path not in frozen:
            finite_values(path, kernel)
    given, is_masked = model, bool(masked_kernels(model))
    if not is_masked:
        model = sparsify(model, exclude=exclude)
    kernels = prunable_kernels(model, (*exclude, *frozen))
    before = {path: (m.mask_value(), m.kernel_value()) for path, m in kernels.items()}
    rounds = getattr(criterion, "rounds", 1)
    try:
        for k in range(1, rounds + 1):
            share = sparsity if k == rounds else 1 - (1 - sparsity) ** (k / rounds)
            prune_kernels(model, kernels, share, criterion, scope, structure, sparsity)
    except BaseException:
        for path, masked in kernels.items():
            masked.set_mask(*before[path])
        if model is given and not is_masked:  # which was sparsified in place
            replace_layers(model, lambda path, layer: released(layer))
        raise
    clear_slots_of(model, kernels.values())
    if optimizer is not None:
        clear_slots(optimizer, kernels.values())
    for masked in kernels.values():  # There may be optimizers that are not known.
        masked.raise_guard(retrace=True)
    return model
