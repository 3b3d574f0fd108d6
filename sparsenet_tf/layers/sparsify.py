"""`sparsify`: a model whose kernels carry masks."""

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import as_mask, to_numpy
from sparsenet_tf.layers.masked import Masked, masked_kernels
from sparsenet_tf.layers.replace import replace_layers
from sparsenet_tf.topology.checks import check_flag, shown


def sparsify(model, masks=None, exclude=(), depthwise=True):
    """Return the model with a `Masked` wrapper around each layer that has kernels.

    A Sequential or functional model (nested ones too) is copied, weights included, and
    left as it is; a subclassed model is changed in place and returned. Layer names
    stay, so `model.get_layer(name)` works as before and returns the wrapper, which
    has the layer's attributes. A copy is compiled as the original was, with a fresh
    optimizer; so is a subclassed model in which nested models had to be copied.

    Args:
        model: a `keras.Model`, built or not.
        masks: optional dict `{path: mask}` as from `get_masks`; kernels that are not
            in it start with masks of ones. Or "zeros", for the zeros that the kernels
            have now, such as those of a model that was pruned elsewhere, or by
            `strip`. The model must be built.
        exclude: layer name or names (or paths, "encoder/dense") that get no mask.
        depthwise: whether depthwise kernels get masks too: those of DepthwiseConv
            layers, of the first half of SeparableConv ones, and of convolutions of as
            many groups as channels. In a MobileNetV2 they are three percent of the
            weights, and of the nine that a channel has soon none is left, so there
            False is better. One that `masks` names always does.

    Returns:
        The sparsified model; all masks are ones unless `masks` says otherwise.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: the model is sparsified already, `exclude` names an unknown layer,
            or a mask is wrong or names no kernel. Nothing is changed then.

    Source: Zhu and Gupta, arXiv 1710.01878, who leave the depthwise kernels of
    MobileNets as they are; so does tensorflow-model-optimization.

    Example:
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(3, name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> list(masked_kernels(sparsify(model, exclude="logits")))
    ['hidden/kernel']

    >>> plain = stf.strip(stf.pruning.prune_one_shot(model, 0.5))
    >>> again = sparsify(plain, masks="zeros")
    >>> int(stf.get_masks(again)["hidden/kernel"].sum())
    6
    """
    tree.check_model(model)
    if any(tree.is_masked(layer) for _, layer in tree.walk(model)):
        raise ValueError(
            f"`model` must not be sparsified already. Received: model {model.name!r}, "
            "which has Masked layers"
        )
    exclude = tree.check_names(model, exclude, "exclude")
    if isinstance(masks, str):
        masks = _masks_of_zeros(model, masks, exclude)
    elif masks is not None:
        masks = check_masks(tree.kernels(model), masks, model.name)
    depthwise = check_flag(depthwise, "depthwise")
    both = [path for path in masks or () if tree.matches(path, exclude)]
    if both:
        raise ValueError(
            f"`masks` must not have kernels that `exclude` names. Received: {both} in "
            f"`masks`, exclude={shown(exclude)}"
        )

    owners = tree.kernel_owners(model)
    per_channel = [path for path in owners if tree.is_depthwise(*owners[path])]
    named = [path for path in per_channel if path in (masks or ())]
    plain = [] if depthwise else [path for path in per_channel if path not in named]

    def wrap(path, layer):
        if tree.matches(path, exclude) or not tree.might_have_kernels(layer):
            return layer
        kernels = [kernel for kernel in owners if kernel.startswith(f"{path}/")]
        if kernels and set(kernels) <= set(plain):
            return layer
        return Masked(
            layer,
            exclude=_below(path, layer.name, exclude),
            depthwise=depthwise or not set(kernels).isdisjoint(named),
        )

    order = list(tree.kernels(model)) if masks else []
    new = replace_layers(model, wrap)
    masked = masked_kernels(new)
    # By order: a copy's sublayers may have other automatic names.
    for path, new_path in zip(order, tree.kernels(new), strict=bool(masks)):
        if path in masks:
            masked[new_path].set_mask(masks[path])
    return new


def _masks_of_zeros(model, masks, exclude):
    """`{path: mask}` of the kernels as they are, for `masks="zeros"`."""
    if masks != "zeros":
        raise ValueError(f'`masks` must be a dict or "zeros". Received: {shown(masks)}')
    kernels = tree.kernels(model)
    if not kernels:
        raise ValueError(
            f"`model` must have kernels. Received: model {model.name!r}, "
            + ("which has none" if model.built else "which is not built")
        )
    return {
        path: to_numpy(kernel) != 0
        for path, kernel in kernels.items()
        if not tree.matches(path, exclude)
    }


def check_masks(kernels, masks, model_name):
    """Return `masks` as boolean arrays, each checked against the kernel it names.

    Args:
        kernels: dict `{path: variable}`.
        masks: dict `{path: mask}`.
        model_name: named in errors.

    Raises:
        TypeError: `masks` is no dict.
        ValueError: a path names no kernel, or a mask does not fit its kernel.
    """
    if not isinstance(masks, dict):
        raise TypeError(f"`masks` must be a dict of arrays. Received: {shown(masks)}")
    unknown = [path for path in masks if path not in kernels]
    if unknown:
        raise ValueError(
            f"`masks` must name kernels of model {model_name!r}, which are "
            f"{list(kernels) or 'none (is it built?)'}. Received: {unknown}. Give the "
            "layers names, so that they agree from model to model; masks of a model of "
            "the same architecture can be renamed by `dict(zip(stf.get_masks("
            "stf.sparsify(model)), masks.values()))`"
        )
    return {
        path: as_mask(mask, tuple(kernels[path].shape), path)
        for path, mask in masks.items()
    }


def _below(path, name, exclude):
    """What `exclude` can mean inside a layer, whose own paths start at its name."""
    parent = path.removesuffix(name)
    return tuple(entry.removeprefix(parent) for entry in exclude)
