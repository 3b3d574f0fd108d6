"""RadiX layers against dense, masked and CSR products: time and peak memory.

    python benchmarks/radix.py --part products --seconds 2

The parts are "products" (forward and backward), "fit" (whole steps of `fit`),
"memory", "conv" "growth" (the width, with 32 connections a neuron) and
"wide" (LeNet-5 with 100 times the neurons, which takes 3.3 GB). Variants take
turns within a row, so that ratios hold on a noisy machine; times are medians of ms.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from measuring import gradient_step, measure, memory, reset_peak, table  # noqa: E402

import sparsenet_tf as stf  # noqa: E402
from sparsenet_tf.experiments.data import load  # noqa: E402

PARTS = ("products", "fit", "memory", "conv", "growth", "wide")
VARIANTS = ("Dense", "masked", "CSR", "RadixDense")
WIDTHS, RADICES, BATCHES = (1024, 4096, 8192), (4, 16, 32), (32, 100, 512)
CONV_BATCH, CONV_CHANNELS, CONV_SIDE = 32, 512, 16
GROWTH_BATCH, FAN_IN = 100, 32
CSR_MOST = 2**30  # nonzeros times batch: its gradient gathers two such tensors


def radix_layer(width, radix, last):
    """The first or the last layer of the system (radix, radix), in copies."""
    nodes = radix**2
    copies = width // nodes
    return stf.topology.RadixLayer(nodes, radix, radix if last else 1, copies, copies)


def wide_ring(width, radix, last=False):
    """A layer of one copy of `width` nodes: `radix` connections a neuron."""
    return stf.topology.RadixLayer(width, radix, width // radix if last else 1)


def csr_product(layer):
    """TensorFlow's product with a matrix in compressed sparse rows, W transposed."""
    from tensorflow.python.ops.linalg.sparse import sparse_csr_matrix_ops as csr

    inputs, outputs = layer.edges()
    order = np.lexsort((inputs, outputs))
    indices = np.stack([outputs[order], inputs[order]], axis=1)
    shape = (layer.output_size, layer.input_size)
    values = tf.Variable(tf.random.normal([len(order)], stddev=0.1))

    def product(x):
        matrix = csr.CSRSparseMatrix(tf.SparseTensor(indices, values, shape))
        return tf.transpose(csr.matmul(matrix, x, transpose_b=True))

    return product, [values]


def make_layer(variant, layer):
    """A Keras layer for the topology, not built."""
    if variant == "RadixDense":
        return stf.layers.RadixDense(layer, use_bias=False)
    dense = keras.layers.Dense(layer.output_size, use_bias=False)
    return dense if variant == "Dense" else stf.layers.Masked(dense, layer.mask())


def product_step(variant, layer, batch):
    x = tf.random.normal((batch, layer.input_size))
    upstream = tf.random.normal((batch, layer.output_size))
    if variant == "CSR":
        product, values = csr_product(layer)
        return gradient_step(product, x, values, upstream)
    built = make_layer(variant, layer)
    built.build(x.shape)
    weights = [v.value for v in built.trainable_variables]
    return gradient_step(built, x, weights, upstream)


def row(labels, times, against="Dense"):
    medians = {name: float(np.median(values)) for name, values in times.items()}
    best = list(times)[-1]
    speedup = np.array(times[against]) / np.array(times[best]) if against else [np.nan]
    found = {**labels, **{f"{n}, ms": f"{m:.3g}" for n, m in medians.items()}}
    if against:
        low, middle, high = np.percentile(speedup, (25, 50, 75))
        found["times faster"] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
    print(*found.values(), sep=" | ", flush=True)
    return found


def part_products(flags):
    rows = []
    for width in flags.widths:
        for radix in flags.radices:
            for last in (False, True):
                for batch in flags.batches:
                    layer = radix_layer(width, radix, last)
                    fits = layer.num_connections * batch < CSR_MOST
                    variants = [v for v in flags.variants if v != "CSR" or fits]
                    steps = {v: product_step(v, layer, batch) for v in variants}
                    labels = {"width": width, "radix": radix}
                    labels["density"] = f"{layer.density:.1%}"
                    labels["place value"] = layer.place_value
                    labels["batch"] = batch
                    labels.update({f"{v}, ms": "-" for v in flags.variants})
                    rows.append(row(labels, measure(steps, flags.seconds)))
                    keras.backend.clear_session()
    return rows


def part_fit(flags):
    """A step of `fit` with SGD on one layer: its update too goes over the weights."""
    rows = []
    steps_of_a_fit = 5
    for width in flags.widths:
        for last in (False, True):
            layer = radix_layer(width, 32, last)
            x = np.random.default_rng(0).normal(size=(100, width)).astype("float32")
            data = tf.data.Dataset.from_tensors((x, x)).repeat(steps_of_a_fit)
            steps = {}
            for variant in ("Dense", "masked", "RadixDense"):
                model = keras.Sequential(
                    [keras.Input((width,)), make_layer(variant, layer)]
                )
                model.compile("sgd", "mse")
                steps[variant] = functools.partial(model.fit, data, verbose=0)
            times = measure(steps, flags.seconds)
            times = {n: np.array(t) / steps_of_a_fit for n, t in times.items()}
            rows.append(row({"width": width, "place value": layer.place_value}, times))
            keras.backend.clear_session()
    return rows


