"""What pruning costs: the time of Keras `fit` with and without it, side by side.

    python benchmarks/pruning_overhead.py --optimizer=adam --rounds=30 --seconds=120

All variants of a network are built and traced first. Then come rounds, each of which
trains every variant for an epoch or two, in a new order; only ratios within a round are
compared, since a machine's speed changes within seconds. "twin" is a second plain
model: its ratio to the first shows the noise, and "plain" in the other ratios is the
mean of both. "masked" has no callback, so that its guards stay up. Masks are updated
every 200 steps, as the schedule's steps go on from one `fit` to the next: in two of
five timed ones of LeNet-300-100, and in one of five of the slower LeNet-5.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

FREQUENCY = 200
BATCH_SIZE = 100
EPOCHS = {"lenet_300_100": 2, "lenet_5": 1}  # Of a timed `fit`; 40 steps each.
END_STEP = 100_000  # No run gets there, so that pruning never ends.
UPDATES = 50
RATIOS = ("pruned/plain", "pruned/masked", "masked/plain", "twin/first")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=40, help="at most, for each row")
    add("--seconds", type=float, default=60, help="no new round of a row after these")
    add("--steps_per_execution", type=int, nargs="+", default=[1, 40], metavar="N")
    add("--networks", nargs="+", choices=tuple(EPOCHS), default=tuple(EPOCHS))
    add("--optimizer", choices=("sgd", "adam"), default="sgd")
    add("--output", type=pathlib.Path, default="results/pruning_overhead.json")
    add("--tfmot_data", help=argparse.SUPPRESS)
    return parser.parse_args()


def compile_model(keras, model, optimizer, steps_per_execution=1):
    """Compiles with the Keras given: Keras 3, or tf_keras for tfmot."""
    make = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer]
    rate = {"sgd": 0.1, "adam": 0.001}[optimizer]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make(rate), loss, steps_per_execution=steps_per_execution)
    return model


def time_rounds(keras, variants, data, epochs, flags):
    """Returns {name: milliseconds a step, one for each round}.

    Of `variants`, {name: (compiled model, list of callbacks)}.
    """

    class Timer(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.end = time.perf_counter()

    def fit(name, epochs):
        model, callbacks = variants[name]
        timer = Timer()
        arguments = dict(batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        model.fit(*data, **arguments, callbacks=[*callbacks, timer])
        return 1e3 * (timer.end - timer.begin) / (epochs * (len(data[0]) // BATCH_SIZE))

    for name in variants:
        fit(name, 2)
    rng = np.random.default_rng(0)
    times = {name: [] for name in variants}
    begin = time.perf_counter()
    for _ in range(flags.rounds):
        for name in rng.permutation(list(times)):
            times[name].append(fit(name, epochs))
        if time.perf_counter() - begin > flags.seconds:
            break
    return times


def time_updates(update):
    """Milliseconds of `update(i)` for i = 1, 2, ..., without the first three."""
    times = []
    for i in range(1, UPDATES + 4):
        begin = time.perf_counter()
        update(i)
        times.append(1e3 * (time.perf_counter() - begin))
    return times[3:]


def measure_sparsenet(data, flags):
    """Plain Keras, with masks alone, and with masks that a schedule changes."""
    import keras

    import sparsenet_tf as stf
    from sparsenet_tf.experiments import models

    def pruning(end):
        schedule = stf.pruning.PolynomialDecay(0.0, 0.9, 0, end, frequency=FREQUENCY)
        return stf.pruning.PruningCallback(schedule)

    rows = []
    for net in flags.networks:
        epochs = EPOCHS[net]
        build = getattr(models, net)
        for steps in flags.steps_per_execution:
            variants = {name: (build(seed=0), []) for name in ("first", "twin")}
            variants["masked"] = stf.sparsify(build(seed=0)), []
            variants["pruned"] = stf.sparsify(build(seed=0)), [pruning(END_STEP)]
            for model, _ in variants.values():
                compile_model(keras, model, flags.optimizer, steps)
            times = time_rounds(keras, variants, data, epochs, flags)
            rows.append({"library": "sparsenet_tf", "network": net, "times": times})
            rows[-1]["steps_per_execution"] = steps

        model = compile_model(keras, stf.sparsify(build(seed=0)), flags.optimizer)
        model.fit(*data, batch_size=BATCH_SIZE, epochs=1, verbose=0)
        callback = pruning(FREQUENCY * (UPDATES + 3))
        callback.set_model(model)
        callback.on_train_begin()

        def update(i, model=model, callback=callback):
            model.optimizer.iterations.assign(i * FREQUENCY)
            callback.on_epoch_begin(0)
            callback.on_train_batch_end(FREQUENCY - 1)  # that many batches later

        rows[-1]["updates"] = updates = {"update": time_updates(update)}
        begin = time.perf_counter()
        for _ in range(1000):
            callback.on_train_batch_end(0, {})
        updates["no update"] = [time.perf_counter() - begin]  # s/1000, so ms a call
    return rows


def measure_tfmot(data, flags):
    """tf_keras with and without tfmot's pruning, the same networks."""
    import tensorflow as tf
    import tf_keras as keras
    from tensorflow_model_optimization.sparsity import keras as tfmot

    def build(net):
        layers = [keras.layers.InputLayer((28, 28, 1))]
        for filters in (20, 50) if net == "lenet_5" else ():
            conv = keras.layers.Conv2D(filters, 5, padding="same", activation="relu")
            layers += [conv, keras.layers.MaxPooling2D(2, 2, padding="same")]
        layers.append(keras.layers.Flatten())
        for units in (384,) if net == "lenet_5" else (300, 100):
            layers.append(keras.layers.Dense(units, "relu"))
        return keras.Sequential([*layers, keras.layers.Dense(10)])

    rows = []
    for net in flags.networks:
        epochs = EPOCHS[net]
        schedule = tfmot.PolynomialDecay(0.0, 0.9, 0, END_STEP, frequency=FREQUENCY)
        pruned = tfmot.prune_low_magnitude(build(net), pruning_schedule=schedule)
        variants = {name: (build(net), []) for name in ("first", "twin")}
        variants["pruned"] = pruned, [tfmot.UpdatePruningStep()]
        for model, _ in variants.values():
            compile_model(keras, model, flags.optimizer)
        times = time_rounds(keras, variants, data, epochs, flags)

        def times_of_updates(wrappers):
            @tf.function
            def update_masks():
                for wrapper in wrappers:
                    wrapper.pruning_obj.conditional_mask_update()
                    wrapper.pruning_obj.weight_mask_op()

            def update(i):
                for wrapper in wrappers:
                    wrapper.pruning_step.assign(i * FREQUENCY)
                update_masks()

            return time_updates(update)

        wrappers = [w for w in pruned.layers if getattr(w, "pruning_vars", None)]
        updates = {"update": times_of_updates(wrappers)}
        updates["update of the first kernel"] = times_of_updates(wrappers[:1])
        rows.append({"library": "tfmot", "network": net, "times": times})
        rows[-1].update(steps_per_execution=1, updates=updates)
    return rows


