"""The store of runs, and sweeps of many: killed, resumed, and several at once."""

import collections
import dataclasses
import hashlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sparsenet_tf.experiments import claims as claims_module
from sparsenet_tf.experiments import runs, sweep
from sparsenet_tf.experiments.runs import Store, run_name
from sparsenet_tf.experiments.sweep import SweepError

PACKAGE = Path(runs.__file__).resolve().parent.parent
# A process that sweeps. The packages are empty, which spares it Keras; only the two
# modules are real. Each run appends to a log, and fails if another does it as well.
SCRIPT = """
import dataclasses, fcntl, json, os, signal, sys, time, types

# A shell's background jobs ignore it, and so would this one.
signal.signal(signal.SIGINT, signal.default_int_handler)

for name, folder in (("sparsenet_tf", ""), ("sparsenet_tf.experiments", "experiments")):
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(PACKAGE, folder)]
    sys.modules[name] = package

from sparsenet_tf.experiments import sweep
from sparsenet_tf.experiments.runs import Store

@dataclasses.dataclass(frozen=True)
class Run:
    seed: int
    sleep: float = dataclasses.field(metadata={"hashed": False})
    log: str = dataclasses.field(metadata={"hashed": False})

def note(run, text):
    line = f"{text} {run.seed} {os.getpid()}\\n".encode()
    handle = os.open(run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)

def execute(run):
    note(run, "start")
    with open(f"{run.log}.{run.seed}", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            note(run, "overlap")
        if run.seed == DEADLY:
            os._exit(3)
        time.sleep(run.sleep)
    history = [{"step": step, "loss": 1 / (run.seed + step + 1)} for step in range(5)]
    return history, {"seed": run.seed, "accuracy": (run.seed * 7919 % 1000) / 1000}

def main(folder, log, count, sleep, workers):
    sweep.POLL = 0.02
    todo = [Run(seed, sleep, log) for seed in range(count)]
    say = lambda *call: print(json.dumps(call), flush=True)
    print(json.dumps(sweep.sweep(todo, execute, Store(folder), workers, None, say)))

if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
"""


@dataclasses.dataclass(frozen=True)
class Data:
    name: str = "mnist_5k"
    folder: str | None = dataclasses.field(default=None, metadata={"hashed": False})


@dataclasses.dataclass(frozen=True)
class PruneRun:
    seed: int = 0
    rate: object = 0.1
    levels: tuple = (0.5, 0.9)
    nesterov: bool = False
    data: Data = Data()
    data_dir: str = dataclasses.field(default="", metadata={"hashed": False})


# What `execute` was called with in this process.
CALLS = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def execute(settings):
    CALLS.append(settings.seed)
    return [settings.rate] * 2, {"seed": settings.seed, "half": settings.seed / 2}


def fail_odd(settings):
    if settings.seed % 2:
        raise ArithmeticError(f"odd {settings.seed}")
    return execute(settings)


def some(count):
    return [PruneRun(seed) for seed in range(count)]


def write_script(folder, deadly=-1):
    path = folder / "sweep_script.py"
    head = f"PACKAGE, DEADLY = {str(PACKAGE)!r}, {deadly}\n"
    path.write_text(head + SCRIPT)
    return path


def start(script, store, log, count, sleep, workers=1):
    arguments = json.dumps([str(store), str(log), count, sleep, workers])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, script, arguments], **pipes)


def finish(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def contents(store):
    """All of a store's files; only the empty file that guards claims left out."""
    files = [path for path in Path(store).rglob("*") if path.is_file()]
    names = {str(path.relative_to(store)): path.read_bytes() for path in files}
    assert names.pop(".claims/guard") == b""
    return names


def comparable(files):
    """Contents but for the settings that are not hashed."""
    values = {name: json.loads(content) for name, content in files.items()}
    for value in values.values():
        if isinstance(value, dict):
            value.pop("not_hashed", None)
    return values


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
    "value", [[1], {"a": 1}, {1}, Path("a"), 1j, b"a", Data, object()], ids=repr
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


@pytest.mark.parametrize("bad", [math.nan, np.float32(1), object()], ids=repr)
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


# Sweeps.


def test_results_are_in_order_and_nothing_runs_twice(tmp_path):
    store, calls = Store(tmp_path), []
    store.write(PruneRun(2), [], {"before": 2})
    todo = [PruneRun(3), PruneRun(2), PruneRun(3, data_dir="x"), PruneRun(0)]
    results = sweep.sweep(
        iter(todo), execute, store, progress=lambda *call: calls.append(call)
    )
    three = {"seed": 3, "half": 1.5}
    assert results == [three, {"before": 2}, three, {"seed": 0, "half": 0.0}]
    assert CALLS == [3, 0]
    assert store.load(PruneRun(3))[0] == [0.1, 0.1]
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    assert calls[0][2:] == (None, "1 of 3 runs were done before")
    assert [call[3] for call in calls[1:]] == [run_name(todo[0]), run_name(todo[3])]
    assert calls[1][2] > 0 and calls[2][2] == 0
    assert sweep.sweep(todo, execute, store) == results and CALLS == [3, 0]
    assert sweep.sweep([], execute, store) == []


def test_skipped_runs_do_not_shorten_the_estimate(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 5))  # each run takes five seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    store, seconds = Store(tmp_path), []
    for settings in some(6)[::2]:
        store.write(settings, [], {})
    sweep.sweep(some(6), execute, store, progress=lambda *c: seconds.append(c[2]))
    assert seconds == [None, 10.0, 5.0, 0.0]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 11])
