"""Pictures of masks: every pixel against the mask that it stands for."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import sparsenet_tf as stf
from sparsenet_tf.topology import SparsePattern, random_mask
from sparsenet_tf.visualization.mask_image import mask_images


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts], name="net")


def image_of(mask, max_pixels=400):
    [image] = mask_images({"a/kernel": mask}, max_pixels)
    return image


def shown(axes):
    return np.ma.getdata(axes.images[0].get_array())


def test_a_panel_is_the_mask_of_its_title():
    model = sequential((6,), layers.Dense(8, name="a"), layers.Dense(5, name="b"))
    masks = {
        "a/kernel": random_mask((6, 8), 0.5, seed=0),
        "b/kernel": random_mask((8, 5), 0.5, seed=1, exact=True),
    }
    figure = stf.plot_masks(stf.sparsify(model, masks))
    first, second = figure.axes
    assert np.array_equal(shown(first), masks["a/kernel"])
    assert np.array_equal(shown(second), masks["b/kernel"])
    assert second.get_title() == "b/kernel\n8 x 5, 50.00% kept"
    assert first.images[0].get_clim() == (0, 1)
    # What is kept is dark, and the first input is on top.
    colours = first.images[0].to_rgba(np.array([0.0, 1.0]))[:, :3]
    assert colours[0].tolist() == [1, 1, 1] and colours[1].tolist() == [0, 0, 0]
    assert first.get_ylim() == (5.5, -0.5) and first.get_xlim() == (-0.5, 7.5)


def test_masks_that_are_no_model():
    masks = {"x": random_mask((4, 3), 0.5, seed=0)}
    [axes] = stf.plot_masks(masks).axes
    assert np.array_equal(shown(axes), masks["x"])


@pytest.mark.parametrize("shape", [(3, 2, 1, 7), (5, 5, 4, 6), (1, 3, 2, 2)])
def test_every_filter_is_a_tile(shape):
    mask = random_mask(shape, 0.5, seed=2)
    image = image_of(mask)
    height, width, channels, filters = shape
    assert image.is_tiled and image.is_exact
    per_band = -(-filters // image.bands)
    seen = np.zeros(image.pixels.shape, bool)
    for channel in range(channels):
        for filter_ in range(filters):
            band, column = divmod(filter_, per_band)
            y = band * (channels * (height + 1) + 1) + channel * (height + 1)
            x = column * (width + 1)
            tile = image.pixels[y : y + height, x : x + width]
            assert np.array_equal(tile, mask[:, :, channel, filter_])
            seen[y : y + height, x : x + width] = True
    assert np.isnan(image.pixels[~seen]).all()


def test_few_channels_are_drawn_in_bands():
    mask = np.ones((3, 3, 1, 64), bool)
    image = image_of(mask)
    assert image.bands == 8 and abs(np.subtract(*image.pixels.shape)) < 8
    [axes] = stf.plot_masks({"a": mask}).axes
    assert axes.get_xlabel() == "64 filters, 8 a band"
    assert axes.get_ylabel() == "1 channel"


@pytest.mark.parametrize("shape", [(784, 300), (1000, 7), (5, 901)])
def test_large_masks_are_local_density(shape):
    mask = random_mask(shape, 0.8, seed=3)
    image = image_of(mask, max_pixels=100)
    rows, columns = image.pixels.shape
    assert max(rows, columns) <= 100
    edges = [
        np.append(np.arange(n) * size // n, size)
        for n, size in zip((rows, columns), shape, strict=True)
    ]
    for i in range(rows):
        for j in range(columns):
            block = mask[edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]]
            assert image.pixels[i, j] == np.float32(block.mean())
    # Blocks in equal numbers as nearly as can be, so the mean is nearly the density.
    assert image.pixels.mean() == pytest.approx(mask.mean(), rel=0.02)


def test_the_scale_of_densities_is_told():
    mask = random_mask((500, 500), 0.99, seed=4)
    figure = stf.plot_masks({"a": mask}, max_pixels=50)
    axes, bar = figure.axes
    low, high = axes.images[0].get_clim()
    assert low == 0 and high == shown(axes).max() < 0.2
    assert bar.get_xlabel() == "share kept of blocks of 10 x 10"
    # The ticks count inputs and outputs, not pixels.
    assert axes.get_xlim() == (-0.5, 499.5)


def test_many_filters_are_the_share_of_each():
    mask = random_mask((3, 3, 150, 120), 0.7, seed=5)
    image = image_of(mask, max_pixels=200)
    assert not image.is_tiled and not image.is_exact
    assert np.allclose(image.pixels, mask.mean(axis=(0, 1)))
    coarse = image_of(mask, max_pixels=50)
    assert coarse.pixels.shape == (50, 40)
    blocks = mask.reshape(9, 50, 3, 40, 3)
    assert np.allclose(coarse.pixels, blocks.mean(axis=(0, 2, 4)))


def test_an_empty_mask_is_white():
    assert image_of(np.zeros((3, 3), bool)).to_grey().tolist() == [[255] * 3] * 3
    large = image_of(np.zeros((300, 300), bool), max_pixels=10)
    assert (large.to_grey() == 255).all()


def test_grey_is_darkest_where_most_is_kept():
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = mask[2, 2] = True
    assert image_of(mask, max_pixels=2).to_grey().tolist() == [[0, 255], [255, 128]]
    tiles = image_of(np.ones((1, 2, 1, 4), bool)).to_grey()
    assert tiles.tolist() == [
        [0, 0, 200, 0, 0],
        [200] * 5,
        [200] * 5,
        [0, 0, 200, 0, 0],
    ]


def test_axes_are_those_of_the_layer():
    model = sequential(
        (8, 8, 3),
        layers.Conv2DTranspose(4, 2, name="up"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="depth"),
        layers.Reshape((-1, 8)),
        layers.EinsumDense("abc,cde->abde", (None, 4, 5), name="heads"),
    )
    kernels = stf.layers.tree.kernels(model)
    masks = {
        path: random_mask(tuple(kernel.shape), 0.5, seed=6)
        for path, kernel in kernels.items()
    }
    up, depth, heads = mask_images(stf.sparsify(model, masks), 400)
    assert up.shape == (2, 2, 4, 3) and (up.inputs, up.outputs) == (3, 4)
    assert np.array_equal(up.pixels[:2, :2], masks["up/kernel"][:, :, 0, 0])
    assert np.array_equal(up.pixels[3:5, :2], masks["up/kernel"][:, :, 0, 1])
    assert (depth.inputs, depth.outputs, depth.window) == (4, 2, 9)
    assert np.array_equal(heads.pixels, masks["heads/kernel"].reshape(8, 20))


@pytest.mark.parametrize("max_pixels", [7, 400])
def test_layers_of_nonzeros_are_drawn_as_their_masks(max_pixels):
    mask = random_mask((3, 3, 2, 6), 0.6, seed=7)
    model = sequential(
        (6, 6, 2),
        stf.layers.SparseConv2D(mask, 3, implementation="dense", name="conv"),
        layers.Flatten(),
        layers.Dense(4, name="plain"),
        stf.layers.SparseDense(
            SparsePattern.random(4, 12, 2, seed=0),
            implementation="dense",
            name="sparse",
        ),
        stf.layers.RadixDense(
            stf.topology.RadixLayer(6, 2, 1, 2, 2, drop_outputs=1), name="radix"
        ),
    )
    images = list(mask_images(model, max_pixels))
    assert [i.path for i in images] == ["conv/kernel", "sparse/kernel", "radix/kernel"]
    masks = {
        f"{x.name}/kernel": x.dense_mask()
        for x in model.layers
        if x.name in ("conv", "sparse", "radix")
    }
    for image, other in zip(images, mask_images(masks, max_pixels), strict=True):
        assert np.array_equal(image.pixels, other.pixels, equal_nan=True)
        assert image.density == pytest.approx(other.density)
        assert (image.shape, image.block) == (other.shape, other.block)


def test_no_dense_mask_of_a_huge_layer():
    # 2**34 entries: a mask of it would be 16 GiB.
    pattern = SparsePattern.from_edges(2**17, 2**17, [0, 2**17 - 1], [5, 2**16])
    layer = stf.layers.SparseDense(pattern, implementation="csr", name="huge")
    model = sequential((2**17,), layer)
    [image] = mask_images(model, 64)
    assert np.argwhere(image.pixels).tolist() == [[0, 0], [63, 32]]
    assert image.pixels.max() == 1 / 2048**2


@pytest.mark.parametrize("shape", [(400, 400), (2450, 390), (10, 4000)])
def test_every_pixel_has_a_dot_or_is_averaged(shape):
    figure = stf.plot_masks({"a": random_mask(shape, 0.9, seed=0)})
    figure.savefig("/dev/null", format="png")  # lays it out
    axes = figure.axes[0]
    rows, columns = axes.images[0].get_array().shape
    box = axes.get_window_extent()
    assert box.height >= rows and box.width >= columns
    # A panel of the mask's own form smooths; a stretched one would smear.
    stretched = axes.get_aspect() == "auto"
    assert stretched == (max(shape) > 3 * min(shape))
    assert (axes.images[0].get_interpolation() == "nearest") == stretched


def test_titles_do_not_overlap():
    masks = {
        f"block_{i}/attention/query_projection_{i}/kernel": np.eye(4) for i in range(4)
    }
    figure = stf.plot_masks(masks, columns=2)
    figure.savefig("/dev/null", format="png")
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_no_global_state():
    before = set(sys.modules)
    stf.plot_masks({"a": np.eye(3)})
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_what_has_no_masks_is_refused():
    plain = sequential((3,), layers.Dense(2))
    with pytest.raises(ValueError, match="must have masked kernels or layers"):
        stf.plot_masks(plain)
    with pytest.raises(ValueError, match="must be built"):
        stf.plot_masks(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="must be a keras.Model"):
        stf.plot_masks([np.eye(3)])
    with pytest.raises(ValueError, match="must have masks"):
        stf.plot_masks({})
    with pytest.raises(ValueError, match="only 0 and 1"):
        stf.plot_masks({"a": np.full((2, 2), 0.5)})
    with pytest.raises(ValueError, match="two axes or more"):
        stf.plot_masks({"a": np.ones(3)})
    with pytest.raises(ValueError, match="`columns` must be 1 or more"):
        stf.plot_masks({"a": np.eye(3)}, columns=0)
    with pytest.raises(ValueError, match="`max_pixels` must be 2 or more"):
        stf.plot_masks({"a": np.eye(3)}, max_pixels=1)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        stf.plot_masks({"a": np.eye(3)})
