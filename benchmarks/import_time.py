"""How long `import sparsenet_tf` takes once TensorFlow is there.

    python benchmarks/import_time.py

In fresh processes: TensorFlow alone, or TensorFlow and Keras, imported before.
"""

import os
import statistics
import subprocess
import sys

SCRIPT = """
import time, {before}
begin = time.perf_counter()
import sparsenet_tf
print(time.perf_counter() - begin)
"""
TIMES = 7


def seconds(before):
    """Medians over fresh processes."""
    found = []
    for _ in range(TIMES):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(before=before)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(float(done.stdout.split()[-1]))
    return statistics.median(found), max(found)


def main():
    for before in ("tensorflow", "tensorflow, keras"):
        median, most = seconds(before)
        print(f"after {before}: {median:.3f} s (at most {most:.3f}) of {TIMES}")


if __name__ == "__main__":
    main()
