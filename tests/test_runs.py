"""The store of runs: their names, what is written and read, and what is left."""

import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sweeping import (
    CALLS,
    Data,
    PruneRun,
    execute,
    some,
    write_script,
)

from sparsenet_tf.experiments import runs, sweep
from sparsenet_tf.experiments.runs import Store, run_name

# Names.


def test_name_is_the_hash_of_canonical_json():
    canonical = (
        '{"class":"PruneRun","settings":{"data":{"class":"Data","settings":'
        '{"name":"mnist_5k"}},"levels":[0.5,0.9],"nesterov":false,"rate":0.1,"seed":3}}'
    )
    golden = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert golden == "da6450add3f1"
    assert run_name(PruneRun(3)) == f"prune_run-{golden}"
    content = json.loads(canonical)
    assert runs.describe(PruneRun(3))[0] == content
    assert json.dumps(content, sort_keys=True, separators=(",", ":")) == canonical


def test_name_is_that_of_another_process(tmp_path):
    log = tmp_path / "log"
    script = write_script(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import sweep_script as s; "
        f"from sparsenet_tf.experiments.runs import run_name; "
        f"print(run_name(s.Run(1, 2.0, {str(log)!r})))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    expected = hashlib.sha256(b'{"class":"Run","settings":{"seed":1}}').hexdigest()
    assert script.exists() and found.stdout == f"run-{expected[:12]}\n", found.stderr


def test_every_hashed_field_counts():
    others = [
        {"seed": 1},
        {"rate": 0.1000000001},
        {"rate": 1},
        {"rate": 1.0},
        {"rate": True},
        {"rate": "1"},
        {"rate": None},
        {"rate": (1,)},
        {"levels": (0.9, 0.5)},
        {"levels": ()},
        {"levels": ((0.5, 0.9),)},
        {"nesterov": True},
        {"data": Data("mnist")},
    ]
    names = {run_name(PruneRun(**other)) for other in [{}, *others]}
    assert len(names) == len(others) + 1
    # Nor does another class have this name, with the same fields.
    twin = dataclasses.make_dataclass("LRNRun", [("seed", int)], frozen=True)
    other = dataclasses.make_dataclass("Run2", [("seed", int)], frozen=True)
    assert re.fullmatch("lrn_run-[0-9a-f]{12}", run_name(twin(0)))
    assert run_name(twin(0)).split("-")[1] != run_name(other(0)).split("-")[1]


def test_unhashed_fields_do_not_count_but_are_written():
    run = PruneRun(data=Data(folder="/there"), data_dir="/here")
    assert run_name(run) == run_name(PruneRun())
    assert runs.describe(run)[1] == {"data.folder": "/there", "data_dir": "/here"}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, (1.0, (math.nan,))], ids=repr
)
def test_only_finite_floats(value):
    with pytest.raises(ValueError, match=r"`rate.*` must be finite. Received: .*(n|i)"):
        run_name(PruneRun(rate=value))


@pytest.mark.parametrize(
    "value",
    [np.float64(0.1), np.float32(0.1), np.int64(1), np.bool_(True), np.str_("a")],
    ids=repr,
)
def test_numpy_scalars_are_refused(value):
    with pytest.raises(TypeError, match=r"`rate\[0\]` must .* Received: numpy.*item"):
        run_name(PruneRun(rate=(value,)))


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {"a": 1},
        {1},
        Path("a"),
        1j,
        b"a",
        Data,
        pytest.param(object(), id="object"),
    ],
    ids=repr,
)
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="`rate` must be an int, float, str"):
        run_name(PruneRun(rate=value))


def test_only_frozen_dataclasses():
    thawed = dataclasses.make_dataclass("Thawed", [("seed", int)])
    for settings in (thawed(0), PruneRun(rate=thawed(0))):
        with pytest.raises(TypeError, match="must be a frozen.*Received: Thawed"):
            run_name(settings)
    for settings in (PruneRun, {"seed": 0}, None):
        with pytest.raises(TypeError, match="settings must be a dataclass"):
            run_name(settings)


# The store.


def test_what_is_written_is_read(tmp_path):
    store, run = Store(tmp_path / "new" / "store"), PruneRun(3, data_dir="/here")
    assert store.result(run) is None and store.load(run) is None
    history, result = [{"loss": 0.1 + 0.2}, {"loss": 1e-300}], {"accuracy": 1 / 3}
    assert store.write(run, history, result)
    assert store.load(run) == (history, result) and store.result(run) == result
    assert store.result(PruneRun(3, data_dir="/there")) == result
    assert store.result(PruneRun(4)) is None
    path = store.path(run)
    assert [path.name for path in store.folder.iterdir()] == [path.name]
    settings = json.loads((path / "settings.json").read_text())
    assert settings.pop("not_hashed") == {"data.folder": None, "data_dir": "/here"}
    assert settings == runs.describe(run)[0]


