"""The command of the paper's figures: whole, resumed after kills, split in shards."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "paper_figures.py"
FLAGS = ["--figure=7", "--scale=smoke", "--models=lenet_300_100", "--seeds=1"]


def command(folder, *flags):
    return [sys.executable, SCRIPT, *FLAGS, f"--output_dir={folder}", *flags]


def environment():
    return {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent)}


def run(folder, *flags):
    done = subprocess.run(
        command(folder, *flags), capture_output=True, text=True, env=environment()
    )
    return done.returncode, done.stdout, done.stderr


def kill_after(folder, seconds):
    process = subprocess.Popen(
        command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_wrong_flags_end_it_with_a_line(tmp_path):
    code, _, errors = run(tmp_path, "--seeds=0")
    assert code == 1 and "Error: `seeds` must be" in errors
    code, _, errors = run(tmp_path, "--models=lenet_300_100", "--figure=8")
    assert code == 1 and "Figure 8 has no networks of `models`" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path):
    code, printed, errors = run(tmp_path / "whole")
    assert code == 0, errors
    assert "iterative" in printed
    rng = random.Random(0)
    for _ in range(3):
        kill_after(tmp_path / "killed", rng.uniform(5, 20))
    assert run(tmp_path / "killed")[0] == 0
    for name in ("figure_7.csv", "figure_7.md"):
        whole, killed = (tmp_path / f / name for f in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()
    assert (tmp_path / "killed" / "figure_7.png").stat().st_size > 10_000


@pytest.mark.slow
def test_shards_together_make_the_figure(tmp_path):
    code, printed, _ = run(tmp_path, "--shard=1/2")
    assert code == 0 and "Figure 7 waits for" in printed
    assert not (tmp_path / "figure_7.csv").exists()
    code, printed, _ = run(tmp_path, "--shard=2/2", "--workers=2")
    assert code == 0 and (tmp_path / "figure_7.csv").exists()