def test_shards_are_disjoint_and_complete(tmp_path, count):
    todo = [*some(5), *some(8)]
    whole = sweep.sweep(todo, execute, Store(tmp_path / "whole"))
    CALLS.clear()
    shards = []
    for i in range(1, count + 1):
        store = Store(tmp_path / str(i))  # apart, so that none sees what another does
        shards.append(sweep.sweep(todo, execute, store, shard=f"{i}/{count}"))
    assert sorted(CALLS) == list(range(8))
    for results, result in zip(zip(*shards, strict=True), whole, strict=True):
        assert [found for found in results if found is not None] == [result]
    assert [r["seed"] for r in shards[0][:8] if r] == [
        s for s in [0, 1, 2, 3, 4, 0, 1, 2] if s % count == 0
    ]


@pytest.mark.parametrize(
    "shard", ["0/2", "3/2", "1/0", "2", "a/b", "1/2/3", "-1/2", "1/2 ", "", 2, (1, 2)]
)
def test_bad_shards_are_refused(tmp_path, shard):
    with pytest.raises(ValueError, match="--shard must be i/n .* Received"):
        sweep.sweep(some(2), execute, Store(tmp_path), shard=shard)
    assert not CALLS


def test_bad_arguments_are_refused_before_anything_is_run(tmp_path):
    store = Store(tmp_path)
    for workers in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="`workers` must be 1 or more"):
            sweep.sweep(some(2), execute, store, workers=workers)
    with pytest.raises(ValueError, match="`execute` must be at the top level"):
        sweep.sweep(some(2), lambda settings: None, store, workers=2)
    with pytest.raises(TypeError, match="`rate` must be"):
        sweep.sweep([PruneRun(), PruneRun(rate=[1])], execute, store)
    assert not CALLS


def test_failures_are_listed_and_the_others_done(tmp_path):
    store, calls = Store(tmp_path), []
    with pytest.raises(SweepError) as caught:
        sweep.sweep(some(5), fail_odd, store, progress=lambda *call: calls.append(call))
    failures = caught.value.failures
    assert [failure.settings for failure in failures] == [PruneRun(1), PruneRun(3)]
    assert [failure.name for failure in failures] == [
        run_name(PruneRun(i)) for i in (1, 3)
    ]
    assert failures[0].error == "ArithmeticError: odd 1"
    assert "in fail_odd" in failures[0].trace
    for text in ("2 failed", "odd 1", "odd 3", run_name(PruneRun(3)), "in fail_odd"):
        assert text in str(caught.value)
    assert CALLS == [0, 2, 4] and [call[0] for call in calls] == [0, 1, 2, 3, 4, 5]
    assert calls[2][3] == f"{run_name(PruneRun(1))} failed: ArithmeticError: odd 1"
    # Only what failed is tried again.
    assert len(sweep.sweep(some(5), execute, store)) == 5
    assert CALLS == [0, 2, 4, 1, 3]
    assert not [
        path for path in (tmp_path / ".claims").iterdir() if path.name != "guard"
    ]


@pytest.mark.parametrize("outcome", [None, {}, ([], [1]), ([], {"loss": math.nan})])
def test_a_wrong_outcome_is_a_failure(tmp_path, outcome):
    with pytest.raises(
        SweepError, match="is returned|must be a dict|cannot be written"
    ):
        sweep.sweep(some(1), lambda settings: outcome, Store(tmp_path))
    assert not list(tmp_path.glob("prune*")) and not list(tmp_path.glob(".writing*"))


def test_an_interrupt_stops_at_once_and_leaves_nothing_half_done(tmp_path):
    def interrupted(settings):
        if settings.seed == 2:
            raise KeyboardInterrupt
        return execute(settings)

    store = Store(tmp_path)
    text = "Stopped with 2 of 5 runs done; starting again resumes"
    with pytest.raises(KeyboardInterrupt, match=text):
        sweep.sweep(some(5), interrupted, store)
    assert CALLS == [0, 1] and len(contents(tmp_path)) == 2 * 3
    sweep.sweep(some(5), execute, store)
    assert CALLS == [0, 1, 2, 3, 4]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt, match="starting again"):
            sweep.sweep(some(2), execute, Store(tmp_path))
    assert contents(tmp_path) == {}


