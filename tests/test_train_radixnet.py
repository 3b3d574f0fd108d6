"""The experiment with sparse topologies, and the flags of its example."""

import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import sparsenet_tf as stf
from sparsenet_tf.experiments import command_line, data, train_radixnet
from sparsenet_tf.experiments.train_radixnet import NETWORKS, Record, Settings

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "train_radixnet.py"
TINY = Settings(steps=2, seeds=(0,), batch_size=20)
LOGITS = 1000  # kernel weights of 100 -> 10
LENET_5_ENDS = 5 * 5 * 20 + 384 * 10  # its first and its last kernel
# Kernel weights that exist; of random networks those expected.
CONNECTIONS = {
    "dense": 784 * 300 + 300 * 100 + LOGITS,
    "small, 50% sparse": 117_600 + 15_000 + LOGITS,
    "small, 90% sparse": 23_520 + 3_000 + LOGITS,
    "large, 90% sparse": 235_200 + 30_000 + LOGITS,
}
STORED_WHEN_MASKED = {
    "small, 50% sparse": 784 * 300 + 300 * 100 + LOGITS,
    "small, 90% sparse": 784 * 300 + 300 * 100 + LOGITS,
    "large, 90% sparse": 784 * 3000 + 3000 * 100 + LOGITS,
}


