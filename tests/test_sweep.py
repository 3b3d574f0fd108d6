"""Sweeps in one process, and the claims by which processes share runs."""

import math
import os
import subprocess
import sys
import time

import pytest
from sweeping import (
    CALLS,
    PruneRun,
    contents,
    execute,
    fail_odd,
    finish,
    some,
    start,
    write_script,
)

from sparsenet_tf.experiments import claims as claims_module
from sparsenet_tf.experiments import runs, sweep
from sparsenet_tf.experiments.runs import Store, run_name
from sparsenet_tf.experiments.sweep import SweepError


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


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
