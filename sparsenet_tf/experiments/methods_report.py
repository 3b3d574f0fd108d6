"""What came out of `methods`: rows, tables and a picture."""

from statistics import fmean

from sparsenet_tf.experiments import figure_scale, files
from sparsenet_tf.experiments.figure_rows import to_csv as to_csv
from sparsenet_tf.experiments.tables import deviation, mean_and_deviation
from sparsenet_tf.experiments.training import DENSE

# What a row has of a run, and what it is called in tables and pictures.
OUTCOMES = {
    "accuracy": "Trained by the method",
    "retrained": "Its masks, new weights",
    "retrained_scaled": "Its masks, new weights scaled to the connections left",
}
# In kinds of methods: those of one kind have one colour.
_STYLES = {
    "random, uniform": ("0.6", "o"),
    "random, ERK": ("0.3", "s"),
    "RadiX": ("0.3", "^"),
    "SNIP": ("#56b4e9", "o"),
    "GraSP": ("#56b4e9", "s"),
    "SynFlow": ("#56b4e9", "^"),
    "SET": ("#009e73", "o"),
    "RigL": ("#009e73", "s"),
    "magnitude, at once": ("#d55e00", "o"),
    "Wanda, at once": ("#d55e00", "s"),
    "magnitude, iterative": ("#e69f00", "o"),
    "gradient, iterative": ("#e69f00", "s"),
    "movement, iterative": ("#e69f00", "^"),
    "lottery ticket": ("#cc79a7", "o"),
    "lottery ticket, rewound": ("#cc79a7", "s"),
    "lottery ticket, shuffled": ("#cc79a7", "^"),
}


def rows(runs, outcomes):
    """Return a row for each run, a dictionary.

    Args:
        runs: list of `methods.Method`.
        outcomes: `(history, result)` of each.
    """
    return [
        {
            "method": run.method,
            "sparsity": run.sparsity,
            "seed": run.seed,
            "sparsity_reached": result.get("sparsity", 0.0),
            **{name: result.get(name) for name in OUTCOMES},
        }
        for run, (_, result) in zip(runs, outcomes, strict=True)
    ]


def markdown(rows):
    """Return a table for each outcome: methods by sparsities, in % of the test set."""
    lines = [
        "Test accuracy in %, mean ± standard deviation over "
        f"{len({row['seed'] for row in rows})} seeds.",
        f"Dense: {_cell(_where(rows, method=DENSE), 'accuracy')}.",
    ]
    sparsities = _sparsities(rows)
    for name, title in OUTCOMES.items():
        heads = ["method", *(f"{s:.0%}" for s in sparsities)]
        lines += ["", f"{title}:", "", _line(heads), _line(["---"] * len(heads))]
        for method in _methods(rows):
            here = [_where(rows, method=method, sparsity=s) for s in sparsities]
            lines.append(_line([method, *(_cell(found, name) for found in here)]))
    return "\n".join([*lines, ""])


def plot(rows, path):
    """Draw accuracy against sparsity, a panel for each outcome, to a PNG.

    Raises:
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    figure = files.new_figure(13, 6.4)
    panels = figure.subplots(1, len(OUTCOMES))
    sparsities, methods = _sparsities(rows), _methods(rows)
    shown = []
    for axes, (name, title) in zip(panels, OUTCOMES.items(), strict=True):
        shown += _dense(axes, rows)
        for i, method in enumerate(methods):
            color, mark = _STYLES[method]
            here = [_where(rows, method=method, sparsity=s) for s in sparsities]
            found = [[100 * row[name] for row in part] for part in here]
            y, spread = [fmean(f) for f in found], [deviation(f) for f in found]
            # Side by side, or they would cover each other.
            x = [j + 0.04 * (i - (len(methods) - 1) / 2) for j in range(len(y))]
            look = {"color": color, "marker": mark, "markersize": 4, "label": method}
            axes.errorbar(x, y, spread, linewidth=0.8, elinewidth=0.6, **look)
            shown += y
        axes.set_xticks(range(len(sparsities)), [f"{s:.0%}" for s in sparsities])
        axes.set_xlabel("Sparsity")
        axes.set_title(title.replace(", ", ",\n", 1), fontsize=10)
    for axes in panels:
        figure_scale.set_scale(axes, shown)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("Test accuracy (%), log scale of the error")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
    files.write_figure(path, figure)


def _dense(axes, rows):
    found = [100 * row["accuracy"] for row in _where(rows, method=DENSE)]
    mean, spread = fmean(found), deviation(found)
    axes.axhline(mean, color="0.3", linewidth=1, linestyle=":", label=DENSE)
    axes.axhspan(mean - spread, mean + spread, color="0.3", alpha=0.12, linewidth=0)
    return [mean]


def _methods(rows):
    return list(dict.fromkeys(r["method"] for r in rows if r["method"] != DENSE))


def _sparsities(rows):
    return sorted({row["sparsity"] for row in rows if row["method"] != DENSE})


def _where(rows, **values):
    return [r for r in rows if all(r[name] == v for name, v in values.items())]


def _cell(rows, name):
    return mean_and_deviation([100 * row[name] for row in rows])


def _line(cells):
    return f"| {' | '.join(cells)} |"
