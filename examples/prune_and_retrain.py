"""Prunes a LeNet during and after training, retrains the masks, draws the accuracies.

The pruning experiment of Alford et al., "Training Behavior of Sparse Neural Network
Topologies" (Figure 7), by default on 5,000 digits that ship with the package:

    python examples/prune_and_retrain.py

It prints a table and writes results.json and accuracy.png to --output_dir.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags  # noqa: E402

from sparsenet_tf.experiments import prune_and_retrain, report  # noqa: E402
from sparsenet_tf.experiments.data import load  # noqa: E402

SETTINGS = (
    "dataset", "data_dir", "model", "sparsities", "steps", "learning_rate", "momentum",
    "begin_step", "end_step", "frequency", "batch_size", "seeds",
)  # fmt: skip


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    default = prune_and_retrain.Settings()
    here = {"flag_values": values, "module_name": __name__}

    def choice(name, choices, text):
        flags.DEFINE_enum(name, getattr(default, name), choices, text, **here)

    def integer(name, text):
        flags.DEFINE_integer(name, getattr(default, name), text, **here)

    def number(name, text):
        flags.DEFINE_float(name, getattr(default, name), text, **here)

    choice("dataset", prune_and_retrain.DATASETS, "What to train on.")
    flags.DEFINE_string(
        "data_dir", None, "Folder of the dataset's published files.", **here
    )
    choice("model", sorted(prune_and_retrain.MODELS), "What to train.")
    integer("steps", "Optimizer steps of each training run.")
    number("learning_rate", "Of SGD.")
    number("momentum", "Of SGD.")
    integer("batch_size", "Examples a step.")
    schedule = {"begin_step": "10%", "end_step": "70%", "frequency": "2%"}
    for name, share in schedule.items():
        text = f"Of the pruning schedule, in steps. Default: {share} of --steps."
        flags.DEFINE_integer(name, None, text, **here)
    for name, kind in (("sparsities", float), ("seeds", int)):
        flags.DEFINE(
            NumberList(kind),
            name,
            getattr(default, name),
            "Comma-separated.",
            serializer=flags.CsvListSerializer(","),
            **here,
        )
    flags.DEFINE_string(
        "output_dir", "results/prune_and_retrain", "Where results go.", **here
    )


class NumberList(flags.ArgumentParser):
    """Reads "0.5,0.9"; its errors name the flag."""

    syntactic_help = "comma-separated numbers"

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def parse(self, argument):
        parts = argument.split(",") if isinstance(argument, str) else argument
        try:
            return tuple(self.kind(part) for part in parts)
        except ValueError as error:
            raise ValueError(f"must be comma-separated numbers ({error})") from error

    def flag_type(self):
        return f"comma-separated {self.kind.__name__}s"


def settings_from_flags(values):
    return prune_and_retrain.Settings(**{name: values[name].value for name in SETTINGS})


class Progress:
    """One line that is written over in a terminal, else a line for each tenth."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.overwrite = self.stream.isatty()
        self.start = time.monotonic()
        self.drawn_at = 0.0
        self.tenths = -1
        self.width = 0

    def __call__(self, done, total, label):
        now = time.monotonic()
        spent = now - self.start
        text = f"{done / total:4.0%}"
        if self.overwrite:
            if now - self.drawn_at < 0.2 and done < total:
                return
            full = 10 * done // total
            text += f" [{'#' * full}{'.' * (10 - full)}]"
        elif 10 * done // total == self.tenths:
            return
        if done == total:
            text += f" trained in {_clock(spent)}"
        elif done > total / 50:  # earlier it is hard to tell
            text += f" {_clock(spent * (total - done) / done)} left, {label}"
        else:
            text += f" {label}"
        if self.overwrite:
            # A line that wraps could not be written over.
            text = text[: shutil.get_terminal_size().columns - 1]
            end = "\n" if done == total else ""
            self.stream.write("\r" + text.ljust(self.width) + end)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
        self.drawn_at, self.width, self.tenths = now, len(text), 10 * done // total


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02}"


def prepare(settings, output_dir):
    """Does what can go wrong before the training; returns the dataset."""
    report.import_matplotlib()
    try:
        pathlib.Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OSError(
            f"--output_dir={output_dir} cannot be written to ({error.strerror})"
        ) from error
    return load(settings.dataset, settings.data_dir)


def run(settings, dataset, output_dir):
    """Runs the experiment, prints the table, and returns the files it wrote."""
    print(
        f"{settings.model} on {settings.dataset}, {len(dataset.x_train):,} training "
        f"and {len(dataset.x_test):,} test images; {settings.steps:,} steps a run, "
        f"pruned from step {settings.begin_step:,} to {settings.end_step:,} every "
        f"{settings.frequency:,}",
        flush=True,
    )
    records = prune_and_retrain.run(settings, dataset, Progress())
    print(f"\n{report.format_table(records)}\n")
    results = pathlib.Path(output_dir, "results.json")
    picture = pathlib.Path(output_dir, "accuracy.png")
    title = f"Pruning and retraining: {settings.model} on {settings.dataset}"
    report.write_results(results, settings, records)
    report.plot_accuracy(records, picture, title)
    print(f"{results}\n{picture}")
    return results, picture


def main(argv):
    output_dir = flags.FLAGS.output_dir
    try:
        if len(argv) > 1:
            raise ValueError(f"Use flags only. Received: {' '.join(argv[1:])}")
        settings = settings_from_flags(flags.FLAGS)
        dataset = prepare(settings, output_dir)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    try:
        run(settings, dataset, output_dir)
    except FloatingPointError as error:
        sys.exit(f"\nError: {error}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
