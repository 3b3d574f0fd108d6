"""Convolutions with unstructured sparse filters: ours, dense, and over patches.

    python benchmarks/sparse_conv.py

Forward, and forward and backward, in milliseconds; variants take turns within a row.
"patches" writes out what each filter sees (im2col) and multiplies with our sparse
product; "SparseConv2D" convolves directly. The layers are those of LeNet-5 and ResNets.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from measuring import gradient_step, measure, table  # noqa: E402

import sparsenet_tf as stf  # noqa: E402
from sparsenet_tf.kernels.sparse import SparseProduct  # noqa: E402

# Images, their side and channels, filters and their side, strides, padding.
SHAPES = {
    "LeNet-5 conv2": (100, 12, 20, 50, 5, 1, "valid"),
    "56x56, 64 -> 64": (16, 56, 64, 64, 3, 1, "same"),
    "28x28, 128 -> 128": (32, 28, 128, 128, 3, 1, "same"),
    "28x28, 128 -> 256, strides 2": (32, 28, 128, 256, 3, 2, "same"),
    "14x14, 256 -> 1024, 1x1": (32, 14, 256, 1024, 1, 1, "same"),
    "16x16, 512 -> 512": (16, 16, 512, 512, 3, 1, "same"),
    "7x7, 512 -> 512": (32, 7, 512, 512, 3, 1, "same"),
}
DENSITIES = (0.2, 0.1, 0.05, 0.01)
VARIANTS = ("Conv2D", "masked", "patches", "SparseConv2D")


class Patches(keras.layers.Layer):
    """The sparse product over patches, which are joined from shifted images."""

    def __init__(self, mask, strides, padding):
        super().__init__()
        self.size, self.strides, self.padding = mask.shape[0], strides, padding
        pattern = stf.topology.SparsePattern.from_mask(mask.reshape(-1, mask.shape[-1]))
        self.product = SparseProduct(pattern)
        self.kernel = self.add_weight(shape=(pattern.num_connections,))

    def call(self, x):
        if self.padding == "same":
            side = x.shape[1]
            out = -(-side // self.strides)
            more = max(0, (out - 1) * self.strides + self.size - side)
            around = [more // 2, more - more // 2]
            x = tf.pad(x, [[0, 0], around, around, [0, 0]])
        out = (x.shape[1] - self.size) // self.strides + 1
        far = (out - 1) * self.strides + 1
        seen = [
            x[:, i : i + far : self.strides, j : j + far : self.strides]
            for i in range(self.size)
            for j in range(self.size)
        ]
        return self.product(tf.concat(seen, -1), self.kernel, "native")


def make(variant, mask, strides, padding, channels):
    options = {"strides": strides, "padding": padding, "use_bias": False}
    if variant == "SparseConv2D":
        return stf.layers.SparseConv2D(
            mask, mask.shape[0], implementation="native", **options
        )
    if variant == "patches":
        return Patches(mask, strides, padding)
    layer = keras.layers.Conv2D(mask.shape[-1], mask.shape[0], **options)
    if variant == "Conv2D":
        return layer
    layer.build((None, None, None, channels))
    return stf.layers.Masked(layer, mask)


def row(name, density, variants, seconds):
    images, side, channels, filters, size, strides, padding = SHAPES[name]
    mask = np.random.default_rng(0).random((size, size, channels, filters)) < density
    x = tf.random.normal((images, side, side, channels))
    calls = {}
    for variant in variants:
        layer = make(variant, mask, strides, padding, channels)
        upstream = tf.random.normal(layer(x).shape)
        weights = [v.value for v in layer.trainable_variables]
        calls[variant, "forward"] = tf.function(lambda layer=layer: layer(x))
        calls[variant, "both"] = gradient_step(layer, x, weights, upstream)
    times = measure(calls, seconds)
    found = {"layer": name, "batch": images, "density": f"{density:.0%}"}
    for what in ("forward", "both"):
        for variant in variants:
            median = np.median(times[variant, what])
            found[f"{what}, {variant}"] = float(f"{median:.3g}")
        ratios = np.divide(times["Conv2D", what], times[variants[-1], what])
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        found[f"{what}, times faster"] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--layers", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    add("--densities", type=float, nargs="+", default=DENSITIES)
    add("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    add("--seconds", type=float, default=2, help="of a row, after which it ends")
    add("--output", type=pathlib.Path, default="results/sparse_conv.json")
    flags = parser.parse_args()
    rows = []
    for name in flags.layers:
        for density in flags.densities:
            rows.append(row(name, density, flags.variants, flags.seconds))
            print(*rows[-1].values(), sep=" | ", flush=True)
            keras.backend.clear_session()
    print(f"\n{table(rows)}")
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