def test_an_interrupt_while_a_claim_is_released_leaves_none(tmp_path, monkeypatch):
    release = claims_module.Claims.release

    def interrupt(claims, name):
        monkeypatch.setattr(claims_module.Claims, "release", release)
        raise KeyboardInterrupt

    monkeypatch.setattr(claims_module.Claims, "release", interrupt)
    with pytest.raises(KeyboardInterrupt, match="starting again"):
        sweep.sweep(some(2), execute, Store(tmp_path))
    assert not [name for name in contents(tmp_path) if name.startswith(".claims")]


def test_a_store_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="store .*file.* cannot be written to"):
            sweep.sweep(some(2), execute, Store(path))
    assert not CALLS


def test_a_read_only_store(tmp_path):
    """A user who may not write: everything done can be read, nothing is begun."""
    store = Store(tmp_path / "store")
    sweep.sweep(some(2), execute, store)
    before = contents(store.folder)
    root = os.geteuid() == 0  # whom no permissions keep out
    folders = [tmp_path, *tmp_path.parents] if root else []
    modes = [(folder, folder.stat().st_mode & 0o7777) for folder in folders]
    closed = [(folder, mode) for folder, mode in modes if mode & 0o011 != 0o011]
    CALLS.clear()
    try:
        for folder, mode in closed:
            folder.chmod(mode | 0o011)
        store.folder.chmod(0o555)
        if root:
            os.seteuid(65534)
        assert len(sweep.sweep(some(2), execute, store)) == 2
        with pytest.raises(OSError, match=r"store .* cannot be written to \(Perm"):
            sweep.sweep(some(3), execute, store)
    finally:
        if root:
            os.seteuid(0)
        for folder, mode in closed:
            folder.chmod(mode)
        store.folder.chmod(0o755)
    assert not CALLS and contents(store.folder) == before


# Claims.


def test_a_claim_excludes_others_until_released(tmp_path):
    claims = claims_module.Claims(Store(tmp_path))
    with claims.claim("a") as first, claims.claim("a") as second:
        assert first and not second
        with claims.claim("b") as other:
            assert other
        claims.clean()
        with claims.claim("a") as third:
            assert not third
    with claims.claim("a") as again:
        assert again
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("holder", "age", "free"),
    [
        ("dead", 0, True),
        ("", 0, True),  # killed before it wrote its name
        ("1@1@elsewhere", 0, False),
        ("1@1@elsewhere", claims_module.SILENCE - 30, False),
        ("1@1@elsewhere", claims_module.SILENCE + 30, True),
        ("alive", claims_module.SILENCE + 30, False),
    ],
)
def test_void_claims_are_taken_over(tmp_path, holder, age, free):
    host = runs.this_process().split("@")[2]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    if holder == "dead":
        child.communicate(b"\n")
    if holder in ("dead", "alive"):
        holder = f"{child.pid}@@{host}"
    path = tmp_path / ".claims" / run_name(PruneRun())
    path.parent.mkdir()
    path.write_text(holder)
    long_ago = time.time() - age
    os.utime(path, (long_ago, long_ago))
    labels = []
    sweep.sweep(
        some(1),
        execute,
        Store(tmp_path),
        wait=False,
        progress=lambda *call: labels.append(call[3]),
    )
    if child.poll() is None:
        child.communicate(b"\n")
    assert bool(CALLS) == free and path.exists() == (not free)
    last = run_name(PruneRun()) if free else "1 left to other processes"
    assert labels[-1] == last


def test_a_claim_shows_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "HEARTBEAT", 0.01)
    claims = claims_module.Claims(Store(tmp_path))
    path = tmp_path / ".claims" / "a"
    with claims.claim("a"):
        os.utime(path, (0, 0))
        end = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_runs_of_a_living_process_are_waited_for(tmp_path):
    script, log = write_script(tmp_path), tmp_path / "log"
    first = start(script, tmp_path / "store", log, 1, 1.0)
    while not log.exists():
        time.sleep(0.01)
    second = start(script, tmp_path / "store", log, 1, 1.0)
    assert finish(first) == finish(second)
    assert len(log.read_text().splitlines()) == 1


# Several processes.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    results = finish(start(write_script(folder), folder / "s", folder / "log", 60, 0))
    assert [result["seed"] for result in results] == list(range(60))
    return results, comparable(contents(folder / "s"))


