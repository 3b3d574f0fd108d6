"""What came out of `stuck`: rows, a table and a picture."""

from statistics import fmean

from sparsenet_tf.experiments import files
from sparsenet_tf.experiments.figure_rows import to_csv as to_csv
from sparsenet_tf.experiments.stuck import LEARNING_RATES, RATE, SCALED, SUSPICIONS

CHANCE = 0.2  # accuracy below which a network has learnt next to nothing
NEAR = 0.05
_MARKS = {"relu": ("#d55e00", "o"), "linear": ("#0072b2", "s")}
_NAMES = {"relu": "ReLU", "linear": "linear"}
_SPARSITY_MARKS = "os^D"


def rows(variants, outcomes):
    """Return a row for each retrained network, a dictionary.

    Args:
        variants: list of `stuck.Variant`.
        outcomes: `(history, result)` of the run of each.
    """
    return [
        {
            "sparsity": variant.sparsity,
            "logits": variant.logits,
            "learning_rate": variant.learning_rate,
            "suspicion": variant.suspicion,
            "retraining": number,
            "pruned_accuracy": result["pruned"],
            **{name: found[name] for name in ("accuracy", "dead_logits", "classes")},
        }
        for variant, (_, result) in zip(variants, outcomes, strict=True)
        for number, found in enumerate(result["retrained"])
    ]


def outcome(row):
    """Return what became of a network: "stuck", "untrained" or "trained".

    "stuck": a logit never passes its ReLU, so that a class is lost. "untrained": no
    such logit, but the accuracy is below `CHANCE`.

    >>> outcome({"logits": "relu", "dead_logits": 2, "accuracy": 0.78})
    'stuck'
    >>> outcome({"logits": "relu", "dead_logits": 0, "accuracy": 0.1})
    'untrained'
    """
    if row["logits"] == "relu" and row["dead_logits"]:
        return "stuck"
    return "untrained" if row["accuracy"] < CHANCE else "trained"


def markdown(rows):
    """Return the tables: logits by learning rate, then the suspicions.

    Each cell has the mean accuracy in %, then how many of the networks were stuck and
    how many stayed untrained.
    """
    lines = ["Mean accuracy in % (stuck, untrained, of all networks).", ""]
    heads = [f"{_NAMES[x]}, rate {r:g}" for x in _MARKS for r in LEARNING_RATES]
    lines += _head(["sparsity", "pruned", *heads])
    for sparsity in _sparsities(rows):
        here = [r for r in rows if r["sparsity"] == sparsity]
        plain = [r for r in here if not r["suspicion"]]
        cells = [
            _cell(_where(plain, logits=logits, learning_rate=rate))
            for logits in _MARKS
            for rate in LEARNING_RATES
        ]
        parents = f"{100 * fmean(r['pruned_accuracy'] for r in plain):.1f}"
        lines.append(_line([f"{sparsity:.0%}", parents, *cells]))
    lines += ["", f"ReLU logits, rate {RATE:g}, and one thing changed:", ""]
    both = f"{SCALED}, linear logits"
    lines += _head(["sparsity", "nothing", *SUSPICIONS, both])
    for sparsity in _sparsities(rows):
        same = _where(rows, sparsity=sparsity, logits="relu", learning_rate=RATE)
        cells = [_cell(_where(same, suspicion=s)) for s in ("", *SUSPICIONS)]
        linear = _where(rows, sparsity=sparsity, logits="linear", suspicion=SCALED)
        cells.append(_cell(linear))
        lines.append(_line([f"{sparsity:.0%}", *cells]))
    return "\n".join([*lines, "", _levels(rows), ""])


def _levels(rows):
    """How well dead logits foretell the accuracy."""
    stuck = [r for r in rows if outcome(r) == "stuck" and r["accuracy"] >= CHANCE]
    if not stuck:
        return "No network was stuck."
    left = [expected(r) - r["accuracy"] for r in stuck]
    above = sum(gap < 0 for gap in left)
    near = sum(abs(gap) <= NEAR for gap in left)
    return (
        f"Of {len(stuck)} stuck networks above {CHANCE:.0%}, {above} exceed the "
        "accuracy that their pruned parent has without the classes of the dead logits, "
        f"and {near} are within {100 * NEAR:.0f} points of it."
    )


