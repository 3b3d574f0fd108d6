"""What the command lines of sweeps share: flags, progress, where the runs are kept."""

import gc
import pathlib
import sys
import time

import keras
from absl import flags

from sparsenet_tf.experiments.runs import Store
from sparsenet_tf.experiments.sweep import SweepError, sweep
from sparsenet_tf.kernels.dead_graphs import forget_dead_graphs


def define_flags(output_dir, **here):
    """Define the flags of every sweep.

    Args:
        output_dir: default of the folder for results.
        **here: `flag_values` and `module_name` of `absl.flags.DEFINE_string`.
    """
    text = "Where results go; its folder `runs` holds each finished run."
    flags.DEFINE_string("output_dir", output_dir, text, **here)
    text = "How many processes do runs."
    flags.DEFINE_integer("workers", 1, text, lower_bound=1, **here)
    text = "Such as 2/8: only the second, tenth, ... run, for one of eight machines."
    flags.DEFINE_string("shard", None, text, **here)


def where(values, module_name):
    """Return the arguments of `define_flags` that say where flags belong."""
    if module_name == "__main__":  # as absl calls it, to find it for `--help`
        module_name = sys.argv[0]
    return {"flag_values": values, "module_name": module_name}


def do(run_settings, values):
    """Do the runs that are not done yet, showing progress.

    Args:
        run_settings: list of runs, whose `execute()` returns `(history, result)`.
        values: flag values, with those of `define_flags`.

    Returns:
        List of `(history, result)` for each run: None for those that other shards are
        to do.

    Raises:
        ValueError, OSError, RuntimeError: as `sweep`.
    """
    store = Store(pathlib.Path(values.output_dir, "runs"))
    sweep(
        run_settings,
        execute,
        store,
        workers=values.workers,
        shard=values.shard,
        progress=Progress(),
    )
    return [store.load(settings) for settings in run_settings]


def execute(run):
    """Return `run.execute()`, and let go of what it leaves in memory."""
    try:
        return run.execute()
    finally:
        keras.backend.clear_session()  # collects the models, which lie in cycles
        forget_dead_graphs()
        gc.collect()  # and what was held by these graphs


class Progress:
    r"""A line for each run: how many are done, and the time left.

    >>> import io
    >>> progress = Progress(io.StringIO())
    >>> progress(1, 4, 90.0, "iterative-0123")
    >>> progress.stream.getvalue()
    ' 25% 1 of 4 runs, 1:30 left, iterative-0123\n'
    """

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.begin = time.monotonic()

    def __call__(self, done, total, seconds_left, label):
        """Write the line."""
        share = done / total if total else 1
        text = f"{share:4.0%} {done} of {total} runs, "
        if done == total:
            text += f"{_clock(time.monotonic() - self.begin)} spent"
        elif seconds_left is not None:
            text += f"{_clock(seconds_left)} left"
        else:
            text += "time left unknown"
        self.stream.write(f"{text}, {label}\n")
        self.stream.flush()


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}"


def main(argv, values, work):
    """Call `work()`; what goes wrong ends the program with a line and status 1."""
    try:
        if len(argv) > 1:
            raise ValueError(f"Use flags only. Received: {' '.join(argv[1:])}")
        work(values)
    except (ValueError, OSError, ImportError, RuntimeError, SweepError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt as stopped:
        sys.exit(f"\n{stopped or 'Stopped'}")