def test_a_sweep_killed_again_and_again_is_whole_in_the_end(tmp_path, undisturbed):
    script, log, store = write_script(tmp_path), tmp_path / "log", tmp_path / "store"
    rng = random.Random(0)
    kills = 0
    for _ in range(200):
        process = start(script, store, log, 60, 0.004)
        process.stdout.readline()  # it has begun
        try:
            process.wait(timeout=rng.uniform(0, 0.12))
        except subprocess.TimeoutExpired:
            process.kill()
        _, err = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        kills += 1
        for path in store.glob("run-*"):  # complete, or not there
            assert {file.name for file in path.iterdir()} == {
                "settings.json",
                "history.json",
                "result.json",
            }
    assert kills >= 3
    starts = len(log.read_text().splitlines())
    assert finish(start(script, store, log, 60, 0.004)) == undisturbed[0]
    assert len(log.read_text().splitlines()) == starts  # all was done
    assert comparable(contents(store)) == undisturbed[1]
    assert not list(store.glob(".writing*"))


def test_processes_at_once_do_each_run_once(tmp_path, undisturbed):
    script, log, store = write_script(tmp_path), tmp_path / "log", tmp_path / "store"
    processes = [start(script, store, log, 60, 0.01) for _ in range(4)]
    for process in processes:
        assert finish(process) == undisturbed[0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(seed) for _, seed, _ in lines) == list(range(60))
    assert {text for text, *_ in lines} == {"start"}
    assert len({pid for *_, pid in lines}) > 1  # more than one had a part in it
    assert comparable(contents(store)) == undisturbed[1]


def test_processes_killed_at_once_never_do_a_run_together(tmp_path, undisturbed):
    script, log, store = write_script(tmp_path), tmp_path / "log", tmp_path / "store"
    rng = random.Random(1)
    processes = [start(script, store, log, 60, 0.02) for _ in range(3)]
    for _ in range(12):
        time.sleep(rng.uniform(0.05, 0.25))
        i = rng.randrange(3)
        processes[i].kill()
        processes[i].communicate()
        processes[i] = start(script, store, log, 60, 0.02)
    for process in processes:
        assert finish(process) == undisturbed[0]
    starts = collections.Counter(
        line.split()[0] for line in log.read_text().splitlines()
    )
    assert starts["start"] >= 60 and not starts["overlap"]
    # The last to begin may have begun before the last was killed.
    finish(start(script, store, log, 60, 0.02))
    assert comparable(contents(store)) == undisturbed[1]


def test_workers_that_are_killed_or_lose_their_parent(tmp_path, undisturbed):
    script, log, store = write_script(tmp_path), tmp_path / "log", tmp_path / "store"
    # A run that ends its process takes no other with it.
    deadly = start(write_script(tmp_path, deadly=7), store, log, 20, 0.002, workers=2)
    _, err = deadly.communicate(timeout=60)
    assert deadly.returncode == 1 and "1 failed" in err and "process that did" in err
    assert len(list(store.glob("run-*"))) == 19
    # Nor do workers outlive their parent.
    parent = start(write_script(tmp_path), store, log, 60, 1.0, workers=2)
    before = len(log.read_text())
    while len(log.read_text()[before:].splitlines()) < 2:
        time.sleep(0.01)
    parent.kill()
    parent.communicate(timeout=30)  # ends when the workers' pipes are closed
    pids = {int(line.split()[2]) for line in log.read_text()[before:].splitlines()}
    assert len(pids) == 2 and not any(is_running(pid) for pid in pids)
    # Ctrl-C ends them at once as well, and all is done in the end.
    parent = start(script, store, log, 60, 1.0, workers=2)
    for _ in range(4):
        parent.stdout.readline()
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=30)
    assert "KeyboardInterrupt: Stopped with" in err and "starting again resumes" in err
    assert set(contents(store)) == {
        f"{path.name}/{name}.json"
        for path in store.glob("run-*")
        for name in ("settings", "history", "result")
    }
    assert finish(start(script, store, log, 60, 0.002, workers=2)) == undisturbed[0]
    assert comparable(contents(store)) == undisturbed[1]
    assert "overlap" not in log.read_text()


def is_running(pid):
    host = runs.this_process().split("@")[2]
    return not runs.has_died(f"{pid}@@{host}")


def test_workers_of_this_process(tmp_path):
    store, calls = Store(tmp_path), []
    with pytest.raises(SweepError) as caught:
        sweep.sweep(some(6), fail_odd, store, 2, progress=lambda *c: calls.append(c))
    assert [failure.settings.seed for failure in caught.value.failures] == [1, 3, 5]
    assert caught.value.failures[0].error == "ArithmeticError: odd 1"
    assert "in fail_odd" in caught.value.failures[0].trace
    assert [call[:2] for call in calls] == [(i, 6) for i in range(7)]
    assert not CALLS  # not here
    assert [store.result(settings) is None for settings in some(6)] == [False, True] * 3
