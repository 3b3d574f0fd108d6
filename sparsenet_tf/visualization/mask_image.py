"""Masks as grey images: a pixel a weight, or local density where they are many."""

import dataclasses
import math

import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.mask_values import as_mask
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.nonzero_weights import connections
from sparsenet_tf.layers.units import unit_axes
from sparsenet_tf.topology.checks import shown


@dataclasses.dataclass(frozen=True)
class MaskImage:
    """The picture of one mask.

    Attributes:
        path: of the kernel, as in `get_masks`.
        shape: of the mask.
        density: share of True in it.
        pixels: float32 array (rows, columns): the share of True in what a pixel stands
            for, NaN on the lines between the tiles of filters.
        inputs: how many inputs or channels there are, from top to bottom.
        outputs: how many outputs or filters, from left to right.
        window: weights for each pair of input and output: 1, or a filter's h * w.
        bands: 1, or in how many bands one below another the filters are.
        is_tiled: whether each filter of each channel is a tile of h x w pixels.
        block: how many inputs and outputs a pixel stands for, about.
    """

    path: str
    shape: tuple
    density: float
    pixels: np.ndarray
    inputs: int
    outputs: int
    window: int = 1
    bands: int = 1
    is_tiled: bool = False
    block: tuple = (1, 1)

    @property
    def is_exact(self):
        """Whether each weight has a pixel of its own."""
        return self.is_tiled or (self.block == (1, 1) and self.window == 1)

    @property
    def darkest(self):
        """The share of True that is black: 1, or the highest of local densities."""
        return 1.0 if self.is_exact else float(self.pixels.max()) or 1.0

    def to_grey(self):
        """The picture as uint8: 255 for none, 0 for the darkest, 200 for lines."""
        grey = 255 * (1 - self.pixels / self.darkest)
        return np.where(np.isnan(grey), 200, np.round(grey)).astype(np.uint8)


def mask_images(source, max_pixels):
    """Yield a `MaskImage` for each mask of a model or a dict of masks.

    A kernel's axes are taken as (..., inputs, outputs), or as its layer says. A matrix
    is drawn as it is, inputs from top to bottom. Filters are tiles of h x w pixels
    with lines between, a row of tiles for each channel and a column for each filter,
    in bands one below another where that is nearer to a square. What has more than
    `max_pixels` pixels on a side is drawn as local density: the share of True in
    blocks of inputs and outputs, which differ in size by at most one.

    Layers that hold only nonzeros are asked for their connections, so that no dense
    mask is made for a `RadixDense` or `SparseDense`.

    Args:
        source: a built `keras.Model`, or a dict `{path: mask}`.
        max_pixels: most rows and most columns of a picture, 1 or more.

    Raises:
        TypeError: `source` is neither.
        ValueError: the model is not built, or there are no masks; an entry of the dict
            is no mask.

    Example:
    >>> [image] = mask_images({"a/kernel": np.eye(4, dtype=bool)}, max_pixels=2)
    >>> image.pixels.tolist(), image.block
    ([[0.5, 0.0], [0.0, 0.5]], (2, 2))
    """
    if not isinstance(source, dict):
        yield from _images_of_model(source, max_pixels)
        return
    if not source:
        raise ValueError("`model` must have masks. Received: an empty dict of masks")
    for path, mask in source.items():
        if not isinstance(path, str):
            raise ValueError(
                f"`model` must have kernel paths as keys. Received: {shown(path)}"
            )
        mask = as_mask(mask, where=path)
        if mask.ndim < 2 or not mask.size:
            raise ValueError(
                f"`model[{path!r}]` must be a mask of two axes or more, none of them "
                f"empty. Received: shape {mask.shape}"
            )
        yield _image(path, mask, (mask.ndim - 2,), (mask.ndim - 1,), max_pixels)


def _images_of_model(model, max_pixels):
    tree.check_model(model)
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, not built")
    masked = {id(m.kernel): (p, m) for p, m in masked_kernels(model).items()}
    layers = list(tree.walk(model))
    if not masked and not any(tree.is_sparse(layer) for _, layer in layers):
        raise ValueError(
            "`model` must have masked kernels or layers that hold only nonzeros. "
            f"Received: model {model.name!r} without any; `sparsify`, `prune_one_shot` "
            "and `sparse_net` make such models"
        )
    for place, layer in layers:
        if tree.is_sparse(layer):
            yield _image_of_sparse(f"{place}/kernel", layer, max_pixels)
        for kernel in tree.own_kernels(layer):
            if id(kernel) in masked:
                path, record = masked[id(kernel)]
                axes = unit_axes(layer, kernel)
                yield _image(path, record.mask_value(), *axes, max_pixels)


