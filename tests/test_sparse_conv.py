"""Sparse convolutions: equal to masked dense ones, outputs and every gradient."""

import keras
import numpy as np
import pytest
from backends import BACKEND, output_and_gradients, values

from sparsenet_tf.kernels import sparse_conv
from sparsenet_tf.kernels.sparse_conv import SparseConvProduct
from sparsenet_tf.topology import SparsePattern


class Problem:
    """A convolution with random numbers, and its results in float64 by NumPy."""

    def __init__(
        self, images, channels, filters, kernel, density, seed=0, groups=1, **options
    ):
        rng = np.random.default_rng(seed)
        self.options = {"strides": (1, 1), "padding": "valid", "dilation_rate": (1, 1)}
        self.options.update(options)
        self.groups = groups
        self.shape = (*kernel, channels, filters)  # channels and filters of all groups
        own = (*kernel, channels // groups, filters)
        self.mask = rng.random(own) < density
        if filters > 2 and density < 1:
            self.mask[..., 1] = False  # a filter without weights
        self.kernel = rng.normal(size=own).astype("float32") * self.mask
        self.x = rng.normal(size=(*images, channels)).astype("float32")
        self.upstream = rng.normal(size=self.output_shape()).astype("float32")

    def pattern(self):
        return SparsePattern.from_mask(self.mask.reshape(-1, self.mask.shape[-1]))

    def product(self):
        size = self.mask.shape[:2]
        return SparseConvProduct(
            self.pattern(), size, groups=self.groups, **self.options
        )

    def values(self):
        flat = self.kernel.reshape(-1, self.mask.shape[-1])
        pattern = self.pattern()
        return flat[pattern.inputs, pattern.outputs()]

    def _sides(self):
        """For each axis: (padding before, size of the output)."""
        sides = []
        for i in (0, 1):
            size, step = self.x.shape[1 + i], self.options["strides"][i]
            seen = (self.mask.shape[i] - 1) * self.options["dilation_rate"][i] + 1
            if self.options["padding"] == "same":
                out = -(-size // step)
                sides.append((max(0, (out - 1) * step + seen - size) // 2, out))
            else:
                sides.append((0, max(0, (size - seen) // step + 1)))
        return sides

    def output_shape(self):
        (_, height), (_, width) = self._sides()
        return self.x.shape[0], height, width, self.shape[-1]

    def expected(self):
        """Output and gradients to the images and the nonzeros."""
        x, kernel = self.x.astype("float64"), np.zeros(self.shape)
        of_group = self.mask.shape[2]
        filters = self.shape[-1] // self.groups
        for g in range(self.groups):
            kernel[
                :,
                :,
                g * of_group : (g + 1) * of_group,
                g * filters : (g + 1) * filters,
            ] = self.kernel[..., g * filters : (g + 1) * filters]
        (top, height), (left, width) = self._sides()
        far = 64  # more zeros than any filter sees
        padded = np.pad(x, ((0, 0), (far, far), (far, far), (0, 0)))
        y = np.zeros(self.upstream.shape)
        to_padded, to_kernel = np.zeros_like(padded), np.zeros(self.shape)
        for i, j in np.ndindex(*self.shape[:2]):
            rows = far - top + i * self.options["dilation_rate"][0]
            columns = far - left + j * self.options["dilation_rate"][1]
            down, right = self.options["strides"]
            seen = (
                slice(None),
                slice(rows, rows + height * down, down),
                slice(columns, columns + width * right, right),
            )
            y += padded[seen] @ kernel[i, j]
            to_padded[seen] += self.upstream @ kernel[i, j].T
            to_kernel[i, j] = np.einsum("nhwc,nhwf->cf", padded[seen], self.upstream)
        to_x = to_padded[:, far : far + x.shape[1], far : far + x.shape[2]]
        blocks = [
            to_kernel[
                :,
                :,
                g * of_group : (g + 1) * of_group,
                g * filters : (g + 1) * filters,
            ]
            for g in range(self.groups)
        ]
        flat = np.concatenate(blocks, axis=-1).reshape(-1, self.shape[-1])
        pattern = self.pattern()
        return y, to_x, flat[pattern.inputs, pattern.outputs()]

    def run(self, way, dtype="float32"):
        product = self.product()
        results = output_and_gradients(
            lambda x, v: product(x, v, way),
            [keras.ops.cast(a, dtype) for a in (self.x, self.values())],
            keras.ops.cast(self.upstream, dtype),
        )
        return [values(result).astype("float64") for result in results]

    def check(self, way, tolerance=1e-5):
        for result, wanted in zip(self.run(way), self.expected(), strict=True):
            assert result.shape == wanted.shape
            scale = max(1e-30, np.abs(wanted).max(initial=0))
            np.testing.assert_allclose(result / scale, wanted / scale, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"padding": "same", "strides": (2, 2)}])
def test_written_out(options):
    Problem((3, 9, 8), 5, 6, (3, 2), 0.3, **options).check("dense")


def test_says_which_ways_there_are():
    problem = Problem((1, 4, 4), 2, 3, (3, 3), 0.5)
    product, given = problem.product(), problem.values()
    with pytest.raises(ValueError, match="`implementation` must be one of"):
        product(problem.x, given, "csr")
    if BACKEND != "tensorflow":
        with pytest.raises(ValueError, match=f"'native' needs .*backend {BACKEND}"):
            product(problem.x, given, "native")


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it has another way")
def test_elsewhere_the_filters_are_written_out():
    sparser = SparsePattern.random(900, 50, 9, seed=0)
    assert sparse_conv.choose(sparser, 36, "float32") == "dense"
