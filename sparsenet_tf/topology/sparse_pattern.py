"""`SparsePattern`: which connections a layer has, as indices, without a dense mask."""

import base64
import dataclasses
import functools
import hashlib
import zlib

import numpy as np

from sparsenet_tf.topology.checks import as_array, check_integer, shown

_INDEX_LIMIT = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class SparsePattern:
    """The connections of a layer, in compressed rows: for each output its inputs.

    Output j has the inputs `inputs[splits[j]:splits[j + 1]]`, in rising order.

    Attributes:
        input_size: number of inputs, fewer than 2**31.
        output_size: number of outputs, fewer than 2**31.
        splits: int32 array (output_size + 1,).
        inputs: int32 array (num_connections,).

    Raises:
        TypeError: a size is no integer, or an array holds no integers.
        ValueError: a size is out of range, or the arrays are no pattern of them.

    Example:
    >>> pattern = SparsePattern.from_mask(np.eye(3, dtype=bool))
    >>> pattern
    SparsePattern(3 -> 3, 3 connections)
    >>> pattern.inputs.tolist(), pattern.splits.tolist()
    ([0, 1, 2], [0, 1, 2, 3])
    """

    input_size: int
    output_size: int
    splits: np.ndarray
    inputs: np.ndarray

    def __post_init__(self):
        for name in ("input_size", "output_size"):
            size = check_integer(getattr(self, name), name, 1)
            if size > _INDEX_LIMIT:
                raise ValueError(
                    f"`{name}` must be at most {_INDEX_LIMIT}. Received: {size}"
                )
            object.__setattr__(self, name, size)
        for name in ("splits", "inputs"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        _check_rows(self.splits, self.inputs, self.input_size, self.output_size)

    @classmethod
    def from_mask(cls, mask, name="mask"):
        """Return the pattern of a mask (inputs, outputs), nonzero where connected.

        Args:
            mask: array of booleans or finite numbers.
            name: what errors call it.

        Raises:
            ValueError: `mask` does not have two axes, or holds NaN or no numbers.
        """
        mask = as_array(mask, name)
        if mask.ndim != 2:
            raise ValueError(
                f"`{name}` must have two axes, inputs and outputs. Received: shape "
                f"{mask.shape}"
            )
        if mask.dtype.kind not in "biuf" or not np.isfinite(mask).all():
            raise ValueError(
                f"`{name}` must hold booleans, or finite numbers. Received: dtype "
                f"{mask.dtype}, {mask!r:.200}"
            )
        outputs, inputs = np.nonzero(mask.T)
        return cls._sorted(*mask.shape, inputs, outputs)

    @classmethod
    def from_edges(cls, input_size, output_size, inputs, outputs):
        """Return the pattern that joins `inputs[k]` with `outputs[k]`, in any order.

        Args:
            input_size: number of inputs.
            output_size: number of outputs.
            inputs: integer array (num_connections,).
            outputs: integer array of the same length.

        Raises:
            TypeError, ValueError: as the class; or a connection occurs twice.

        Example:
        >>> SparsePattern.from_edges(4, 2, [3, 0], [1, 0]).mask().astype(int).tolist()
        [[1, 0], [0, 0], [0, 0], [0, 1]]
        """
        inputs, outputs = as_array(inputs, "inputs"), as_array(outputs, "outputs")
        if inputs.shape != outputs.shape or inputs.ndim != 1:
            raise ValueError(
                "`inputs` and `outputs` must be vectors of one length. Received: "
                f"shapes {inputs.shape} and {outputs.shape}"
            )
        size = check_integer(output_size, "output_size", 1)
        outputs = _indices("outputs", outputs)
        if outputs.size and not 0 <= outputs.min() <= outputs.max() < size:
            raise ValueError(
                f"`outputs` must be at least 0 and below {size}. Received: "
                f"{outputs.min()} to {outputs.max()}"
            )
        order = np.lexsort((inputs, outputs))
        return cls._sorted(input_size, output_size, inputs[order], outputs[order])

    @classmethod
    def random(cls, input_size, output_size, fan_in, seed):
        """Return a pattern that gives each output `fan_in` distinct inputs at random.

        No dense mask is made: 65,536 x 65,536 with a fan-in of 32 takes two seconds.

        Args:
            input_size: number of inputs.
            output_size: number of outputs.
            fan_in: connections of each output, at most `input_size`.
            seed: an integer of 0 or more.

        Raises:
            TypeError: an argument is no integer.
            ValueError: one is out of range.

        Example:
        >>> SparsePattern.random(1000, 500, 8, seed=0)
        SparsePattern(1000 -> 500, 4000 connections)
        """
        inputs = check_integer(input_size, "input_size", 1)
        outputs = check_integer(output_size, "output_size", 1)
        fan_in = check_integer(fan_in, "fan_in", 1)
        if fan_in > inputs:
            raise ValueError(
                f"`fan_in` must be at most `input_size` ({inputs}). Received: {fan_in}"
            )
        rng = np.random.default_rng(check_integer(seed, "seed", 0))
        chosen = np.empty((outputs, fan_in), np.int32)
        for row in chosen:
            row[:] = rng.choice(inputs, fan_in, replace=False, shuffle=False)
        chosen.sort(axis=1)
        splits = np.arange(outputs + 1, dtype=np.int64) * fan_in
        return cls(inputs, outputs, splits, chosen.reshape(-1))

    @classmethod
    def from_config(cls, config):
        """Return the pattern that `get_config` described.

        Raises:
            ValueError: it described none.
        """
        keys = {"input_size", "output_size", "wide", "connections"}
        if not isinstance(config, dict) or not keys <= config.keys():
            raise ValueError(
                f"`config` must be a dict with {sorted(keys)}, as from `get_config`. "
                f"Received: {config!r:.200}"
            )
        data = zlib.decompress(base64.b64decode(config["connections"]))
        steps = np.frombuffer(data, "<u8" if config["wide"] else "<u4")
        places = np.cumsum(steps, dtype=np.int64) - 1
        sizes = config["input_size"], config["output_size"]
        return cls._sorted(*sizes, places % sizes[0], places // sizes[0])

    def get_config(self):
        """Return a dict of plain values, some bytes a connection, fit for JSON."""
        steps = np.diff(self._places(), prepend=-1)
        wide = bool(steps.size) and int(steps.max()) >= 2**32
        data = zlib.compress(steps.astype("<u8" if wide else "<u4").tobytes(), 1)
        return {
            "input_size": self.input_size,
            "output_size": self.output_size,
            "wide": wide,
            "connections": base64.b64encode(data).decode("ascii"),
        }

    def digest(self):
        """Return 32 bytes (uint8) that differ for any other pattern."""
        digest = hashlib.sha256(np.int64([self.input_size, self.output_size]).tobytes())
        for array in (self.splits, self.inputs):
            digest.update(array.astype("<i4").tobytes())
        return np.frombuffer(digest.digest(), np.uint8)

    @classmethod
    def _sorted(cls, input_size, output_size, inputs, outputs):
        counts = np.bincount(outputs, minlength=output_size)
        return cls(input_size, output_size, np.r_[0, np.cumsum(counts)], inputs)

    @property
    def num_connections(self):
        """Number of connections."""
        return self.inputs.size

    @property
    def density(self):
        """`num_connections / (input_size * output_size)`."""
        return self.num_connections / (self.input_size * self.output_size)

    def outputs(self):
        """The output of each connection, int32 (num_connections,)."""
        sizes = np.diff(self.splits)
        return np.repeat(np.arange(self.output_size, dtype=np.int32), sizes)

    def _places(self):
        return self.outputs().astype(np.int64) * self.input_size + self.inputs

    def find(self, other):
        """Return which connection of this pattern each one of another is.

        Args:
            other: a pattern of the same sizes.

        Returns:
            Integer array (other.num_connections,), -1 where this one has none.

        Raises:
            ValueError: it is no pattern of these sizes.

        Example:
        >>> old = SparsePattern.from_edges(4, 1, [0, 3], [0, 0])
        >>> old.find(SparsePattern.from_edges(4, 1, [1, 3], [0, 0]))
        array([-1,  1])
        """
        sizes = self.input_size, self.output_size
        if (
            not isinstance(other, SparsePattern)
            or (other.input_size, other.output_size) != sizes
        ):
            raise ValueError(
                f"`other` must be a SparsePattern of the sizes {sizes}. Received: "
                f"{other!r:.200}"
            )
        if self.num_connections == 0:
            return np.full(other.num_connections, -1)
        mine, others = self._places(), other._places()
        index = np.minimum(np.searchsorted(mine, others), mine.size - 1)
        return np.where(mine[index] == others, index, -1)

    def mask(self):
        """The boolean array (input_size, output_size)."""
        mask = np.zeros((self.input_size, self.output_size), bool)
        mask[self.inputs, self.outputs()] = True
        return mask

    @functools.cached_property
    def by_input(self):
        """The same pattern by inputs: `(splits, outputs, order)`, int32 arrays.

        Input i has the outputs `outputs[splits[i]:splits[i + 1]]`, and `order` says
        which connection of the first order each of them is.
        """
        order = np.argsort(self.inputs, kind="stable").astype(np.int32)
        counts = np.bincount(self.inputs, minlength=self.input_size)
        splits = np.r_[0, np.cumsum(counts)].astype(np.int32)
        return splits, self.outputs()[order], order

    def __eq__(self, other):
        if not isinstance(other, SparsePattern):
            return NotImplemented
        mine, others = (dataclasses.astuple(pattern) for pattern in (self, other))
        return all(map(np.array_equal, mine, others))

    def __hash__(self):
        return hash((self.input_size, self.output_size, self.inputs.tobytes()))

    def __repr__(self):
        return (
            f"SparsePattern({self.input_size} -> {self.output_size}, "
            f"{self.num_connections} connections)"
        )


def _indices(name, values):
    array = as_array(values, name)
    if array.size == 0:
        array = array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"`{name}` must hold integers. Received: dtype {array.dtype}")
    if array.ndim != 1 or (
        array.size and not -_INDEX_LIMIT <= array.min() <= array.max() <= _INDEX_LIMIT
    ):
        raise ValueError(
            f"`{name}` must be a vector of integers below 2**31. Received: shape "
            f"{array.shape}, {shown(array)}"
        )
    array = np.array(array, np.int32)
    array.flags.writeable = False
    return array


def _check_rows(splits, inputs, input_size, output_size):
    if (
        splits.size != output_size + 1
        or splits[0] != 0
        or splits[-1] != inputs.size
        or (np.diff(splits) < 0).any()
    ):
        raise ValueError(
            f"`splits` must have {output_size + 1} entries that rise from 0 to the "
            f"{inputs.size} connections. Received: {splits}"
        )
    if inputs.size and not 0 <= inputs.min() <= inputs.max() < input_size:
        raise ValueError(
            f"`inputs` must be at least 0 and below {input_size}. Received: "
            f"{inputs.min()} to {inputs.max()}"
        )
    rising = np.diff(inputs) > 0
    starts = splits[1:-1]
    rising[starts[(starts > 0) & (starts < inputs.size)] - 1] = True
    if not rising.all():
        raise ValueError(
            "`inputs` must rise within each output, none twice. Received: "
            f"{int(np.count_nonzero(~rising))} that do not"
        )
