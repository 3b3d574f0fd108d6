"""Steps of `stf.training.fit` beside those of Keras `fit`, with and without pruning.

    python benchmarks/training_loop.py --rounds=20

LeNet-300-100, batch 100, SGD, the digits that ship with the package. Each round trains
every variant for 400 steps, in a new order; ratios are taken within a round. Times are
those of the last 200 steps, so that nothing is traced in them. tfmot is beside it in
`benchmarks/pruning_overhead.py`, whose steps are those of "Keras fit" here.
"""

import argparse
import json
import os
import pathlib
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import sparsenet_tf as stf  # noqa: E402
from sparsenet_tf.experiments.data import load  # noqa: E402
from sparsenet_tf.experiments.models import lenet_300_100  # noqa: E402

STEPS = 200  # of a period
RATIOS = (
    ("Keras fit", "loop"),
    ("Keras fit, 200 steps a call", "loop"),
    ("loop, pruned", "loop"),
    ("loop, twin", "loop"),
)


class Timer(keras.callbacks.Callback):
    """Times the last period."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.milliseconds = 1e3 * (time.perf_counter() - self.begin) / STEPS


def compiled(sparse=False, **options):
    model = lenet_300_100(seed=0)
    model = stf.sparsify(model) if sparse else model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, **options)
    return model


def time_variant(name, digits):
    timer = Timer()
    callbacks = [timer]
    x, y = digits.x_train, digits.y_train
    if name.startswith("Keras"):
        model = compiled(steps_per_execution=STEPS if "200" in name else 1)
        repeat = STEPS * 100 // len(x)
        x, y = np.concatenate([x] * repeat), np.concatenate([y] * repeat)
        model.fit(x, y, batch_size=100, epochs=2, verbose=0, callbacks=callbacks)
        return timer.milliseconds
    model = compiled(sparse="pruned" in name)
    if "pruned" in name:
        schedule = stf.pruning.PolynomialDecay(0.0, 0.9, 0, 10**5, frequency=200)
        callbacks.insert(0, stf.pruning.PruningCallback(schedule))
    stf.training.fit(model, x, y, steps=2 * STEPS, callbacks=callbacks)
    return timer.milliseconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--output", type=pathlib.Path, default="results/training_loop.json"
    )
    flags = parser.parse_args()
    warnings.filterwarnings("ignore", "Training ended at step")  # That is meant here.
    digits = load("mnist_5k")
    names = list(dict.fromkeys(name for pair in RATIOS for name in pair))
    rng = np.random.default_rng(0)
    times = {name: [] for name in names}
    for _ in range(flags.rounds):
        for name in rng.permutation(names):
            times[name].append(time_variant(name, digits))
            keras.backend.clear_session()
    for name, values in times.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        print(f"{name:30} {middle:.2f} ms a step ({low:.2f} to {high:.2f})")
    plain = (np.array(times["loop"]) + np.array(times["loop, twin"])) / 2
    for above, below in RATIOS:
        against = np.array(times[below]) if "twin" in above else plain
        low, middle, high = np.percentile(
            np.array(times[above]) / against, (25, 50, 75)
        )
        print(f"{above} / {below}: {middle:.2f} ({low:.2f} to {high:.2f})")
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
