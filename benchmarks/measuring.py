"""What the benchmarks share: calls that take turns, peak memory, tables."""

import pathlib
import time

import tensorflow as tf


def gradient_step(function, inputs, weights, upstream):
    """A compiled forward and backward pass, to the inputs and to the weights."""

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs)
        return outputs, tape.gradient(outputs, [inputs, *weights], upstream)

    return step


def measure(steps, seconds):
    """{name: milliseconds of each call}; the variants take turns.

    In its turn a variant is called twice and the second call counts, since training
    calls it again and again, too. A step that runs elsewhere returns the milliseconds
    that it took there.
    """
    for step in steps.values():
        step()
        step()
    times = {name: [] for name in steps}
    begin = time.perf_counter()
    while len(times[next(iter(steps))]) < 3 or time.perf_counter() - begin < seconds:
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            there = step()
            here = 1e3 * (time.perf_counter() - start)
            times[name].append(there if isinstance(there, float) else here)
    return times


def reset_peak():
    """Let the peak of this process begin anew (Linux)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def memory(field):
    """Megabytes of resident memory: "VmRSS" now, "VmHWM" at its peak."""
    status = pathlib.Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def table(rows):
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(r.values()) for r in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
