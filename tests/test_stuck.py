"""The experiment on stuck retraining: its variants, what it counts, what it says."""

import dataclasses

import pytest

from sparsenet_tf.experiments import stuck, stuck_report
from sparsenet_tf.experiments.runs import run_name
from sparsenet_tf.experiments.stuck import Settings, Variant


def row(accuracy, dead, logits="relu", rate=0.2, suspicion="", sparsity=0.75):
    return {
        "sparsity": sparsity,
        "logits": logits,
        "learning_rate": rate,
        "suspicion": suspicion,
        "retraining": 0,
        "pruned_accuracy": 0.9,
        "accuracy": accuracy,
        "dead_logits": dead,
        "classes": 10 - dead,
    }


def all_rows(accuracy=0.9, dead=0):
    return [
        row(accuracy, dead, v.logits, v.learning_rate, v.suspicion, v.sparsity)
        for v in stuck.variants((0.75, 0.99))
    ]


def test_each_variant_is_a_run_of_its_own():
    runs = stuck.runs(Settings("small"))
    assert len(runs) == len(set(map(run_name, runs.values()))) == 4 * (2 * 3 + 3 + 1)


def test_variants_differ_from_the_authors_way_in_one_thing():
    runs = stuck.runs(Settings("small"))
    base = runs[Variant(0.9, "relu", 0.2)]
    dense = runs[Variant(0.9, "relu", 0.2, "first convolution dense")]
    assert dataclasses.replace(dense, dense_layers=()) == base != dense
    scaled = runs[Variant(0.9, "relu", 0.2, "scaled to fan-in")]
    assert dataclasses.replace(scaled, scale_to_fan_in=False) == base != scaled
    warm = runs[Variant(0.9, "relu", 0.2, "warmup")]
    assert warm.retraining.warmup == 50 and base.retraining.warmup == 0
    linear = runs[Variant(0.9, "linear", 0.2)]
    assert dataclasses.replace(base.retraining, logits="linear") == linear.retraining
    # Masks come from linear logits, so that all variants share them.
    assert {run.training for run in runs.values()} == {base.training}
    assert base.training.logits == "linear" and base.training.network == "authors"


def test_settings_name_what_is_wrong():
    for name, value in (("scale", "tiny"), ("dataset", "cifar10"), ("retrainings", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            Settings(**{name: value})
    assert Settings("full").dataset == "mnist" and Settings().dataset == "mnist_5k"


def test_rows_keep_what_was_measured():
    variant = Variant(0.9, "relu", 0.1, "warmup")
    found = [{"accuracy": a, "dead_logits": d, "classes": c} for a, d, c in
             ((0.8, 1, 9), (0.1, 0, 1))]  # fmt: skip
    outcome = ({}, {"pruned": 0.95, "retrained": found})
    first, second = stuck_report.rows([variant], [outcome])
    assert (first["accuracy"], first["dead_logits"], first["classes"]) == (0.8, 1, 9)
    assert second["retraining"] == 1 and second["pruned_accuracy"] == 0.95
    text = stuck_report.to_csv([first, second])
    assert text.splitlines()[1] == "0.9,relu,0.1,warmup,0,0.95,0.8,1,9"


@pytest.mark.parametrize(
    "found, expected",
    [
        (row(0.72, 2), "stuck"),
        (row(0.1, 10), "stuck"),
        (row(0.1, 0), "untrained"),
        (row(0.2, 0), "trained"),
        # A linear logit that is negative everywhere still gets gradients.
        (row(0.72, 2, logits="linear"), "trained"),
    ],
)
def test_outcomes(found, expected):
    assert stuck_report.outcome(found) == expected


def test_the_tables_count_outcomes():
    rows = all_rows()
    same = {"logits": "relu", "learning_rate": 0.2, "suspicion": "", "sparsity": 0.75}
    [index] = [i for i, r in enumerate(rows) if same.items() <= r.items()]
    rows[index : index + 1] = [row(0.72, 2), row(0.1, 0), row(0.9, 0)]
    text = stuck_report.markdown(rows)
    # Mean of 72, 10 and 90%; one stuck, one untrained, of three.
    cells = "| 75% | 90.0 | 90.0 (0, 0, 1) | 90.0 (0, 0, 1) | 57.3 (1, 1, 3) |"
    assert cells in text and "| 75% | 57.3 (1, 1, 3) |" in text
    # Without 2 of 10 classes 72% are left of 90%, as it has.
    assert "Of 1 stuck networks above 20%, 0 exceed" in text
    assert "1 are within 5 points" in text
    assert "No network was stuck" in stuck_report.markdown(all_rows())


def test_the_picture_is_written(tmp_path):
    stuck_report.plot(all_rows(0.7, 2), tmp_path / "stuck.png")
    assert (tmp_path / "stuck.png").read_bytes().startswith(b"\x89PNG")
