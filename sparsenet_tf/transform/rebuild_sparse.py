"""`rebuild_sparse`: `rebuild` with layers that never hold more than their nonzeros."""

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import copy_kept_state, is_plain_graph
from sparsenet_tf.layers.replace import copy_compile, replace_layers
from sparsenet_tf.layers.sparse_form import sparse_form
from sparsenet_tf.layers.sparsify import check_masks, sparsify
from sparsenet_tf.topology.checks import check_flag
from sparsenet_tf.transform.rebuild import (
    check_rebuildable,
    clone_reseeded,
    fresh_copy,
    reseed,
    scale_kernels,
    seeded,
)
from sparsenet_tf.transform.strip import unwrap


def rebuild_sparse(model, masks, seed, scale_to_fan_in=False):
    """Return a new model of the same architecture with new weights on `masks` alone.

    Of each Dense or Conv2D layer with a mask only the nonzeros are drawn and stored, in
    a `RadixDense` if the mask is a RadiX layer, and in a `SparseDense` or a
    `SparseConv2D` otherwise. So the
    weights are not those that `rebuild` draws for the seed, but of the same
    distribution. Masks of other layers are held by `Masked` ones.

    Args:
        model: a built Sequential or functional `keras.Model`, plain or sparsified.
        masks: as for `rebuild`.
        seed: as for `rebuild`.
        scale_to_fan_in: whether variance-scaling initializers see the mean connections
            that are left, or those of the dense layer.

    Raises:
        TypeError, ValueError: as `rebuild`; or the model is subclassed.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.75))
    >>> new = rebuild_sparse(model, masks, seed=1)
    >>> [tuple(weight.shape) for weight in new.weights]
    [(5,), (5,)]
    """
    check_rebuildable(model, seed)
    check_flag(scale_to_fan_in, "scale_to_fan_in")
    if not is_plain_graph(model):
        raise ValueError(
            f"`model` must be Sequential or functional. Received: model {model.name!r} "
            f"of class {type(model).__name__}"
        )
    masks = check_masks(tree.kernels(model), masks, model.name)
    forms = {
        f"{path}/kernel": sparse_form(layer, masks[f"{path}/kernel"])
        for path, layer in tree.walk(model)
        if f"{path}/kernel" in masks
    }
    exchanged = {path: form for path, form in forms.items() if form is not None}

    def clone(path, layer):
        layer = unwrap(layer)
        if f"{path}/kernel" not in exchanged:
            return clone_reseeded(path, layer, seed)
        kind, found = exchanged[f"{path}/kernel"]
        new = kind.like(layer, found, scale_to_fan_in=scale_to_fan_in)
        return kind.from_config(reseed(new.get_config(), f"{seed}/{path}"))

    with seeded(int(seed)):
        new = replace_layers(
            model,
            lambda path, layer: layer,
            clone=clone,
            remake=lambda part: fresh_copy(part, int(seed)),
            weights=False,
            compiled=False,
        )
    copy_kept_state(model, new)
    others = {path: mask for path, mask in masks.items() if path not in exchanged}
    if others:
        new = sparsify(new, others)
        if scale_to_fan_in:
            scale_kernels(new)
    if not new.compiled:
        copy_compile(model, new)
    return new
