"""Trains LeNets that are sparse from the start, RadiX-Nets and random ones.

The experiment of Alford et al., "Training Behavior of Sparse Neural Network Topologies"
(Figure 9), by default on 5,000 digits that ship with the package:

    python examples/train_radixnet.py

It prints a table and writes results.json and accuracy.png to --output_dir.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags  # noqa: E402

from sparsenet_tf.experiments import (  # noqa: E402
    command_line,
    files,
    radixnet_report,
    train_radixnet,
)


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    default = train_radixnet.Settings()
    define = command_line.SettingsFlags(default, values, __name__)
    define.common(output_dir="results/train_radixnet")


def settings_from_flags(values):
    return command_line.read_settings(train_radixnet.Settings, values)


def run(settings, dataset, output_dir):
    """Runs the experiment, prints the table, and returns the files it wrote."""
    print(
        f"{settings.model} on {settings.dataset}, {len(dataset.x_train):,} training "
        f"and {len(dataset.x_test):,} test images; {settings.steps:,} steps a run",
        flush=True,
    )
    records = train_radixnet.run(settings, dataset, command_line.Progress())
    print(f"\n{radixnet_report.format_table(records)}\n")
    results = pathlib.Path(output_dir, "results.json")
    picture = pathlib.Path(output_dir, "accuracy.png")
    title = f"Sparse from the start: {settings.model} on {settings.dataset}"
    files.write_results(results, settings, records)
    radixnet_report.plot_accuracy(records, picture, title)
    print(f"{results}\n{picture}")
    return results, picture


def main(argv):
    command_line.main(argv, settings_from_flags, run)


if __name__ == "__main__":
    define_flags()
    app.run(main)
