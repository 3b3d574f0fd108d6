"""Masked layers and low precision: the wrapper's policy, and what is refused."""

import keras


def unquantized(policy):
    """The dtype policy of a wrapper: the layer itself computes in low precision."""
    policy = keras.dtype_policies.get(policy)
    if getattr(policy, "quantization_mode", None) is None:
        return policy
    return keras.dtype_policies.get(policy.get_config()["source_name"])


def refuse_quantization(layer, name):
    """Have `layer.quantize` say that masks and quantized kernels do not go together."""

    def quantize(*args, **kwargs):
        raise ValueError(
            f"Layer {name!r} has masks, and a kernel that is quantized in place would "
            "lose them. Quantize the plain model: `plain = stf.strip(model)`, then "
            "`plain.quantize(...)`, which keeps zeros"
        )

    quantize.as_usual = layer.quantize
    object.__setattr__(layer, "quantize", quantize)


def allow_quantization(layer):
    """Undo `refuse_quantization`."""
    as_usual = getattr(layer.quantize, "as_usual", layer.quantize)
    object.__setattr__(layer, "quantize", as_usual)
