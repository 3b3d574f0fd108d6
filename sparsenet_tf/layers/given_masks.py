"""The masks that a user gives for the kernels of a layer, by name or by order."""

from sparsenet_tf.layers.mask_values import as_mask


def assign_names(masks, kernels, layer_name):
    """Resolve the keys of `masks` to kernel names and check each mask."""
    resolved = {}
    if isinstance(masks, list):
        if len(masks) != len(kernels):
            raise ValueError(
                f"`mask` must have one entry for each kernel of layer {layer_name!r}, "
                f"{list(kernels)}. Received: {len(masks)} entries"
            )
        masks = {n: m for n, m in zip(kernels, masks, strict=True) if m is not None}
    for key, values in (masks or {}).items():
        names = [
            name for name in kernels if key in (None, name) or name.endswith(f"/{key}")
        ]
        exact = [name for name in names if name == key]
        if len(exact or names) != 1:
            what = "no name" if key is None else f"the name {key!r}"
            raise ValueError(
                f"`mask` must name each kernel of layer {layer_name!r} once: its "
                f"kernels are {list(kernels)}. Received: a mask with {what}"
            )
        (name,) = exact or names
        kernel = kernels[name]
        shape = tuple(getattr(kernel, "kernel", kernel).shape)
        resolved[name] = as_mask(values, shape, f"{layer_name}/{name}")
    return resolved
