"""`plot_topology`: neurons and the connections between them."""

import itertools

import numpy as np

from sparsenet_tf.layers.mask_values import as_mask
from sparsenet_tf.topology import RadixLayer, RadixNet, SparsePattern
from sparsenet_tf.topology.checks import as_array, check_integer, shown
from sparsenet_tf.visualization.figure import import_matplotlib, new_figure

CONNECTIONS = 30_000  # The paper's net for MNIST has 26,520.
_HEIGHT = 4.5  # inches, of the layers; and the place for labels
_LABELS = 1.1


def plot_topology(topology, max_connections=CONNECTIONS):
    """Draw a sparse net: neurons as dots, connections as lines.

    Layers of neurons stand from left to right, neuron 0 on top, each layer over the
    whole height. Below a layer is its number of neurons, and of a RadiX-Net how many
    copies of the nodes it is; above the connections their radix and place value, and
    their density.

    What has more than `max_connections` is refused, since such a picture shows
    nothing; `plot_masks` draws large masks.

    Args:
        topology: a `RadixNet`, `RadixLayer`, `SparsePattern` or mask (inputs,
            outputs); or a list of the latter three, a layer each, where the outputs of
            one are as many as the inputs of the next.
        max_connections: most lines to draw, 1 or more.

    Returns:
        A `matplotlib.figure.Figure` with one panel, to save or to show. It is tied to
        no window and no global state.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: `topology` is something else.
        ValueError: the sizes of a list do not fit, or there are more connections than
            `max_connections`.

    Source: Alford et al., "Training Behavior of Sparse Neural Network Topologies",
    Figures 5 and 6.

    Example:
    >>> net = stf.topology.RadixNet((2, 2, 2), widths=(1, 1, 1, 1))
    >>> figure = plot_topology(net)
    >>> sum(len(lines.get_segments()) for lines in figure.axes[0].collections)
    48
    """
    max_connections = check_integer(max_connections, "max_connections", 1)
    layers = _layers(topology)
    sizes = _sizes(layers)
    number = sum(map(_num_connections, layers))
    if number > max_connections:
        raise ValueError(
            f"`topology` must have at most `max_connections` ({max_connections}) "
            f"connections to be drawn. Received: {number}; `plot_masks` draws masks of "
            "any size"
        )
    return _draw(layers, sizes, _copies(layers))


def _layers(topology):
    if isinstance(topology, RadixNet):
        return topology.layers
    if isinstance(topology, (RadixLayer, SparsePattern)):
        return (topology,)
    if isinstance(topology, np.ndarray) and topology.ndim == 2:
        return (_as_layer(topology, "topology"),)
    if not isinstance(topology, (list, tuple)):
        raise TypeError(
            "`topology` must be a RadixNet, RadixLayer, SparsePattern, a mask of two "
            f"axes, or a list of layers. Received: {shown(topology)}"
        )
    if not topology:
        raise ValueError("`topology` must have a layer. Received: none")
    return tuple(_as_layer(layer, f"topology[{i}]") for i, layer in enumerate(topology))


def _as_layer(layer, name):
    if isinstance(layer, (RadixLayer, SparsePattern)):
        return layer
    mask = as_array(layer, name)
    if mask.ndim != 2:
        raise TypeError(
            f"`{name}` must be a RadixLayer, SparsePattern or mask of two axes. "
            f"Received: {shown(layer)}"
        )
    if not mask.size:
        raise ValueError(f"`{name}` must not be empty. Received: shape {mask.shape}")
    return as_mask(mask, where=name)


def _size(layer):
    if isinstance(layer, np.ndarray):
        return layer.shape
    return layer.input_size, layer.output_size


def _sizes(layers):
    pairs = [_size(layer) for layer in layers]
    for i, (left, right) in enumerate(itertools.pairwise(pairs), 1):
        if left[1] != right[0]:
            raise ValueError(
                f"`topology[{i}]` must have the {left[1]} inputs that the layer "
                f"before it has as outputs. Received: {right[0]} inputs"
            )
    return [pairs[0][0], *(outputs for _, outputs in pairs)]


def _num_connections(layer):
    if isinstance(layer, np.ndarray):
        return int(np.count_nonzero(layer))
    return layer.num_connections


def _edges(layer):
    if isinstance(layer, RadixLayer):
        return layer.edges()
    if isinstance(layer, SparsePattern):
        return layer.inputs, layer.outputs()
    return np.nonzero(layer)


def _copies(layers):
    """What copies of nodes each layer of neurons is, if all are RadiX layers."""
    if not all(isinstance(layer, RadixLayer) for layer in layers):
        return [""] * (len(layers) + 1)
    last = layers[-1]
    sides = [(n.width_in, n.nodes, n.drop_inputs) for n in layers]
    sides.append((last.width_out, last.nodes, last.drop_outputs))
    told = []
    for width, nodes, drop in sides:
        less = f" - {drop}" if drop else ""
        told.append(f"= {width} x {nodes}{less}" if width > 1 or drop else "")
    return told


def _draw(layers, sizes, copies):
    figure = new_figure(1.2 + 2.1 * len(layers), _HEIGHT + _LABELS)
    axes = figure.subplots()
    collections = import_matplotlib().collections
    heights = [(np.arange(size) + 0.5) / size for size in sizes]
    for x, layer in enumerate(layers):
        inputs, outputs = _edges(layer)
        segments = np.empty((inputs.size, 2, 2))
        segments[:, 0] = np.stack([np.full(inputs.size, x), heights[x][inputs]], 1)
        segments[:, 1] = np.stack(
            [np.full(outputs.size, x + 1), heights[x + 1][outputs]], 1
        )
        # Many lines are thin and let others through, or all would be black.
        crowd = min(1.0, 300 / max(1, inputs.size))
        lines = collections.LineCollection(
            segments,
            colors="0.25",
            linewidths=0.25 + 0.65 * crowd,
            alpha=max(0.04, 0.8 * crowd**0.75),
        )
        axes.add_collection(lines)
        axes.text(
            x + 0.5, -0.02, _describe(layer), ha="center", va="bottom", fontsize=8
        )
    for x, (size, height, copy) in enumerate(zip(sizes, heights, copies, strict=True)):
        # As large as leaves a gap to the next one.
        dot = min(7.0, 0.7 * 72 * _HEIGHT / size)
        axes.plot(np.full(size, x), height, "o", color="#0072b2", markersize=dot)
        axes.text(x, 1.02, f"{size} neurons\n{copy}", ha="center", va="top", fontsize=8)
    axes.set_xlim(-0.45, len(layers) + 0.45)
    axes.set_ylim(1.14, -0.14)
    axes.set_axis_off()
    return figure


def _describe(layer):
    inputs, outputs = _size(layer)
    density = f"{_num_connections(layer) / (inputs * outputs):.3g}"
    if isinstance(layer, RadixLayer):
        return (
            f"radix {layer.radix}\nplace value {layer.place_value}\ndensity {density}"
        )
    return f"density {density}"
