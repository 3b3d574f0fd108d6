"""Mixed-radix systems and widths to the layers and masks of a RadiX-Net."""

import dataclasses
import functools
import itertools
import math

import numpy as np

from sparsenet_tf.topology.checks import check_integer, shown
from sparsenet_tf.topology.radix_layer import SHORTLIST, RadixLayer, has_dead_units
from sparsenet_tf.topology.selection import check_sparsity


@dataclasses.dataclass(frozen=True)
class RadixNet:
    """A sparse net in which equally many paths join every input to every output.

    A system of radices N1 .. Nk has N' = N1 * .. * Nk nodes a layer. Its i-th layer of
    connections is a `RadixLayer` with radix Ni and place value N1 * .. * N(i-1), so
    that after the whole system every node has reached every node once. Systems may
    follow one another. Layer i of neurons consists of `widths[i]` copies of the
    nodes, less the first `drop[i]`.

    Args:
        radices: one system, a sequence of integers of 2 or more, or a sequence of such
            systems. All have the same product N', except that the last one's product
            may divide N'. Kept as a tuple of tuples.
        widths: copies of the nodes in each layer of neurons: one more than radices.
        drop: neurons to remove from the front of each layer of neurons; default none.

    Raises:
        TypeError: an entry is no integer.
        ValueError: an entry is out of range, a length is wrong, or the products of
            the systems do not fit.

    Source: Robinett and Kepner, "RadiX-Net: Structured Sparse Matrices for Deep
    Neural Networks", arXiv 1905.00416. The example is the net of Alford et al.,
    "Training Behavior of Sparse Neural Network Topologies", for MNIST.

    Example:
    >>> net = RadixNet((10, 10), widths=(8, 3, 1), drop=(16, 0, 0))
    >>> print(net)
    RadixNet 784-300-100: radices ((10, 10),), widths (8, 3, 1), drop (16, 0, 0)
    90.00% sparse, 26520 connections
    >>> [mask.shape for mask in net.masks], net.num_paths
    ([(784, 300), (300, 100)], 3)
    """

    radices: tuple
    widths: tuple
    drop: tuple = None

    def __post_init__(self):
        radices = _check_systems(self.radices)
        layers = sum(map(len, radices)) + 1
        drop = (0,) * layers if self.drop is None else self.drop
        widths = _check_integers(self.widths, "widths", 1, layers)
        drop = _check_integers(drop, "drop", 0, layers)
        nodes = math.prod(radices[0])
        for i, (width, lost) in enumerate(zip(widths, drop, strict=True)):
            if lost >= width * nodes:
                raise ValueError(
                    f"`drop[{i}]` must be less than the {width * nodes} neurons of its "
                    f"layer. Received: {lost}"
                )
        object.__setattr__(self, "radices", radices)
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "drop", drop)

    @classmethod
    def near(cls, layer_sizes, sparsity):
        """The RadiX-Net of these layer sizes whose overall sparsity is nearest.

        The layers of connections are split into systems of the same d radices, d >= 2;
        the last system may be shorter and then has the first of the radices. Searched
        are all d and all rising or falling radices of which none is more than twice
        another, with at most a quarter of each layer of neurons dropped and no neuron
        left without connections. The best has, in this order,

        1. the smallest `abs(density - wanted) / wanted`, in steps of a hundredth;
        2. the fewest dropped neurons;
        3. complete systems, then radices nearer each other, then more nodes.

        The smallest layer limits the number of nodes and so the sparsity that can be
        had; `net.sparsity` and `print(net)` say what was achieved.

        Args:
            layer_sizes: neurons of each layer, three layers or more.
            sparsity: wanted sparsity of all connections together, in [0, 1).

        Returns:
            A `RadixNet` with exactly these layer sizes.

        Raises:
            TypeError: an argument has another type.
            ValueError: an argument is out of range, or a layer is too small for any
                RadiX-Net.

        Example:
        >>> print(RadixNet.near((784, 300, 100), sparsity=0.9))
        RadixNet 784-300-100: radices ((10, 10),), widths (8, 3, 1), drop (16, 0, 0)
        90.00% sparse, 26520 connections
        """
        sizes = _check_integers(layer_sizes, "layer_sizes", 1)
        if len(sizes) < 3:
            raise ValueError(
                "`layer_sizes` must have at least 3 sizes; `RadixLayer.near` makes a "
                f"single layer of connections. Received: {sizes}"
            )
        wanted = 1 - check_sparsity(sparsity)
        found = []
        for system in _candidates(sizes, wanted):
            net = cls._covering(sizes, system)
            if any(has_dead_units(layer) for layer in net.layers):
                continue
            key = (
                round(abs(net.density - wanted) / wanted, 2),
                sum(net.drop),
                len(net.radices[-1]) < len(system),
                max(system) - min(system),
                -net.nodes,
                system,
            )
            found.append((key, net))
            if len(found) == SHORTLIST:
                break
        if not found:
            nets = [cls._covering(sizes, system) for system in _rising(2, 16)]
            best = min(nets, key=lambda n: max(map(_share, sizes, n.drop)))
            raise ValueError(
                f"`layer_sizes` {sizes} has a layer too small for a RadiX-Net: with at "
                "most a quarter of each layer dropped there is none. The best has "
                f"radices {best.radices} and would drop {best.drop} to leave {sizes}"
            )
        return min(found, key=lambda pair: pair[0])[1]

    @classmethod
    def _covering(cls, sizes, system):
        full, rest = divmod(len(sizes) - 1, len(system))
        radices = (system,) * full + ((system[:rest],) if rest else ())
        nodes = math.prod(system)
        widths = tuple(-(-size // nodes) for size in sizes)
        return cls(radices, widths, tuple(-size % nodes for size in sizes))

    @property
    def nodes(self):
        """Nodes of one copy, N': the product of a system's radices."""
        return math.prod(self.radices[0])

    @property
    def layer_sizes(self):
        """Neurons of each layer, after dropping."""
        pairs = zip(self.widths, self.drop, strict=True)
        return tuple(width * self.nodes - lost for width, lost in pairs)

    @functools.cached_property
    def layers(self):
        """The layers of connections, a tuple of `RadixLayer`."""
        places = []
        for system in self.radices:
            values = itertools.accumulate(system[:-1], int.__mul__, initial=1)
            places += zip(system, values, strict=True)
        sides = zip(
            itertools.pairwise(self.widths), itertools.pairwise(self.drop), strict=True
        )
        return tuple(
            RadixLayer(self.nodes, *place, *widths, *drops)
            for place, (widths, drops) in zip(places, sides, strict=True)
        )

    @property
    def masks(self):
        """A new list of the layers' boolean masks, `(inputs, outputs)` each."""
        return [layer.mask() for layer in self.layers]

    @property
    def densities(self):
        """The share of the possible connections in each layer, a tuple."""
        return tuple(layer.density for layer in self.layers)

    @property
    def num_connections(self):
        """Connections of all layers, after dropping."""
        return sum(layer.num_connections for layer in self.layers)

    @property
    def density(self):
        """Share of all possible connections that exist."""
        possible = sum(n.input_size * n.output_size for n in self.layers)
        return self.num_connections / possible

    @property
    def sparsity(self):
        """Share of all possible connections that do not exist."""
        return 1 - self.density

    @property
    def num_paths(self):
        """Paths from each input to each output, the same number for every pair.

        It is::

            prod(all radices) / N' * prod(widths[1:-1])

        Raises:
            ValueError: neurons of an inner layer are dropped, so that the pairs differ.
        """
        if any(self.drop[1:-1]):
            raise ValueError(
                "`num_paths` needs inner layers that drop no neurons, or the numbers "
                f"differ between pairs. Received: drop {self.drop}"
            )
        paths = math.prod(itertools.chain(*self.radices)) // self.nodes
        return paths * math.prod(self.widths[1:-1])

    def __str__(self):
        drop = f", drop {_runs(self.drop)}" if any(self.drop) else ""
        sizes = _runs(self.layer_sizes, "-", "{}")
        return (
            f"RadixNet {sizes}: radices {_runs(self.radices)}, "
            f"widths {_runs(self.widths)}{drop}\n"
            f"{self.sparsity:.2%} sparse, {self.num_connections} connections"
        )


def _check_systems(radices):
    entries = _as_tuple(radices, "radices")
    if not any(np.iterable(entry) for entry in entries):
        entries = (entries,)
    systems = tuple(
        _check_integers(system, f"radices[{i}]", 2) for i, system in enumerate(entries)
    )
    if () in systems:
        raise ValueError(f"`radices` must have no empty system. Received: {systems}")
    nodes = math.prod(systems[0])
    for i, system in enumerate(systems):
        product, last = math.prod(system), i == len(systems) - 1
        if product != nodes and not (last and nodes % product == 0):
            rule = f"a product that divides {nodes}" if last else f"the product {nodes}"
            raise ValueError(
                f"`radices[{i}]` must have {rule}, the product of the first system. "
                f"Received: {system} with product {product}"
            )
    return systems


def _check_integers(values, name, least, length=None):
    values = _as_tuple(values, name)
    if length not in (None, len(values)):
        raise ValueError(
            f"`{name}` must have {length} entries, one more than there are radices. "
            f"Received: {len(values)} entries"
        )
    return tuple(
        check_integer(value, f"{name}[{i}]", least) for i, value in enumerate(values)
    )


def _as_tuple(values, name):
    if not np.iterable(values) or isinstance(values, str):
        raise TypeError(f"`{name}` must be a sequence. Received: {shown(values)}")
    return tuple(values)


def _share(size, lost):
    return lost / (size + lost)


def _candidates(sizes, wanted):
    """Systems that drop at most a quarter, the best before dropping first."""
    most = 4 * min(sizes) // 3
    products = np.array([a * b for a, b in itertools.pairwise(sizes)], float)
    ranked = []
    for length in range(2, min(len(sizes) - 1, most.bit_length()) + 1):
        rising = list(_rising(length, most))
        falling = [system[::-1] for system in rising if system[0] != system[-1]]
        if not rising:
            break
        systems = np.array(rising + falling)
        nodes = systems.prod(axis=1)
        lost = -np.array(sizes) % nodes[:, None]
        fits = (4 * lost <= np.array(sizes) + lost).all(axis=1)
        shares = np.bincount(np.arange(products.size) % length, products)
        density = systems @ (shares / shares.sum()) / nodes
        errors = np.round(np.abs(density - wanted) / wanted, 2)
        ranked += [
            (errors[i], int(lost[i].sum()), tuple(systems[i].tolist()))
            for i in np.flatnonzero(fits)
        ]
    return [system for *_, system in sorted(ranked)]


def _rising(length, most, start=()):
    """Rising radices whose product is at most `most`, the last at most twice the first.

    >>> list(_rising(2, 8))
    [(2, 2), (2, 3), (2, 4)]
    """
    if len(start) == length:
        yield start
        return
    left = length - len(start)
    low = start[-1] if start else 2
    high = 2 * start[0] if start else most
    for radix in range(low, high + 1):
        if math.prod(start) * radix**left > most:
            return
        yield from _rising(length, most, (*start, radix))


def _runs(values, joint=", ", frame="({})"):
    """The values, with a run of many equal ones told as one and a count."""
    told = []
    for value, run in itertools.groupby(values):
        count = len(list(run))
        told += [f"{value} x{count}"] if count > 3 else [str(value)] * count
    comma = "," if len(told) == 1 and frame != "{}" and "x" not in told[0] else ""
    return frame.format(joint.join(told) + comma)
