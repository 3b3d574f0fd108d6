"""Memory over a sweep of 50 runs in one process: does anything stay behind?

    python benchmarks/sweep_memory.py

Each run prunes LeNet-300-100 for 60 steps of the compiled loop and retrains its mask,
or trains it as a RadiX-Net. The memory is what the process holds after each (Linux).
"""

import argparse
import json
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402

from sparsenet_tf.experiments import sweep_command  # noqa: E402
from sparsenet_tf.experiments.config import Training  # noqa: E402
from sparsenet_tf.experiments.pruning_runs import Iterative  # noqa: E402
from sparsenet_tf.experiments.runs import Store  # noqa: E402
from sparsenet_tf.experiments.sweep import sweep  # noqa: E402
from sparsenet_tf.experiments.topology_runs import Topology  # noqa: E402


def megabytes():
    """Resident memory of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument(
        "--output", type=pathlib.Path, default="results/sweep_memory.json"
    )
    flags = parser.parse_args()
    training = Training(steps=60, evaluate_every=20)
    runs = [
        Topology(training, "radix", 0.1, seed=seed)
        if seed % 2
        else Iterative(training, 0.9, 10, 50, frequency=10, seed=seed)
        for seed in range(flags.runs)
    ]
    after = []

    def note(done, total, seconds_left, label):
        after.append(megabytes())
        print(f"{done} of {total} runs: {after[-1]:.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        sweep(runs, sweep_command.execute, Store(folder), progress=note)
    # The first runs load and trace what all others use.
    settled = np.array(after[len(after) // 5 :])
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    print(
        f"From run {len(after) // 5} on: {settled[0]:.0f} to {settled[-1]:.0f} MB, "
        f"{slope:+.2f} MB a run"
    )
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps(after) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
