"""`plot_masks`: a model's masks as pictures."""

import textwrap

from sparsenet_tf.topology.checks import check_integer
from sparsenet_tf.visualization.figure import import_matplotlib, new_figure
from sparsenet_tf.visualization.mask_image import mask_images

PIXELS = 400
_AROUND = 1.0, 1.5  # inches a panel, for labels, title and bar
_LINES = "#9ecae1"  # between tiles; light grey in print


def plot_masks(model, columns=3, max_pixels=PIXELS):
    """Draw each mask of a model, with its path, shape and density.

    Matrices are drawn with inputs from top to bottom and outputs from left to right,
    black where a weight is kept. Filters of convolutions are tiles of h x w, in a row
    for each channel and a column for each filter, which continue in a band below where
    that is nearer to a square. A mask with more than `max_pixels` on a side is drawn as
    local density: each pixel is the share of weights kept in a block, darker for more,
    with a bar that says how dark is how much. So nothing is left out of the picture.

    Layers that hold only nonzeros are drawn by their connections.

    Args:
        model: a built `keras.Model` with masked kernels or layers that hold only
            nonzeros; or a dict `{path: mask}`, as from `get_masks` or `load_masks`.
        columns: pictures side by side, 1 or more.
        max_pixels: most rows and columns of a picture, 2 or more.

    Returns:
        A `matplotlib.figure.Figure` with a panel for each mask, to save
        (`figure.savefig("masks.png")`) or to show in a notebook. It is tied to no
        window and no global state.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: an argument has another type.
        ValueError: the model is not built or has no masks, or a number is too small.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="out")])
    >>> figure = plot_masks(stf.pruning.prune_one_shot(model, 0.75))
    >>> figure.axes[0].get_title().splitlines()
    ['out/kernel', '4 x 5, 25.00% kept']
    """
    columns = check_integer(columns, "columns", 1)
    max_pixels = check_integer(max_pixels, "max_pixels", 2)
    import_matplotlib()  # Before the work, not after it.
    images = list(mask_images(model, max_pixels))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    # A dot of the figure, at its 150 an inch, for each pixel, and some to spare.
    side = max(2.0, max_pixels / 130)
    figure = new_figure(columns * (side + _AROUND[0]), rows * (side + _AROUND[1]))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image in zip(panels, images, strict=False):
        _draw(figure, axes, image)
    for axes in panels[len(images) :]:
        axes.remove()
    return figure


def _draw(figure, axes, image):
    colours = import_matplotlib().colormaps["Greys"].with_extremes(bad=_LINES)
    height, width = image.pixels.shape
    if not image.is_tiled:  # The ticks count units, not pixels.
        height, width = image.inputs, image.outputs
    is_square = 1 / 3 <= height / width <= 3
    shown = axes.imshow(
        image.pixels,
        cmap=colours,
        vmin=0,
        # The scale of densities ends at the highest, or sparse masks would be white.
        vmax=image.darkest,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        aspect="equal" if is_square else "auto",
        # Smoothing, which keeps tones right at any size, blurs along a longer side.
        interpolation="antialiased" if is_square else "nearest",
    )
    if not image.is_exact:
        bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.8)
        bar.set_label(f"share kept of {_block(image)}", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    shape = " x ".join(map(str, image.shape))
    path = "\n".join(textwrap.wrap(image.path, 44))
    axes.set_title(f"{path}\n{shape}, {image.density:.2%} kept", fontsize=9)
    _label(axes, image)


def _block(image):
    rows, columns = image.block
    parts = [] if image.block == (1, 1) else [f"blocks of {rows} x {columns}"]
    if image.window > 1:
        parts.append(f"filters of {image.window}")
    return " ".join(parts)


def _label(axes, image):
    axes.tick_params(labelsize=7)
    names = ("inputs", "outputs") if image.window == 1 else ("channels", "filters")
    if not image.is_tiled:
        axes.set_ylabel(names[0], fontsize=8)
        axes.set_xlabel(names[1], fontsize=8)
        few = 3 if 1.5 < image.inputs / image.outputs <= 3 else 6  # where it is narrow
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=few)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=6)
        return
    axes.set_xticks([])
    axes.set_yticks([])
    per_band = -(-image.outputs // image.bands)
    more = f", {per_band} a band" if image.bands > 1 else ""
    axes.set_xlabel(f"{image.outputs} filters{more}", fontsize=8)
    channels = "channel" if image.inputs == 1 else "channels"
    axes.set_ylabel(f"{image.inputs} {channels}", fontsize=8)
