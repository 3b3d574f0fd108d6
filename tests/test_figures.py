"""The runs of the paper's figures, and their rows, tables and pictures."""

import dataclasses
import itertools
import json
import os

import pytest

from sparsenet_tf.experiments import (
    figure_plots,
    figure_rows,
    figure_scale,
    figure_tables,
    figures,
    files,
)
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.pruning_runs import Iterative, OneTime
from sparsenet_tf.experiments.runs import run_name
from sparsenet_tf.experiments.topology_runs import Topology

L300, L5 = "lenet_300_100", "lenet_5"
TRAINING = Training(model=L300, steps=20, evaluate_every=10)
LENET_5 = Training(model=L5, steps=20, evaluate_every=10)
RELU = dataclasses.replace(LENET_5, network="authors", logits="relu")
BEGIN = ["dataset", "model", "network", "logits"]


def values(rows, names):
    """The rows as tuples without the network, of rows that have just these names."""
    assert all(list(row) == BEGIN + names for row in rows)
    return [tuple(row[name] for name in names) for row in rows]


def rows_of(figure, runs, outcomes):
    return figure_rows.rows(figure, runs, json.loads(json.dumps(outcomes)))


def figure_7(trainings=(TRAINING,), seeds=(0, 1)):
    runs, outcomes = [], []
    for training, seed in itertools.product(trainings, seeds):
        runs.append(OneTime(training, (0.5, 0.99), seed))
        pruned, retrained = {"0.5": 0.75, "0.99": 0.25}, {"0.5": 0.8, "0.99": 0.125}
        result = {"dense": 0.96 + 0.02 * seed, "pruned": pruned, "retrained": retrained}
        outcomes.append(({"dense": {}}, result))
        runs.append(Iterative(training, 0.99, 2, 14, seed=seed))
        found = {"accuracy": 0.9 - 0.1 * seed, "dead_logits": 0, "classes": 10}
        outcomes.append(({}, {"pruned": 0.95, "retrained": [found]}))
    return rows_of(7, runs, outcomes)


def figure_8(counts=(0, 2, 9), sparsities=(0.75,)):
    run = Iterative(LENET_5, 0.75, 2, 14, retraining=RELU, retrainings=len(counts))
    ends = [(1 - dead / 10, dead, 10 - dead) for dead in counts]
    names = ("accuracy", "dead_logits", "classes")
    history = {
        "pruned": {"step": [10, 20], "accuracy": [0.3, 0.4]},
        "retrained": [{"step": [10, 20], "accuracy": [0.1, end[0]]} for end in ends],
    }
    result = {"retrained": [dict(zip(names, end, strict=True)) for end in ends]}
    runs = [dataclasses.replace(run, sparsity=s) for s in sparsities]
    return rows_of(8, runs, [(history, {"pruned": 0.4, **result}) for _ in runs])


def figure_9(trainings=(TRAINING,), seeds=(0, 1)):
    runs = []
    for training, seed in itertools.product(trainings, seeds):
        runs += [Topology(training, seed=seed)]
        runs += [Topology(training, "radix", 0.1, 1, seed)]
        runs += [Topology(training, "random", 0.1, 1, seed)]
        runs += [Topology(training, "radix", 0.01, 100, seed)]
    outcomes = [
        ({}, {"accuracy": 0.9 + 0.02 * run.seed, "connections": 1000 + 2 * run.seed})
        for run in runs
    ]
    return rows_of(9, runs, outcomes)


ALL = {7: figure_7, 8: figure_8, 9: figure_9}


def test_rows_of_figure_7():
    rows = figure_7(seeds=(3,))
    assert values(rows, ["method", "sparsity", "seed", "accuracy"]) == [
        ("dense", 0.0, 3, 0.96 + 0.02 * 3),
        ("one-time", 0.5, 3, 0.75),
        ("one-time, retrained", 0.5, 3, 0.8),
        ("one-time", 0.99, 3, 0.25),
        ("one-time, retrained", 0.99, 3, 0.125),
        ("iterative", 0.99, 3, 0.95),
        ("iterative, retrained", 0.99, 3, 0.9 - 0.1 * 3),
    ]
    assert {tuple(row[name] for name in BEGIN) for row in rows} == {
        ("mnist_5k", L300, "today", "linear")
    }


