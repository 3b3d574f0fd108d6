"""Sweeps of several processes: at once, killed, and resumed."""

import collections
import random
import signal
import subprocess
import time

import pytest
from sweeping import (
    CALLS,
    comparable,
    contents,
    fail_odd,
    finish,
    some,
    start,
    write_script,
)

from sparsenet_tf.experiments import runs, sweep
from sparsenet_tf.experiments.runs import Store
from sparsenet_tf.experiments.sweep import SweepError


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


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


@pytest.mark.slow
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
