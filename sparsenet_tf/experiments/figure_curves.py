"""The picture of Figure 8: how retrainings of one mask go, and how each ends."""

from sparsenet_tf.experiments import figure_groups, files

# By the most logits that are dead, the name of it and how it looks. Lines differ in
# their dashes too, since the shades of thin ones are hard to tell in grey print.
_STYLES = (
    (0, "0", "#000000", "-"),
    (1, "1", "#0072b2", "--"),
    (2, "2", "#009e73", "-."),
    (3, "3", "#d55e00", ":"),
    (6, "4 to 6", "#cc79a7", (0, (6, 2, 1, 2, 1, 2))),
    (10, "7 to 10", "#888888", (0, (1, 1))),
)
_LEVEL = 3  # points of accuracy; ends so near would hide each other
_LEGEND = "Logits above zero for no test image at the end (points: each end)"


def draw(networks):
    """Return the picture: a row of panels a network, a panel a sparsity.

    Args:
        networks: {`Network`: rows}, as from `figure_groups.by_network`.

    Raises:
        ImportError: matplotlib is missing.
    """
    found = {network: _by_sparsity(rows) for network, rows in networks.items()}
    columns = max(map(len, found.values()))
    size = max(7.0, 0.6 + 2.9 * columns), 0.9 + 2.9 * len(found)
    picture = files.new_figure(*size)
    shared = {"squeeze": False, "sharex": "row", "sharey": True}
    grid = picture.subplots(len(found), columns, **shared)
    entries = {}
    for panels, (network, curves) in zip(grid, found.items(), strict=True):
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        for axes, (sparsity, mine) in zip(panels, curves.items(), strict=False):
            for curve in mine:
                entries |= _draw_curve(axes, curve)
            _draw_ends(axes, mine)
            axes.set_title(f"{100 * sparsity:.6g}% sparse", fontsize=10)
            axes.set_xlabel("Step")
            axes.locator_params(axis="x", nbins=4)
            axes.grid(axis="y", color="0.9")
            axes.set_axisbelow(True)
        title = f"{network.title}\n{network.details}"
        panels[0].set_ylabel(f"{title}\nTest accuracy (%)")
    grid[0][0].set_ylim(0, 100)
    ordered = {label: entries[label] for _, label, *_ in _STYLES if label in entries}
    picture.legend(
        ordered.values(),
        ordered,
        title=_LEGEND,
        loc="outside lower center",
        ncols=len(ordered),
        handlelength=4,
    )
    return picture


def _by_sparsity(rows):
    found = {}
    for curve in figure_groups.curves(rows):
        found.setdefault(curve[0]["sparsity"], []).append(curve)
    return dict(sorted(found.items()))


def _draw_curve(axes, curve):
    """Draw it; return `{label: line}`."""
    dead = curve[-1]["dead_logits"]
    label, color, style = _look(dead)
    x = [row["step"] for row in curve]
    y = [100 * row["accuracy"] for row in curve]
    [line] = axes.plot(x, y, color=color, linestyle=style, linewidth=1.1)
    return {label: line}


def _draw_ends(axes, curves):
    """Draw a point for each curve's end, side by side where they are level.

    Collapsed networks all have the same accuracy, and hide each other's lines.
    """
    last = max(row["step"] for curve in curves for row in curve)
    ends = sorted((c[-1] for c in curves), key=lambda end: end["accuracy"])
    place, level = 0, None
    for end in ends:
        y = 100 * end["accuracy"]
        if level is None or y - level > _LEVEL:
            place, level = 0, y
        place += 1
        _, color, _ = _look(end["dead_logits"])
        x = last * (1 + 0.03 * place)
        axes.plot(x, y, "o", color=color, markersize=3.5, clip_on=False)


def _look(dead):
    """Label, colour and line of so many dead logits."""
    return next(tuple(look) for most, *look in _STYLES if dead <= most)
