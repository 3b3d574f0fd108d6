"""Tables of Figures 7, 8 and 9 in Markdown, with the paper's numbers beside ours."""

from statistics import fmean

from sparsenet_tf.experiments import figure_groups
from sparsenet_tf.experiments.prune_and_retrain import METHODS
from sparsenet_tf.experiments.tables import mean_and_deviation
from sparsenet_tf.experiments.training import DENSE

_TITLES = {
    7: "Figure 7: pruned, and retrained with the masks frozen",
    8: "Figure 8: one mask, retrained from several new weights",
    9: "Figure 9: sparse before training",
}
_NONE = "-"


def markdown(figure, rows):
    """Tabulate test accuracies in %, as means ± sample deviations (n - 1) over seeds.

    Args:
        figure: 7, 8 or 9.
        rows: non-empty list, as from `figure_rows.rows`.

    Returns:
        The text, with a heading and a table or two for each network. Columns named
        "paper" hold what its authors published.

    Raises:
        ValueError: `figure` is none of these, or `rows` is empty.

    >>> row = {"dataset": "mnist_5k", "model": "lenet_5", "network": "today",
    ...     "logits": "linear", "method": "iterative", "sparsity": 0.5, "seed": 0,
    ...     "accuracy": 0.975}
    >>> markdown(7, [row]).splitlines()[-1]
    '| 50% | 97.50 | 99.17 |'
    """
    networks = figure_groups.by_network(figure, rows)
    parts = {7: _pruning, 8: _retrainings, 9: _topologies}[figure]
    lines = [f"# {_TITLES[figure]}", "", _unit(figure, rows)]
    for network, mine in networks.items():
        lines += ["", f"## {network.title}", "", _note(figure, network)]
        lines += parts(network, mine)
    return "\n".join(lines) + "\n"


def _unit(figure, rows):
    text = "Test accuracy in %"
    if figure == 8:
        return f"{text}: mean ± standard deviation over the retrainings of a mask."
    several = len({row["seed"] for row in rows}) > 1
    return text + (": mean ± standard deviation over seeds." if several else ".")


def _note(figure, network):
    """What the network is, and what the paper's numbers are of."""
    text = f"{network.details[0].upper()}{network.details[1:]}."
    if network.published_on is None:
        return text
    text += f" Paper: published by Alford et al., of {network.published_on}"
    if figure == 8:
        text += ', one retraining ("iterative, retrained" of Figure 7)'
    if network.dataset == "mnist_5k":
        text += "; mnist_5k is only a part of it"
    return f"{text}."


def _pruning(network, rows):
    found = figure_groups.collect(rows, ["method", "sparsity"], "accuracy", 100)
    paper = figure_groups.published_pruning(network)
    lines = _dense(found.pop((DENSE, 0.0), None), paper.get((DENSE, 0.0)))
    sparsities = sorted({sparsity for _, sparsity in found})
    columns = {}
    for method in METHODS:
        keys = [(method, sparsity) for sparsity in sparsities]
        if any(key in found for key in keys):
            columns[method] = [mean_and_deviation(found.get(key)) for key in keys]
            columns[method, "paper"] = _published(paper, keys)
    names = {"sparsity": [_percent(s) for s in sparsities]}
    return lines + _table(names | columns)


def _retrainings(network, rows):
    paper = figure_groups.published_pruning(network)
    by_sparsity = {}
    for curve in figure_groups.curves(rows):
        by_sparsity.setdefault(curve[-1]["sparsity"], []).append(curve[-1])
    columns = {}
    for sparsity, ends in sorted(by_sparsity.items()):
        accuracies = [100 * end["accuracy"] for end in ends]
        dead = [end["dead_logits"] for end in ends]
        value = paper.get(("iterative, retrained", sparsity))
        cells = {
            "sparsity": _percent(sparsity),
            "retrainings": f"{len(ends)}",
            "accuracy": mean_and_deviation(accuracies),
            "lowest": f"{min(accuracies):.2f}",
            "highest": f"{max(accuracies):.2f}",
            "paper": _NONE if value is None else f"{value:.2f}",
            "with a dead logit": f"{sum(count > 0 for count in dead)}",
            "dead logits": f"{fmean(dead):.2f}",
            "predicted classes": f"{fmean(end['classes'] for end in ends):.2f}",
        }
        for name, cell in cells.items():
            columns.setdefault(name, []).append(cell)
    return _table(columns)


def _topologies(network, rows):
    names = ["topology", "density", "neurons"]
    found = figure_groups.collect(rows, names, "accuracy", 100)
    counts = figure_groups.collect(rows, names, "connections")
    paper = figure_groups.published_topologies(network)
    dense = (DENSE, 1.0, 1)
    lines = _dense(found.get(dense), paper.get(dense), counts.get(dense))
    densities = sorted({d for kind, d, n in found if n == 1 and kind != DENSE})[::-1]
    factors = sorted({n for kind, _, n in found if n > 1 and kind != DENSE})
    parts = (
        ("As many neurons", "density", {_percent(d): (d, 1) for d in densities}),
        (
            "More neurons, connections constant",
            "neurons",
            {f"{n}x": (1 / n, n) for n in factors},
        ),
    )
    for title, name, sizes in parts:
        if not sizes:
            continue
        columns = {name: list(sizes)}
        for kind in ("radix", "random"):
            keys = [(kind, *size) for size in sizes.values()]
            columns[kind] = [mean_and_deviation(found.get(key)) for key in keys]
            columns[kind, "connections"] = [_count(counts.get(key)) for key in keys]
            columns[kind, "paper"] = _published(paper, keys)
        lines += ["", f"### {title}", *_table(columns)]
    return lines


def _dense(accuracies, published, connections=None):
    """The line of the dense network, if it was trained."""
    if not accuracies:
        return []
    beside = [f"{_count(connections)} connections"] if connections else []
    beside += [f"paper {published:.2f}"] if published else []
    line = f"{DENSE}: {mean_and_deviation(accuracies)}"
    return ["", line + (f" ({', '.join(beside)})" if beside else "")]


def _published(paper, keys):
    return [f"{paper[key]:.2f}" if key in paper else _NONE for key in keys]


def _table(columns):
    """Lines of a pipe table of `{name, or (of what, name): cells}`.

    A column of the paper that has no number is left out.
    """
    names, cells = [], []
    for key, values in columns.items():
        name = key if isinstance(key, str) else key[-1]
        if name != "paper" or set(values) != {_NONE}:
            names.append(name)
            cells.append(values)
    if not all(cells):
        return []
    lines = [names, *zip(*cells, strict=True)]
    lines = [f"| {' | '.join(line)} |" for line in lines]
    return ["", lines[0], "|" + "---:|" * len(names), *lines[1:]]


def _percent(share):
    return f"{100 * share:.6g}%"


def _count(counts):
    return f"{fmean(counts):,.0f}" if counts else _NONE
