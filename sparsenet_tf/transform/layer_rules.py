"""Which rule a call of a layer follows when a model shrinks."""

import keras
from keras import layers

from sparsenet_tf.transform.channel_rules import (
    MERGING_LAYERS,
    PADDING_LAYERS,
    Concatenate,
    Elementwise,
    Flatten,
    Keep,
    Window,
    is_elementwise,
)
from sparsenet_tf.transform.product_rules import Depthwise, Product

MERGING_OPS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
PRODUCTS = {
    layers.Dense: Product,
    layers.Conv1D: Product,
    layers.Conv2D: Product,
    layers.Conv3D: Product,
    layers.DepthwiseConv1D: Depthwise,
    layers.DepthwiseConv2D: Depthwise,
}
RULES = {
    **PRODUCTS,
    layers.Flatten: Flatten,
    layers.Concatenate: Concatenate,
    **dict.fromkeys(
        (
            *(layers.BatchNormalization, layers.Activation, layers.Identity),
            *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.ActivityRegularization),
            *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout),
            *(layers.SpatialDropout1D, layers.SpatialDropout2D),
            *(layers.SpatialDropout3D, layers.GaussianNoise, *MERGING_LAYERS),
        ),
        Elementwise,
    ),
    **dict.fromkeys(
        (
            *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
            *(layers.AveragePooling1D, layers.AveragePooling2D),
            *(layers.AveragePooling3D, layers.GlobalMaxPooling1D),
            *(layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
            *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
            *(layers.GlobalAveragePooling3D, layers.Cropping1D, layers.Cropping2D),
            *(layers.Cropping3D, *PADDING_LAYERS),
        ),
        Window,
    ),
}


def rule_of(node, is_shared):
    """Return the rule for a node of a model's graph.

    Args:
        node: a Keras `Node`.
        is_shared: whether the layer is called elsewhere, too.
    """
    operation, arguments = node.operation, node.arguments
    plain = (
        # Keras notes `training=False` of most calls, and `mask=None`.
        all(value is None or value is False for value in arguments.kwargs.values())
        and all(
            isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(arguments.args)
        )
        and len(node.output_tensors) == 1
    )
    if is_shared or not plain:
        return Keep(node)
    return _kind(operation)(node)


def _kind(operation):
    kind = type(operation)
    if kind in PRODUCTS and (
        getattr(operation, "groups", 1) != 1
        or getattr(operation, "quantization_mode", None) is not None
        or getattr(operation, "lora_enabled", False)
    ):
        return Keep
    if kind is layers.Activation and not is_elementwise(operation.activation):
        return Keep
    if getattr(operation, "noise_shape", None) is not None:
        return Keep
    if kind.__module__.startswith("keras.src.ops.") and kind.__name__ in MERGING_OPS:
        return Elementwise
    return RULES.get(kind, Keep)
