"""A training killed at any moment goes on to what it would have been."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import threading

import pytest

import sparsenet_tf as stf

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "killed" / "train.py"
FEW, MANY = 1, 50
LONGEST = 4.0  # seconds after it began that it may live


def start(folder):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_its_end(folder, seconds=None):
    """Start it, kill it so long after it began; return whether it had ended."""
    process = start(folder)
    assert process.stdout.readline().startswith("begun"), process.stderr.read()
    if seconds is not None:
        timer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
        timer.start()
    out, err = process.communicate()
    if seconds is not None:
        timer.cancel()
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode == 0


def check_whole(folder, expected):
    """What is there is whole, at whatever moment it was killed."""
    masks = folder / "masks.npz"
    if masks.exists():
        found = stf.load_masks(masks)
        assert {p: m.sum() for p, m in found.items()} == expected["masks"]
    result = folder / "result.json"
    if result.exists():
        assert result.read_text() == expected["result"]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [FEW, MANY])
def test_killed_at_random_moments(tmp_path, kills):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run_to_its_end(whole)
    masks = stf.load_masks(whole / "masks.npz")
    expected = {
        "masks": {path: mask.sum() for path, mask in masks.items()},
        "result": (whole / "result.json").read_text(),
    }
    rng, killed, runs = random.Random(0), 0, 0
    while killed < kills:
        folder = tmp_path / f"killed{runs}"
        folder.mkdir()
        runs += 1
        ended = False
        while not ended:
            ended = run_to_its_end(folder, rng.uniform(0.0, LONGEST))
            killed += not ended
            check_whole(folder, expected)
        assert (folder / "result.json").read_text() == expected["result"]
    print(f"{killed} kills in {runs} runs")
