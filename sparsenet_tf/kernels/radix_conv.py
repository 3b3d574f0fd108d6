"""Convolutions whose channels are joined by a RadiX layer: small dense ones."""

from keras import ops

from sparsenet_tf.kernels.radix import blocks, kernel_shape, radix_matmul


def radix_conv(inputs, kernel, topology, groups=1, kernel_size=None, **options):
    """Convolve, with the channels joined as `topology` says.

    Each pair of a tile and a remainder (see `kernels.radix`) is a dense convolution
    of a few channels. Where these are very few, the patches are laid out instead, as
    rows of one product in which the positions of the filter are further copies.

    Args:
        inputs: tensor (batch, height, width, channels).
        kernel: tensor (h, w, *kernel_shape) of exactly the nonzeros, with `groups`
            times as many of the first axis of `kernel_shape(topology)`; or over
            patches, of `kernel_shape(topology)` itself.
        topology: a `RadixLayer` between the channels, shared by all positions of the
            filter; or between the h * w * channels entries of a patch and the filters.
        groups: number of groups of channels; each is joined as `topology` says.
        kernel_size: h and w; needed over patches alone.
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
    outputs = [
        _conv(x, kernel[:, :, group], topology, options)
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


def _conv(x, kernel, topology, options):
    n, v = topology.radix, topology.place_value
    width_in, width_out = topology.width_in, topology.width_out
    tiles = topology.nodes // (n * v)
    height, width = kernel.shape[:2]
    if topology.drop_inputs:
        x = ops.pad(x, [[0, 0]] * 3 + [[topology.drop_inputs, 0]])
    batch, rows, columns = ops.shape(x)[:3]
    x = ops.reshape(x, (batch, rows, columns, width_in, tiles, n, v))
    x = ops.transpose(x, (4, 6, 0, 1, 2, 3, 5))
    x = ops.reshape(x, (tiles * v, batch, rows, columns, width_in * n))
    x = ops.unstack(x, tiles * v)

    def filters(part):
        shape = (tiles * v, height, width, width_in * n, width_out * n)
        return ops.unstack(ops.reshape(part, shape), tiles * v)

    same, before = blocks(kernel, topology)
    y = [ops.conv(*pair, **options) for pair in zip(x, filters(same), strict=True)]
    if before is not None:
        pairs = zip(x, filters(before), strict=True)
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
