"""`tf.distribute`: several replicas train the same model as one device does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SCRIPTS = pathlib.Path(__file__).parent / "distributed"


def run(script, **variables):
    """Start a script, whose last line of output is JSON."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    root = str(SCRIPTS.parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [root, os.environ.get("PYTHONPATH")])
    )
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


def test_mirrored_strategy():
    found = result_of(run("mirrored.py"))
    assert [result["model"] for result in found] == [
        name for name in ("masked", "radix", "sparse") for _ in range(2)
    ]
    for result in found:
        assert result["replicas"] == result["copies"] == 2
        assert result["between_replicas"] == 0.0
    for result in found[2:]:
        assert result["from_one_device"] < 1e-5
    for result in found[:2]:
        assert result["sparsity"] == pytest.approx(0.8, abs=0.01)
        assert result["nonzero"] <= result["kept"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_multi_worker_mirrored_strategy():
    """Two processes: as far as Keras 3 itself can.

    Its `fit` cannot (3.15: "Attempt to convert a value (PerReplica...) with an
    unsupported type"). Where a plain model trains, a masked one must, with the same
    weights in both processes.
    """
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"type": "worker", "index": index} for index in (0, 1)]
    configs = [json.dumps({"cluster": cluster, "task": task}) for task in tasks]
    workers = [run("worker.py", TF_CONFIG=config) for config in configs]
    first, second = (result_of(worker) for worker in workers)
    if "error" in first["plain"]:
        for found in (first, second):
            assert "PerReplica" in found["plain"]["error"]
            assert "PerReplica" in found["masked"]["error"]
        return
    for name in ("plain", "masked"):
        for a, b in zip(first[name]["weights"], second[name]["weights"], strict=True):
            np.testing.assert_array_equal(a, b)
