"""Pictures of Figures 7, 8 and 9, with the paper's numbers as hollow points."""

from statistics import fmean

from sparsenet_tf.experiments import (
    figure_curves,
    figure_groups,
    figure_scale,
    files,
)
from sparsenet_tf.experiments.prune_and_retrain import METHODS
from sparsenet_tf.experiments.tables import deviation
from sparsenet_tf.experiments.training import DENSE

# Colour, marker and line: each tells them apart, so that grey print will do.
_STYLES = {
    "iterative": ("#0072b2", "o", "-"),
    "iterative, retrained": ("#56b4e9", "s", "--"),
    "one-time": ("#d55e00", "^", "-."),
    "one-time, retrained": ("#e69f00", "D", ":"),
    "radix": ("#0072b2", "o", "-"),
    "random": ("#d55e00", "^", "--"),
    DENSE: ("0.3", "s", "-"),
}
# Rings, which do not cover a point that they are around.
_HOLLOW = {"markersize": 9, "markerfacecolor": "none", "linestyle": "none", "zorder": 4}


def plot(figure, rows, path):
    """Draw a figure to a PNG file.

    Points are means over seeds with the sample's standard deviations as error bars.
    Accuracies of Figures 7 and 9 lie on a logarithmic scale of the error, so that both
    collapsed networks and those within a point of each other are seen. Figure 8 has a
    panel for each mask, and a line for each of its retrainings.

    Args:
        figure: 7, 8 or 9.
        rows: non-empty list, as from `figure_rows.rows`.
        path: file to write, whole or not at all; its folder must exist.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `figure` is none of these, or `rows` is empty.
        OSError: the file cannot be written.
    """
    networks = figure_groups.by_network(figure, rows)
    draw = {7: _pruning, 8: figure_curves.draw, 9: _topologies}[figure]
    files.write_figure(path, draw(networks))


def _pruning(networks):
    picture = files.new_figure(max(7.5, 4.8 * len(networks)), 5.4)
    panels = picture.subplots(1, len(networks), squeeze=False)[0]
    for axes, (network, rows) in zip(panels, networks.items(), strict=True):
        found = figure_groups.collect(rows, ["method", "sparsity"], "accuracy", 100)
        paper = figure_groups.published_pruning(network)
        sparsities = sorted({s for method, s in found if method != DENSE})
        shown = []
        if (DENSE, 0.0) in found:
            shown += _dense_line(axes, found[DENSE, 0.0], paper.get((DENSE, 0.0)))
        for i, method in enumerate(METHODS):
            shift = 0.12 * (i - 1.5)  # side by side, or they would cover each other
            x = {(method, s): j + shift for j, s in enumerate(sparsities)}
            shown += _line(axes, method, x, found, paper)
        axes.set_xticks(range(len(sparsities)), [_percent(s) for s in sparsities])
        axes.set_xlim(-0.4, max(len(sparsities), 1) - 0.6)
        axes.set_xlabel("Sparsity (%)")
        _finish(axes, network, shown)
    _legend(picture, panels, networks)
    return picture


def _topologies(networks):
    picture = files.new_figure(9.6, 1 + 3.9 * len(networks))
    grid = picture.subplots(len(networks), 2, squeeze=False)
    for panels, (network, rows) in zip(grid, networks.items(), strict=True):
        names = ["topology", "density", "neurons"]
        found = figure_groups.collect(rows, names, "accuracy", 100)
        paper = figure_groups.published_topologies(network)
        sparse = [size for kind, *size in found if kind != DENSE]
        densities = sorted({d for d, n in sparse if n == 1}, reverse=True)
        factors = sorted({n for _, n in sparse if n > 1})
        sizes = [(d, 1) for d in densities], [(1 / n, n) for n in factors]
        shown = []
        for axes, part in zip(panels, sizes, strict=True):
            shown += _sizes(axes, part, found, paper)
        ticks = ["100 (dense)", *map(_percent, densities)]
        panels[0].set_xticks(range(len(ticks)), ticks)
        panels[0].set_xlabel("Density (%), neurons as usual")
        ticks = ["1 (dense)", *map(str, factors)]
        panels[1].set_xticks(range(len(ticks)), ticks)
        panels[1].set_xlabel("Neurons (times as many), connections constant")
        for axes in panels:
            _finish(axes, network, shown)  # one scale, so that they compare
    _legend(picture, grid.flat, networks)
    return picture


def _sizes(axes, sizes, found, paper):
    """Draw RadiX and random nets of some sizes, right of the dense one."""
    dense = (DENSE, 1.0, 1)
    shown = _line(axes, DENSE, {dense: 0}, found, paper)
    for kind, shift in (("radix", -0.06), ("random", 0.06)):
        x = {(kind, *size): i + shift for i, size in enumerate(sizes, 1)}
        shown += _line(axes, kind, x, found, paper)
        first = next((key for key in x if key in found), None)
        if first and dense in found:
            color, _, style = _STYLES[kind]
            y = [fmean(found[dense]), fmean(found[first])]
            axes.plot([0, x[first]], y, style, color=color)
    axes.set_xlim(-0.5, len(sizes) + 0.5)
    return shown


def _line(axes, name, x, found, paper):
    """Draw ours and the paper's at `x`, by key; return the accuracies drawn."""
    color, marker, style = _STYLES[name]
    mine = [key for key in x if key in found]
    if not mine:
        return []
    y = [fmean(found[key]) for key in mine]
    spread = [deviation(found[key]) for key in mine]
    look = {"color": color, "markersize": 4.5, "capsize": 3, "label": name}
    axes.errorbar([x[k] for k in mine], y, spread, fmt=marker, linestyle=style, **look)
    known = [key for key in x if key in paper]
    published = [paper[key] for key in known]
    axes.plot([x[key] for key in known], published, marker, color=color, **_HOLLOW)
    low = [mean - s for mean, s in zip(y, spread, strict=True)]
    high = [mean + s for mean, s in zip(y, spread, strict=True)]
    return low + high + published


def _dense_line(axes, accuracies, published):
    mean, spread = fmean(accuracies), deviation(accuracies)
    color, _, style = _STYLES[DENSE]
    axes.axhline(mean, color=color, linewidth=1, linestyle=style, label=DENSE)
    axes.axhspan(mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
    shown = [mean - spread, mean + spread]
    if published is None:
        return shown
    look = {"color": color, "linewidth": 1, "linestyle": (0, (1, 3))}
    axes.axhline(published, label="dense, paper", **look)
    return [*shown, published]


def _finish(axes, network, shown):
    figure_scale.set_scale(axes, shown)
    axes.set_ylabel("Test accuracy (%), log scale of the error")
    axes.set_title(f"{network.title}\n{network.details}", fontsize=10)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _legend(picture, panels, networks):
    entries = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    published = dict.fromkeys(n.published_on for n in networks if n.published_on)
    if published:
        label = f"hollow: paper ({'; '.join(published)})"
        [entries[label]] = axes.plot([], [], "o", color="0.4", label=label, **_HOLLOW)
    columns = 4 if picture.get_figwidth() > 9 else 3  # as many as fit
    handles, labels = list(entries.values()), list(entries)
    picture.legend(handles, labels, loc="outside lower center", ncols=columns)


def _percent(share):
    return f"{100 * share:.6g}"