def test_rows_of_figure_8():
    names = ["sparsity", "retraining", "step", "accuracy", "dead_logits", "classes"]
    rows = figure_8(counts=(0, 2))
    assert values(rows, names) == [
        (0.75, 0, 10, 0.1, None, None),
        (0.75, 0, 20, 1.0, 0, 10),
        (0.75, 1, 10, 0.1, None, None),
        (0.75, 1, 20, 0.8, 2, 8),
    ]
    # Of the retraining, which the pruned network's training is not.
    assert {(row["network"], row["logits"]) for row in rows} == {("authors", "relu")}
    run = Iterative(LENET_5, 0.75, 2, 14)
    found = {"accuracy": 0.5, "dead_logits": 1, "classes": 4}
    history = {"retrained": [{"step": [20], "accuracy": [0.5]}]}
    [row] = figure_rows.rows(8, [run], [(history, {"retrained": [found]})])
    assert (row["network"], row["logits"]) == ("today", "linear")


def test_rows_of_figure_9():
    names = ["topology", "density", "neurons", "connections", "seed", "accuracy"]
    assert values(figure_9(seeds=(1,)), names) == [
        ("dense", 1.0, 1, 1002, 1, 0.92),
        ("radix", 0.1, 1, 1002, 1, 0.92),
        ("random", 0.1, 1, 1002, 1, 0.92),
        ("radix", 0.01, 100, 1002, 1, 0.92),
    ]


def test_rows_refuse_what_does_not_fit():
    run = Topology(TRAINING)
    with pytest.raises(ValueError, match="`figure`.*6"):
        figure_rows.rows(6, [], [])
    with pytest.raises(ValueError, match="`runs`.*Figure 7.*Topology"):
        figure_rows.rows(7, [run], [({}, {})])
    with pytest.raises(ValueError, match="`runs`.*Figure 8.*OneTime"):
        figure_rows.rows(8, [OneTime(TRAINING, (0.5,))], [({}, {})])
    with pytest.raises(ValueError, match="`outcomes`.*1 for 2"):
        figure_rows.rows(9, [run, run], [({}, {})])


def test_csv_has_exact_bytes():
    rows = figure_8(counts=(3,))
    assert figure_rows.to_csv(rows).encode() == (
        b"dataset,model,network,logits,sparsity,retraining,step,accuracy,dead_logits,"
        b"classes\n"
        b"mnist_5k,lenet_5,authors,relu,0.75,0,10,0.1,,\n"
        b"mnist_5k,lenet_5,authors,relu,0.75,0,20,0.7,3,7\n"
    )
    assert figure_rows.to_csv([{"a": 1 / 3, "b": "x, y"}]) == (
        'a,b\n0.3333333333333333,"x, y"\n'
    )
    with pytest.raises(ValueError, match="`rows`"):
        figure_rows.to_csv([{"a": 1, "b": 2}, {"b": 2, "a": 1}])


def test_table_of_figure_7():
    # Dense 96 and 98: mean 97, deviation sqrt(1 + 1). Retrained 90 and 80: 85, 7.07.
    lines = figure_tables.markdown(7, figure_7()).splitlines()
    assert lines[2:] == [
        "Test accuracy in %: mean ± standard deviation over seeds.",
        "",
        "## lenet_300_100 on mnist_5k",
        "",
        "Today's network, linear logits. Paper: published by Alford et al., of full "
        "MNIST, 10,000 steps; mnist_5k is only a part of it.",
        "",
        "dense: 97.00 ± 1.41 (paper 97.03)",
        "",
        "| sparsity | iterative | paper | iterative, retrained | paper | one-time | "
        "one-time, retrained | paper |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| 50% | - | 97.50 | - | 97.03 | 75.00 ± 0.00 | 80.00 ± 0.00 | 96.88 |",
        "| 99% | 95.00 ± 0.00 | 96.83 | 85.00 ± 7.07 | 96.08 | 25.00 ± 0.00 | "
        "12.50 ± 0.00 | 56.08 |",
    ]


