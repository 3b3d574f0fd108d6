"""What the examples' command lines share: flags, a progress line, errors in a line."""

import dataclasses
import pathlib
import shutil
import sys
import tempfile
import time

from absl import flags

from sparsenet_tf.experiments import files
from sparsenet_tf.experiments.data import load
from sparsenet_tf.experiments.training import DATASETS, MODELS


class SettingsFlags:
    """Defines flags whose names and defaults are those of an experiment's settings.

    Args:
        default: the settings, a dataclass.
        values: the `absl.flags.FlagValues` to define them in.
        module_name: of the script, whose flags `--help` shows.
    """

    def __init__(self, default, values, module_name):
        self.default = default
        if module_name == "__main__":  # as absl calls it, to find it for `--help`
            module_name = sys.argv[0]
        self.here = {"flag_values": values, "module_name": module_name}

    def common(self, output_dir):
        """Define the flags of every experiment; `output_dir` is a default."""
        self.data(output_dir)
        self.choice("model", sorted(MODELS), "What to train.")
        self.integer("steps", "Optimizer steps of each training run.")
        self.number("learning_rate", "Of SGD.")
        self.number("momentum", "Of SGD.")
        self.integer("batch_size", "Examples a step.")
        self.numbers("seeds", int)

    def data(self, output_dir):
        """Define the flags of what goes in and out; `output_dir` is a default."""
        self.choice("dataset", DATASETS, "What to train on.")
        text = "Folder of the dataset's published files."
        flags.DEFINE_string("data_dir", None, text, **self.here)
        flags.DEFINE_string("output_dir", output_dir, "Where results go.", **self.here)

    def choice(self, name, choices, text):
        """Define a flag that is one of `choices`."""
        default = getattr(self.default, name)
        flags.DEFINE_enum(name, default, choices, text, **self.here)

    def integer(self, name, text):
        """Define a flag of type int."""
        flags.DEFINE_integer(name, getattr(self.default, name), text, **self.here)

    def number(self, name, text):
        """Define a flag of type float."""
        flags.DEFINE_float(name, getattr(self.default, name), text, **self.here)

    def numbers(self, name, kind):
        """Define a flag of several numbers of type `kind`."""
        flags.DEFINE(
            NumberList(kind),
            name,
            getattr(self.default, name),
            "Comma-separated.",
            serializer=flags.CsvListSerializer(","),
            **self.here,
        )


class NumberList(flags.ArgumentParser):
    """Reads "0.5,0.9"; its errors name the flag."""

    syntactic_help = "comma-separated numbers"

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def parse(self, argument):
        """Return the numbers as a tuple."""
        parts = argument.split(",") if isinstance(argument, str) else argument
        try:
            return tuple(self.kind(part) for part in parts)
        except ValueError as error:
            raise ValueError(f"must be comma-separated numbers ({error})") from error

    def flag_type(self):
        """Return what `--help` calls it."""
        return f"comma-separated {self.kind.__name__}s"


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
        """Draw how much is done, unless it was drawn just now."""
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


def read_settings(kind, values):
    """Return settings of the dataclass `kind`, each the value of the flag so named."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: values[name].value for name in names})


def prepare(settings, output_dir, pictures=True):
    """Do what can go wrong before the training.

    Args:
        settings: with `dataset` and `data_dir`.
        output_dir: folder, made if it does not exist.
        pictures: whether there will be any, which take matplotlib.

    Returns:
        The `Dataset`.

    Raises:
        ImportError: matplotlib, or a library to load the dataset, is missing.
        OSError: `output_dir` cannot be written to, or the dataset cannot be read.
        ValueError, RuntimeError: as `load`.
    """
    if pictures:
        files.import_matplotlib()
    try:
        pathlib.Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OSError(
            f"--output_dir={output_dir} cannot be written to ({error.strerror})"
        ) from error
    return load(settings.dataset, settings.data_dir)


def main(argv, make_settings, run, pictures=True):
    """Run an example; what goes wrong ends it with a line "Error: ..." and status 1.

    Args:
        argv: what the flags left of the command line, the script's name first.
        make_settings: function of the flags that returns the settings.
        run: function of the settings, the dataset and the output folder.
        pictures: as for `prepare`.
    """
    output_dir = flags.FLAGS.output_dir
    try:
        if len(argv) > 1:
            raise ValueError(f"Use flags only. Received: {' '.join(argv[1:])}")
        settings = make_settings(flags.FLAGS)
        dataset = prepare(settings, output_dir, pictures)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    try:
        run(settings, dataset, output_dir)
    except FloatingPointError as error:
        sys.exit(f"\nError: {error}")
