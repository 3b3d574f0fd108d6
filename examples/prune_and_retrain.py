"""Prunes a LeNet during and after training, retrains the masks, draws the accuracies.

The pruning experiment of Alford et al., "Training Behavior of Sparse Neural Network
Topologies" (Figure 7), by default on 5,000 digits that ship with the package:

    python examples/prune_and_retrain.py

It prints a table and writes results.json and accuracy.png to --output_dir.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags  # noqa: E402

from sparsenet_tf.experiments import (  # noqa: E402
    command_line,
    files,
    prune_and_retrain,
    report,
)


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    default = prune_and_retrain.Settings()
    define = command_line.SettingsFlags(default, values, __name__)
    define.common(output_dir="results/prune_and_retrain")
    schedule = {"begin_step": "10%", "end_step": "70%", "frequency": "2%"}
    for name, share in schedule.items():
        text = f"Of the pruning schedule, in steps. Default: {share} of --steps."
        flags.DEFINE_integer(name, None, text, **define.here)
    text = "Rank the weights of all kernels together, or, as the paper, of each alone."
    define.choice("scope", prune_and_retrain.SCOPES, text)
    define.numbers("sparsities", float)


def settings_from_flags(values):
    return command_line.read_settings(prune_and_retrain.Settings, values)


def run(settings, dataset, output_dir):
    """Runs the experiment, prints the table, and returns the files it wrote."""
    print(
        f"{settings.model} on {settings.dataset}, {len(dataset.x_train):,} training "
        f"and {len(dataset.x_test):,} test images; {settings.steps:,} steps a run, "
        f"pruned from step {settings.begin_step:,} to {settings.end_step:,} every "
        f"{settings.frequency:,}",
        flush=True,
    )
    records = prune_and_retrain.run(settings, dataset, command_line.Progress())
    print(f"\n{report.format_table(records)}\n")
    results = pathlib.Path(output_dir, "results.json")
    picture = pathlib.Path(output_dir, "accuracy.png")
    title = f"Pruning and retraining: {settings.model} on {settings.dataset}"
    files.write_results(results, settings, records)
    report.plot_accuracy(records, picture, title)
    print(f"{results}\n{picture}")
    return results, picture


def main(argv):
    command_line.main(argv, settings_from_flags, run)


if __name__ == "__main__":
    define_flags()
    app.run(main)