def part_memory(flags):
    """Peak memory of forward and backward, each in a process of its own."""
    rows = []
    for width in flags.widths:
        found = {"width": width, "radix": 32, "batch": 100}
        for variant in flags.variants:
            found[f"{variant}, MB"] = round(peak_megabytes(variant, width, "net"))
        print(*found.values(), sep=" | ", flush=True)
        rows.append(found)
    return rows


def peak_megabytes(variant, width, kind):
    command = [sys.executable, __file__, f"--memory_of={variant},{width},{kind}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return float(done.stdout.splitlines()[-1])


def print_peak(variant, width, kind):
    reset_peak()
    before = memory("VmRSS")
    layer = {"ring": wide_ring(width, FAN_IN), "net": radix_layer(width, FAN_IN, False)}
    step = product_step(variant, layer[kind], GROWTH_BATCH)
    for _ in range(3):
        step()
    print(memory("VmHWM") - before)


def part_conv(flags):
    rows = []
    channels, side = CONV_CHANNELS, CONV_SIDE
    x = tf.random.normal((CONV_BATCH, side, side, channels))
    for radix in (channels // 4, channels // 16, channels // 32):
        for last in (False, True):
            topology = wide_ring(channels, radix, last)
            layers = {
                "Conv2D": keras.layers.Conv2D(channels, 3, padding="same"),
                "RadixConv2D": stf.layers.RadixConv2D(topology, 3, padding="same"),
            }
            steps = {}
            for name, layer in layers.items():
                layer.build(x.shape)
                weights = [v.value for v in layer.trainable_variables]
                steps[name] = gradient_step(layer, x, weights, tf.ones_like(x))
            labels = {"density": f"1/{channels // radix}"}
            labels["place value"] = topology.place_value
            rows.append(row(labels, measure(steps, flags.seconds), "Conv2D"))
    return rows


def part_wide(flags):
    """Steps of `fit` of LeNet-5 with 100 times the neurons, on digits that ship."""
    reset_peak()
    before = memory("VmRSS")
    digits = load("mnist_5k")
    conv2 = stf.topology.RadixLayer.near(5 * 5 * 20, 5_000, 0.99)
    dense1 = stf.topology.RadixLayer.near(7 * 7 * 5_000, 30_000, 0.99)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(20, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(padding="same"),
            stf.layers.RadixConv2D(conv2, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(padding="same"),
            keras.layers.Flatten(),
            stf.layers.RadixDense(dense1, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(flags.rate), loss, metrics=["accuracy"])
    print(conv2, dense1, sep="\n", flush=True)
    model.fit(digits.x_train[:200], digits.y_train[:200], batch_size=100, verbose=0)
    times = []

    class Timer(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            times.append(time.perf_counter() - self.start)

    history = model.fit(
        digits.x_train[: 100 * flags.steps],
        digits.y_train[: 100 * flags.steps],
        batch_size=100,
        epochs=flags.epochs,
        verbose=2,
        callbacks=[Timer()],
    )
    tested = model.evaluate(digits.x_test[:500], digits.y_test[:500], 100, verbose=0)
    dense = 5 * 5 * 20 * 5_000 + 7 * 7 * 5_000 * 30_000
    found = {"weights": model.count_params(), "GB of them": model.count_params() * 4e-9}
    found["GB, were they dense"] = dense * 4e-9
    found["peak GB"] = (memory("VmHWM") - before) / 1e3
    found["s a step"] = float(np.median(times))
    found["loss of epochs"] = [round(x, 3) for x in history.history["loss"]]
    found["accuracy on 500 test digits"] = tested[1]
    print(found)
    return [found]


def part_growth(flags):
    rows = []
    for power in range(10, 17):
        width = 2**power
        layer = wide_ring(width, FAN_IN)
        step = product_step("RadixDense", layer, GROWTH_BATCH)
        times = measure({"RadixDense": step}, flags.seconds)
        found = {"width": width, "nonzeros": layer.num_connections}
        milliseconds = np.median(times["RadixDense"])
        found["RadixDense, ms"] = f"{milliseconds:.3g}"
        found["ns a nonzero"] = f"{1e6 * milliseconds / layer.num_connections:.3g}"
        megabytes = peak_megabytes("RadixDense", width, "ring")
        found["MB"] = round(megabytes)
        found["bytes a nonzero"] = round(megabytes * 2**20 / layer.num_connections)
        print(*found.values(), sep=" | ", flush=True)
        rows.append(found)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--part", choices=PARTS, nargs="+", default=PARTS)
    add("--seconds", type=float, default=2, help="of a row, after which it ends")
    add("--widths", type=int, nargs="+", default=WIDTHS)
    add("--radices", type=int, nargs="+", default=RADICES)
    add("--batches", type=int, nargs="+", default=BATCHES)
    add("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    add("--steps", type=int, default=10, help="of an epoch of the wide net")
    add("--epochs", type=int, default=3, help="of the wide net")
    add("--rate", type=float, default=0.05, help="learning rate of the wide net")
    add("--output", type=pathlib.Path, default="results/radix.json")
    add("--memory_of", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.memory_of:
        variant, width, kind = flags.memory_of.split(",")
        print_peak(variant, int(width), kind)
        return
    results = {}
    for part in flags.part:
        print(f"\n{part}", flush=True)
        results[part] = globals()[f"part_{part}"](flags)
    for part, rows in results.items():
        print(f"\n{part}\n\n{table(rows)}")
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
