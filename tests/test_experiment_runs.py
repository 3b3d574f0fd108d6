"""The runs of the paper's figures: networks made, trained, pruned and retrained."""

import collections
import dataclasses
import json
import math
import types

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.experiments import (
    config,
    data,
    pruning_runs,
    sweep_command,
    topology_runs,
)
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.pruning_runs import FRESH, Iterative, OneTime
from sparsenet_tf.experiments.runs import run_name
from sparsenet_tf.experiments.topology_runs import Topology
from sparsenet_tf.layers import RadixConv2D, RadixDense
from sparsenet_tf.layers.masked import masked_kernels

FEW = Training(steps=4, batch_size=50, evaluate_every=2, learning_rate=0.1)


@pytest.fixture(scope="module")
def few_digits():
    digits = data.load("mnist_5k")
    cut = {"x_train": 200, "y_train": 200, "x_test": 100, "y_test": 100}
    parts = {name: getattr(digits, name)[:count] for name, count in cut.items()}
    return dataclasses.replace(digits, **parts)


@pytest.fixture(autouse=True)
def tiny(few_digits, monkeypatch):
    """A few digits in place of each data set."""
    monkeypatch.setattr(config, "load", lambda name, data_dir: few_digits)
    return few_digits


def colours(count=20, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((count, 32, 32, 3), "float32")
    y = rng.integers(0, 10, count).astype("int32")
    return data.Dataset("cifar10", x, y, x[: count // 2], y[: count // 2], 10)


def assert_json(value):
    assert json.loads(json.dumps(value, allow_nan=False)) == value


# Training.


@pytest.mark.parametrize(
    "name, value",
    [
        ("dataset", "imagenet"),
        ("model", "vgg"),
        ("network", "tomorrow"),
        ("logits", "softmax"),
        ("steps", 0),
        ("steps", 1.5),
        ("batch_size", 0),
        ("evaluate_every", -1),
        ("warmup", -1),
        ("warmup", 1001),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", math.nan),
    ],
)
def test_a_bad_setting_is_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {value!r}"):
        Training(**{name: value})


def test_the_learning_rate_rises_linearly_in_the_warmup(tiny):
    training = dataclasses.replace(FEW, learning_rate=0.4, warmup=4)
    model = training.new_model(tiny, 0)
    rates = []
    for step in (0, 1, 2, 3, 4, 5, 1000):
        model.optimizer.iterations.assign(step)
        rates.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4], atol=1e-6)
    constant = FEW.new_model(tiny, 0).optimizer
    assert float(constant.learning_rate) == pytest.approx(0.1)
    assert type(constant) is keras.optimizers.SGD and constant.momentum == 0.9


def test_the_first_step_of_a_warmup_moves_nothing(tiny):
    training = dataclasses.replace(FEW, warmup=2, steps=2, evaluate_every=1)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()[0])
    )
    model = training.new_model(tiny, 0)
    before = model.get_weights()[0]
    training.train(model, tiny, 0, [watch])
    np.testing.assert_array_equal(seen[0], before)
    assert (seen[1] != before).any()


@pytest.mark.parametrize("model", ["lenet_300_100", "lenet_5"])
def test_the_authors_settings_arrive_in_the_layers(tiny, model):
    today = dataclasses.replace(FEW, model=model)
    authors = dataclasses.replace(today, network="authors", logits="relu")
    new, usual = authors.new_model(tiny, 0), today.new_model(tiny, 0)
    for name in ("dense1", "logits"):
        layer, other = new.get_layer(name), usual.get_layer(name)
        np.testing.assert_array_equal(layer.bias, np.float32(0.1))
        assert layer.kernel_regularizer.l2 == pytest.approx(0.002)
        assert layer.kernel_initializer.stddev == 0.04
        assert not other.bias.numpy().any() and other.kernel_regularizer is None
    assert new.get_layer("logits").activation is keras.activations.relu
    assert usual.get_layer("logits").activation is keras.activations.linear
    norms = [layer.name for layer in new.layers if layer.name.startswith("norm")]
    assert norms == (["norm1", "norm2"] if model == "lenet_5" else [])
    if model == "lenet_5":
        assert new.get_layer("conv1").kernel_initializer.stddev == 0.05


