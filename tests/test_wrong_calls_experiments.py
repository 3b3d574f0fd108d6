"""Wrong calls of `stf.experiments`, and what they are told."""

import dataclasses

import numpy as np
import pytest
import wrong_calls
from wrong_calls import INF, NAN, Missing, Says, parameters

from sparsenet_tf import experiments
from sparsenet_tf.experiments.config import Training
from sparsenet_tf.experiments.data import load, read_cifar10_binary, read_idx
from sparsenet_tf.experiments.models import lenet_5, lenet_300_100
from sparsenet_tf.experiments.runs import Store
from sparsenet_tf.experiments.sweep import sweep
from sparsenet_tf.topology import RadixLayer


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of a run."""

    seed: object = 0


def execute(settings):
    raise AssertionError("A wrong call came as far as a run.")


NOWHERE = "no_such_folder/file"
STORE = Store("store")

OF_EXPERIMENTS = {
    load: [
        ("an unknown name", "name", lambda f: f("mnits")),
        ("None", "name", lambda f: f(None)),
        ("a list", "name", lambda f: f(["mnist"])),
        ("no folder needed", "data_dir", lambda f: f("mnist_5k", ".")),
        ("a number as folder", "data_dir", lambda f: f("mnist", 3)),
        ("no folder", Missing("data_dir"), lambda f: f("cifar10", NOWHERE)),
        ("a folder without them", Missing("data_dir"), lambda f: f("mnist", ".")),
    ],
    read_idx: [
        ("a number", "path", lambda f: f(0)),
        ("None", "path", lambda f: f(None)),
        ("no file", Missing("path"), lambda f: f(NOWHERE)),
        ("another file", "path", lambda f: f(__file__)),
    ],
    read_cifar10_binary: [
        ("a number", "path", lambda f: f(0)),
        ("no file", Missing("path"), lambda f: f(NOWHERE)),
        ("another file", "path", lambda f: f(__file__)),
    ],
    lenet_300_100: [
        ("a negative decay", "weight_decay", lambda f: f(weight_decay=-1)),
        ("a decay of NaN", "weight_decay", lambda f: f(weight_decay=NAN)),
        ("an infinite decay", "weight_decay", lambda f: f(weight_decay=INF)),
        ("a text as decay", "weight_decay", lambda f: f(weight_decay="0.1")),
        ("one width", "units", lambda f: f(units=(300,))),
        ("a number as widths", "units", lambda f: f(units=300)),
        ("a text as widths", "units", lambda f: f(units="ab")),
        ("no classes", "num_classes", lambda f: f(num_classes=0)),
        ("a negative seed", "seed", lambda f: f(seed=-1)),
        ("a bool as seed", "seed", lambda f: f(seed=True)),
        ("None as topologies", "topologies", lambda f: f(topologies=None)),
        (
            "an unknown layer",
            "topologies",
            lambda f: f(topologies={"dense9": RadixLayer(4, 2, 1)}),
        ),
        ("a mask", "topology", lambda f: f(topologies={"dense1": np.eye(4)})),
    ],
    lenet_5: [
        ("a number as filters", "filters", lambda f: f(filters=20)),
        ("floats as filters", "filters", lambda f: f(filters=(20.0, 50.0))),
        (
            "one normalization",
            "local_response_normalization",
            lambda f: f(local_response_normalization=(True,)),
        ),
        (
            "a text as normalization",
            "local_response_normalization",
            lambda f: f(local_response_normalization="no"),
        ),
        ("a float as classes", "num_classes", lambda f: f(num_classes=10.0)),
        ("a float as seed", "seed", lambda f: f(seed=0.5)),
        ("a list as topologies", "topologies", lambda f: f(topologies=["conv1"])),
    ],
    experiments.Dataset: [
        ("fields that are missing", Says("x_train"), lambda f: f("mnist")),
    ],
    Training: [
        ("an unknown set", "dataset", lambda f: f(dataset="mnits")),
        ("a list as set", "dataset", lambda f: f(dataset=["mnist"])),
        ("a model's class", "model", lambda f: f(model=lenet_5)),
        ("an unknown network", "network", lambda f: f(network="yesterday")),
        ("other logits", "logits", lambda f: f(logits="softmax")),
        ("no steps", "steps", lambda f: f(steps=0)),
        ("a bool as steps", "steps", lambda f: f(steps=True)),
        ("an array as batch", "batch_size", lambda f: f(batch_size=np.ones(2, int))),
        ("a text as period", "evaluate_every", lambda f: f(evaluate_every="200")),
        ("more warmup than steps", "warmup", lambda f: f(steps=5, warmup=6)),
        ("a rate of NaN", "learning_rate", lambda f: f(learning_rate=NAN)),
        ("a text as rate", "learning_rate", lambda f: f(learning_rate="0.1")),
        ("None as rate", "learning_rate", lambda f: f(learning_rate=None)),
        ("an infinite rate", "learning_rate", lambda f: f(learning_rate=INF)),
        ("a momentum of 1", "momentum", lambda f: f(momentum=1.0)),
        ("a text as momentum", "momentum", lambda f: f(momentum="0.9")),
        ("a bool as momentum", "momentum", lambda f: f(momentum=False)),
        ("a number as folder", "data_dir", lambda f: f(data_dir=3)),
    ],
    Store: [
        ("a number", "folder", lambda f: f(3)),
        ("None", "folder", lambda f: f(None)),
        ("no settings", "settings", lambda f: f("store").path({"seed": 0})),
        ("a class as settings", "settings", lambda f: f("store").load(Run)),
        ("NumPy's numbers", "seed", lambda f: store_of(f, Run(np.int64(3)))),
        ("NaN in settings", "seed", lambda f: store_of(f, Run(NAN))),
        ("a list as result", "result", lambda f: f("store").write(Run(), [], [])),
        (
            "NaN in a result",
            Says("result.json", "nan"),
            lambda f: f("store").write(Run(), [], {"accuracy": NAN}),
        ),
    ],
    sweep: [
        ("a number of runs", "run_settings", lambda f: f(3, execute, STORE)),
        ("dicts as runs", "settings", lambda f: f([{}], execute, STORE)),
        ("no function", "execute", lambda f: f([Run()], None, STORE)),
        ("a folder as store", "store", lambda f: f([Run()], execute, "store")),
        ("no workers", "workers", lambda f: f([Run()], execute, STORE, 0)),
        ("a bool as workers", "workers", lambda f: f([Run()], execute, STORE, True)),
        (
            "a function that workers cannot have",
            "execute",
            lambda f: f([Run()], lambda settings: None, STORE, 2),
        ),
        ("shard 3 of 2", "shard", lambda f: f([Run()], execute, STORE, shard="3/2")),
        (
            "a pair as shard",
            "shard",
            lambda f: f([Run()], execute, STORE, shard=(1, 2)),
        ),
        (
            "a text as progress",
            "progress",
            lambda f: f([Run()], execute, STORE, progress="yes"),
        ),
    ],
}


def store_of(kind, settings):
    """A message about a setting names it, not `settings`."""
    return kind("store").path(settings)


@pytest.mark.parametrize("function, argument, call", parameters(OF_EXPERIMENTS))
def test_says_what_is_wrong(function, argument, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong_calls.check(function, argument, call)


def test_every_public_name_is_in_a_table():
    assert wrong_calls.uncovered([experiments], OF_EXPERIMENTS) == []
