"""Convolutions whose channels are joined by a RadiX layer: small dense ones."""

import numpy as np
from keras import ops

from sparsenet_tf.kernels.radix import (
    blocks,
    kernel_shape,
    radix_matmul,
    stored_connections,
)


def radix_conv(
    inputs, kernel, topology, groups=1, kernel_size=None, in_tiles=None, **options
):
    """Convolve, with the channels joined as `topology` says.

    Each pair of a tile and a remainder (see `kernels.radix`) is a dense convolution
    of a few channels. In a small layer with very few of them the kernel is written out
    with its zeros instead, for one dense convolution.

    Args:
        inputs: tensor (batch, height, width, channels).
        kernel: tensor (h, w, *kernel_shape) of exactly the nonzeros, with `groups`
            times as many of the first axis of `kernel_shape(topology)`; or over
            patches, of `kernel_shape(topology)` itself.
        topology: a `RadixLayer` between the channels, shared by all positions of the
            filter; or between the h * w * channels entries of a patch and the filters.
        groups: number of groups of channels; each is joined as `topology` says.
        kernel_size: h and w; needed over patches alone.
        in_tiles: whether to convolve tile by tile; by default what is faster.
        **options: `strides`, `padding` and `dilation_rate` of `keras.ops.conv`.

    Returns:
        Tensor (batch, new height, new width, groups * output_size).
    """
    height, width = kernel_size or kernel.shape[:2]
    rows, *columns = kernel_shape(topology)
    if over_patches(topology, inputs.shape[-1], groups, (height, width)):
        x = _patches(inputs, (height, width), **options)
        return radix_matmul(x, kernel, topology)
    kernel = ops.reshape(kernel, (height, width, groups, rows, *columns))
    if in_tiles is None:
        in_tiles = tiles_are_faster(topology)
    conv = _conv_in_tiles if in_tiles else _conv_written_out
    outputs = [
        conv(x, kernel[:, :, group], topology, options)
        for group, x in enumerate(ops.split(inputs, groups, axis=-1))
    ]
    return outputs[0] if groups == 1 else ops.concatenate(outputs, axis=-1)


def over_patches(topology, channels, groups, kernel_size):
    """Whether the topology joins the entries of patches, not channels alone.

    >>> from sparsenet_tf.topology import RadixLayer
    >>> over_patches(RadixLayer(12, 2, 1), 3, groups=1, kernel_size=(2, 2))
    True
    """
    height, width = kernel_size
    return (
        groups == 1
        and topology.input_size != channels
        and topology.input_size == height * width * channels
    )


def tiles_are_faster(topology):
    """Whether the layer is large, or its tiles are of enough channels.

    Measured: 20 to 50 channels in tiles of 2 take 1.2 times as long as dense, 64 to 64
    in tiles of 4 as long, 128 to 128 in tiles of 4 0.8 times.
    """
    large = topology.input_size * topology.output_size > 64 * 64
    return large or topology.width_in * topology.radix > 4


def _conv_written_out(x, kernel, topology, options):
    inputs, outputs = stored_connections(topology)
    places = np.zeros((topology.input_size, topology.output_size), "int32")
    places[inputs, outputs] = 1 + np.arange(inputs.size).reshape(inputs.shape)
    height, width = kernel.shape[:2]
    kernel = ops.reshape(kernel, (height, width, inputs.size))
    # Where nothing is connected, the zero before the first weight is taken.
    kernel = ops.pad(kernel, [[0, 0], [0, 0], [1, 0]])
    return ops.conv(x, ops.take(kernel, places, axis=-1), **options)


def _conv_in_tiles(x, kernel, topology, options):
    n, v = topology.radix, topology.place_value
    width_in, width_out = topology.width_in, topology.width_out
    tiles = topology.nodes // (n * v)
    if topology.drop_inputs:
        x = ops.pad(x, [[0, 0]] * 3 + [[topology.drop_inputs, 0]])
    batch, rows, columns = ops.shape(x)[:3]
    x = ops.reshape(x, (batch, rows, columns, width_in, tiles, n, v))
    x = ops.transpose(x, (4, 6, 0, 1, 2, 3, 5))
    x = ops.reshape(x, (tiles * v, batch, rows, columns, width_in * n))
    x = ops.unstack(x, tiles * v)

    same, before = blocks(kernel, topology)
    pairs = zip(x, ops.unstack(same, tiles * v, axis=2), strict=True)
    y = [ops.conv(*pair, **options) for pair in pairs]
    if before is not None:
        pairs = zip(x, ops.unstack(before, tiles * v, axis=2), strict=True)
        from_next = [ops.conv(*pair, **options) for pair in pairs]
        y = [a + b for a, b in zip(y, from_next[v:] + from_next[:v], strict=True)]
    y = ops.stack(y)
    rows, columns = ops.shape(y)[2:4]
    y = ops.reshape(y, (tiles, v, batch, rows, columns, width_out, n))
    y = ops.transpose(y, (2, 3, 4, 5, 0, 6, 1))
    y = ops.reshape(y, (batch, rows, columns, width_out * topology.nodes))
    return y[..., topology.drop_outputs :]


def _patches(x, size, strides=1, padding="valid", dilation_rate=1):
    return ops.image.extract_patches(
        x,
        size,
        strides=strides,
        dilation_rate=dilation_rate,
        padding=padding,
        data_format="channels_last",
    )
