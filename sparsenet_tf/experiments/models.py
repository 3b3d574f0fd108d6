"""LeNet-300-100 and LeNet-5, in today's form and in that of the paper's authors.

The defaults are today's; `lenet_5(**PAPER_LENET_5)` builds the network of the authors'
repository (simonalford42/Kepner-sparse-nn, `pruning/simon/inference.py`), every oddity
included, above all the ReLU on the logits. Seeds and widths may be added to a setting.
"""

import types
from collections.abc import Mapping

import keras
import numpy as np

from sparsenet_tf.experiments.lrn import LocalResponseNormalization
from sparsenet_tf.layers import RadixConv2D, RadixDense
from sparsenet_tf.topology.checks import check_integer, check_number, is_integer


def _truncated_normal(stddev):
    # A config, since an initializer would draw from Python's global random numbers.
    return {"class_name": "TruncatedNormal", "config": {"stddev": stddev}}


PAPER_LENET_300_100 = types.MappingProxyType(
    {
        "logit_activation": "relu",
        "weight_decay": 0.004,
        "kernel_initializer": _truncated_normal(0.04),
        "bias_initializer": {"class_name": "Constant", "config": {"value": 0.1}},
    }
)
PAPER_LENET_5 = types.MappingProxyType(
    {
        **PAPER_LENET_300_100,
        "conv_kernel_initializer": _truncated_normal(0.05),
        "local_response_normalization": True,
    }
)
# On CIFAR-10 the authors pool the second convolution itself: the normalization that
# their code puts in between is built and never used.
PAPER_LENET_5_CIFAR10 = types.MappingProxyType(
    {
        **PAPER_LENET_5,
        "input_shape": (24, 24, 3),
        "pool_size": 3,
        "local_response_normalization": (True, False),
    }
)


def lenet_300_100(
    input_shape=(28, 28, 1),
    num_classes=10,
    *,
    units=(300, 100),
    logit_activation=None,
    weight_decay=0.0,
    kernel_initializer="glorot_uniform",
    bias_initializer="zeros",
    topologies=types.MappingProxyType({}),
    seed=None,
):
    """Builds LeNet-300-100: two dense ReLU layers and the logits.

    The layers are named "dense1", "dense2" and "logits".

    Args:
        input_shape: shape of one input, of any rank; it is flattened.
        num_classes: the number of logits.
        units: widths of the two hidden layers.
        logit_activation: activation of the logits; the paper's authors used "relu".
        weight_decay: `weight_decay / 2 * sum(kernel ** 2)` joins the loss for every
            dense kernel, as with `tf.nn.l2_loss`, which halves. The authors: 0.004.
        kernel_initializer: initializer of the kernels, as Keras takes it.
        bias_initializer: initializer of the biases.
        topologies: dict from names of layers to the `RadixLayer` of their connections:
            these become `RadixDense` layers.
        seed: non-negative integer, from which every kernel draws its own seed, so that
            equal seeds give equal weights. Without it Keras' global seed holds.

    Returns:
        A built `keras.Sequential`, `(batch, *input_shape)` to `(batch, num_classes)`.

    Raises:
        ValueError: `weight_decay` is negative, or Keras refuses an argument.

    >>> lenet_300_100(seed=0).count_params()
    266610
    """
    units = _check_pair(units, "units")
    check_integer(num_classes, "num_classes", 1)
    _check_topologies(topologies, ("dense1", "dense2", "logits"))
    seeds = _seeds(seed, 3)
    dense = _dense_builder(
        seeds, weight_decay, kernel_initializer, bias_initializer, topologies
    )
    return keras.Sequential(
        [
            keras.Input(input_shape, name="images"),
            keras.layers.Flatten(name="flatten"),
            dense("dense1", units[0], "relu"),
            dense("dense2", units[1], "relu"),
            dense("logits", num_classes, logit_activation),
        ],
        name="lenet_300_100",
    )