def test_the_first_writer_s_is_kept(tmp_path):
    store = Store(tmp_path)
    assert store.write(PruneRun(), [], {"first": True})
    assert not store.write(PruneRun(), [], {"first": False})
    assert store.result(PruneRun()) == {"first": True}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "bad", [math.nan, np.float32(1), pytest.param(object(), id="object")], ids=repr
)
def test_what_is_not_json_is_not_written(tmp_path, bad):
    store = Store(tmp_path)
    with pytest.raises((ValueError, TypeError), match="history.json cannot be written"):
        store.write(PruneRun(), [bad], {})
    with pytest.raises((ValueError, TypeError), match="result.json cannot be written"):
        store.write(PruneRun(), [], {"loss": bad})
    with pytest.raises(TypeError, match="`result` must be a dictionary"):
        store.write(PruneRun(), [], [1])
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Store(tmp_path).write(PruneRun(), [], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("result.json", "", "is damaged"),
        ("result.json", '{"a": 1', "is damaged"),
        ("result.json", '{"a": NaN}', "NaN is not JSON"),
        ("result.json", "[1]", "not a JSON object"),
        ("history.json", "\xff", "is damaged"),
        ("history.json", None, "is missing"),
        ("result.json", None, "is missing"),
        ("settings.json", "{}", "is of other settings"),
        ("settings.json", None, "is missing"),
        ("notes.txt", "mine", "does not belong to a run"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path, name, content, text):
    store = Store(tmp_path)
    store.write(PruneRun(), [], {})
    path = store.path(PruneRun()) / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="latin-1")
    for read in (store.load, store.result):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} .*{text}"):
            read(PruneRun())
    with pytest.raises(ValueError, match=re.escape(str(path))):
        sweep.sweep([PruneRun(1), PruneRun()], execute, store)
    assert not CALLS


@pytest.mark.parametrize("value", [1.0, True, 2])
def test_edited_settings_are_noticed(tmp_path, value):
    store = Store(tmp_path)
    store.write(PruneRun(1), [], {})
    path = store.path(PruneRun(1)) / "settings.json"
    settings = json.loads(path.read_text())
    settings["settings"]["seed"] = value
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="settings.json is of other settings"):
        store.result(PruneRun(1))


def test_a_file_instead_of_a_folder(tmp_path):
    store = Store(tmp_path)
    store.path(PruneRun()).write_text("")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        store.result(PruneRun())


def test_processes_are_known_by_number_start_and_host():
    me = runs.this_process()
    pid, begun, host = me.split("@")
    assert runs.has_died(me) is False
    assert runs.has_died(f"{pid}@{begun}1@{host}") is True  # the number's former owner
    assert runs.has_died(f"{pid}@{begun}@else") is None
    assert runs.has_died("nonsense") is None and runs.has_died("") is None
    child = subprocess.Popen([sys.executable, "-c", ""])
    named = f"{child.pid}@@{host}"
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert runs.has_died(named) is True  # though its parent has not asked for it yet
    child.wait()
    assert runs.has_died(named) is True


def test_only_leftovers_of_the_dead_are_removed(tmp_path):
    host = runs.this_process().split("@")[2]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    names = {
        "dead": f".writing@{child.pid}@1@{host}@00",
        "alive": f".writing@{runs.this_process()}@00",
        "fresh": ".writing@1@1@elsewhere@00",
        "old": ".writing@1@1@elsewhere@01",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text("{")
    long_ago = time.time() - 1.1 * runs.DAY
    os.utime(tmp_path / names["old"], (long_ago, long_ago))
    sweep.sweep(some(1), execute, Store(tmp_path))
    left = {path.name for path in tmp_path.glob(".writing*")}
    assert left == {names["alive"], names["fresh"]}
    # A sweep with nothing left to do removes them too, and void claims.
    (tmp_path / names["dead"]).mkdir()
    (tmp_path / ".claims" / "run").write_text(f"{child.pid}@1@{host}")
    sweep.sweep(some(1), execute, Store(tmp_path))
    assert {path.name for path in tmp_path.glob(".writing*")} == left
    assert not (tmp_path / ".claims" / "run").exists() and CALLS == [0]
