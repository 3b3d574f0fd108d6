"""The table, the file and the picture of the experiment with sparse topologies."""

import dataclasses
import json

import pytest

from sparsenet_tf.experiments import files, radixnet_report
from sparsenet_tf.experiments.train_radixnet import (
    NETWORKS,
    TOPOLOGIES,
    Record,
    Settings,
)

NAMES = [network.name for network in NETWORKS["lenet_300_100"]]


def record(network, topology, seed, accuracy, dataset="mnist_5k", **more):
    values = {
        "model": "lenet_300_100",
        "hidden": "300-100",
        "connections": 27_520 + seed,
        "stored_weights": 266_200,
        "milliseconds_per_step": 2.0 + seed,
        **more,
    }
    return Record(dataset, network=network, topology=topology, seed=seed,
                  accuracy=accuracy, **values)  # fmt: skip


RECORDS = [
    record(network, topology, seed, 0.95 - i / 100 + seed / 50)
    for i, network in enumerate(NAMES)
    for topology in (["dense"] if i == 0 else ["radix", "random"])
    for seed in (0, 1)
]


def test_table():
    expected = """\
Test accuracy of lenet_300_100 on mnist_5k in %: mean ± standard deviation over 2 seeds

network            topology  hidden   connections  stored weights  ms a step      \
accuracy  published
dense              dense     300-100       27,520         266,200       2.50  \
96.00 ± 1.41      97.03
small, 50% sparse  radix     300-100       27,520         266,200       2.50  \
95.00 ± 1.41          -
small, 50% sparse  random    300-100       27,520         266,200       2.50  \
95.00 ± 1.41      96.28
small, 90% sparse  radix     300-100       27,520         266,200       2.50  \
94.00 ± 1.41      93.57
small, 90% sparse  random    300-100       27,520         266,200       2.50  \
94.00 ± 1.41      93.42
large, 90% sparse  radix     300-100       27,520         266,200       2.50  \
93.00 ± 1.41      93.98
large, 90% sparse  random    300-100       27,520         266,200       2.50  \
93.00 ± 1.41      94.45

Published by Alford et al.: of full MNIST, 10,000 steps of plain SGD. \
mnist_5k is only a part of it."""
    assert radixnet_report.format_table(RECORDS) == expected
    # The order of the records does not matter.
    assert radixnet_report.format_table(RECORDS[::-1]) == expected


def test_a_single_seed_has_no_deviation_and_times_may_be_missing():
    one = [record("dense", "dense", 0, 0.5, milliseconds_per_step=None)]
    table = radixnet_report.format_table(one)
    assert "±" not in table and "deviation" not in table
    assert table.splitlines()[3].split()[-3:] == ["-", "50.00", "97.03"]


def test_published_accuracies_stand_beside_digits_only():
    for dataset, compared in (("mnist", True), ("fashion_mnist", False)):
        records = [dataclasses.replace(r, dataset=dataset) for r in RECORDS]
        table = radixnet_report.format_table(records)
        assert ("published" in table) == ("97.03" in table) == compared
        assert "is only a part" not in table


def test_published_accuracies_are_of_networks_that_exist():
    for model, network, topology in radixnet_report.PUBLISHED:
        assert network in [n.name for n in NETWORKS[model]]
        assert topology in ("dense", *TOPOLOGIES)


def test_no_records_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`records`"):
        radixnet_report.format_table([])
    with pytest.raises(ValueError, match="`records`"):
        radixnet_report.plot_accuracy([], tmp_path / "accuracy.png", "A title")


def test_results_round_trip(tmp_path):
    path = tmp_path / "results.json"
    files.write_results(path, Settings(steps=10), RECORDS)
    results = json.loads(path.read_text())
    assert results["settings"]["steps"] == 10
    assert [Record(**r) for r in results["records"]] == RECORDS


@pytest.mark.parametrize(
    "records",
    [
        RECORDS,
        [r for r in RECORDS if r.seed == 0],
        RECORDS[:1],
        [dataclasses.replace(r, dataset="cifar10") for r in RECORDS[2:]],
        [record("90% sparse", "random", 0, 1.0, model="lenet_5")],
    ],
)
def test_picture(tmp_path, records):
    pytest.importorskip("matplotlib")
    path = tmp_path / "accuracy.png"
    radixnet_report.plot_accuracy(records, path, "A title")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content[-8:-4] == b"IEND"
    assert len(content) > 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_no_texts_of_the_picture_overlap(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    figures = []
    write = files.write_figure
    monkeypatch.setattr(
        files, "write_figure", lambda path, f: (figures.append(f), write(path, f))
    )
    radixnet_report.plot_accuracy(RECORDS, tmp_path / "accuracy.png", "A title")
    [figure], [axes] = figures, figures[0].axes
    texts = [
        axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(),
        *axes.get_yticklabels(), *figure.legends[0].get_texts(),
    ]  # fmt: skip
    low, high = axes.get_ylim()
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in texts
        if not (text in axes.get_yticklabels() and not low <= text._y <= high)
    ]
    for i, (text, box) in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        for other, other_box in boxes[:i]:
            assert not box.overlaps(other_box), (text, other)