def test_table_of_figure_8():
    # 100, 90 and 10%: mean 66.67, deviation sqrt((33.33² + 23.33² + 56.67²) / 2).
    # Dead logits 0, 1 and 9: mean 3.33. Classes 10, 9 and 1: mean 6.67.
    lines = figure_tables.markdown(8, figure_8((0, 1, 9), (0.99, 0.75))).splitlines()
    assert "## lenet_5 on mnist_5k" in lines
    note = "The authors' network, ReLU logits. Paper: published by Alford et al., of "
    assert any(line.startswith(note + "full MNIST, 10,000 steps") for line in lines)
    assert lines[-4:] == [
        "| sparsity | retrainings | accuracy | lowest | highest | paper | "
        "with a dead logit | dead logits | predicted classes |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| 75% | 3 | 66.67 ± 49.33 | 10.00 | 100.00 | 69.92 | 2 | 3.33 | 6.67 |",
        "| 99% | 3 | 66.67 ± 49.33 | 10.00 | 100.00 | 77.96 | 2 | 3.33 | 6.67 |",
    ]


def test_table_of_figure_9():
    # 90 and 92: mean 91, deviation sqrt(1 + 1). Connections 1000 and 1002: 1001.
    text = figure_tables.markdown(9, figure_9())
    cell = "91.00 ± 1.41 | 1,001"
    assert "\ndense: 91.00 ± 1.41 (1,001 connections, paper 97.03)\n" in text
    header = "| radix | connections | paper | random | connections | paper |\n"
    assert (
        f"\n| density {header}|---:|---:|---:|---:|---:|---:|---:|\n"
        f"| 10% | {cell} | 93.57 | {cell} | 93.42 |\n"
    ) in text
    # Nothing random here, of which the paper has a number; a RadiX it has none of.
    table = text[text.index("### More neurons") :].splitlines()
    assert table[2:] == [
        "| neurons | radix | connections | random | connections | paper |",
        "|---:|---:|---:|---:|---:|---:|",
        f"| 100x | {cell} | - | - | 94.30 |",
    ]


def test_a_single_seed_has_no_deviation():
    for figure in (7, 9):
        text = figure_tables.markdown(figure, ALL[figure](seeds=(0,)))
        assert "±" not in text and "deviation" not in text
    assert "| 60.00 | 60.00 | 60.00 |" in figure_tables.markdown(8, figure_8((4,)))


@pytest.mark.parametrize("figure", ALL)
def test_published_numbers_stand_beside_their_datasets_only(figure):
    for dataset, published in (
        ("mnist", "of full MNIST"),
        ("mnist_5k", "of full MNIST"),
        ("cifar10", "of CIFAR-10"),
        ("fashion_mnist", None),
    ):
        rows = [{**row, "dataset": dataset, "model": L5} for row in ALL[figure]()]
        text = figure_tables.markdown(figure, rows)
        assert ("only a part" in text) == (dataset == "mnist_5k")
        if published:
            assert f"published by Alford et al., {published}" in text
        else:
            assert "paper" not in text.lower() and "published" not in text


def test_each_network_has_a_heading():
    text = figure_tables.markdown(7, figure_7([TRAINING, LENET_5, RELU]))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    titles = [f"## {model} on mnist_5k" for model in (L300, L5, L5)]
    assert headings == titles
    assert text.count("ReLU logits") == 1 and text.count("linear logits") == 2


@pytest.mark.parametrize("figure", ALL)
def test_no_rows_and_unknown_figures_are_errors(figure, tmp_path):
    path = tmp_path / "figure.png"
    for make in (figure_tables.markdown, lambda f, r: figure_plots.plot(f, r, path)):
        with pytest.raises(ValueError, match="`rows`"):
            make(figure, [])
        with pytest.raises(ValueError, match="`figure`.*10"):
            make(10, ALL[figure]())
    with pytest.raises(ValueError, match="`rows`"):
        figure_rows.to_csv([])
    assert list(tmp_path.iterdir()) == []