def run_tfmot(data):
    """`measure_tfmot` in a process of its own, as tfmot changes the environment."""
    needed = ("tensorflow_model_optimization", "tf_keras")
    if not all(map(importlib.util.find_spec, needed)):
        print(f"Not compared with tfmot, which needs {' and '.join(needed)} installed")
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.npz")
        np.savez(path, x=data[0], y=data[1])
        command = [sys.executable, __file__, f"--tfmot_data={path}", *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cell(values):
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def table(rows):
    """Medians and quartiles, as Markdown. Ratios are taken within each round."""
    heads = ["library", "network", "steps a call", "rounds", "plain, ms a step"]
    lines = [[*heads, *RATIOS], ["---"] * (len(heads) + len(RATIOS))]
    for row in rows:
        times = {name: np.array(values) for name, values in row["times"].items()}
        times["plain"] = (times["first"] + times["twin"]) / 2
        line = [row["library"], row["network"], row["steps_per_execution"]]
        line += [len(times["plain"]), cell(times["plain"])]
        for above, below in (ratio.split("/") for ratio in RATIOS):
            known = {above, below} <= times.keys()
            line.append(cell(times[above] / times[below]) if known else "-")
        lines.append(line)
    lines += [[], ["library", "network", "call", "ms"], ["---"] * 4]
    for row in rows:
        for name, values in row.get("updates", {}).items():
            lines.append([row["library"], row["network"], name, cell(values)])
    return "\n".join(f"| {' | '.join(map(str, x))} |" if x else "" for x in lines)


def main():
    flags = parse_arguments()
    if flags.tfmot_data:
        with np.load(flags.tfmot_data) as data:
            print(json.dumps(measure_tfmot((data["x"], data["y"]), flags)))
        return
    from sparsenet_tf.experiments.data import load

    warnings.filterwarnings("ignore", "Training ended at step")  # That is meant here.
    digits = load("mnist_5k")
    data = digits.x_train, digits.y_train
    load_before = os.getloadavg()
    rows = measure_sparsenet(data, flags) + run_tfmot(data)
    loads = [load_before, os.getloadavg()]
    results = {"optimizer": flags.optimizer, "load_averages": loads, "rows": rows}
    print(f"Medians and quartiles, {flags.optimizer}:\n\n{table(rows)}\n")
    print("The aim: 5 ms for an update of all three kernels of LeNet-300-100.")
    print("Load averages before and after:", *loads)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
