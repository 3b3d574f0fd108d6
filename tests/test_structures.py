"""N:M groups, blocks and whole units: which weights go, and in which number."""

import keras
import numpy as np
import pytest
from backends import several_steps, values
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsenet_tf as stf
from sparsenet_tf.layers.units import unit_axes
from sparsenet_tf.pruning import (
    NM,
    Blocks,
    ConstantSparsity,
    PolynomialDecay,
    PruningCallback,
    Units,
    prune_one_shot,
)

L = keras.layers
DENSE = (0,), (1,)
CONV = (2,), (3,)
DEPTHWISE = (2,), (2, 3)


def select(structure, scores, sparsity, mask=None, axes=DENSE):
    """The mask of one kernel."""
    scores = np.asarray(scores, float)
    mask = np.ones(scores.shape, bool) if mask is None else np.asarray(mask, bool)
    return structure.select([scores], sparsity, [mask], [axes])[0]


def column(*scores):
    return np.array(scores, float)[:, None]


def test_two_of_four_by_hand():
    scores = column(3, 1, 2, 4, 0.5, 0.2, 0.3, 0.4)
    mask = select(NM(2, 4), scores, 0.5)
    assert mask.ravel().tolist() == [1, 0, 0, 1, 1, 0, 0, 1]


def test_groups_lie_along_the_inputs_and_not_along_the_outputs():
    scores = np.arange(16.0).reshape(4, 4)
    expected = np.repeat([[0], [0], [1], [1]], 4, axis=1)
    np.testing.assert_array_equal(select(NM(2, 4), scores, 0.5), expected)
    turned = select(NM(2, 4), scores.T, 0.5, axes=((1,), (0,)))
    np.testing.assert_array_equal(turned, expected.T)


def test_a_schedule_on_its_way_takes_the_lowest_that_the_pattern_forbids():
    # Of the groups [9 8 7 6] and [1 2 3 4] the pattern forbids 6, 7, 1 and 2.
    scores = column(9, 8, 7, 6, 1, 2, 3, 4)
    expected = {0.25: {1, 2}, 0.375: {1, 2, 6}, 0.5: {1, 2, 6, 7}}
    for sparsity, gone in expected.items():
        mask = select(NM(2, 4), scores, sparsity)
        assert set(scores[~mask]) == gone


def test_the_last_group_keeps_as_many_as_it_can():
    mask = select(NM(2, 4), column(1, 2, 3, 4, 5), 0.5)
    assert mask.ravel().tolist() == [0, 0, 1, 1, 1]
    mask = select(NM(2, 4), column(1, 2, 3, 4, 7, 6, 5), 0.5)
    assert mask.ravel().tolist() == [0, 0, 1, 1, 1, 1, 0]


def test_of_equal_scores_the_first_of_a_group_stay():
    assert select(NM(2, 4), np.ones((4, 1)), 0.5).ravel().tolist() == [1, 1, 0, 0]


def test_pruned_weights_count_as_the_lowest_of_their_group():
    scores = column(9, 8, 1, 2)
    mask = select(NM(2, 4), scores, 0.5, column(0, 1, 1, 1))
    assert mask.ravel().tolist() == [0, 1, 0, 1]
    # Here the group has lost more than it must, and loses no more.
    mask = select(NM(2, 4), scores, 0.5, column(0, 0, 0, 1))
    assert mask.ravel().tolist() == [0, 0, 0, 1]


def test_kernels_are_ranked_together():
    low, high = column(1, 2, 3, 4), column(10, 20, 30, 40)
    ones = np.ones((4, 1), bool)
    masks = NM(2, 4).select([high, low], 0.25, [ones, ones], [DENSE, DENSE])
    assert [m.ravel().tolist() for m in masks] == [[1, 1, 1, 1], [0, 0, 1, 1]]
    masks = NM(2, 4).select([high, low], 0.5, [ones, ones], [DENSE, DENSE])
    assert [m.ravel().tolist() for m in masks] == [[0, 0, 1, 1], [0, 0, 1, 1]]


def test_each_position_of_a_convolution_has_groups_of_its_own():
    scores = np.random.default_rng(0).random((3, 3, 8, 5))
    mask = select(NM(2, 4), scores, 0.5, axes=CONV)
    groups = mask.reshape(3, 3, 2, 4, 5).sum(axis=3)
    np.testing.assert_array_equal(groups, 2)


