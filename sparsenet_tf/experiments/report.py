"""What came out of `prune_and_retrain`: a table and a picture."""

from statistics import fmean

from sparsenet_tf.experiments import files
from sparsenet_tf.experiments.prune_and_retrain import DENSE, METHODS
from sparsenet_tf.experiments.tables import (
    align,
    deviation,
    mean_and_deviation,
    spread_title,
)

# Colour, marker and line: each tells the methods apart, so that grey print will do.
_STYLES = (("#0072b2", "o-"), ("#56b4e9", "s--"), ("#d55e00", "^-."), ("#e69f00", "D:"))
_ZOOM = 10  # points below the dense accuracy


def format_table(records):
    """Tabulate test accuracies as mean ± standard deviation over the seeds, in %.

    Args:
        records: non-empty list of `Record`, as from `prune_and_retrain.run`.

    Returns:
        The table as a string of several lines: a row per sparsity, a column per
        method. The deviation is the sample's (n - 1); a single seed has none.

    Raises:
        ValueError: `records` is empty.

    >>> from sparsenet_tf.experiments.prune_and_retrain import Record
    >>> def record(accuracy, seed):
    ...     return Record("digits", "lenet", 0.0, 0.0, "dense", seed, accuracy)
    >>> print(format_table([record(0.96, 0), record(0.98, 1)]))
    Test accuracy of lenet on digits in %: mean ± standard deviation over 2 seeds
    <BLANKLINE>
    dense: 97.00 ± 1.41
    """
    accuracies = _by_method(records)
    first, spread = records[0], spread_title(records)
    lines = [f"Test accuracy of {first.model} on {first.dataset} in %{spread}", ""]
    if DENSE in accuracies:
        lines.append(f"dense: {mean_and_deviation(accuracies.pop(DENSE)[0.0])}")
    sparsities = sorted({s for values in accuracies.values() for s in values})
    if sparsities:
        rows = [["sparsity", *accuracies]]
        for sparsity in sparsities:
            cells = [mean_and_deviation(v.get(sparsity)) for v in accuracies.values()]
            rows.append([f"{100 * sparsity:.6g}%", *cells])
        lines += ["", *align(rows)]
    return "\n".join(lines)


def plot_accuracy(records, path, title):
    """Draw accuracy against sparsity, as the paper's Figure 7 does, to a PNG file.

    Left the whole range, right the best accuracies enlarged: a line per method with
    the standard deviation over seeds as error bars, the dense network as a horizontal
    line with its deviation as a band. The sparsities are evenly spaced.

    Args:
        records: non-empty list of `Record`.
        path: file to write, whole or not at all; its folder must exist.
        title: of the picture.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `records` has no sparse networks.
        OSError: the file cannot be written.

    Source: Alford et al., Figure 7.
    """
    accuracies = _by_method(records)
    dense = accuracies.pop(DENSE, {}).get(0.0)
    sparsities = sorted({s for values in accuracies.values() for s in values})
    if not sparsities:
        raise ValueError("`records` must hold sparse networks. Received: none")
    figure = files.new_figure(10, 5.2)
    whole, zoomed = figure.subplots(1, 2)
    for axes in (whole, zoomed):
        _draw(axes, accuracies, sparsities, dense)
    means = [fmean(v) for values in accuracies.values() for v in values.values()]
    best = max([*means, fmean(dense)] if dense else means)
    whole.set_ylim(0, 102)
    zoomed.set_ylim(max(0, best - _ZOOM), min(100.5, best + _ZOOM / 5))
    whole.set_title("Whole range")
    zoomed.set_title(f"Enlarged: the upper {_ZOOM} points")
    figure.suptitle(title)
    entries = whole.get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=5)
    files.write_figure(path, figure)


def _by_method(records):
    """`{method: {sparsity: accuracies in %}}`, methods and sparsities in order."""
    if not records:
        raise ValueError("`records` must not be empty. Received: []")
    methods = (DENSE, *METHODS)
    found = {}
    for r in sorted(records, key=lambda r: (methods.index(r.method), r.sparsity)):
        values = found.setdefault(r.method, {})
        values.setdefault(r.sparsity, []).append(100 * r.accuracy)
    return found


def _draw(axes, accuracies, sparsities, dense):
    if dense:
        mean, spread = fmean(dense), deviation(dense)
        axes.axhline(mean, color="0.3", linewidth=1, label=DENSE)
        axes.axhspan(mean - spread, mean + spread, color="0.3", alpha=0.1)
    for method, values in accuracies.items():
        color, style = _STYLES[METHODS.index(method)]
        # Side by side, or the error bars would cover each other.
        shift = 0.07 * (METHODS.index(method) - 1.5)
        x = [sparsities.index(s) + shift for s in values]
        y = [fmean(accuracy) for accuracy in values.values()]
        spread = [deviation(accuracy) for accuracy in values.values()]
        look = {"color": color, "markersize": 5, "capsize": 3}
        axes.errorbar(x, y, spread, fmt=style, label=method, **look)
    axes.set_xticks(range(len(sparsities)), [f"{100 * s:.6g}" for s in sparsities])
    axes.set_xlabel("Sparsity (%)")
    axes.set_ylabel("Test accuracy (%)")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