def _image_of_sparse(path, layer, max_pixels):
    if len(layer.dense_shape) > 2:
        mask = layer.dense_mask()
        return _image(path, mask, (mask.ndim - 2,), (mask.ndim - 1,), max_pixels)
    found = layer.connections
    starts = [_blocks(size, max_pixels) for size in layer.dense_shape]
    at = [
        np.searchsorted(start, units.ravel(), side="right") - 1
        for start, units in zip(starts, connections(found), strict=True)
    ]
    shape = tuple(map(len, starts))
    counts = np.bincount(np.ravel_multi_index(at, shape), minlength=math.prod(shape))
    return MaskImage(
        path=path,
        shape=tuple(layer.dense_shape),
        density=found.density,
        pixels=_share(counts.reshape(shape), starts, layer.dense_shape),
        inputs=found.input_size,
        outputs=found.output_size,
        block=_block_size(starts, layer.dense_shape),
    )


def _image(path, mask, inputs, outputs, max_pixels):
    """The image of a mask whose axes `inputs` and `outputs` count units."""
    outputs = tuple(axis for axis in outputs if axis not in inputs)  # of a depthwise
    window = tuple(a for a in range(mask.ndim) if a not in inputs + outputs)
    sizes = [math.prod(mask.shape[a] for a in axes) for axes in (inputs, outputs)]
    height = math.prod(mask.shape[a] for a in window[:-1])
    width = mask.shape[window[-1]] if window else 1
    filters = mask.transpose(*window, *inputs, *outputs)
    filters = filters.reshape(height, width, *sizes)
    common = {
        "path": path,
        "shape": mask.shape,
        "density": np.count_nonzero(mask) / mask.size,
        "inputs": sizes[0],
        "outputs": sizes[1],
        "window": height * width,
    }
    if height * width > 1:
        bands = _bands(filters.shape)
        if max(_tiled_shape(filters.shape, bands)) <= max_pixels:
            pixels = _tiles(filters, bands)
            return MaskImage(pixels=pixels, bands=bands, is_tiled=True, **common)
    starts = [_blocks(size, max_pixels) for size in sizes]
    # A matrix is seen as it lies: summing over axes of one would take most of the time.
    one = height * width == 1
    counts = filters[0, 0] if one else filters.sum(axis=(0, 1), dtype=np.int32)
    for axis, start in enumerate(starts):
        counts = np.add.reduceat(counts, start, axis=axis, dtype=np.int32)
    pixels = _share(counts, starts, sizes) / (height * width)
    return MaskImage(pixels=pixels, block=_block_size(starts, sizes), **common)


def _blocks(size, most):
    """Where each of at most `most` blocks begins; their sizes differ by at most one."""
    number = -(-size // -(-size // most))
    return np.arange(number) * size // number


def _block_size(starts, sizes):
    return tuple(-(-n // len(s)) for s, n in zip(starts, sizes, strict=True))


def _share(counts, starts, sizes):
    rows, columns = (
        np.diff(start, append=size) for start, size in zip(starts, sizes, strict=True)
    )
    return (counts / np.outer(rows, columns)).astype(np.float32)


def _bands(shape):
    """How many bands of filters, one below another, are the nearest to a square."""
    return min(range(1, shape[3] + 1), key=lambda n: max(_tiled_shape(shape, n)))


def _tiled_shape(shape, bands):
    height, width, inputs, outputs = shape
    # One line after each tile, and one more after each band.
    return (
        bands * (inputs * (height + 1) + 1) - 2,
        -(-outputs // bands) * (width + 1) - 1,
    )


def _tiles(filters, bands):
    """Filters (h, w, inputs, outputs) as tiles, with NaN where there is none."""
    height, width, inputs, outputs = filters.shape
    columns = -(-outputs // bands)
    tiles = np.full(
        (bands, inputs * (height + 1) + 1, columns, width + 1), np.nan, np.float32
    )
    inner = tiles[:, :-1].reshape(bands, inputs, height + 1, columns, width + 1)
    tiled = np.full((height, width, inputs, bands * columns), np.nan, np.float32)
    tiled[..., :outputs] = filters
    tiled = tiled.reshape(height, width, inputs, bands, columns)
    inner[:, :, :-1, :, :-1] = tiled.transpose(3, 2, 0, 4, 1)
    tiles[:, :-1] = inner.reshape(bands, -1, columns, width + 1)
    return tiles.reshape(bands * tiles.shape[1], -1)[:-2, :-1]
