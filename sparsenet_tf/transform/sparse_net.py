"""`sparse_net`: a model with sparse topologies in place of its dense layers."""

import math

import keras
import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import is_copyable
from sparsenet_tf.layers.masked import Masked, masked_kernels
from sparsenet_tf.layers.radix_conv import RadixConv2D
from sparsenet_tf.layers.radix_dense import RadixDense
from sparsenet_tf.layers.replace import copy_compile, replace_layers
from sparsenet_tf.topology import RadixLayer, RadixNet, expander_mask, random_mask
from sparsenet_tf.topology.checks import check_flag, shown
from sparsenet_tf.topology.selection import check_sparsity
from sparsenet_tf.transform.rebuild import (
    check_rebuildable,
    fresh_copy,
    reseed,
    scale_kernels,
    seeded,
)

TOPOLOGIES = ("radix", "random", "expander")
# A net in which all inputs reach all outputs cannot be as sparse as single layers.
NET_TOLERANCE = 0.1


def sparse_net(
    model,
    sparsity,
    topology="radix",
    dense_first=True,
    dense_last=True,
    exclude=(),
    seed=0,
):
    """Return a new model whose Dense and Conv2D layers are sparse from the start.

    All weights are new, drawn by the layers' own initializers for the fan-in that is
    left. "radix" gives `RadixDense` and `RadixConv2D` layers, which hold and compute
    with their nonzeros only. Dense layers in a row become one `RadixNet`, in which
    every input reaches every output, if one has a density within a tenth of that
    asked for; all other layers become single RadiX layers. A convolution joins
    channels, or entries of its patches where less than one channel for each filter is
    wanted. "random" and "expander" give `Masked` layers.

    Args:
        model: a built Sequential or functional `keras.Model`; left as it is.
        sparsity: of each layer that is replaced, a number in [0, 1). The nearest that
            a RadiX topology of these sizes has is taken; `layer.topology` tells.
        topology: "radix"; "random", where each connection exists with probability
            1 - sparsity; or "expander", random with one fan-in for all outputs.
        dense_first: whether the first Dense or Conv2D layer stays dense.
        dense_last: whether the last one does, which gives the logits.
        exclude: layer name or names that stay dense as well.
        seed: integer, 0 or more, of the weights and of random topologies.

    Returns:
        The new model, compiled as `model` was, with a fresh optimizer.

    Raises:
        TypeError: `model` is no Keras model, or an argument has another type.
        ValueError: an argument is out of range, `exclude` names an unknown layer, or
            the model is not built, is subclassed, or has no layer to replace.

    Source: Alford et al., section II.B and Figure 9.

    Example:
    >>> from sparsenet_tf.experiments.models import lenet_300_100
    >>> model = sparse_net(lenet_300_100(), 0.9, dense_first=False)
    >>> print(model.get_layer("dense2").topology)
    300 -> 100: radix 10 at place 10 of 100 nodes, widths 3 -> 1, 90.00% sparse, \
3000 connections
    """
    check_rebuildable(model, seed)
    if not is_copyable(model):
        raise ValueError(
            f"`model` must be Sequential or functional. Received: model {model.name!r} "
            f"of class {type(model).__name__}"
        )
    sparsity = check_sparsity(sparsity)
    if not isinstance(topology, str) or topology not in TOPOLOGIES:
        raise ValueError(
            f"`topology` must be one of {TOPOLOGIES}. Received: {shown(topology)}"
        )
    dense_first = check_flag(dense_first, "dense_first")
    dense_last = check_flag(dense_last, "dense_last")
    exclude = tree.check_names(model, exclude, "exclude")
    candidates = {
        path: layer
        for path, layer in tree.walk(model)
        if type(layer) in (keras.layers.Dense, keras.layers.Conv2D)
    }
    paths = list(candidates)[dense_first : len(candidates) - dense_last]
    paths = [path for path in paths if not tree.matches(path, exclude)]
    if not paths:
        raise ValueError(
            f"`model` must have Dense or Conv2D layers to replace. Received: model "
            f"{model.name!r} with {list(candidates)}, of which none is left by "
            f"`dense_first`={dense_first}, `dense_last`={dense_last} and "
            f"`exclude`={exclude}"
        )
    chosen = {path: candidates[path] for path in paths}
    new = fresh_copy(model, int(seed))
    if topology == "radix":
        new = _with_radix_layers(new, chosen, sparsity, int(seed))
    else:
        new = _with_masks(new, chosen, sparsity, topology, int(seed))
    copy_compile(model, new)
    return new


def _with_masks(new, chosen, sparsity, topology, seed):
    new = replace_layers(
        new, lambda path, layer: Masked(layer) if path in chosen else layer
    )
    for i, masked in enumerate(masked_kernels(new).values()):
        rng = np.random.default_rng((seed, i))
        shape = tuple(masked.kernel.shape)
        if topology == "random":
            masked.set_mask(random_mask(shape, sparsity, rng))
        else:
            fan_in = max(1, round((1 - sparsity) * math.prod(shape[:-1])))
            masked.set_mask(expander_mask(shape, fan_in, rng))
    scale_kernels(new)
    return new


def _with_radix_layers(new, chosen, sparsity, seed):
    topologies = {}
    for run in _runs(chosen):
        topologies.update(_topologies(run, chosen, sparsity))

    def replace(path, layer):
        if path not in topologies:
            return layer
        kind = RadixConv2D if _is_conv(layer) else RadixDense
        new = kind.like(layer, topologies[path])
        # It is built anew: the dense weights were drawn for another fan-in.
        return kind.from_config(reseed(new.get_config(), f"{seed}/{path}"))

    with seeded(seed):
        return replace_layers(new, replace, weights=False)


def _runs(chosen):
    """Lists of paths: Dense layers in a row together, each other layer alone."""
    runs = []
    for path, layer in chosen.items():
        previous = chosen[runs[-1][-1]] if runs else None
        if (
            previous is not None
            and not _is_conv(previous)
            and not _is_conv(layer)
            and previous.units == layer.kernel.shape[0]
        ):
            runs[-1].append(path)
        else:
            runs.append([path])
    return runs


def _topologies(run, chosen, sparsity):
    layers = [chosen[path] for path in run]
    if _is_conv(layers[0]):
        *size, channels, filters = layers[0].kernel.shape
        groups = layers[0].groups
        over_patches = groups == 1 and (1 - sparsity) * channels < 1
        inputs = channels * math.prod(size) if over_patches else channels
        return {run[0]: RadixLayer.near(inputs, filters // groups, sparsity)}
    sizes = [layers[0].kernel.shape[0], *(layer.units for layer in layers)]
    if len(layers) > 1:
        try:
            net = RadixNet.near(sizes, sparsity)
        except ValueError:  # No net has these sizes.
            net = None
        if net and abs(net.density / (1 - sparsity) - 1) <= NET_TOLERANCE:
            return dict(zip(run, net.layers, strict=True))
    return {
        path: RadixLayer.near(*sizes[i : i + 2], sparsity, stage=i)
        for i, path in enumerate(run)
    }


def _is_conv(layer):
    return isinstance(layer, keras.layers.Conv2D)
