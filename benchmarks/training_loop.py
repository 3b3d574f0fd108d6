"""Steps of `stf.training.fit` beside those of Keras `fit`, with and without pruning.

    python benchmarks/training_loop.py --rounds=20

LeNet-300-100, batch 100, SGD, the digits that ship with the package. Each round trains
every variant for 1,000 steps, in a new order; ratios are taken within a round. Times
are those of the last 800 steps, so that nothing is traced in them. "Defaults" means
with the progress bar, written to nowhere. Where tfmot is installed, its pruning under
tf_keras is there too.
"""

import argparse
import contextlib
import importlib.util
import io
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
PERIODS = 5  # the first of them is not timed
RATIOS = (
    ("Keras fit, defaults", "loop"),
    ("Keras fit, silent", "loop"),
    ("Keras fit, 200 steps a call", "loop"),
    ("loop, pruned", "loop"),
    ("loop, twin", "loop"),
)
TFMOT = "tfmot fit, pruned"


def make_timer(callback_class):
    """A callback, of Keras 3 or of tf_keras, that times all periods but the first."""

    class Timer(callback_class):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.begin = time.perf_counter()
            steps = STEPS * (PERIODS - 1)
            self.milliseconds = 1e3 * (time.perf_counter() - self.begin) / steps

    return Timer()


def compiled(sparse=False, **options):
    model = lenet_300_100(seed=0)
    model = stf.sparsify(model) if sparse else model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, **options)
    return model


def time_variant(name, digits):
    timer = make_timer(keras.callbacks.Callback)
    callbacks = [timer]
    x, y = digits.x_train, digits.y_train
    repeat = STEPS * 100 // len(x)
    if name == TFMOT:
        return time_tfmot(np.concatenate([x] * repeat), np.concatenate([y] * repeat))
    if name.startswith("Keras"):
        model = compiled(steps_per_execution=STEPS if "200" in name else 1)
        x, y = np.concatenate([x] * repeat), np.concatenate([y] * repeat)
        verbose = "auto" if "defaults" in name else 0
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(
                x,
                y,
                batch_size=100,
                epochs=PERIODS,
                verbose=verbose,
                callbacks=callbacks,
            )
        return timer.milliseconds
    model = compiled(sparse="pruned" in name)
    if "pruned" in name:
        schedule = stf.pruning.PolynomialDecay(0.0, 0.9, 0, 10**5, frequency=200)
        callbacks.insert(0, stf.pruning.PruningCallback(schedule))
    stf.training.fit(model, x, y, steps=PERIODS * STEPS, callbacks=callbacks)
    return timer.milliseconds


def time_tfmot(x, y):
    import tf_keras
    from tensorflow_model_optimization.sparsity import keras as tfmot

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input(x.shape[1:]),
            layers.Flatten(),
            layers.Dense(300, "relu"),
            layers.Dense(100, "relu"),
            layers.Dense(10),
        ]
    )
    schedule = tfmot.PolynomialDecay(0.0, 0.9, 0, 10**5, frequency=200)
    model = tfmot.prune_low_magnitude(model, pruning_schedule=schedule)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(0.1), loss)
    timer = make_timer(tf_keras.callbacks.Callback)
    callbacks = [tfmot.UpdatePruningStep(), timer]
    model.fit(x, y, batch_size=100, epochs=PERIODS, verbose=0, callbacks=callbacks)
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
    ratios = RATIOS
    if importlib.util.find_spec("tensorflow_model_optimization"):
        ratios += ((TFMOT, "loop, pruned"),)
    names = list(dict.fromkeys(name for pair in ratios for name in pair))
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
    for above, below in ratios:
        against = plain
        if "twin" in above or above == TFMOT:
            against = np.array(times[below])
        low, middle, high = np.percentile(
            np.array(times[above]) / against, (25, 50, 75)
        )
        print(f"{above} / {below}: {middle:.2f} ({low:.2f} to {high:.2f})")
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
