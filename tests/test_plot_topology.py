"""Pictures of topologies: every line against the connection that it stands for."""

import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.topology import RadixLayer, RadixNet, SparsePattern, random_mask


def drawn_masks(figure, sizes):
    """The masks that the lines of a figure join, found by where their ends are."""
    [axes] = figure.axes
    dots = {}
    for line in axes.get_lines():
        for node, (x, y) in enumerate(line.get_xydata()):
            dots[round(x, 6), round(y, 6)] = node
    masks = []
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    for x, (collection, shape) in enumerate(zip(axes.collections, pairs, strict=True)):
        mask = np.zeros(shape, int)
        for (x0, y0), (x1, y1) in collection.get_segments():
            assert (x0, x1) == (x, x + 1)
            mask[dots[x, round(y0, 6)], dots[x + 1, round(y1, 6)]] += 1
        masks.append(mask)
    return masks


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    "net",
    [
        RadixNet((2, 2, 2), widths=(1, 1, 1, 1)),
        RadixNet(((3, 3), (3,)), widths=(1, 2, 2, 1)),
        RadixNet((2, 3), widths=(3, 1, 2), drop=(4, 0, 1)),
    ],
    ids=str,
)
def test_every_connection_is_a_line(net):
    figure = stf.plot_topology(net)
    masks = drawn_masks(figure, net.layer_sizes)
    for drawn, mask in zip(masks, net.masks, strict=True):
        assert np.array_equal(drawn, mask)
    assert sum(mask.sum() for mask in masks) == net.num_connections


def test_neuron_0_is_on_top_and_layers_go_from_left_to_right():
    figure = stf.plot_topology(RadixLayer(4, 2, 1))
    [axes] = figure.axes
    left, right = (line.get_xydata() for line in axes.get_lines())
    assert (left[:, 0] == 0).all() and (right[:, 0] == 1).all()
    top, bottom = (axes.transData.transform(left[i])[1] for i in (0, -1))
    assert top > bottom


def test_labels_name_radix_and_place_value():
    figure = stf.plot_topology(RadixNet((2, 3), widths=(3, 1, 2), drop=(4, 0, 1)))
    found = texts(figure)
    assert any("radix 2\nplace value 1\ndensity" in text for text in found)
    assert any("radix 3\nplace value 2\ndensity" in text for text in found)
    assert "14 neurons\n= 3 x 6 - 4" in found
    assert "6 neurons\n" in found and "11 neurons\n= 2 x 6 - 1" in found


def test_labels_do_not_overlap():
    net = RadixNet((10, 10), widths=(8, 3, 1), drop=(16, 0, 0))
    figure = stf.plot_topology(net)
    figure.savefig("/dev/null", format="png")
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height
    assert sum(len(c.get_segments()) for c in axes.collections) == 26_520


def test_masks_patterns_and_lists():
    first = random_mask((5, 4), 0.5, seed=0)
    second = SparsePattern.random(4, 6, 2, seed=0)
    figure = stf.plot_topology([first, second, RadixLayer(6, 3, 1)])
    a, b, c = drawn_masks(figure, (5, 4, 6, 6))
    assert np.array_equal(a, first)
    assert np.array_equal(b, second.mask())
    assert np.array_equal(c, RadixLayer(6, 3, 1).mask())
    assert f"density {first.mean():.3g}" in texts(figure)
    for single, mask in ((first, first), (second, second.mask())):
        [drawn] = drawn_masks(stf.plot_topology(single), mask.shape)
        assert np.array_equal(drawn, mask)


def test_no_connections_are_no_lines():
    [drawn] = drawn_masks(stf.plot_topology(np.zeros((3, 2), bool)), (3, 2))
    assert not drawn.any()


def test_too_many_connections_are_refused():
    net = RadixNet((2, 2), widths=(1, 1, 1))
    with pytest.raises(ValueError, match=r"\(15\) connections to be drawn. .* 16;"):
        stf.plot_topology(net, max_connections=15)
    stf.plot_topology(net, max_connections=16)
    # Counted, so that nothing of its size is made before.
    with pytest.raises(ValueError, match="Received: 4294967296;"):
        stf.plot_topology(RadixLayer(2**16, 2**16, 1))


def test_wrong_topologies_are_refused():
    with pytest.raises(TypeError, match="`topology` must be a RadixNet"):
        stf.plot_topology("net")
    with pytest.raises(TypeError, match="`topology` must be a RadixNet"):
        stf.plot_topology(np.ones(3))
    with pytest.raises(TypeError, match=r"`topology\[1\]` must be"):
        stf.plot_topology([np.eye(3), np.ones(3)])
    with pytest.raises(ValueError, match=r"`topology\[1\]` must have the 4 inputs"):
        stf.plot_topology([np.ones((3, 4)), np.ones((3, 4))])
    with pytest.raises(ValueError, match="must have a layer"):
        stf.plot_topology([])
    with pytest.raises(ValueError, match=r"kernel 'topology\[0\]' must hold only"):
        stf.plot_topology([np.full((2, 2), 0.5)])
