"""Compares methods of sparse training on LeNet-300-100, and what their masks are worth.

    python examples/compare_methods.py

Random, ERK and RadiX masks, SNIP, GraSP, SynFlow, SET, RigL, pruning at once and on
schedule, and lottery tickets, at four sparsities with five seeds. Each method's masks
are also trained from new weights: which topologies can be? It prints tables and writes
methods.csv, methods.md and methods.png. Stopped or killed, it goes on when started
again.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags  # noqa: E402

from sparsenet_tf.experiments import (  # noqa: E402
    files,
    methods,
    methods_report,
    sweep_command,
)


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    here = sweep_command.where(values, __name__)
    text = "How long and how often to train."
    flags.DEFINE_enum("scale", "small", list(methods.SCALES), text, **here)
    choices = ["mnist_5k", "mnist", "fashion_mnist"]
    text = "What to train on instead of the scale's dataset."
    flags.DEFINE_enum("dataset", None, choices, text, **here)
    text = "Folder of the dataset's published files."
    flags.DEFINE_string("data_dir", None, text, **here)
    text = "A method to compare; may be repeated. Default: all of them."
    flags.DEFINE_multi_enum("method", None, list(methods.METHODS), text, **here)
    sweep_command.define_flags("results/compare_methods", **here)


def settings_from_flags(values):
    chosen = tuple(values.method or methods.METHODS)
    return methods.Settings(values.scale, values.dataset, values.data_dir, chosen)


def work(values):
    """Does the runs, and writes the results once all of them are done."""
    files.import_matplotlib()
    runs = methods.runs(settings_from_flags(values))
    outcomes = sweep_command.do(runs, values)
    if None in outcomes:
        print(f"{outcomes.count(None)} of {len(runs)} runs are other shards'")
        return
    rows = methods_report.rows(runs, outcomes)
    name = pathlib.Path(values.output_dir, "methods")
    table = methods_report.markdown(rows)
    files.write_whole(name.with_suffix(".csv"), methods_report.to_csv(rows).encode())
    files.write_whole(name.with_suffix(".md"), table.encode())
    methods_report.plot(rows, name.with_suffix(".png"))
    print(f"\n{table}\n{name}.csv, .md and .png")


def main(argv):
    sweep_command.main(argv, flags.FLAGS, work)


if __name__ == "__main__":
    define_flags()
    app.run(main)