def import_example():
    spec = importlib.util.spec_from_file_location("train_radixnet_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def few_digits():
    digits = data.load()
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
    records = train_radixnet.run(TINY, few_digits(), lambda *call: calls.append(call))
    return records, calls


def is_near(count, expected, possible):
    """Whether a sum of `possible` coin tosses is within five deviations."""
    share = expected / possible
    return abs(count - expected) < 5 * math.sqrt(possible * share * (1 - share))


# The experiment.


@pytest.mark.slow
def test_every_network_has_its_record(outcome):
    records, _ = outcome
    wanted = [
        (0, network, topology)
        for network in CONNECTIONS
        for topology in (["dense"] if network == "dense" else ["radix", "random"])
    ]
    assert [(r.seed, r.network, r.topology) for r in records] == wanted
    assert {(r.dataset, r.model) for r in records} == {("mnist_5k", "lenet_300_100")}
    assert all(0 <= r.accuracy <= 1 for r in records)
    assert all(0 < r.milliseconds_per_step < 60_000 for r in records)
    for r in records:
        assert r.hidden == ("3000-100" if r.network.startswith("large") else "300-100")


@pytest.mark.slow
def test_connections_are_counted_exactly(outcome):
    for r in outcome[0]:
        expected = CONNECTIONS[r.network]
        if r.topology == "random":
            assert r.stored_weights == STORED_WHEN_MASKED[r.network]
            possible = r.stored_weights - LOGITS
            assert is_near(r.connections - LOGITS, expected - LOGITS, possible)
        else:
            assert r.connections == r.stored_weights == expected


@pytest.mark.slow
def test_each_run_takes_exactly_its_steps(outcome):
    _, calls = outcome
    runs = 1 + 2 * 3
    assert [done for done, *_ in calls] == list(range(1, 2 * runs + 1))
    assert {total for _, total, _ in calls} == {2 * runs}
    names = list(dict.fromkeys(name for *_, name in calls))
    assert len(names) == runs
    assert names[:2] == ["seed 0, dense", "seed 0, small, 50% sparse, radix"]


@pytest.mark.slow
def test_equal_seeds_give_equal_accuracies_whatever_else_is_trained(
    outcome, monkeypatch
):
    small = NETWORKS["lenet_300_100"][2]
    monkeypatch.setitem(NETWORKS, "lenet_300_100", (small,))
    again = train_radixnet.run(dataclasses.replace(TINY, seeds=(3, 0)), few_digits())
    before = [r for r in outcome[0] if r.network == small.name]
    assert [r.seed for r in again] == [3, 3, 0, 0] and len(before) == 2

    def untimed(records):
        return [dataclasses.replace(r, milliseconds_per_step=None) for r in records]

    assert untimed(again[2:]) == untimed(before)
    # Each seed has its own random mask, and all have one RadiX-Net.
    assert again[1].connections != again[3].connections
    assert again[0].connections == again[2].connections


def test_the_paper_s_radix_net():
    small = NETWORKS["lenet_300_100"][2]
    radix = dict(train_radixnet.build(small, "lenet_300_100", few_digits(), 0))["radix"]
    net = stf.topology.RadixNet((10, 10), (8, 3, 1), drop=(16, 0, 0))
    found = [radix.get_layer(name).topology for name in ("dense1", "dense2")]
    assert found == list(net.layers)


def test_random_masks_have_the_density_of_the_radix_net(monkeypatch):
    sparsities = {}
    sparse_net = stf.sparse_net

    def spy(model, sparsity, topology, *args, **kwargs):
        sparsities[topology] = sparsity
        return sparse_net(model, sparsity, topology, *args, **kwargs)

    monkeypatch.setattr(stf, "sparse_net", spy)
    # Of these sizes there is no RadiX-Net of exactly 85%.
    digits = dataclasses.replace(few_digits(), x_train=np.zeros((1, 61, 1, 1)))
    network = train_radixnet.Network("odd", 0.85, {"units": (53, 47)})
    models = dict(train_radixnet.build(network, "lenet_300_100", digits, 0))
    layers = [models["radix"].get_layer(name).topology for name in ("dense1", "dense2")]
    connections = sum(layer.num_connections for layer in layers)
    possible = 61 * 53 + 53 * 47
    achieved = 1 - connections / possible
    assert abs(achieved - 0.85) > 1e-4
    assert sparsities == {"radix": 0.85, "random": pytest.approx(achieved, abs=1e-9)}
    masks = stf.get_masks(models["random"])
    assert list(masks) == ["dense1/kernel", "dense2/kernel"]
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert is_near(kept, connections, possible)


def test_divergence_is_named():
    settings = Settings(learning_rate=1e30, steps=8, seeds=(0,))
    with pytest.raises(FloatingPointError, match="`learning_rate`"):
        train_radixnet.run(settings, few_digits())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "mnist_6k"),
        ("model", "lenet_6"),
        ("steps", 0),
        ("steps", 2.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
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


# The example.


def parse(example, *arguments):
    values = flags.FlagValues()
    example.define_flags(values)
    values(["train_radixnet.py", *arguments])
    return values


def test_importing_the_example_defines_no_flags():
    import absl.app  # noqa: F401  which defines its own

    before = set(flags.FLAGS)
    import_example()
    assert set(flags.FLAGS) == before


def test_flags_give_settings():
    example = import_example()
    assert example.settings_from_flags(parse(example)) == Settings()
    values = parse(example, "--steps=5", "--seeds=4,2", "--model=lenet_5")
    expected = Settings(steps=5, seeds=(4, 2), model="lenet_5")
    assert example.settings_from_flags(values) == expected
    assert values.output_dir == "results/train_radixnet"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--steps=0", "`steps`"),
        ("--output_dir=file", "--output_dir=file cannot be written to"),
        ("--data_dir=nowhere", "`data_dir`"),
        ("--steps=5 word", "word"),
    ],
)
def test_errors_come_before_the_training(argument, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    example = import_example()
    monkeypatch.setattr(example, "run", lambda *_: pytest.fail("it trained"))
    values = parse(example, *argument.split())
    monkeypatch.setattr(flags, "FLAGS", values)
    with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
        example.main(["train_radixnet.py", *values(["", *argument.split()])[1:]])


@pytest.mark.slow
def test_main_writes_its_files(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    example = import_example()
    output_dir = tmp_path / "new" / "folder"
    arguments = "--model=lenet_5 --steps=1 --seeds=1 --batch_size=10 --output_dir"
    values = parse(example, *arguments.split(), str(output_dir))
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(command_line, "load", lambda *_: few_digits())
    example.main(["train_radixnet.py"])
    results, picture = output_dir / "results.json", output_dir / "accuracy.png"
    assert sorted(output_dir.iterdir()) == [picture, results]
    printed = capsys.readouterr().out
    assert f"{results}\n{picture}" in printed and "\r" not in printed
    assert "90% sparse" in printed and "100% trained" in printed
    check_lenet_5([Record(**r) for r in json.loads(results.read_text())["records"]])


def check_lenet_5(records):
    conv2, dense1 = 5 * 5 * 20 * 50, 2450 * 384
    assert [(r.network, r.topology) for r in records] == [
        ("dense", "dense"),
        ("50% sparse", "radix"),
        ("50% sparse", "random"),
        ("90% sparse", "radix"),
        ("90% sparse", "random"),
    ]
    for r, share in zip(records, (1, 0.5, 0.5, 0.1, 0.1), strict=True):
        expected = round(share * (conv2 + dense1))
        if r.topology == "random":
            assert is_near(r.connections - LENET_5_ENDS, expected, conv2 + dense1)
            assert r.stored_weights == conv2 + dense1 + LENET_5_ENDS
        else:
            assert r.connections == r.stored_weights == expected + LENET_5_ENDS
    assert {r.hidden for r in records} == {"20-50-384"}
    # There was no execution after the first, which is not timed.
    assert {r.milliseconds_per_step for r in records} == {None}


def test_divergence_ends_main_with_a_line(tmp_path, monkeypatch):
    example = import_example()
    arguments = ["--steps=9", "--learning_rate=1e30", f"--output_dir={tmp_path}"]
    monkeypatch.setattr(flags, "FLAGS", parse(example, *arguments))
    monkeypatch.setattr(command_line, "load", lambda *_: few_digits())
    with pytest.raises(SystemExit, match="\nError: Training diverged.*`learning_rate`"):
        example.main(["train_radixnet.py"])
    assert list(tmp_path.iterdir()) == []