@pytest.mark.parametrize("network", ["today", "authors"])
@pytest.mark.parametrize("logits", ["linear", "relu"])
def test_the_logits_setting_decides_alone(tiny, network, logits):
    training = dataclasses.replace(FEW, network=network, logits=logits)
    found = training.new_model(tiny, 0)(tiny.x_test).numpy()
    assert (found.min() < 0) == (logits == "linear")


def test_equal_seeds_train_equally_and_others_do_not(tiny):
    runs = []
    for seed in (0, 1, 1, 2):  # The first in a process can differ in a last bit.
        model = FEW.new_model(tiny, seed)
        history = FEW.train(model, tiny, seed)
        assert history["step"] == [2, 4] and len(history["accuracy"]) == 2
        assert_json(history)
        runs.append((history, model.get_weights()))
    assert runs[1][0] == runs[2][0]
    for a, b, c in zip(*(weights for _, weights in runs[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_divergence_is_an_error_that_names_the_remedy(tiny):
    training = dataclasses.replace(FEW, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="at step 2.*`learning_rate`"):
        training.train(training.new_model(tiny, 0), tiny, 0)


def test_where_the_data_lie_does_not_name_a_run():
    here, there = (dataclasses.replace(FEW, data_dir=d) for d in ("here", "there"))
    assert run_name(here) == run_name(there) == run_name(FEW)
    assert run_name(OneTime(here, (0.5,))) == run_name(OneTime(there, (0.5,)))
    assert run_name(Topology(here)) == run_name(Topology(there))
    assert run_name(FEW) != run_name(dataclasses.replace(FEW, steps=5))


def test_the_data_are_loaded_from_where_they_lie(monkeypatch):
    monkeypatch.setattr(config, "load", lambda *arguments: arguments)
    training = dataclasses.replace(FEW, dataset="mnist", data_dir="there")
    assert training.load() == ("mnist", "there")


# CIFAR-10.

CIFAR10 = Training(
    "cifar10", steps=2, batch_size=10, evaluate_every=2, learning_rate=0.01
)


def front(seed=0):
    """The layers before the network."""
    return keras.Sequential(config._authors_augmentation(seed))


@pytest.mark.parametrize("network", ["today", "authors"])
@pytest.mark.parametrize("model", ["lenet_300_100", "lenet_5"])
@pytest.mark.often("lenet_300_100-today", "lenet_5-authors")
def test_cifar10_trains(model, network):
    training = dataclasses.replace(CIFAR10, model=model, network=network)
    dataset = colours()
    model = training.new_model(dataset, 0)
    assert model.input_shape == (None, 32, 32, 3)
    assert training.input_shape(dataset) == (24, 24, 3)
    before = model.get_layer("dense1").kernel.numpy()
    history = training.train(model, dataset, 0)
    assert history["step"] == [2] and 0 <= history["accuracy"][0] <= 1
    assert (model.get_layer("dense1").kernel.numpy() != before).any()


def test_cifar10s_test_images_are_cropped_in_the_middle():
    x = colours().x_test
    layers = keras.Sequential([keras.Input((32, 32, 3)), *front().layers])
    found = [layers(x, training=False).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (10, 24, 24, 3)
    middle = x[:, 4:28, 4:28]
    middle = middle - middle.mean((1, 2, 3), keepdims=True)
    # Keras adds 0.001 to the variance.
    middle /= np.sqrt(middle.var((1, 2, 3), keepdims=True) + 1e-3)
    np.testing.assert_allclose(found[0], middle, atol=1e-4)


def test_cifar10s_test_outputs_are_deterministic():
    dataset = colours()
    model = CIFAR10.new_model(dataset, 0)
    found = [model(dataset.x_test, training=False).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*found)
    found = [model(dataset.x_test, training=True).numpy() for _ in range(2)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_cifar10s_changes_of_an_image_do_not_depend_on_one_another():
    x = np.full((200, 24, 24, 3), 0.5, "float32")
    x[:, :, 0] = 0.55  # the left edge is lighter
    found = {type(layer).__name__: layer for layer in front().layers}
    flip, brightness, contrast = (
        found[f"Random{name}"] for name in ("Flip", "Brightness", "Contrast")
    )
    flipped = flip(x, training=True).numpy()[:, 0, 0, 0] != x[:, 0, 0, 0]
    lighter = brightness(x, training=True).numpy()[:, 0, 5, 0]
    found = contrast(x, training=True).numpy()[:, 0]
    changes = [flipped, lighter, found[:, 0, 0] - found[:, 5, 0]]
    assert all(np.std(change) > 0 for change in changes)
    correlations = np.corrcoef(changes)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.35  # five standard deviations


# Pruning.


def spy_on_measured(monkeypatch):
    found, measure = [], pruning_runs.measure

    def spy(model, *arguments):
        found.append(model)
        return measure(model, *arguments)

    monkeypatch.setattr(pruning_runs, "measure", spy)
    return found


def sparsities(model):
    return {
        path.split("/")[-2]: 1 - masked.mask_value().mean()
        for path, masked in masked_kernels(model).items()
    }


def kernel(model):
    return model.get_layer("dense1").kernel.numpy()


def assert_masked_are_zero(model):
    for masked in masked_kernels(model).values():
        assert not masked.kernel_value()[~masked.mask_value()].any()


@pytest.mark.slow
def test_one_time(tiny, monkeypatch):
    measured = spy_on_measured(monkeypatch)
    run = OneTime(FEW, (0.5, 0.9), seed=3)
    history, result = run.execute()
    assert_json(history), assert_json(result)
    assert set(history) == {"dense", "0.5", "0.9"}
    assert all(curve["step"] == [2, 4] for curve in history.values())
    assert set(result) == {"dense", "pruned", "retrained"}
    assert list(result["pruned"]) == list(result["retrained"]) == ["0.5", "0.9"]
    for name in ("0.5", "0.9"):
        last = history[name]["accuracy"][-1]
        assert result["retrained"][name] == pytest.approx(last)
    assert result["dense"] == history["dense"]["accuracy"][-1]
    pairs = zip(measured[::2], measured[1::2], (0.5, 0.9), strict=True)
    for pruned, new, sparsity in pairs:
        for found in map(sparsities, (pruned, new)):
            assert set(found) == {"dense1", "dense2", "logits"}
            assert list(found.values()) == pytest.approx([sparsity] * 3, abs=1e-3)
        assert_masked_are_zero(new), assert_masked_are_zero(pruned)
        masks, others = stf.get_masks(pruned), stf.get_masks(new)
        for path, mask in masks.items():
            np.testing.assert_array_equal(mask, others[path])
        assert (kernel(new) != kernel(pruned)).any()
    run = OneTime(FEW, (0.9,), seed=3)
    history, result = run.execute()  # The first in a process can differ in a last bit.
    assert run.execute() == (history, result)
    assert OneTime(FEW, (0.9,), seed=4).execute() != (history, result)


def test_one_time_globally_ranks_all_kernels_together(tiny, monkeypatch):
    measured = spy_on_measured(monkeypatch)
    OneTime(FEW, (0.9,), scope="global").execute()
    for model in measured:
        found = sparsities(model)
        assert found["dense1"] > 0.9 > found["dense2"] > found["logits"]
        kept = sum(mask.sum() for mask in stf.get_masks(model).values())
        assert kept == pytest.approx(26_620, abs=5)


ITERATIVE = Iterative(FEW, 0.9, 1, 3, frequency=1, retrainings=2)


def test_iterative(tiny, monkeypatch):
    measured = spy_on_measured(monkeypatch)
    history, result = ITERATIVE.execute()
    assert_json(history), assert_json(result)
    assert set(history) == set(result) == {"pruned", "retrained"}
    assert result["pruned"] == history["pruned"]["accuracy"][-1]
    assert len(history["retrained"]) == len(result["retrained"]) == 2
    for curve, found in zip(history["retrained"], result["retrained"], strict=True):
        assert set(found) == {"accuracy", "dead_logits", "classes"}
        assert found["accuracy"] == pytest.approx(curve["accuracy"][-1])
        assert 0 <= found["dead_logits"] <= 10 and 1 <= found["classes"] <= 10
    first, second = measured
    for model in measured:
        assert list(sparsities(model).values()) == pytest.approx([0.9] * 3, abs=1e-3)
        assert_masked_are_zero(model)
    for path, mask in stf.get_masks(first).items():
        np.testing.assert_array_equal(mask, stf.get_masks(second)[path])
    assert (kernel(first) != kernel(second)).any()
    assert history["retrained"][0] != history["retrained"][1]
    run = dataclasses.replace(ITERATIVE, retrainings=1)
    assert run.execute() == run.execute()


def test_layers_are_left_dense_where_that_is_wanted(tiny, monkeypatch):
    measured = spy_on_measured(monkeypatch)
    dataclasses.replace(ITERATIVE, dense_layers=("logits",), retrainings=1).execute()
    (model,) = measured
    found = {"logits": 0.0} | sparsities(model)
    assert found == pytest.approx({"dense1": 0.9, "dense2": 0.9, "logits": 0}, abs=1e-3)
    assert np.count_nonzero(model.get_layer("logits").kernel) == 1000


def test_a_retraining_has_settings_of_its_own(tiny, monkeypatch):
    measured = spy_on_measured(monkeypatch)
    retraining = dataclasses.replace(FEW, steps=6, logits="relu", learning_rate=0.05)
    run = dataclasses.replace(ITERATIVE, retraining=retraining, retrainings=1)
    history, result = run.execute()
    (model,) = measured
    assert model.get_layer("logits").activation is keras.activations.relu
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert history["pruned"]["step"] == [2, 4]
    assert history["retrained"][0]["step"] == [2, 4, 6]


def test_no_retraining(tiny):
    history, result = dataclasses.replace(ITERATIVE, retrainings=0).execute()
    assert history["retrained"] == result["retrained"] == []


def test_retrained_seeds_are_those_that_are_promised(tiny, monkeypatch):
    seeds = []
    found = {"accuracy": 0.5}

    def fake(training, model, masks, seed, *rest):
        seeds.append(seed)
        return {}, found

    monkeypatch.setattr(pruning_runs, "retrain", fake)
    dataclasses.replace(ITERATIVE, seed=5).execute()
    OneTime(FEW, (0.5,), seed=7).execute()
    assert seeds == [FRESH + 5, FRESH + 6, FRESH + 7]


def test_scaling_to_fan_in_makes_the_kept_weights_larger(tiny, monkeypatch):
    plain = FEW.new_model(tiny, 0)
    masks = stf.get_masks(stf.pruning.prune_one_shot(plain, 0.75))
    still = dataclasses.replace(FEW, steps=1, learning_rate=1e-12)
    measured = spy_on_measured(monkeypatch)
    for scaled in (False, True):
        pruning_runs.retrain(still, plain, masks, 0, tiny, scaled)
    plain, scaled = (np.std(kernel(model)) for model in measured)
    assert scaled / plain == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    "name, value",
    [
        ("sparsity", 0.0),
        ("sparsity", 1.0),
        ("begin_step", 5),
        ("begin_step", -1),
        ("end_step", 0),
        ("end_step", 5),
        ("frequency", 0),
        ("retrainings", -1),
        ("seed", -1),
        ("scope", "network"),
    ],
)
def test_a_bad_setting_of_pruning_is_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {value!r}"):
        dataclasses.replace(ITERATIVE, **{name: value})


def test_measure_counts(tiny):
    logits = np.full((100, 10), -1.0, "float32")
    logits[:, 2] = 0.0
    logits[:30, 3] = 1.0
    parts = iter(np.split(logits, [40, 80]))
    labels = np.full(100, 2, "int32")
    dataset = dataclasses.replace(tiny, y_test=labels)
    model = lambda x, training: next(parts)  # noqa: E731
    found = pruning_runs.measure(model, dataset, batch_size=40)
    assert found == {"accuracy": 0.7, "dead_logits": 9, "classes": 2}
    assert_json(found)


# Topologies.


def kinds(model):
    return {
        layer.name: type(layer) for layer in model.layers if hasattr(layer, "kernel")
    }


def lenet(name, **changes):
    return dataclasses.replace(FEW, model=name, **changes)


def test_radix_layers_are_where_they_are_wanted(tiny):
    dense = Topology(lenet("lenet_300_100"), "radix", 0.5).build(tiny)
    wanted = {"dense1": RadixDense, "dense2": RadixDense, "logits": keras.layers.Dense}
    assert kinds(dense) == wanted
    conv = Topology(lenet("lenet_5"), "radix", 0.5).build(tiny)
    assert kinds(conv) == {
        "conv1": keras.layers.Conv2D,
        "conv2": RadixConv2D,
        "dense1": RadixDense,
        "logits": keras.layers.Dense,
    }


@pytest.mark.parametrize("neurons", [1, 2])
@pytest.mark.parametrize("kind, density", [("dense", 1.0), ("radix", 0.5)])
def test_the_factor_of_neurons_gives_the_promised_widths(tiny, kind, density, neurons):
    model = Topology(lenet("lenet_300_100"), kind, density, neurons).build(tiny)
    shapes = [model.get_layer(n).output.shape[1:] for n in ("dense1", "dense2")]
    assert shapes == [(300 * neurons,), (100,)]
    model = Topology(lenet("lenet_5"), kind, density, neurons).build(tiny)
    names = ("conv1", "conv2", "dense1")
    found = [model.get_layer(name).output.shape[-1] for name in names]
    assert found == [20, 50 * neurons, 384]


SPARSE = [
    ("lenet_300_100", 0.5, 1),
    ("lenet_300_100", 0.1, 2),
    ("lenet_300_100", 0.02, 4),
    ("lenet_5", 0.5, 1),
    ("lenet_5", 0.1, 2),
    ("lenet_5", 0.02, 2),
]


@pytest.mark.parametrize("name, density, neurons", SPARSE)
def test_random_masks_have_about_as_many_connections(tiny, name, density, neurons):
    radix, random = (
        Topology(lenet(name), kind, density, neurons, seed=1)
        for kind in ("radix", "random")
    )
    layers = radix._radix_layers(tiny)
    model = random.build(tiny)
    whole = Topology(lenet(name), neurons=neurons).build(tiny)
    assert {name for name, s in sparsities(model).items() if s > 0} == set(layers)
    variance = wanted = 0
    for layer in whole.layers:
        if not hasattr(layer, "kernel"):
            continue
        size = math.prod(layer.kernel.shape)
        share = layers[layer.name].density if layer.name in layers else 1.0
        assert layer.name not in layers or share == pytest.approx(density, rel=0.2)
        variance += size * share * (1 - share)
        wanted += size * share
        if layer.name in layers:
            kept = 1 - sparsities(model)[layer.name]
            assert abs(kept - share) <= 4 * math.sqrt(share * (1 - share) / size)
    count = topology_runs._count_connections
    assert count(radix.build(tiny)) == pytest.approx(wanted, abs=0.5)
    assert abs(count(model) - wanted) <= 3 * math.sqrt(variance)
    assert_masked_are_zero(model)


def test_random_masks_differ_by_seed_and_begin_for_their_fan_in(tiny):
    models_ = [
        Topology(lenet("lenet_300_100"), "random", 0.25, seed=seed).build(tiny)
        for seed in (0, 0, 1)
    ]
    a, b, c = (stf.get_masks(model)["dense1/kernel"] for model in models_)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    dense = kernel(FEW.new_model(tiny, 0))
    assert np.std(kernel(models_[0])[a]) / np.std(dense) == pytest.approx(2, rel=0.05)
    run = Topology(lenet("lenet_300_100", network="authors"), "random", 0.25)
    values = kernel(run.build(tiny))
    assert np.std(values[values != 0]) == pytest.approx(0.88 * 0.04, rel=0.05)


@pytest.mark.parametrize("kind, density", [("dense", 1.0), ("radix", 0.1)])
def test_topologies_train(tiny, kind, density):
    run = Topology(FEW, kind, density)
    history, result = run.execute()
    assert_json(history), assert_json(result)
    assert history["step"] == [2, 4]
    assert set(result) == {"accuracy", "connections"}
    assert result["accuracy"] == pytest.approx(history["accuracy"][-1])
    whole = 784 * 300 + 300 * 100 + 1000
    share = (result["connections"] - 1000) / (whole - 1000)
    assert share == pytest.approx(density, rel=0.2)
    assert run.execute() == run.execute()


def test_a_random_topology_stays_sparse_in_training(tiny, monkeypatch):
    measured, measure = [], topology_runs.measure
    spy = lambda m, d: measured.append(m) or measure(m, d)  # noqa: E731
    monkeypatch.setattr(topology_runs, "measure", spy)
    run = Topology(FEW, "random", 0.1)
    history, result = run.execute()
    assert_json(history), assert_json(result)
    (model,) = measured
    assert_masked_are_zero(model)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    assert sum(map(np.count_nonzero, kernels)) == result["connections"] < 30_000
    assert run.execute() == run.execute()


@pytest.mark.parametrize(
    "name, value, kind",
    [
        ("kind", "butterfly", "butterfly"),
        ("density", 0.5, "dense"),
        ("density", 1.0, "radix"),
        ("density", 0.0, "random"),
        ("density", math.nan, "random"),
        ("neurons", 0, "dense"),
        ("seed", -1, "dense"),
    ],
)
def test_a_bad_setting_of_a_topology_is_named(name, value, kind):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {value!r}"):
        Topology(FEW, **{"kind": kind, name: value})


# Sweeps of runs.

EXECUTED = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Doubling:
    seed: int

    def execute(self):
        EXECUTED[self] += 1
        return [self.seed], {"found": 2 * self.seed}


@dataclasses.dataclass(frozen=True)
class Tripling:
    seed: int

    def execute(self):
        EXECUTED[self] += 1
        return {"at": self.seed}, {"found": 3 * self.seed}


RUNS = [Doubling(3), Tripling(3), Doubling(1), Tripling(2)]
OUTCOMES = [
    ([3], {"found": 6}),
    ({"at": 3}, {"found": 9}),
    ([1], {"found": 2}),
    ({"at": 2}, {"found": 6}),
]


def flags(folder, shard=None):
    return types.SimpleNamespace(output_dir=folder, workers=1, shard=shard)


def test_runs_are_done_once_and_in_their_order(tmp_path, capsys):
    EXECUTED.clear()
    assert list(map(tuple, sweep_command.do(RUNS, flags(tmp_path)))) == OUTCOMES
    assert dict(EXECUTED) == dict.fromkeys(RUNS, 1)
    assert "100% 4 of 4 runs" in capsys.readouterr().out
    back = sweep_command.do(RUNS[::-1], flags(tmp_path))
    assert list(map(tuple, back)) == OUTCOMES[::-1]
    assert dict(EXECUTED) == dict.fromkeys(RUNS, 1)


def test_a_shard_leaves_the_other_runs(tmp_path):
    EXECUTED.clear()
    found = sweep_command.do(RUNS, flags(tmp_path, "2/2"))
    assert found[::2] == [None, None]
    assert list(map(tuple, found[1::2])) == OUTCOMES[1::2]
    assert dict(EXECUTED) == dict.fromkeys(RUNS[1::2], 1)
    found = sweep_command.do(RUNS, flags(tmp_path, "1/2"))
    assert list(map(tuple, found)) == OUTCOMES
    assert dict(EXECUTED) == dict.fromkeys(RUNS, 1)


def test_a_run_of_the_paper_is_stored_and_found_again(tiny, tmp_path, monkeypatch):
    run = Topology(dataclasses.replace(FEW, data_dir=str(tmp_path)))
    (found,) = sweep_command.do([run], flags(tmp_path))
    monkeypatch.setattr(Topology, "execute", None)
    elsewhere = dataclasses.replace(run, training=FEW)
    (again,) = sweep_command.do([elsewhere], flags(tmp_path))
    assert tuple(found) == tuple(again)