def test_the_groups_of_a_depthwise_kernel_lie_along_its_window():
    scores = np.arange(9.0).reshape(3, 3, 1, 1) + np.zeros((3, 3, 2, 1))
    mask = select(NM(2, 4), scores, 0.4, axes=DEPTHWISE)
    expected = [[0, 0, 1], [1, 0, 0], [1, 1, 1]]
    np.testing.assert_array_equal(mask[:, :, 1, 0], expected)


def test_n_of_m_prunes_no_more_than_its_pattern():
    with pytest.raises(ValueError, match="`sparsity` must be at most 0.5.*0.6"):
        select(NM(2, 4), np.ones((4, 1)), 0.6)
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    with pytest.raises(ValueError, match="`sparsity` must be at most 0.25"):
        prune_one_shot(model, 0.5, structure=NM(3, 4))
    with pytest.raises(ValueError, match="`final_sparsity` must be at most 0.5"):
        PruningCallback(ConstantSparsity(0.9, 0), structure=NM(2, 4))


def test_one_of_three_can_be_reached_although_two_thirds_are_no_float():
    for sparsity in (2 / 3, 1 - 1 / 3):
        mask = select(NM(1, 3), np.random.default_rng(0).random((30, 7)), sparsity)
        np.testing.assert_array_equal(mask.reshape(10, 3, 7).sum(axis=1), 1)


