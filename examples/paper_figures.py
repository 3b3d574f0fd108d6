"""Makes the paper's Figures 7, 8 and 9: a picture, a CSV file and a table of each.

Alford et al., "Training Behavior of Sparse Neural Network Topologies":

    python examples/paper_figures.py --figure=7 --scale=small

Figure 7 is pruning and retraining, Figure 8 many retrainings of one mask, Figure 9
networks that are sparse from the start. The scales are "smoke" (a minute), "small" (the
digits that ship with the package, in half an hour) and "full" (the paper's settings, on
MNIST and CIFAR-10). Stopped or killed, it goes on where it was when started again.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Read when TensorFlow loads.

from absl import app, flags  # noqa: E402

from sparsenet_tf.experiments import (  # noqa: E402
    figure_plots,
    figure_rows,
    figure_tables,
    figures,
    files,
    sweep_command,
)
from sparsenet_tf.experiments.training import DATASETS  # noqa: E402


def define_flags(values=flags.FLAGS):
    """Only the script itself calls this, so that tests may import it."""
    here = sweep_command.where(values, __name__)
    choices = [*map(str, figures.FIGURES), "all"]
    flags.DEFINE_enum("figure", "all", choices, "Which of the paper's.", **here)
    text = "How much of the paper to do."
    flags.DEFINE_enum("scale", "small", list(figures.SCALES), text, **here)
    text = "What to train on instead of the scale's datasets."
    flags.DEFINE_enum("dataset", None, DATASETS, text, **here)
    text = "Folder of the dataset's published files."
    flags.DEFINE_string("data_dir", None, text, **here)
    models = [figures.L300, figures.L5]
    flags.DEFINE_list("models", models, "What to train.", **here)
    text = "How many networks of each kind. Default: as the scale says."
    flags.DEFINE_integer("seeds", None, text, **here)
    text = "Of SGD. Default: 0.2."
    flags.DEFINE_float("learning_rate", None, text, **here)
    sweep_command.define_flags("results/paper_figures", **here)


def settings_from_flags(values):
    chosen = values.figure
    return figures.Settings(
        figures=figures.FIGURES if chosen == "all" else (int(chosen),),
        scale=values.scale,
        dataset=values.dataset,
        data_dir=values.data_dir,
        models=tuple(values.models),
        seeds=values.seeds,
        learning_rate=values.learning_rate,
    )


def work(values):
    """Does the runs, and writes the figures whose runs are all done."""
    settings = settings_from_flags(values)
    files.import_matplotlib()
    runs = figures.runs(settings)
    outcomes = sweep_command.do([r for listed in runs.values() for r in listed], values)
    done = iter(outcomes)
    for figure, listed in runs.items():
        found = [next(done) for _ in listed]
        if None in found:
            missing = f"{found.count(None)} of {len(found)} runs"
            print(f"Figure {figure} waits for {missing} of other shards")
            continue
        write(figure, figure_rows.rows(figure, listed, found), values.output_dir)


def write(figure, rows, output_dir):
    """Writes the CSV, the table and the picture of one figure; prints the table."""
    name = pathlib.Path(output_dir, f"figure_{figure}")
    table = figure_tables.markdown(figure, rows)
    files.write_whole(name.with_suffix(".csv"), figure_rows.to_csv(rows).encode())
    files.write_whole(name.with_suffix(".md"), table.encode())
    figure_plots.plot(figure, rows, name.with_suffix(".png"))
    print(f"\n{table}\n{name}.csv, .md and .png")


def main(argv):
    sweep_command.main(argv, flags.FLAGS, work)


if __name__ == "__main__":
    define_flags()
    app.run(main)
