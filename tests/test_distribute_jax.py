"""`keras.distribution` on JAX: several devices train the same model as one does."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

SCRIPT = pathlib.Path(__file__).parent / "distributed" / "jax_devices.py"


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of the JAX backend")
def test_data_parallel():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH")])
        ),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == found["replicas"] == 2
    assert found["apart"] < 1e-5
    assert found["masks_differ"] == 0
    assert found["kept"] == 31  # a fifth of 10 * 12 + 12 * 3, each rounded