def lenet_5(
    input_shape=(28, 28, 1),
    num_classes=10,
    *,
    filters=(20, 50),
    units=384,
    pool_size=2,
    pool_stride=2,
    local_response_normalization=False,
    logit_activation=None,
    weight_decay=0.0,
    kernel_initializer="glorot_uniform",
    conv_kernel_initializer="glorot_uniform",
    bias_initializer="zeros",
    topologies=types.MappingProxyType({}),
    seed=None,
):
    """Builds LeNet-5: two 5 x 5 convolutions, each max-pooled, and two dense layers.

    The layers with kernels are named "conv1", "conv2", "dense1" and "logits"; all but
    the logits have a ReLU, and all windows are padded ("same").

    Args:
        input_shape: `(height, width, channels)` of one image.
        num_classes: the number of logits.
        filters: channels of the two convolutions, whose biases begin at zero.
        units: width of the hidden dense layer.
        pool_size: side of the pooling windows. The paper's authors: 3 on CIFAR-10.
        pool_stride: step of the pooling windows.
        local_response_normalization: a boolean, or one for each convolution. The
            authors' first stands after its pooling, their second before it.
        logit_activation: as in `lenet_300_100`.
        weight_decay: as there, so that the convolutions have none.
        kernel_initializer: initializer of the dense kernels.
        conv_kernel_initializer: initializer of the convolutions' kernels.
        bias_initializer: initializer of the dense biases.
        topologies: as in `lenet_300_100`; a convolution becomes a `RadixConv2D`.
        seed: as in `lenet_300_100`.

    Returns:
        A built `keras.Sequential`, `(batch, *input_shape)` to `(batch, num_classes)`.

    Raises:
        ValueError: as in `lenet_300_100`.

    >>> lenet_5(seed=0).count_params()
    970604
    """
    filters = _check_pair(filters, "filters")
    check_integer(num_classes, "num_classes", 1)
    if isinstance(local_response_normalization, bool):
        local_response_normalization = (local_response_normalization,) * 2
    _check_pair(local_response_normalization, "local_response_normalization", bool)
    _check_topologies(topologies, ("conv1", "conv2", "dense1", "logits"))
    norm1, norm2 = (
        [LocalResponseNormalization(name=f"norm{i}")] if wanted else []
        for i, wanted in enumerate(local_response_normalization, start=1)
    )
    seeds = _seeds(seed, 4)
    dense = _dense_builder(
        seeds, weight_decay, kernel_initializer, bias_initializer, topologies
    )

    def conv(name, filters):
        kind, first = keras.layers.Conv2D, filters
        if name in topologies:
            kind, first = RadixConv2D, topologies[name]
        return kind(
            first,
            5,
            padding="same",
            activation="relu",
            kernel_initializer=_seeded(conv_kernel_initializer, next(seeds)),
            name=name,
        )

    def pool(name):
        return keras.layers.MaxPooling2D(
            pool_size, pool_stride, padding="same", name=name
        )

    return keras.Sequential(
        [
            keras.Input(input_shape, name="images"),
            conv("conv1", filters[0]),
            pool("pool1"),
            *norm1,
            conv("conv2", filters[1]),
            *norm2,
            pool("pool2"),
            keras.layers.Flatten(name="flatten"),
            dense("dense1", units, "relu"),
            dense("logits", num_classes, logit_activation),
        ],
        name="lenet_5",
    )


def _dense_builder(
    seeds, weight_decay, kernel_initializer, bias_initializer, topologies
):
    check_number(weight_decay, "weight_decay", "of 0 or more")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(
            "`weight_decay` must be finite and not negative. "
            f"Received: weight_decay={weight_decay}"
        )

    def dense(name, units, activation):
        kind, first = keras.layers.Dense, units
        if name in topologies:
            kind, first = RadixDense, topologies[name]
        return kind(
            first,
            activation=activation,
            kernel_initializer=_seeded(kernel_initializer, next(seeds)),
            bias_initializer=bias_initializer,
            kernel_regularizer=keras.regularizers.L2(weight_decay / 2)
            if weight_decay
            else None,
            name=name,
        )

    return dense


def _check_pair(values, name, kind=int):
    known = isinstance(values, (tuple, list)) and len(values) == 2
    right = is_integer if kind is int else lambda value: isinstance(value, kind)
    if not known or not all(map(right, values)):
        raise ValueError(
            f"`{name}` must be a pair of {kind.__name__}, one for each layer. "
            f"Received: {values!r}"
        )
    return values


def _check_topologies(topologies, names):
    if not isinstance(topologies, Mapping):
        raise TypeError(
            "`topologies` must be a dict from names of layers. Received: "
            f"{topologies!r}"
        )
    unknown = [name for name in topologies if name not in names]
    if unknown:
        raise ValueError(
            f"`topologies` must name layers of {names}. Received: {unknown}"
        )


def _seeds(seed, count):
    """An iterator over one seed a kernel, or over Nones."""
    if seed is None:
        return iter([None] * count)
    if not is_integer(seed) or seed < 0:
        raise ValueError(
            f"`seed` must be None or a non-negative integer. Received: seed={seed!r}"
        )
    # Not seed + i, which neighbouring seeds would share.
    state = np.random.SeedSequence(int(seed)).generate_state(count)
    return iter((state >> 1).tolist())


def _seeded(initializer, seed):
    """The initializer with this seed, made without a draw from global state."""
    if seed is None:
        return keras.initializers.get(initializer)
    spec = initializer
    if isinstance(initializer, str):
        spec = {"class_name": initializer, "config": {}}
    elif isinstance(initializer, keras.initializers.Initializer):
        spec = keras.initializers.serialize(initializer)
    try:
        config = {**spec["config"], "seed": seed}
        return keras.initializers.get({**spec, "config": config})
    except TypeError as error:
        raise ValueError(
            "A kernel's initializer must be a Keras initializer that takes a seed, "
            f"since `seed` is given. Received: {initializer!r}"
        ) from error
