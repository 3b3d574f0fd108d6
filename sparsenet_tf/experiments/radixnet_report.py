"""What came out of `train_radixnet`: a table and a picture."""

from statistics import fmean

from sparsenet_tf.experiments import files
from sparsenet_tf.experiments.tables import (
    align,
    deviation,
    mean_and_deviation,
    spread_title,
)
from sparsenet_tf.experiments.train_radixnet import NETWORKS, TOPOLOGIES
from sparsenet_tf.experiments.training import DENSE

# The accuracies in % that Alford et al. published (their `pruning_data.csv`), of the
# whole of MNIST.
PUBLISHED = {
    ("lenet_300_100", DENSE, DENSE): 97.03,
    ("lenet_300_100", "small, 50% sparse", "random"): 96.28,
    ("lenet_300_100", "small, 90% sparse", "radix"): 93.57,
    ("lenet_300_100", "small, 90% sparse", "random"): 93.42,
    ("lenet_300_100", "large, 90% sparse", "radix"): 93.98,
    ("lenet_300_100", "large, 90% sparse", "random"): 94.45,
    ("lenet_5", DENSE, DENSE): 99.20,
    ("lenet_5", "50% sparse", "random"): 99.20,
    ("lenet_5", "90% sparse", "random"): 98.77,
}
PUBLISHED_ON = "full MNIST, 10,000 steps of plain SGD"
_DIGITS = ("mnist", "mnist_5k")  # else there is nothing to compare
_COLUMNS = (
    "network", "topology", "hidden", "connections", "stored weights", "ms a step",
    "accuracy",
)  # fmt: skip
# Colour, marker and place beside the others: grey print leaves the last two.
_STYLES = {
    DENSE: ("0.25", "s", 0.0),
    "radix": ("#0072b2", "o", -0.17),
    "random": ("#d55e00", "^", 0.17),
}
_HOLLOW = {"markersize": 7, "markerfacecolor": "white"}


def format_table(records):
    """Tabulate the networks, a row for each topology, in the order of `NETWORKS`.

    Args:
        records: non-empty list of `Record`, as from `train_radixnet.run`, all of one
            model and dataset.

    Returns:
        The table as a string of several lines. All numbers are means over the seeds,
        the accuracy with the sample's standard deviation (n - 1). On MNIST and its
        part the last column is the accuracy that the paper's authors published.

    Raises:
        ValueError: `records` is empty.

    >>> from sparsenet_tf.experiments.train_radixnet import Record
    >>> record = Record("digits", "lenet_5", "dense", "dense", "20-50-384", 970_140,
    ...     970_140, seed=0, accuracy=0.98, milliseconds_per_step=12.345)
    >>> print(format_table([record]))
    Test accuracy of lenet_5 on digits in %
    <BLANKLINE>
    network  topology  hidden     connections  stored weights  ms a step  accuracy
    dense    dense     20-50-384      970,140         970,140      12.35     98.00
    """
    groups = _by_topology(records)
    published = _published(records)
    rows = [[*_COLUMNS, *(["published"] if published else [])]]
    for (network, topology), group in groups.items():
        times = [t for r in group if (t := r.milliseconds_per_step) is not None]
        row = [
            network, topology, group[0].hidden,
            f"{fmean(r.connections for r in group):,.0f}",
            f"{fmean(r.stored_weights for r in group):,.0f}",
            f"{fmean(times):.2f}" if times else "-",
            mean_and_deviation(_accuracies(group)),
        ]  # fmt: skip
        if published:
            value = published.get((network, topology))
            row.append(f"{value:.2f}" if value else "-")
        rows.append(row)
    first, spread = records[0], spread_title(records)
    lines = [f"Test accuracy of {first.model} on {first.dataset} in %{spread}", ""]
    lines += align(rows, left=3)
    if published:
        lines += ["", f"Published by Alford et al.: of {PUBLISHED_ON}."]
        if first.dataset != "mnist":
            lines[-1] += f" {first.dataset} is only a part of it."
    return "\n".join(lines)


def plot_accuracy(records, path, title):
    """Draw the accuracies to a PNG file, the topologies of a network side by side.

    Points are means over the seeds, error bars their standard deviations, and hollow
    points the accuracies that the paper's authors published, of MNIST.

    Args:
        records: as for `format_table`.
        path: file to write, whole or not at all; its folder must exist.
        title: of the picture.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `records` is empty.
        OSError: the file cannot be written.

    Source: Alford et al., Figure 9.
    """
    groups = _by_topology(records)
    published = _published(records)
    names = list(dict.fromkeys(network for network, _ in groups))
    figure = files.new_figure(9, 4.8)
    axes = figure.subplots()
    entries = []
    for topology, (color, marker, shift) in _STYLES.items():
        mine = {n: group for (n, t), group in groups.items() if t == topology}
        if not mine:
            continue
        x = [names.index(name) + shift for name in mine]
        y = [fmean(_accuracies(group)) for group in mine.values()]
        spread = [deviation(_accuracies(group)) for group in mine.values()]
        look = {"color": color, "markersize": 7, "capsize": 4}
        entries.append(axes.errorbar(x, y, spread, fmt=marker, label=topology, **look))
        known = [n for n in mine if (n, topology) in published]
        # Beside the points, which they would cover.
        x = [names.index(name) + shift + 0.1 for name in known]
        y = [published[name, topology] for name in known]
        axes.plot(x, y, marker, color=color, **_HOLLOW)
    if published:
        label = f"hollow: published ({PUBLISHED_ON})"
        entries += axes.plot([], [], "D", color="0.4", label=label, **_HOLLOW)
    hidden = {network: group[0].hidden for (network, _), group in groups.items()}
    axes.set_xticks(range(len(names)), [f"{name}\n{hidden[name]}" for name in names])
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.margins(y=0.12)
    for border in range(1, len(names)):
        axes.axvline(border - 0.5, color="0.9", linewidth=1)
    axes.set_xlabel("Network and its hidden layers")
    axes.set_ylabel("Test accuracy (%)")
    axes.set_title(title)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(handles=entries, loc="outside lower center", ncols=4)
    files.write_figure(path, figure)


def _by_topology(records):
    """`{(network, topology): records}` in the order in which to tell of them."""
    if not records:
        raise ValueError("`records` must not be empty. Received: []")
    networks = [network.name for network in NETWORKS[records[0].model]]
    topologies = (DENSE, *TOPOLOGIES)
    found = {}
    for r in sorted(
        records,
        key=lambda r: (networks.index(r.network), topologies.index(r.topology), r.seed),
    ):
        found.setdefault((r.network, r.topology), []).append(r)
    return found


def _published(records):
    """`{(network, topology): accuracy}` of those to compare with."""
    first = records[0]
    shown = {(r.network, r.topology) for r in records}
    return {
        tuple(key): value
        for (model, *key), value in PUBLISHED.items()
        if first.dataset in _DIGITS and model == first.model and tuple(key) in shown
    }


def _accuracies(records):
    return [100 * record.accuracy for record in records]
