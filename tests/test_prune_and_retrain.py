"""The pruning experiment, and the flags of its example."""

import dataclasses
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import sparsenet_tf as stf
from sparsenet_tf.experiments import command_line, data, prune_and_retrain, training
from sparsenet_tf.experiments.prune_and_retrain import METHODS, Settings

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "prune_and_retrain.py"
TINY = Settings(sparsities=(0.9,), steps=9, seeds=(0, 3), batch_size=20)


def import_example():
    spec = importlib.util.spec_from_file_location("prune_and_retrain_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def few_digits():
    digits = data.load()
    # Four batches and a rest.
    return dataclasses.replace(
        digits,
        x_train=digits.x_train[:93],
        y_train=digits.y_train[:93],
        x_test=digits.x_test[:50],
        y_test=digits.y_test[:50],
    )


@pytest.fixture(scope="module")
def outcome():
    calls = []
    records = prune_and_retrain.run(
        TINY, few_digits(), lambda *call: calls.append(call)
    )
    return records, calls


# The experiment.


def test_every_network_has_its_record(outcome):
    records, _ = outcome
    wanted = [
        (seed, sparsity, method)
        for seed in TINY.seeds
        for sparsity, methods in ((0.0, ["dense"]), (0.9, METHODS))
        for method in methods
    ]
    assert [(r.seed, r.sparsity, r.method) for r in records] == wanted
    assert {(r.dataset, r.model) for r in records} == {("mnist_5k", "lenet_300_100")}
    assert all(0 <= r.accuracy <= 1 for r in records)


def test_the_sparsity_is_reached(outcome):
    for record in outcome[0]:
        assert record.sparsity_reached == pytest.approx(record.sparsity, abs=1e-4)


@pytest.mark.parametrize("scope", prune_and_retrain.SCOPES)
def test_scope_says_what_has_the_sparsity(scope):
    settings = dataclasses.replace(TINY, scope=scope)
    repetition = prune_and_retrain._Repetition(
        settings, few_digits(), 0, lambda name: lambda step: None
    )
    dense = repetition.train(repetition.new_model(), "dense")
    for model in repetition.sparse_models(dense, 0.9):
        kept = [mask.mean() for mask in stf.get_masks(model).values()]
        assert (max(kept) < 0.101) == (scope == "layer")


def test_each_run_takes_exactly_its_steps(outcome):
    _, calls = outcome
    runs = 2 * (1 + 3)
    assert calls[-1][:2] == (9 * runs, 9 * runs)
    assert [done for done, *_ in calls] == sorted(done for done, *_ in calls)
    names = list(dict.fromkeys(name for *_, name in calls))
    assert len(names) == runs
    assert names[1] == "seed 0, iterative, sparsity 0.9"


def test_a_seed_gives_the_same_records_alone(outcome):
    alone = dataclasses.replace(TINY, seeds=(3,))
    again = prune_and_retrain.run(alone, few_digits())
    assert again == [r for r in outcome[0] if r.seed == 3]


def test_each_image_comes_once_before_any_comes_again():
    digits = few_digits()
    digits = dataclasses.replace(digits, y_train=np.arange(93))
    batches = training.Batches(digits, TINY, seed=0)
    labels = [batches[i][1].tolist() for i in range(len(batches))]
    assert len(labels) == 9 and {len(batch) for batch in labels} == {20}
    first, second = sum(labels[:4], []), sum(labels[4:8], [])
    assert len(set(first)) == len(set(second)) == 80 and first != second
    # Whatever the order of access.
    assert batches[2][1].tolist() == labels[2]
    np.testing.assert_array_equal(batches[2][0], digits.x_train[labels[2]])
    other = training.Batches(digits, TINY, seed=1)
    assert other[2][1].tolist() != labels[2]
    large = dataclasses.replace(TINY, batch_size=1000)
    assert sorted(training.Batches(digits, large, 0)[8][1]) == list(range(93))


def test_lenet_5():
    settings = Settings(model="lenet_5", sparsities=(0.9,), steps=2, seeds=(0,))
    records = prune_and_retrain.run(settings, few_digits())
    assert [r.method for r in records] == ["dense", *METHODS]
    assert records[1].sparsity_reached == pytest.approx(0.9, abs=1e-3)


def test_divergence_is_named():
    settings = Settings(learning_rate=1e30, sparsities=(0.5,), steps=8, seeds=(0,))
    with pytest.raises(FloatingPointError, match="`learning_rate`"):
        prune_and_retrain.run(settings, few_digits())


def test_the_datasets_are_those_that_load():
    with pytest.raises(ValueError) as error:
        data.load("unknown")
    assert repr(training.DATASETS) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "mnist_6k"),
        ("model", "lenet_6"),
        ("sparsities", ()),
        ("sparsities", (0.5, 0.5)),
        ("sparsities", (0.0,)),
        ("sparsities", (1.0,)),
        ("sparsities", (float("nan"),)),
        ("steps", 0),
        ("steps", 2.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("begin_step", -1),
        ("begin_step", 1001),
        ("end_step", 99),
        ("end_step", 1001),
        ("frequency", 0),
        ("scope", "model"),
        ("batch_size", 0),
        ("seeds", ()),
        ("seeds", (1, 1)),
        ("seeds", (-1,)),
        ("seeds", (0.5,)),
    ],
)
def test_wrong_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received"):
        Settings(**{name: value})


