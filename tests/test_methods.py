"""The comparison of methods: its runs, its tables and its picture."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

import sparsenet_tf as stf
from sparsenet_tf.experiments import methods, methods_report
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.methods import METHODS, Method, Settings
from sparsenet_tf.experiments.runs import run_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHORT = Training(learning_rate=0.1, steps=6, evaluate_every=6)


def test_each_run_is_one_of_its_own():
    runs = methods.runs(Settings("small"))
    scale = methods.SCALES["small"]
    count = scale.seeds * (1 + len(METHODS) * len(scale.sparsities))
    assert len(runs) == len(set(map(run_name, runs))) == count
    # All are trained alike.
    assert len({run.training for run in runs}) == 1


def test_some_methods_alone():
    runs = methods.runs(Settings("smoke", methods=("SNIP",)))
    assert [run.method for run in runs] == ["dense", "SNIP"]


# One of each kind; the others are slow only because there are many.
QUICK = {"random, ERK", "RadiX", "SNIP", "RigL", "lottery ticket"}


@pytest.mark.parametrize(
    "method",
    [
        method if method in QUICK else pytest.param(method, marks=pytest.mark.slow)
        for method in METHODS
    ],
)
def test_a_method_reaches_its_sparsity(method):
    history, result = Method(SHORT, method, 0.9, seed=1).execute()
    # RadiX layers have densities of one over a whole number.
    tolerance = 3e-3 if method == "RadiX" else 1e-4
    assert result["sparsity"] == pytest.approx(0.9, abs=tolerance)
    assert set(history) == {"retrained", "retrained_scaled"}
    accuracies = [result[name] for name in methods_report.OUTCOMES]
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    shares = list(result["sparsities"].values())
    if method in ("random, uniform",):
        assert shares == pytest.approx([0.9] * 3, abs=1e-3)
    if method in ("random, ERK", "SET", "RigL"):
        shapes = [(784, 300), (300, 100), (100, 10)]
        expected = stf.topology.allocate(shapes, 0.9, "erk")
        assert shares == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_runs_repeat():
    run = Method(SHORT, "RigL", 0.9)
    assert run.execute() == run.execute()


def test_dense_has_no_masks():
    history, result = Method(SHORT, "dense", 0.0).execute()
    assert set(result) == {"accuracy"}
    assert history["method"]["step"] == [6]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "magic"},
        {"sparsity": 1.0},
        {"sparsity": 0.0},
        {"seed": -1},
    ],
)
def test_settings_of_a_run_name_what_is_wrong(changes):
    [name] = changes
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Method(**{"training": SHORT, "method": "SNIP", "sparsity": 0.5, **changes})


@pytest.mark.parametrize(
    "changes",
    [{"scale": "huge"}, {"dataset": "cifar10"}, {"methods": ()}, {"methods": ("x",)}],
)
def test_settings_name_what_is_wrong(changes):
    [name] = changes
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Settings(**changes)


def made_up_rows():
    runs, outcomes = [], []
    for seed in range(2):
        runs.append(Method(SHORT, "dense", 0.0, seed))
        outcomes.append(({}, {"accuracy": 0.95 + 0.01 * seed}))
        for number, method in enumerate(METHODS):
            for sparsity in (0.9, 0.98):
                runs.append(Method(SHORT, method, sparsity, seed))
                accuracy = 0.9 - 0.01 * number + 0.02 * seed - (sparsity - 0.9)
                result = {"accuracy": accuracy, "sparsity": sparsity}
                result |= {"retrained": 0.5, "retrained_scaled": 0.6}
                outcomes.append(({}, result))
    return methods_report.rows(runs, outcomes)


def test_the_tables():
    text = methods_report.markdown(made_up_rows())
    assert "Dense: 95.50 ± 0.71." in text
    assert "| random, uniform | 91.00 ± 1.41 | 83.00 ± 1.41 |" in text
    assert "| random, uniform | 50.00 ± 0.00 | 50.00 ± 0.00 |" in text
    assert text.count("| RigL |") == 3


def test_the_picture_is_written(tmp_path):
    methods_report.plot(made_up_rows(), tmp_path / "methods.png")
    assert (tmp_path / "methods.png").read_bytes().startswith(b"\x89PNG")


def test_all_methods_can_be_drawn():
    assert set(methods_report._STYLES) == set(METHODS)


@pytest.mark.slow
def test_the_script_goes_on_with_what_is_done(tmp_path):
    arguments = [
        sys.executable,
        str(ROOT / "examples" / "compare_methods.py"),
        "--scale=smoke",
        "--method=SNIP",
        f"--output_dir={tmp_path}",
    ]

    def call(*more):
        done = subprocess.run(
            [*arguments, *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return {
            name: (tmp_path / name).read_bytes()
            for name in ("methods.csv", "methods.md", "methods.png")
        }

    first = call()
    assert first["methods.csv"].decode().splitlines()[0].startswith("method,sparsity")
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/result.json")}
    assert len(times) == 2
    assert call("--method=random, uniform")["methods.csv"].startswith(
        first["methods.csv"]
    )
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_the_script_defines_no_flags_when_imported():
    from absl import flags

    before = set(flags.FLAGS)
    path = ROOT / "examples" / "compare_methods.py"
    spec = importlib.util.spec_from_file_location("compare_methods", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert set(flags.FLAGS) == before
