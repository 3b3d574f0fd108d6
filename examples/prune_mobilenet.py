"""Prunes a MobileNetV2 or ResNet50, retrains its masks, converts and exports it.

The model is that of keras.applications, with new weights; the data are by default
5,000 digits that ship with the package, enlarged:

    python examples/prune_mobilenet.py

It prints tables of accuracies, layers, times and sizes, and writes them to report.md
and results.json in --output_dir, beside the exported model.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags, logging  # noqa: E402

from sparsenet_tf.experiments import (  # noqa: E402
    applications,
    applications_report,
    command_line,
    files,
)


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    define = command_line.SettingsFlags(applications.Settings(), values, __name__)
    define.choice("model", sorted(applications.FIRST), "Of keras.applications.")
    define.number("alpha", "Width multiplier of MobileNetV2.")
    define.integer("image_size", "Pixels that images are enlarged to.")
    define.data(output_dir="results/prune_mobilenet")
    define.integer("steps", "Optimizer steps of each of the three training runs.")
    define.integer("batch_size", "Examples a step.")
    define.number("learning_rate", "Of Adam at first; it falls to 0 along a cosine.")
    text = "Of the moving averages in batch normalizations."
    define.number("batch_norm_momentum", text)
    define.number("sparsity", "Share of the masked weights to prune.")
    text = "An equal share of each kernel, or all weights ranked together."
    define.choice("scope", applications.SCOPES, text)
    schedule = {"begin_step": "10%", "end_step": "60%", "frequency": "2%"}
    for name, share in schedule.items():
        text = f"Of the pruning schedule, in steps. Default: {share} of --steps."
        flags.DEFINE_integer(name, None, text, **define.here)
    define.integer("timed", "Steps and predictions that each form is timed for.")
    define.integer("seed", "Of weights and the order of images.")


def settings_from_flags(values):
    return command_line.read_settings(applications.Settings, values)


def run(settings, dataset, output_dir):
    """Runs it, prints the tables, and returns the files of results that it wrote."""
    print(
        f"{settings.model} on {settings.dataset} at {settings.image_size} x "
        f"{settings.image_size}, {len(dataset.x_train):,} training and "
        f"{len(dataset.x_test):,} test images; {settings.steps:,} steps a run, pruned "
        f"to {settings.sparsity:.6g} from step {settings.begin_step:,} to "
        f"{settings.end_step:,} every {settings.frequency:,}",
        flush=True,
    )
    progress = command_line.Progress()
    outcome = applications.run(settings, dataset, output_dir, progress)
    text = applications_report.markdown(outcome)
    print(f"\n{text}")
    results = pathlib.Path(output_dir, "results.json")
    report = pathlib.Path(output_dir, "report.md")
    files.write_results(results, settings, [outcome])
    files.write_whole(report, text.encode())
    print(f"{results}\n{report}")
    return results, report


def main(argv):
    logging.set_verbosity(logging.WARNING)  # TensorFlow reports each file otherwise.
    command_line.main(argv, settings_from_flags, run, pictures=False)


if __name__ == "__main__":
    define_flags()
    app.run(main)