def test_the_schedule_follows_the_steps():
    tiny = Settings(steps=1)
    assert (tiny.begin_step, tiny.end_step, tiny.frequency) == (0, 1, 1)
    late = Settings(steps=100, begin_step=90)
    assert (late.begin_step, late.end_step) == (90, 90)


# The example.


def parse(example, *arguments):
    values = flags.FlagValues()
    example.define_flags(values)
    values(["prune_and_retrain.py", *arguments])
    return values


def test_importing_the_example_defines_no_flags():
    import absl.app  # noqa: F401  which defines its own

    before = set(flags.FLAGS)
    import_example()
    assert set(flags.FLAGS) == before


def test_flags_give_settings():
    example = import_example()
    assert example.settings_from_flags(parse(example)) == Settings()
    values = parse(example, "--sparsities=0.5,0.9", "--seeds=4", "--frequency=5")
    expected = Settings(sparsities=(0.5, 0.9), seeds=(4,), frequency=5)
    assert example.settings_from_flags(values) == expected
    assert {f.name for f in dataclasses.fields(Settings)} <= set(values)
    assert "--sparsities=0.5,0.9" in values.flags_into_string()


@pytest.mark.parametrize(
    "argument",
    [
        "sparsities=0.5,high",
        "seeds=0.5",
        "seeds=",
        "steps=many",
        "model=x",
        "dataset=x",
    ],
)
def test_flags_that_cannot_be_read_are_named(argument):
    with pytest.raises(flags.IllegalFlagValueError, match=argument.split("=")[0]):
        parse(import_example(), f"--{argument}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--steps=0", "`steps`"),
        ("--sparsities=1.5", "`sparsities`"),
        ("--output_dir=file", "--output_dir=file cannot be written to"),
        ("--output_dir=file/below", "cannot be written to"),
        ("--data_dir=nowhere", "`data_dir`"),
        ("--dataset=mnist --data_dir=nowhere", "`data_dir`"),
        ("--steps=5 word", "word"),
    ],
)
def test_errors_come_before_the_training(argument, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    example = import_example()
    monkeypatch.setattr(example, "run", lambda *_: pytest.fail("it trained"))
    values = parse(example, *argument.split())
    monkeypatch.setattr(example.flags, "FLAGS", values)
    with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
        example.main(["prune_and_retrain.py", *values(["", *argument.split()])[1:]])


def test_the_example_writes_its_files(tmp_path, capsys):
    example = import_example()
    settings = Settings(sparsities=(0.5,), steps=2, seeds=(0,))
    output_dir = tmp_path / "new" / "folder"
    assert command_line.prepare(settings, output_dir).name == "mnist_5k"
    results, picture = example.run(settings, few_digits(), output_dir)
    assert sorted(output_dir.iterdir()) == sorted([results, picture])
    assert len(json.loads(results.read_text())["records"]) == 5
    printed = capsys.readouterr().out
    assert str(results) in printed and str(picture) in printed
    assert "iterative, retrained" in printed and "\r" not in printed


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "breaks"), [(io.StringIO, 11), (Terminal, 1)])
def test_progress_is_short(stream, breaks):
    stream = stream()
    progress = command_line.Progress(stream)
    for done in range(1001):
        progress(done, 1000, "seed 0, dense" if done < 500 else "seed 0")
    text = stream.getvalue()
    assert text.count("\n") == breaks and text.endswith("\n")
    assert "100%" in text and len(text) < 2000
    assert ("\r" in text) == stream.isatty()


def test_the_accuracy_counts_all_images():
    labels = np.arange(10, dtype="int32") % 3
    scores = np.eye(3, dtype="float32")[labels]
    scores[7:] = 0.0  # the first class, which is right for the last image alone

    def model(x, training):
        assert not training
        return x

    for batch_size in (3, 10, 1000):
        accuracy = training.accuracy(model, scores, labels, batch_size)
        assert accuracy == 0.8