FASHION = dataclasses.replace(TRAINING, dataset="fashion_mnist")
PICTURES = {
    "7": (7, figure_7([TRAINING, LENET_5])),
    "7, one network, one seed": (7, figure_7(seeds=(0,))),
    "7, not published": (7, figure_7([FASHION])),
    "7, dense alone": (7, figure_7()[:1]),
    "8": (8, figure_8(range(11), figures.RETRAINED_SPARSITIES)),
    "8, one curve": (8, figure_8((4,))),
    "9": (9, figure_9([TRAINING, LENET_5])),
    "9, not published": (9, figure_9([FASHION])),
    "9, dense alone": (9, figure_9(seeds=(0,))[:1]),
    "9, all right": (9, [{**row, "accuracy": 1.0} for row in figure_9()]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name, tmp_path):
    pytest.importorskip("matplotlib")
    figure, rows = PICTURES[name]
    path = tmp_path / "figure.png"
    figure_plots.plot(figure, rows, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content[-8:-4] == b"IEND"
    assert len(content) > 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "figure.png"
    path.write_text("the one before")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        figure_plots.plot(7, figure_7(), path)
    assert path.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        figure_plots.plot(7, figure_7(), tmp_path / "missing" / "figure.png")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A function that gives a figure's picture as matplotlib's object."""
    pytest.importorskip("matplotlib")
    pictures = []
    write = files.write_figure
    monkeypatch.setattr(
        files, "write_figure", lambda path, p: (pictures.append(p), write(path, p))
    )

    def draw(figure, rows):
        figure_plots.plot(figure, rows, tmp_path / "figure.png")
        return pictures[-1]

    return draw


def heights(axes):
    """Accuracies of all points and lines."""
    return [round(float(y), 2) for line in axes.lines for y in line.get_ydata()]


def test_pictures_show_ours_and_the_papers_numbers(drawn):
    [axes] = drawn(7, figure_7()).axes
    # Means that the table's tests work out, and what was published.
    shown = {97.0, 97.03, 75, 80, 25, 12.5, 95, 85, 96.83, 96.08, 96.88, 56.08}
    assert shown <= set(heights(axes))
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert {"dense", "iterative", "one-time, retrained"} < set(labels)
    assert "hollow: paper (full MNIST, 10,000 steps)" in labels
    usual, more = drawn(9, figure_9()).axes
    assert {91.0, 97.03, 93.57, 93.42} <= set(heights(usual))
    assert {91.0, 97.03} <= set(heights(more))
    labels = [text.get_text() for text in more.get_xticklabels()]
    assert labels == ["1 (dense)", "100"]
    plain = drawn(9, figure_9([FASHION]))
    assert {h for axes in plain.axes for h in heights(axes)} <= {91.0, 89.59, 92.41}
    labels = [text.get_text() for text in plain.legends[0].get_texts()]
    assert labels == ["dense", "radix", "random"]


def test_curves_are_told_apart_by_their_dead_logits(drawn):
    picture = drawn(8, figure_8((0, 2, 9, 9), (0.9, 0.75)))
    assert [axes.get_title() for axes in picture.axes] == ["75% sparse", "90% sparse"]
    for axes in picture.axes:
        assert axes.get_ylim() == (0, 100)
        curves = [line for line in axes.lines if len(line.get_xdata()) == 2]
        assert [list(line.get_xdata()) for line in curves] == 4 * [[10, 20]]
        assert [line.get_ydata()[-1] for line in curves[:2]] == [100, 80]
        looks = [(line.get_color(), line._dash_pattern) for line in curves]
        assert len(set(map(str, looks))) == 3 and looks[2] == looks[3]
        ends = [line for line in axes.lines if len(line.get_xdata()) == 1]
        places = {(*line.get_xdata(), *line.get_ydata()) for line in ends}
        assert len(places) == 4  # none hides another
    labels = [text.get_text() for text in picture.legends[0].get_texts()]
    assert labels == ["0", "2", "7 to 10"]


@pytest.mark.parametrize("name", PICTURES)
def test_no_texts_of_a_picture_overlap(name, drawn):
    picture = drawn(*PICTURES[name])
    texts = [t for legend in picture.legends for t in legend.get_texts()]
    for axes in picture.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, None)):
            for tick in axis.get_major_ticks():
                low, high = limits or axes.get_ylim()
                if low <= tick.get_loc() <= high:
                    texts.append(tick.label1)
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in texts
        if text.get_visible() and text.get_text()
    ]
    assert len(boxes) > 5
    for i, (text, box) in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= picture.bbox.x1, text
        assert 0 <= box.y0 < box.y1 <= picture.bbox.y1, text
        for other, other_box in boxes[:i]:
            assert not box.overlaps(other_box), (text, other)


@pytest.mark.parametrize(
    "low, high", [(0, 100), (9, 99.5), (97, 97.2), (0, 30), (99.9, 99.98)]
)
def test_ticks_are_round_spread_and_inside(low, high):
    found = figure_scale.ticks(low, min(high, 99.98))
    assert 4 <= len(found) <= 20 and found == sorted(set(found))
    assert all(low <= tick <= high for tick in found)
    assert all(round(tick, 2) == tick for tick in found)


@pytest.mark.parametrize("scale", figures.SCALES)
def test_runs_are_distinct(scale):
    found = figures.runs(figures.Settings(scale=scale))
    assert list(found) == [7, 8, 9]
    names = [run_name(run) for listed in found.values() for run in listed]
    assert len(names) == len(set(names))


def test_runs_of_the_small_scale_are_as_many_as_worked_out():
    found = figures.runs(figures.Settings(scale="small"))
    # A one-time run and one for each of 5 sparsities; 3 seeds of LeNet-300-100 and 1.
    assert len(found[7]) == 3 * (1 + 5) + 1 * (1 + 5)
    assert len(found[8]) == 4  # sparsities
    # A dense one, and of both kinds 4 densities and 3 factors, or 2 of LeNet-5; the
    # largest factor in the first seed alone.
    lenet_300 = (1 + 2 * (4 + 3)) + 2 * (1 + 2 * (4 + 2))
    lenet_5 = 1 + 2 * (4 + 2)
    assert len(found[9]) == lenet_300 + lenet_5 == 54
    assert {type(run) for run in found[7]} == {OneTime, Iterative}
    assert {run.retrainings for run in found[8]} == {5}
    assert {run.retraining.logits for run in found[8]} == {"relu"}


def test_settings_choose_the_runs():
    def chosen(**settings):
        return figures.runs(figures.Settings(**settings))

    assert list(chosen(figures=[9, 7])) == [9, 7]
    assert len(chosen(figures=(7,), models=(L5,), seeds=1)[7]) == 6
    for run in chosen(figures=(7,), dataset="cifar10", learning_rate=0.125)[7]:
        training = run.training
        chosen_as = training.dataset, training.model, training.learning_rate
        assert chosen_as == ("cifar10", L5, 0.125)
    # The authors had not the memory for LeNet-5 with 100 times the neurons.
    largest = [r for r in chosen(scale="full")[9] if r.neurons == 100]
    assert {(r.training.model, r.kind) for r in largest} == {
        (L300, "radix"), (L300, "random"), (L5, "radix"), (L5, "random"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, changes",
    [
        ("figures", {"figures": ()}),
        ("figures", {"figures": (7, 7)}),
        ("figure", {"figures": (6,)}),
        ("scale", {"scale": "huge"}),
        ("models", {"models": ()}),
        ("models", {"models": ("resnet",)}),
        ("models", {"figures": (8,), "models": (L300,)}),
        ("models", {"dataset": "cifar10", "models": (L300,)}),
        ("seeds", {"seeds": 0}),
        ("seeds", {"seeds": 1.5}),
        ("dataset", {"dataset": "letters"}),
        ("learning_rate", {"learning_rate": -0.1}),
    ],
)
def test_settings_errors_name_the_argument(name, changes):
    with pytest.raises(ValueError, match=f"`{name}`"):
        figures.runs(figures.Settings(**changes))
