"""`summary`: what is left of each kernel."""

import dataclasses
import math

import numpy as np
from keras import ops

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.units import unit_axes
from sparsenet_tf.topology.checks import shown
from sparsenet_tf.transform.quantized import quantized_kernels

_COLUMNS = (
    "kernel", "shape", "weights", "nonzeros", "sparsity", "dead in", "dead out",
    "bytes", "compressed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KernelSummary:
    """One kernel of a model.

    Attributes:
        path: where it is, as in `get_masks`.
        shape: its shape.
        size: number of weights.
        nonzeros: how many of them are not zero.
        sparsity: `1 - nonzeros / size`.
        dead_inputs: input units without any connection left in this kernel.
        dead_outputs: output units without any connection left in this kernel.
        bytes: of all its weights.
        compressed_bytes: of its nonzeros, plus one bit a weight that says where they
            are; or `bytes`, if that is less.
        masked: whether it has a mask, or holds only its nonzeros.
    """

    path: str
    shape: tuple
    size: int
    nonzeros: int
    sparsity: float
    dead_inputs: int
    dead_outputs: int
    bytes: int
    compressed_bytes: int
    masked: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """A model's kernels; `str()` of it is a table.

    Attributes:
        kernels: tuple of `KernelSummary`.
        other_bytes: of the weights that are no kernels (biases, normalization, ...),
            masks not counted.
        all_kept: whether the model has masks, and none of them has a zero.
    """

    kernels: tuple
    other_bytes: int
    all_kept: bool = False

    @property
    def nonzeros(self):
        """Nonzero weights in all kernels."""
        return sum(k.nonzeros for k in self.kernels)

    @property
    def sparsity(self):
        """Share of zeros in all kernels together."""
        size = sum(k.size for k in self.kernels)
        return 1.0 - self.nonzeros / size if size else 0.0

    @property
    def bytes(self):
        """Of all weights, dense."""
        return self.other_bytes + sum(k.bytes for k in self.kernels)

    @property
    def compressed_bytes(self):
        """Of all weights, kernels compressed."""
        return self.other_bytes + sum(k.compressed_bytes for k in self.kernels)

    def __str__(self):
        rows = [_COLUMNS, *map(_cells, self.kernels), self._total()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        return "\n".join(
            [lines[0], rule, *lines[1:-1], rule, lines[-1], *self._notes()]
        )

    def __repr__(self):
        count = len(self.kernels)
        return (
            f"<Summary: {count} kernel{'' if count == 1 else 's'}, "
            f"{self.sparsity:.2%} sparse, {self.bytes:,} bytes; print() shows a table>"
        )

    def _notes(self):
        if not all(kernel.masked for kernel in self.kernels):
            yield "*           no mask: training may change its zeros"
        yield "dead in     input units without a nonzero weight in the kernel"
        yield "dead out    output units without one"
        yield "compressed  bytes of nonzeros and a bit a weight, or of all if less"
        if self.all_kept:
            yield (
                "Nothing is pruned yet, all masks are ones: pass "
                "stf.PruningCallback(schedule) to fit, or call stf.prune_one_shot."
            )

    def _total(self):
        return (
            "total (with biases etc.)", "", f"{sum(k.size for k in self.kernels):,}",
            f"{self.nonzeros:,}", f"{self.sparsity:.2%}",
            f"{sum(k.dead_inputs for k in self.kernels):,}",
            f"{sum(k.dead_outputs for k in self.kernels):,}",
            f"{self.bytes:,}", f"{self.compressed_bytes:,}",
        )  # fmt: skip


def summary(model, print_fn=print):
    """Print a table of a model's kernels and what is left of them, and return it.

    For each kernel: path, shape, weights, nonzeros, sparsity, dead input and output
    units (those without a connection left in it), bytes, and bytes when only the
    nonzeros are kept with one bit a weight for their places. A "*" marks kernels
    without a mask. Layers that hold only their nonzeros are listed in the shape of the
    dense layer that they stand for, with the bytes that they take. So are kernels that
    Keras has quantized. The last line of the table adds them up, with all other weights
    in the bytes; notes below it explain the columns.

    Args:
        model: a built `keras.Model`, plain or sparsified.
        print_fn: called with the table; `None` prints nothing.

    Returns:
        A `Summary`, whose `kernels` are the rows.

    Raises:
        TypeError: `model` is no Keras model, or `print_fn` no function.
        ValueError: it is not built.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="out")])
    >>> table = summary(stf.pruning.prune_one_shot(model, 0.75), print_fn=None)
    >>> table.kernels[0].nonzeros, table.kernels[0].bytes, table.sparsity
    (5, 80, 0.75)
    """
    tree.check_model(model)
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, not built")
    check_print(print_fn)
    masked = masked_kernels(model)
    owners = tree.kernel_owners(model)
    rows = [
        _summarize(path, layer, kernel, path in masked)
        for path, (layer, kernel) in owners.items()
    ]
    kernels = {id(kernel) for _, kernel in owners.values()}
    for path, quantized in quantized_kernels(model).items():
        rows.append(_summarize_quantized(path, quantized))
        kernels.add(id(quantized.variable))
    for path, layer in tree.walk(model):
        if tree.is_sparse(layer):
            rows.append(_summarize_sparse(f"{path}/kernel", layer))
            kernels.add(id(layer.weights[0]))
    order = [path for path, _ in tree.walk(model)]
    rows.sort(key=lambda row: _place(row.path, order))
    masks = {id(m.mask) for m in masked.values()}
    other = [v for v in model.weights if id(v) not in kernels | masks]
    all_kept = bool(masked) and all(m.mask_value().all() for m in masked.values())
    table = Summary(tuple(rows), sum(map(_bytes, other)), all_kept)
    if print_fn is not None:
        print_fn(str(table))
    return table


def check_print(print_fn):
    """Raise a TypeError unless `print_fn` is None or can be called."""
    if print_fn is not None and not callable(print_fn):
        raise TypeError(
            "`print_fn` must be a function of a text, or None. Received: "
            f"{shown(print_fn)}"
        )


def _summarize(path, layer, kernel, masked):
    values = ops.convert_to_numpy(ops.convert_to_tensor(kernel))
    bits = 8 * values.itemsize
    axes = unit_axes(layer, kernel)
    return _row(path, layer, values != 0, axes, values.nbytes, bits, masked)


def _summarize_quantized(path, quantized):
    layer, alive = quantized.owner, quantized.alive
    axes, stored = unit_axes(layer, alive), _bytes(quantized.variable)
    return _row(path, layer, alive, axes, stored, quantized.bits, masked=False)


def _row(path, layer, alive, axes, stored_bytes, bits, masked):
    inputs, outputs = axes
    connections, groups = alive, getattr(layer, "groups", 1)
    if groups > 1:  # Each group has its own inputs on the same axis of the kernel.
        connections = alive.reshape(*alive.shape[:-1], groups, -1)
        inputs, outputs = (alive.ndim - 2, alive.ndim - 1), (alive.ndim - 1, alive.ndim)
    nonzeros = int(np.count_nonzero(alive))
    compressed = (nonzeros * bits + 7) // 8 + (alive.size + 7) // 8
    return KernelSummary(
        path=path,
        shape=tuple(alive.shape),
        size=alive.size,
        nonzeros=nonzeros,
        sparsity=1.0 - nonzeros / alive.size,
        dead_inputs=_dead(connections, inputs),
        dead_outputs=_dead(connections, outputs),
        bytes=stored_bytes,
        compressed_bytes=min(stored_bytes, compressed),
        masked=masked,
    )


def _summarize_sparse(path, layer):
    """The row of a layer that holds its nonzeros alone."""
    values = ops.convert_to_numpy(ops.convert_to_tensor(layer.weights[0]))
    size = math.prod(layer.dense_shape)
    nonzeros = int(np.count_nonzero(values))
    dead_inputs, dead_outputs = layer.count_dead_units()
    return KernelSummary(
        path=path,
        shape=layer.dense_shape,
        size=size,
        nonzeros=nonzeros,
        sparsity=1.0 - nonzeros / size,
        dead_inputs=dead_inputs,
        dead_outputs=dead_outputs,
        bytes=values.nbytes,
        compressed_bytes=values.nbytes,
        masked=True,
    )


def _place(path, order):
    """Where in the model's order the layer is that holds the kernel."""
    while path not in order and "/" in path:
        path = path.rpartition("/")[0]
    return order.index(path) if path in order else -1


def _bytes(variable):
    return ops.convert_to_numpy(ops.convert_to_tensor(variable)).nbytes


def _dead(alive, unit_axes):
    others = tuple(axis for axis in range(alive.ndim) if axis not in unit_axes)
    return int(np.count_nonzero(~alive.any(axis=others)))


def _cells(kernel):
    return (
        kernel.path + ("" if kernel.masked else " *"),
        "x".join(map(str, kernel.shape)), f"{kernel.size:,}", f"{kernel.nonzeros:,}",
        f"{kernel.sparsity:.2%}", f"{kernel.dead_inputs:,}",
        f"{kernel.dead_outputs:,}", f"{kernel.bytes:,}", f"{kernel.compressed_bytes:,}",
    )  # fmt: skip
