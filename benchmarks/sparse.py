"""Products with an unstructured sparse matrix: ours beside all that there is.

    python benchmarks/sparse.py --part products --torch_python=/other/bin/python

The parts are "products" (forward, and forward and backward), "fit" (whole steps of
`fit`), "memory" (peaks, each in a process of its own) and "wide" (65,536 x 65,536 with
32 connections a neuron). Variants take turns within a row. PyTorch and sparseprop run
in a process of the Python given, where they are installed, which waits for its turn.
"products" also draws time against density, with the break-even points.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import scipy.sparse  # noqa: E402
import tensorflow as tf  # noqa: E402
from measuring import gradient_step, measure, memory, reset_peak, table  # noqa: E402

import sparsenet_tf as stf  # noqa: E402

PARTS = ("products", "fit", "memory", "wide")
WIDTHS, BATCHES = (1024, 4096, 8192), (1, 32, 128, 512)
DENSITIES = (0.2, 0.1, 0.05, 0.01, 0.005)
OURS = "SparseDense"
KERAS = ("Dense", "masked", "CSR", OURS)
OTHERS = ("torch CSR", "sparseprop")  # in another process
NAMES = {
    OURS: "SparseDense (ours)",
    "CSR": "TensorFlow CSR",
    "torch CSR": "PyTorch CSR",
}
CSR_MOST = 2**29  # nonzeros times batch: its gradient gathers two such tensors
FIT_STEPS = 5


def random_pattern(width, density):
    """Each connection with that probability."""
    mask = np.random.default_rng(0).random((width, width), "float32") < density
    return stf.topology.SparsePattern.from_mask(mask)


def make_layer(variant, pattern):
    if variant == OURS:
        return stf.layers.SparseDense(pattern, use_bias=False, implementation="native")
    if variant == "CSR":
        return stf.layers.SparseDense(pattern, use_bias=False, implementation="csr")
    dense = keras.layers.Dense(pattern.output_size, use_bias=False)
    if variant == "Dense":
        return dense
    return stf.layers.Masked(dense, pattern.mask())


def keras_steps(variant, pattern, batch):
    """{"forward": ..., "both": ...}: compiled functions without arguments."""
    x = tf.random.normal((batch, pattern.input_size))
    upstream = tf.random.normal((batch, pattern.output_size))
    layer = make_layer(variant, pattern)
    layer.build(x.shape)
    weights = [v.value for v in layer.trainable_variables]
    forward = tf.function(lambda: layer(x))
    return {"forward": forward, "both": gradient_step(layer, x, weights, upstream)}


def scipy_steps(pattern, batch):
    """SciPy multiplies, but has no gradient of the nonzeros."""
    values = np.ones(pattern.num_connections, "float32")
    shape = pattern.output_size, pattern.input_size
    matrix = scipy.sparse.csr_array((values, pattern.inputs, pattern.splits), shape)
    x = np.random.default_rng(0).normal(size=(pattern.input_size, batch))
    x = x.astype("float32")
    return {"forward": lambda: matrix @ x}


class Torch:
    """PyTorch's variants, in a process that works only while it is asked to."""

    def __init__(self, python):
        worker = pathlib.Path(__file__).with_name("sparse_torch.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([python, str(worker)], **pipes)
        self.variants = self.ask()

    def ask(self, **request):
        """Send a request, and return the answer."""
        if request:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def prepare(self, pattern, batch, variants):
        """Make the layers; the nonzeros go over by a file."""
        path = pathlib.Path(os.environ.get("TMPDIR", "/tmp"), f"csr{os.getpid()}.npz")
        np.savez(path, splits=pattern.splits, inputs=pattern.inputs)
        self.ask(path=str(path), batch=batch, variants=variants)
        path.unlink()

    def steps(self, variant):
        """Functions that return the milliseconds that they took over there."""

        def call(what):
            milliseconds = self.ask(variant=variant, what=what)
            time.sleep(0.03)  # its threads go on spinning for a while
            return milliseconds

        return {what: functools.partial(call, what) for what in ("forward", "both")}


def part_products(flags):
    torch = Torch(flags.torch_python) if flags.torch_python else None
    rows = []
    for width in flags.widths:
        for density in flags.densities:
            pattern = random_pattern(width, density)
            for batch in flags.batches:
                rows.append(product_row(flags, torch, pattern, batch, density))
                print(*rows[-1].values(), sep=" | ", flush=True)
                keras.backend.clear_session()
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    picture = flags.output.with_suffix(".png")
    plot(rows, picture)
    print(picture)
    return rows


def product_row(flags, torch, pattern, batch, density):
    steps = {}
    fits = pattern.num_connections * batch <= CSR_MOST
    for variant in KERAS:
        if variant in flags.variants and (variant != "CSR" or fits):
            steps[variant] = keras_steps(variant, pattern, batch)
    if "SciPy" in flags.variants:
        steps["SciPy"] = scipy_steps(pattern, batch)
    if torch is not None:
        others = [v for v in torch.variants if v in flags.variants]
        others = [v for v in others if v != "torch CSR" or fits]
        torch.prepare(pattern, batch, others)
        steps.update({variant: torch.steps(variant) for variant in others})
    calls = {(v, what): f for v, found in steps.items() for what, f in found.items()}
    times = measure(calls, flags.seconds)
    found = {"width": pattern.input_size, "density": f"{density:.1%}", "batch": batch}
    for what in ("forward", "both"):
        for variant in (*KERAS, "SciPy", *OTHERS):
            if variant in flags.variants and (variant, what) in times:
                found[f"{what}, {variant}"] = float(
                    f"{np.median(times[variant, what]):.3g}"
                )
    for variant in ("Dense", "sparseprop"):
        if (variant, "both") in times:
            ratios = np.divide(times[variant, "both"], times[OURS, "both"])
            low, middle, high = np.percentile(ratios, (25, 50, 75))
            found[f"{variant} / ours"] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
    return found


def break_even(rows, variant):
    """Where a variant takes as long as Dense does, by straight lines between rows.

    The density of the pattern is nothing to Dense, so its median over the rows counts.

    Returns:
        The density as text, and the point (percent, ms), None if it is beyond the rows.
    """
    rows = sorted(rows, key=lambda row: float(row["density"].rstrip("%")))
    density = [float(row["density"].rstrip("%")) for row in rows]
    dense = np.median([row["both, Dense"] for row in rows])
    gain = [dense - row[f"both, {variant}"] for row in rows]
    if gain[0] <= 0:
        return f"<{density[0]:g}%", None
    for i in range(1, len(rows)):
        if gain[i] <= 0:
            part = gain[i - 1] / (gain[i - 1] - gain[i])
            found = density[i - 1] + part * (density[i] - density[i - 1])
            return f"{found:.2g}%", (found, dense)
    return f">{density[-1]:g}%", None


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    widths = sorted({row["width"] for row in rows})
    batches = sorted({row["batch"] for row in rows})
    figure, axes = plt.subplots(
        len(batches),
        len(widths),
        figsize=(4.2 * len(widths), 3.2 * len(batches)),
        squeeze=False,
        sharex=True,
    )
    styles = {
        "Dense": ("black", "-", ""),
        "masked": ("0.5", "--", ""),
        "CSR": ("#e69f00", ":", "s"),
        "torch CSR": ("#009e73", ":", "^"),
        "sparseprop": ("#d55e00", "-.", "v"),
        OURS: ("#0072b2", "-", "o"),
    }
    for (i, batch), (j, width) in itertools.product(
        enumerate(batches), enumerate(widths)
    ):
        axis = axes[i][j]
        here = [r for r in rows if (r["width"], r["batch"]) == (width, batch)]
        density = [float(r["density"].rstrip("%")) for r in here]
        for variant, (color, line, marker) in styles.items():
            points = [
                (d, r[f"both, {variant}"])
                for d, r in zip(density, here, strict=True)
                if f"both, {variant}" in r
            ]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=color,
                    linestyle=line,
                    marker=marker,
                    markersize=4,
                    label=NAMES.get(variant, variant),
                )
        found = {}
        for variant in (OURS, "sparseprop", "torch CSR", "CSR"):
            rows_of = [r for r in here if f"both, {variant}" in r]
            if rows_of:
                text, point = break_even(rows_of, variant)
                found[NAMES.get(variant, variant)] = text
                if point is not None:
                    color = styles[variant][0]
                    axis.plot(
                        *point, "*", color=color, markeredgecolor="black", markersize=11
                    )
        lines = [f"{width} wide, batch {batch}. Break-even:"]
        lines += textwrap.wrap(", ".join(f"{k} {v}" for k, v in found.items()), 55)
        axis.set_title("\n".join(lines), fontsize=8)
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(density, [f"{d:g}" for d in density])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("Density (%)")
    for row in axes:
        row[0].set_ylabel("Forward and backward (ms)")
    handles = {}
    for axis in axes.flat:
        handles.update(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncol=7, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def part_fit(flags):
    """A step of `fit` with SGD on one layer: its update too goes over the weights."""
    rows = []
    for width in flags.widths:
        for density in (0.05, 0.01):
            pattern = random_pattern(width, density)
            x = np.random.default_rng(0).normal(size=(128, width)).astype("float32")
            data = tf.data.Dataset.from_tensors((x, x)).repeat(FIT_STEPS)
            steps = {}
            for variant in ("Dense", "masked", OURS):
                layer = make_layer(variant, pattern)
                model = keras.Sequential([keras.Input((width,)), layer])
                model.compile("sgd", "mse")
                steps[variant] = functools.partial(model.fit, data, verbose=0)
            times = measure(steps, flags.seconds)
            found = {"width": width, "density": f"{density:.1%}", "batch": 128}
            for variant, values in times.items():
                found[f"{variant}, ms"] = f"{np.median(values) / FIT_STEPS:.3g}"
            ratios = np.divide(times["Dense"], times[OURS])
            low, middle, high = np.percentile(ratios, (25, 50, 75))
            found["times faster"] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
            print(*found.values(), sep=" | ", flush=True)
            rows.append(found)
            keras.backend.clear_session()
    return rows


def part_memory(flags):
    """Peak memory of forward and backward, each in a process of its own."""
    rows = []
    for width in flags.widths:
        for density in (0.05, 0.01):
            found = {"width": width, "density": f"{density:.1%}", "batch": 128}
            for variant in KERAS:
                wanted = f"{variant},{width},{density}"
                command = [sys.executable, __file__, f"--memory_of={wanted}"]
                pipe = {"stdout": subprocess.PIPE, "check": True, "text": True}
                done = subprocess.run(command, **pipe)
                found[f"{variant}, MB"] = round(float(done.stdout.splitlines()[-1]))
            print(*found.values(), sep=" | ", flush=True)
            rows.append(found)
    return rows


def print_peak(variant, width, density):
    pattern = random_pattern(int(width), float(density))
    reset_peak()
    before = memory("VmRSS")
    step = keras_steps(variant, pattern, 128)["both"]
    for _ in range(3):
        step()
    print(memory("VmHWM") - before)


def part_wide(flags):
    """`fit` of a layer of 2.1 million weights that would take 16 GiB if dense."""
    reset_peak()
    before = memory("VmRSS")
    width = 65_536
    pattern = stf.topology.SparsePattern.random(width, width, 32, seed=0)
    layer = stf.layers.SparseDense(pattern, use_bias=False)
    model = keras.Sequential([keras.Input((width,)), layer])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, width)).astype("float32")
    # What another layer of the same pattern would give.
    teacher = stf.layers.SparseDense(pattern, use_bias=False)
    y = teacher(x).numpy()
    data = tf.data.Dataset.from_tensors((x, y)).repeat(10)
    losses, times = [], {"step": []}
    for _ in range(3):
        run = functools.partial(model.fit, data, verbose=0)
        losses.append(run().history["loss"][0])
    times = measure({"ten steps": run}, flags.seconds)
    found = {"weights": pattern.num_connections, "ms a step": 0, "peak MB": 0}
    found["ms a step"] = float(f"{np.median(times['ten steps']) / 10:.3g}")
    found["peak MB"] = round(memory("VmHWM") - before)
    found["loss"] = [float(f"{loss:.3g}") for loss in losses]
    print(found, flush=True)
    return [found]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    everything = (*KERAS, "SciPy", *OTHERS)
    add("--part", choices=PARTS, nargs="+", default=PARTS)
    add("--seconds", type=float, default=2, help="of a row, after which it ends")
    add("--widths", type=int, nargs="+", default=WIDTHS)
    add("--densities", type=float, nargs="+", default=DENSITIES)
    add("--batches", type=int, nargs="+", default=BATCHES)
    add("--variants", nargs="+", default=everything, choices=everything)
    add("--torch_python", help="Python with PyTorch, and sparseprop if it is there")
    add("--output", type=pathlib.Path, default="results/sparse.json")
    add("--plot", type=pathlib.Path, help="draw again what is in this JSON, and stop")
    add("--memory_of", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.plot:
        rows = json.loads(flags.plot.read_text())["products"]
        plot(rows, flags.plot.with_suffix(".png"))
        return
    if flags.memory_of:
        print_peak(*flags.memory_of.split(","))
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