def expected(row):
    """Accuracy of the pruned parent if it lost the classes of the dead logits."""
    return (10 - row["dead_logits"]) / 10 * row["pruned_accuracy"]


def plot(rows, path):
    """Draw accuracy against dead logits, and what became of the networks, to a PNG.

    Raises:
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    figure = files.new_figure(11, 7.5)
    levels, *panels = figure.subplots(2, 3).ravel()
    _draw_levels(levels, rows)
    for axes, sparsity in zip(panels, _sparsities(rows), strict=False):
        here = [r for r in rows if r["sparsity"] == sparsity and not r["suspicion"]]
        _draw_rates(axes, here)
        axes.set_title(f"{sparsity:.0%} sparse")
    _draw_suspicions(panels[-1], rows)
    figure.suptitle("Retraining LeNet-5 on frozen masks: what gets stuck, and why")
    files.write_figure(path, figure)


def _draw_levels(axes, rows):
    relu = [r for r in rows if r["logits"] == "relu"]
    for place, sparsity in enumerate(_sparsities(rows)):
        here = _where(relu, sparsity=sparsity)
        # Side by side, or equal ones would lie on each other.
        x = [r["dead_logits"] + 0.12 * (place - 1.5) for r in here]
        y = [100 * r["accuracy"] for r in here]
        look = {"linestyle": "", "markersize": 5, "alpha": 0.7}
        mark = _SPARSITY_MARKS[place]
        axes.plot(x, y, marker=mark, label=f"{sparsity:.0%} sparse", **look)
    best = 100 * max(r["pruned_accuracy"] for r in rows)
    axes.plot([0, 10], [best, 0], color="0.3", linewidth=1, label="a class each")
    axes.set_xlabel("Dead logits of 10, of ReLU networks")
    axes.set_title("A dead logit costs a class")
    axes.legend(fontsize="small")
    _finish(axes)


def _draw_rates(axes, rows):
    for shift, (logits, (color, mark)) in zip(
        (-0.15, 0.15), _MARKS.items(), strict=True
    ):
        for place, rate in enumerate(LEARNING_RATES):
            here = _where(rows, logits=logits, learning_rate=rate)
            x = [place + shift + 0.03 * (i - 2) for i in range(len(here))]
            y = [100 * r["accuracy"] for r in here]
            label = f"{_NAMES[logits]} logits" if place == 0 else None
            look = {"color": color, "marker": mark, "linestyle": "", "markersize": 5}
            axes.plot(x, y, label=label, alpha=0.8, **look)
    axes.set_xticks(range(len(LEARNING_RATES)), [f"{r:g}" for r in LEARNING_RATES])
    axes.set_xlabel("Learning rate")
    axes.legend(fontsize="small")
    _finish(axes)


def _draw_suspicions(axes, rows):
    ways = [("relu", ""), *(("relu", s) for s in SUSPICIONS), ("linear", SCALED)]
    for mark, sparsity in zip(_SPARSITY_MARKS, _sparsities(rows), strict=False):
        same = _where(rows, sparsity=sparsity, learning_rate=RATE)
        y = [100 * _mean(_where(same, logits=x, suspicion=s)) for x, s in ways]
        look = {"marker": mark, "linestyle": ":", "label": f"{sparsity:.0%} sparse"}
        axes.plot(range(len(ways)), y, **look)
    names = ["nothing", "first conv.\ndense", "scaled", "warmup", "scaled,\nlinear"]
    axes.set_xticks(range(len(ways)), names)
    axes.set_title(f"Rate {RATE:g}: one thing changed (means)")
    axes.legend(fontsize="small", loc="center right")
    _finish(axes)


def _finish(axes):
    axes.set_ylim(0, 102)
    axes.set_ylabel("Test accuracy (%)")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _sparsities(rows):
    return sorted({row["sparsity"] for row in rows})


def _where(rows, **values):
    return [r for r in rows if all(r[name] == v for name, v in values.items())]


def _mean(rows):
    return fmean(r["accuracy"] for r in rows)


def _cell(rows):
    if not rows:
        return "-"
    found = [outcome(row) for row in rows]
    counts = f"{found.count('stuck')}, {found.count('untrained')}, {len(rows)}"
    return f"{100 * _mean(rows):.1f} ({counts})"


def _head(cells):
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells):
    return f"| {' | '.join(cells)} |"
