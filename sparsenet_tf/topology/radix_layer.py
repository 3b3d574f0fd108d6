"""One layer of connections of a RadiX-Net: counted and listed, never searched."""

import dataclasses

import numpy as np

from sparsenet_tf.topology.checks import check_integer
from sparsenet_tf.topology.selection import check_sparsity

SHORTLIST = 64  # Candidates of a search whose exact density is computed.


@dataclasses.dataclass(frozen=True)
class RadixLayer:
    """Connections from `width_in` to `width_out` copies of `nodes` nodes.

    Node u of an input copy joins the nodes (u - j * place_value) mod `nodes`, for j
    in 0 .. radix - 1, of every output copy. With W the `(nodes, nodes)` mask of that::

        W = sum over j of roll(I, -j * place_value, axis=1)
        mask = kron(ones(width_in, width_out), W)[drop_inputs:, drop_outputs:]

    so the input `b * nodes + u` is node u of copy b, before dropping. An output that
    loses no input to `drop_inputs` has `fan_in` of them.

    Args:
        nodes: nodes of one copy, N'.
        radix: connections of a node to one copy, at most `nodes`.
        place_value: distance between them; `radix * place_value` divides `nodes`.
        width_in: copies on the input side.
        width_out: copies on the output side.
        drop_inputs: inputs to remove, the first ones.
        drop_outputs: outputs to remove, the first ones.

    Raises:
        TypeError: an argument is no integer.
        ValueError: an argument is out of range, or they do not fit each other.

    Source: Robinett and Kepner, "RadiX-Net: Structured Sparse Matrices for Deep
    Neural Networks", arXiv 1905.00416.

    Example:
    >>> layer = RadixLayer(nodes=4, radix=2, place_value=1)
    >>> layer.mask().astype(int)
    array([[1, 0, 0, 1],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    >>> print(RadixLayer(100, 10, 1, width_in=8, width_out=3, drop_inputs=16))
    784 -> 300: radix 10 at place 1 of 100 nodes, widths 8 -> 3, drops 16 -> 0, \
90.00% sparse, 23520 connections
    """

    nodes: int
    radix: int
    place_value: int
    width_in: int = 1
    width_out: int = 1
    drop_inputs: int = 0
    drop_outputs: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name.startswith("drop") else 1
            value = check_integer(getattr(self, field.name), field.name, least)
            object.__setattr__(self, field.name, value)
        if self.radix > self.nodes:
            raise ValueError(
                f"`radix` must be at most `nodes`. Received: {self.radix} > "
                f"{self.nodes}"
            )
        if self.nodes % (self.radix * self.place_value):
            raise ValueError(
                "`radix * place_value` must divide `nodes`. Received: radix "
                f"{self.radix}, place_value {self.place_value}, nodes {self.nodes}"
            )
        for drop, width in (("drop_inputs", "width_in"), ("drop_outputs", "width_out")):
            size = getattr(self, width) * self.nodes
            if getattr(self, drop) >= size:
                raise ValueError(
                    f"`{drop}` must be less than `{width} * nodes`, {size}. "
                    f"Received: {getattr(self, drop)}"
                )

    @classmethod
    def near(cls, input_size, output_size, sparsity, stage=0):
        """The layer of these sizes whose sparsity is nearest.

        Before dropping the density is `radix / nodes`, always one over a whole
        number. All `nodes` and `radix` are searched whose copies cover both sizes with
        at most a quarter of either side dropped and no unit left without connections.
        The best has, in this order,

        1. the smallest `abs(density - wanted) / wanted`, in steps of a hundredth;
        2. a radix of 2 or more, since a radix of 1 mixes no nodes;
        3. the fewest dropped nodes;
        4. place values for two stages, then more nodes.

        Of very many only the 64 best by `radix / nodes` are compared exactly.

        No layer is sparser than one connection a unit; where less is asked, this is
        what is wanted instead. `layer.sparsity` says what was achieved.

        Args:
            input_size: number of inputs, 1 or more.
            output_size: number of outputs, 1 or more.
            sparsity: wanted sparsity, a number in [0, 1).
            stage: 0, 1, 2 ... for layers in a row, so that they mix: the place value
                is `radix ** stage` as long as `radix ** (stage + 1)` divides `nodes`;
                then it starts again at 1.

        Returns:
            A `RadixLayer` with exactly these sizes.

        Raises:
            TypeError, ValueError: an argument is out of range.

        Example:
        >>> print(RadixLayer.near(784, 300, sparsity=0.9, stage=1))
        784 -> 300: radix 10 at place 10 of 100 nodes, widths 8 -> 3, drops 16 -> 0, \
90.00% sparse, 23520 connections
        """
        sizes = (
            check_integer(input_size, "input_size", 1),
            check_integer(output_size, "output_size", 1),
        )
        sparsity = check_sparsity(sparsity)
        stage = check_integer(stage, "stage", 0)
        wanted = max(1 - sparsity, 1 / min(sizes))
        candidates = [
            cls._covering(sizes, nodes, radix, stage)
            for nodes, radix in _candidates(sizes, wanted, stage)
        ]
        return min(
            candidates,
            key=lambda c: (
                round(abs(c.density - wanted) / wanted, 2),
                c.radix < 2,
                c.drop_inputs + c.drop_outputs,
                -min(_stages(c.nodes, c.radix), 2),
                -c.nodes,
            ),
        )

    @classmethod
    def _covering(cls, sizes, nodes, radix, stage):
        place_value = radix ** (stage % _stages(nodes, radix))
        widths = [-(-size // nodes) for size in sizes]
        drops = [-size % nodes for size in sizes]
        return cls(nodes, radix, place_value, *widths, *drops)

    @property
    def input_size(self):
        """Inputs left after dropping."""
        return self.width_in * self.nodes - self.drop_inputs

    @property
    def output_size(self):
        """Outputs left after dropping."""
        return self.width_out * self.nodes - self.drop_outputs

    @property
    def fan_in(self):
        """Inputs of an output where none are dropped."""
        return self.radix * self.width_in

    @property
    def num_connections(self):
        """Connections left after dropping, exactly."""
        copies_in, rest_in = divmod(self.drop_inputs, self.nodes)
        copies_out, rest_out = divmod(self.drop_outputs, self.nodes)
        rows = self.drop_inputs * self.width_out
        columns = self.drop_outputs * self.width_in
        # What is in dropped rows and dropped columns was taken away twice.
        twice = copies_in * self.drop_outputs + copies_out * rest_in
        kept = self.nodes * self.width_in * self.width_out - rows - columns + twice
        return kept * self.radix + self._corner(rest_in, rest_out)

    def _corner(self, rows, columns):
        """Connections in the first rows and columns of one copy's mask."""
        if not rows or not columns:
            return 0
        # The j-th diagonal joins the columns c < columns to the rows c + shift.
        shift = np.arange(self.radix) * self.place_value
        inside = np.clip(rows - shift, 0, columns)
        wrapped = np.clip(shift + columns - self.nodes, 0, rows)
        return int((inside + wrapped).sum())

    @property
    def density(self):
        """Share of the possible connections that exist."""
        return self.num_connections / (self.input_size * self.output_size)

    @property
    def sparsity(self):
        """Share of the possible connections that do not exist."""
        return 1 - self.density

    def mask(self):
        """The connections as a boolean array `(input_size, output_size)`."""
        first = np.zeros(self.nodes, bool)
        first[-np.arange(self.radix) * self.place_value] = True
        # Row u is the first row moved u to the right: a window of two of them.
        windows = np.lib.stride_tricks.sliding_window_view(
            np.tile(first, 2), self.nodes
        )
        mask = np.tile(windows[:0:-1], (self.width_in, self.width_out))
        return np.ascontiguousarray(mask[self.drop_inputs :, self.drop_outputs :])

    def edges(self):
        """Every connection, by input and then by output; no dense mask is made.

        Returns:
            Two integer arrays of length `num_connections`, inputs and outputs, as
            `mask().nonzero()` gives.

        Example:
        >>> RadixLayer(nodes=3, radix=3, place_value=1, drop_inputs=1).edges()
        (array([0, 0, 0, 1, 1, 1]), array([0, 1, 2, 0, 1, 2]))
        """
        starts = np.arange(self.nodes)[:, None]
        joined = starts - np.arange(self.radix) * self.place_value
        joined = np.sort(joined % self.nodes, axis=1)
        copies = np.arange(self.width_out)[:, None] * self.nodes
        outputs = (joined[:, None, :] + copies).reshape(self.nodes, -1)
        outputs = np.tile(outputs, (self.width_in, 1))[self.drop_inputs :]
        outputs = outputs.ravel() - self.drop_outputs
        inputs = np.repeat(np.arange(self.input_size), self.radix * self.width_out)
        if self.drop_outputs:
            kept = outputs >= 0
            inputs, outputs = inputs[kept], outputs[kept]
        return inputs, outputs

    def describe(self):
        """Sizes, structure and sparsity in one line."""
        drops = f", drops {self.drop_inputs} -> {self.drop_outputs}"
        return (
            f"{self.input_size} -> {self.output_size}: radix {self.radix} at place "
            f"{self.place_value} of {self.nodes} nodes, widths {self.width_in} -> "
            f"{self.width_out}{drops if self.drop_inputs or self.drop_outputs else ''}"
            f", {self.sparsity:.2%} sparse, {self.num_connections} connections"
        )

    __str__ = describe


def has_dead_units(layer):
    """Whether dropping leaves a unit without connections.

    For layers that drop at most a quarter of either side: then no neighbourhood can
    reach around the ring of nodes into the dropped ones again.

    >>> has_dead_units(RadixLayer(8, 1, 1, 1, 1, drop_inputs=2))
    True
    """
    reach = (layer.radix - 1) * layer.place_value
    # In the first copy, outputs below `drop_inputs - reach` have lost all they join,
    # and so have inputs from `reach` on below `drop_outputs`. Some of these may be
    # dropped themselves, unless there are further copies with the same neighbours.
    first_output = layer.drop_outputs if layer.width_out == 1 else 0
    first_input = layer.drop_inputs if layer.width_in == 1 else 0
    dead_outputs = layer.drop_inputs - reach > first_output
    dead_inputs = layer.drop_outputs > max(reach, first_input)
    return (layer.width_in == 1 and dead_outputs) or (
        layer.width_out == 1 and dead_inputs
    )


def _candidates(sizes, wanted, stage):
    """Pairs (nodes, radix) worth an exact look, by the density before dropping."""
    most = max(1, 4 * min(sizes) // 3)
    nodes = np.arange(1, most + 1)
    lost = [-size % nodes for size in sizes]
    fits = [4 * n <= size + n for n, size in zip(lost, sizes, strict=True)]
    allowed, losses = np.logical_and(*fits), sum(lost)
    # Here `nodes` are also the whole numbers that the density is one over.
    errors = np.round(np.abs(1 / nodes - wanted) / wanted, 2)
    found = []
    order = np.argsort(errors, kind="stable")
    # From half of `most` on there is radix 1 alone, most often with dead units.
    alive = allowed & _alive_at_radix_1(sizes, nodes, lost)
    order = order[(order < most // 2) | alive[order]]
    for tried, index in enumerate(order.tolist()):
        full = len(found) >= SHORTLIST or tried > 8 * SHORTLIST
        if found and full and errors[index] > found[-1][0]:
            break
        step = index + 1
        if not allowed[index::step].any():
            continue
        radices = 1 + np.flatnonzero(allowed[index::step])
        best = np.lexsort((-radices, losses[radices * step - 1], radices < 2))
        taken = 0
        for radix in radices[best].tolist():
            n = radix * step
            if not has_dead_units(RadixLayer._covering(sizes, n, radix, stage)):
                found.append((errors[index], radix < 2, int(losses[n - 1]), -n, radix))
                taken += 1
            if taken == SHORTLIST:
                break
    return [(-n, radix) for *_, n, radix in sorted(found)[:SHORTLIST]]


def _alive_at_radix_1(sizes, nodes, lost):
    """Whether no unit is dead, for each of `nodes`, if node u joins node u alone."""
    single = [nodes >= size for size in sizes]
    visible = [np.where(one, n, 0) for one, n in zip(single, lost, strict=True)]
    dead_outputs = single[0] & (lost[0] > visible[1])
    dead_inputs = single[1] & (lost[1] > visible[0])
    return ~(dead_outputs | dead_inputs)


def _stages(nodes, radix):
    """How often the place value can grow by `radix` before it starts again."""
    stages = 1
    while radix > 1 and nodes % radix ** (stages + 1) == 0:
        stages += 1
    return stages