def test_blocks_by_hand():
    # Means: 1, 5; 3, 2.
    scores = [[1, 1, 5, 5], [1, 1, 5, 5], [0, 6, 2, 2], [6, 0, 2, 2]]
    mask = select(Blocks((2, 2)), scores, 0.5)
    np.testing.assert_array_equal(mask[:2], [[0, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(mask[2:], [[1, 1, 0, 0]] * 2)


def test_blocks_at_the_edges_have_the_mean_of_what_they_have():
    # 3 x 3 in blocks of 2 x 2; means 4, 1; 3, 2, whatever the blocks' sizes.
    scores = [[4, 4, 1], [4, 4, 1], [3, 3, 2]]
    blocks = {0.25: [1, 1, 0, 1, 1, 0, 1, 1, 1], 0.5: [1, 1, 0, 1, 1, 0, 1, 1, 0]}
    for sparsity, expected in blocks.items():
        mask = select(Blocks((2, 2)), scores, sparsity)
        assert mask.ravel().tolist() == expected
    mask = select(Blocks((2, 2)), scores, 0.99)
    assert mask.ravel().tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_a_block_is_at_one_position_of_a_window():
    scores = np.ones((2, 1, 2, 2))
    scores[1] = 2
    mask = select(Blocks((2, 2)), scores, 0.5, axes=CONV)
    np.testing.assert_array_equal(mask, scores == 2)


def test_blocks_of_several_kernels_are_ranked_together():
    one, two = np.full((2, 2), 3.0), np.array([[1.0, 1, 2, 2], [1, 1, 2, 2]])
    masks = [np.ones(s.shape, bool) for s in (one, two)]
    found = Blocks((2, 2)).select([one, two], 0.67, masks, [DENSE, DENSE])
    assert [m.sum() for m in found] == [4, 0]


def test_what_is_pruned_inside_a_block_stays_so():
    mask = select(Blocks((2, 1)), [[4, 1], [5, 1]], 0.5, [[0, 1], [1, 1]])
    np.testing.assert_array_equal(mask, [[0, 0], [1, 0]])


def test_units_by_hand():
    # Means of the columns: 2, 1, 3.
    scores = [[4, 1, 3], [0, 1, 3]]
    np.testing.assert_array_equal(select(Units(), scores, 0.3), [[1, 0, 1]] * 2)
    np.testing.assert_array_equal(select(Units(), scores, 0.99), [[0, 0, 1]] * 2)


def test_filters_and_channels():
    scores = np.random.default_rng(0).random((3, 3, 4, 2))
    mask = select(Units(), scores, 0.5, axes=CONV)
    kept = scores.mean(axis=(0, 1, 2)) == scores.mean(axis=(0, 1, 2)).max()
    np.testing.assert_array_equal(mask, np.broadcast_to(kept, mask.shape))
    mask = select(Units(), scores, 0.5, axes=DEPTHWISE)
    means = scores.mean(axis=(0, 1))
    kept = means >= np.sort(means.ravel())[4]
    np.testing.assert_array_equal(mask, np.broadcast_to(kept, mask.shape))


def test_every_kernel_keeps_a_unit():
    low, high = np.array([[1.0, 2.0]]), np.array([[10.0, 20.0, 30.0]])
    masks = [np.ones(s.shape, bool) for s in (low, high)]
    found = Units().select([low, high], 0.4, masks, [DENSE, DENSE])
    assert [m.ravel().tolist() for m in found] == [[0, 1], [0, 1, 1]]
    found = Units().select([low, high], 0.9, masks, [DENSE, DENSE])
    assert [m.ravel().tolist() for m in found] == [[0, 1], [0, 0, 1]]


def test_a_kernel_that_lost_all_its_units_gets_none_back():
    low, high = np.array([[1.0, 2.0]]), np.array([[10.0, 20.0, 30.0]])
    masks = [np.zeros(low.shape, bool), np.ones(high.shape, bool)]
    found = Units().select([low, high], 0.6, masks, [DENSE, DENSE])
    assert [m.ravel().tolist() for m in found] == [[0, 0], [0, 1, 1]]


def test_units_of_several_axes():
    layer = L.EinsumDense("abc,cde->abde", (None, 4, 5))
    layer.build((None, 3, 2))
    axes = unit_axes(layer, layer.kernel)
    scores = np.random.default_rng(0).random(layer.kernel.shape)
    mask = select(Units(), scores, 0.5, axes=axes)
    assert mask.any(axis=0).sum() == mask.all(axis=0).sum() == 10


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NM(0, 4), ValueError, "`n` must be 1 or more. Received: 0"),
        (lambda: NM(2.0, 4), TypeError, "`n` must be an integer. Received: 2.0"),
        (lambda: NM(2, "4"), TypeError, "`m` must be an integer. Received: '4'"),
        (lambda: NM(True, 4), TypeError, "`n` must be an integer"),
        (lambda: NM(4, 4), ValueError, "`m` must be more than `n`, 4. Received: 4"),
        (lambda: Blocks(4), ValueError, "`shape` must be a pair.*Received: 4"),
        (lambda: Blocks((4, 4, 4)), ValueError, "`shape` must be a pair"),
        (lambda: Blocks((4, 0)), ValueError, r"`shape\[1\]` must be 1 or more"),
        (lambda: Blocks((4.0, 1)), TypeError, r"`shape\[0\]` must be an integer"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_structure_is_an_object_that_selects():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    for wrong in (NM, "2:4", 4):
        with pytest.raises(TypeError, match="`structure` must be None, or an object"):
            prune_one_shot(model, 0.5, structure=wrong)


# Properties, for all scores with ties, all masks so far and all sparsities.


@st.composite
def kernels(draw):
    """Some kernels: scores of few values, so that there are ties, masks and axes."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        axes = draw(st.sampled_from([DENSE, CONV, DEPTHWISE]))
        sizes = st.integers(1, 9)
        shape = (draw(sizes), draw(sizes))
        if axes is not DENSE:
            shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *shape)
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        scores = rng.integers(0, draw(st.sampled_from([1, 3, 1000])), shape)
        mask = rng.random(shape) < draw(st.sampled_from([0.1, 0.8, 1.0]))
        found.append((scores.astype("float32"), mask, axes))
    return tuple(map(list, zip(*found, strict=True)))


def matrices(mask, axes):
    """Every position's matrix of a mask, by loops; a depthwise kernel's one."""
    if axes == DENSE:
        return [mask]
    if axes == DEPTHWISE:
        return [mask.reshape(mask.shape[0] * mask.shape[1], -1)]
    return [mask[i, j] for i, j in np.ndindex(mask.shape[:2])]


def n_of_m_groups(mask, axes, m):
    return [
        matrix[start : start + m, output]
        for matrix in matrices(mask, axes)
        for start in range(0, len(matrix), m)
        for output in range(matrix.shape[1])
    ]


@settings(max_examples=80, deadline=None)
@given(kernels(), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1))
def test_n_of_m_holds_in_every_group(given_kernels, n, more, part):
    scores, masks, axes = given_kernels
    structure = NM(n, n + more)
    final = structure.select(scores, structure.max_sparsity, masks, axes)
    for mask, axis in zip(final, axes, strict=True):
        assert all(g.sum() <= n for g in n_of_m_groups(mask, axis, n + more))
    # What goes before the end would go then, too, and the numbers are exact.
    sparsity = part * structure.max_sparsity
    found = structure.select(scores, sparsity, masks, axes)
    for new, old, last in zip(found, masks, final, strict=True):
        assert not (new & ~old).any() and not (last & ~new).any()
    pruned, before, most = (sum((~m).sum() for m in g) for g in (found, masks, final))
    if part < 0.999999:
        wanted = round(sparsity * sum(m.size for m in masks))
        assert pruned == max(before, min(wanted, most))
    # On from there, the pattern is reached all the same.
    again = structure.select(scores, structure.max_sparsity, found, axes)
    for mask, expected in zip(again, final, strict=True):
        np.testing.assert_array_equal(mask, expected)


def parts_of_blocks(mask, axes, shape):
    rows, columns = shape
    return [
        matrix[i : i + rows, j : j + columns]
        for matrix in matrices(mask, axes)
        for i in range(0, matrix.shape[0], rows)
        for j in range(0, matrix.shape[1], columns)
    ]


def parts_of_units(mask, axes):
    return [
        matrix[:, j]
        for matrix in [np.concatenate(matrices(mask, axes))]
        for j in range(matrix.shape[1])
    ]


@settings(max_examples=80, deadline=None)
@given(
    kernels(),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.floats(0, 0.999),
    st.booleans(),
)
def test_blocks_and_units_go_as_a_whole(given_kernels, shape, sparsity, by_units):
    scores, masks, axes = given_kernels
    structure = Units() if by_units else Blocks(shape)

    def parts(arrays):
        """The parts of each kernel."""
        if by_units:
            return [parts_of_units(a, x) for a, x in zip(arrays, axes, strict=True)]
        return [parts_of_blocks(a, x, shape) for a, x in zip(arrays, axes, strict=True)]

    found = structure.select(scores, sparsity, masks, axes)
    counts = []
    for new, old in zip(parts(found), parts(masks), strict=True):
        for part, before in zip(new, old, strict=True):
            assert not part.any() or np.array_equal(part, before)
        counts.append([sum(p.any() for p in kernel) for kernel in (new, old)])
    total = sum(len(kernel) for kernel in parts(masks))
    left, before = np.sum(counts, axis=0)
    least = max(total - round(sparsity * total), 1)
    if by_units:
        assert all(new > 0 for new, old in counts if old)
        assert min(before, least) <= left <= max(min(before, least), len(masks))
    else:
        assert left == min(before, least)
    # More of the same keeps less of it.
    further = structure.select(scores, (1 + sparsity) / 2, found, axes)
    for new, old in zip(further, found, strict=True):
        assert not (new & ~old).any()


# In training.


def _trained(structure, final, scope="layer", exclude=()):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            L.Conv2D(8, 3, name="conv", activation="relu"),
            L.Flatten(),
            L.Dense(12, name="hidden", activation="relu"),
            L.Dense(3, name="logits"),
        ]
    )
    model = stf.sparsify(model)
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, "mse", steps_per_execution=several_steps(2))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6, 6, 4)).astype("float32")
    y = rng.normal(size=(80, 3)).astype("float32")
    callback = PruningCallback(
        PolynomialDecay(0.1, final, begin_step=2, end_step=12, frequency=4),
        scope=scope,
        exclude=exclude,
        structure=structure,
    )
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    return model, callback


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_training_reaches_two_of_four(scope):
    model, callback = _trained(NM(2, 4), 0.5, scope)
    assert callback.sparsity == 0.5
    overall = [np.mean(list(u.values())) for u in callback.updates.values()]
    assert overall == sorted(overall) and 0 < overall[0] < 0.5
    for name, axis in (("conv", 2), ("hidden", 0), ("logits", 0)):
        kernel = np.moveaxis(values(model.get_layer(name).kernel), axis, -1)
        groups = kernel.reshape(*kernel.shape[:-1], -1, 4)
        np.testing.assert_array_equal(np.count_nonzero(groups, axis=-1), 2)


def test_training_prunes_units():
    model, callback = _trained(Units(), 0.6, "global", exclude="logits")
    conv, hidden = (values(model.get_layer(n).kernel) for n in ("conv", "hidden"))
    left = [np.any(conv, axis=(0, 1, 2)).sum(), np.any(hidden, axis=0).sum()]
    assert sum(left) == 20 - round(0.6 * 20) and min(left) > 0
    assert np.all(values(model.get_layer("logits").kernel))


def test_at_once_by_blocks():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8, use_bias=False)])
    pruned = prune_one_shot(model, 0.75, structure=Blocks((4, 4)))
    kernel = values(pruned.layers[0].kernel)
    blocks = kernel.reshape(2, 4, 2, 4)
    assert np.any(blocks, axis=(1, 3)).sum() == np.all(blocks, axis=(1, 3)).sum() == 1
    dense = np.abs(values(model.layers[0].kernel)).reshape(2, 4, 2, 4).mean(axis=(1, 3))
    assert np.any(blocks, axis=(1, 3)).ravel().argmax() == dense.argmax()
