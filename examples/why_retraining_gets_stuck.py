"""Tests why retrained sparse LeNet-5s get stuck, which the paper asks of its Figure 8.

Alford et al., "Training Behavior of Sparse Neural Network Topologies", retrained pruned
networks from new weights, which "appear to get stuck at different levels":

    python examples/why_retraining_gets_stuck.py

It retrains one mask at each of four sparsities with ReLU and with linear logits, at
three learning rates, and tries three other suspicions. It prints a table and writes
stuck.csv, stuck.md and stuck.png. Stopped or killed, it goes on when started again.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags  # noqa: E402

from sparsenet_tf.experiments import (  # noqa: E402
    files,
    stuck,
    stuck_report,
    sweep_command,
)


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    here = sweep_command.where(values, __name__)
    text = "How long and how often to train."
    flags.DEFINE_enum("scale", "small", list(stuck.STEPS), text, **here)
    choices = ["mnist_5k", "mnist", "fashion_mnist"]
    text = "What to train on instead of the scale's dataset."
    flags.DEFINE_enum("dataset", None, choices, text, **here)
    text = "Folder of the dataset's published files."
    flags.DEFINE_string("data_dir", None, text, **here)
    text = "New weights for each mask and variant. Default: as the scale says."
    flags.DEFINE_integer("retrainings", None, text, **here)
    sweep_command.define_flags("results/why_retraining_gets_stuck", **here)


def settings_from_flags(values):
    return stuck.Settings(
        values.scale, values.dataset, values.data_dir, values.retrainings
    )


def work(values):
    """Does the runs, and writes the results once all of them are done."""
    files.import_matplotlib()
    runs = stuck.runs(settings_from_flags(values))
    outcomes = sweep_command.do(list(runs.values()), values)
    if None in outcomes:
        print(f"{outcomes.count(None)} of {len(runs)} runs are other shards'")
        return
    rows = stuck_report.rows(list(runs), outcomes)
    name = pathlib.Path(values.output_dir, "stuck")
    table = stuck_report.markdown(rows)
    files.write_whole(name.with_suffix(".csv"), stuck_report.to_csv(rows).encode())
    files.write_whole(name.with_suffix(".md"), table.encode())
    stuck_report.plot(rows, name.with_suffix(".png"))
    print(f"\n{table}\n{name}.csv, .md and .png")


def main(argv):
    sweep_command.main(argv, flags.FLAGS, work)


if __name__ == "__main__":
    define_flags()
    app.run(main)
