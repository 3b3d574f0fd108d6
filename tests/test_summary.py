"""What is left of each kernel, checked by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsenet_tf as stf


def model_of(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts], name="net")


def row_of(model, values, path):
    """The summary's row of the kernel at `path`, after it was set to `values`."""
    kernels = dict(zip([path], [values], strict=True))
    masks = {path: np.asarray(values) != 0 for path, values in kernels.items()}
    sparse = stf.sparsify(model, masks)
    (owner,) = [layer for layer in sparse.layers if path.startswith(layer.name)]
    for name, masked in owner.kernels.items():
        if path.endswith(name):
            masked.kernel.assign(values)
    table = stf.summary(sparse, print_fn=None)
    (row,) = [row for row in table.kernels if row.path == path]
    return row


def test_dense_by_hand():
    model = model_of((3,), layers.Dense(4, name="a"))
    values = np.array([[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 0, 4]], "float32")
    sparse = stf.sparsify(model, {"a/kernel": values != 0})
    sparse.layers[0].kernel.assign(values)
    table = stf.summary(sparse, print_fn=None)
    (row,) = table.kernels
    assert row.path == "a/kernel" and row.shape == (3, 4) and row.masked is True
    assert (row.size, row.nonzeros) == (12, 4)
    assert row.sparsity == pytest.approx(8 / 12)
    assert (row.dead_inputs, row.dead_outputs) == (1, 1)
    assert row.bytes == 48
    assert row.compressed_bytes == 4 * 4 + 2  # 12 bits are two bytes
    assert table.other_bytes == 16
    assert (table.bytes, table.compressed_bytes) == (64, 34)
    assert (table.nonzeros, table.sparsity) == (4, pytest.approx(8 / 12))


def test_zeros_of_the_kernel_count_not_those_of_the_mask():
    model = stf.sparsify(model_of((2,), layers.Dense(2, name="a")))
    model.layers[0].kernel.assign(np.array([[0, 0], [1, -1]], "float32"))
    (row,) = stf.summary(model, print_fn=None).kernels
    assert row.nonzeros == 2 and row.dead_inputs == 1 and row.dead_outputs == 0


def test_negative_zero_is_zero_and_nan_is_not():
    model = model_of((2,), layers.Dense(2, name="a"))
    model.layers[0].kernel.assign(np.array([[-0.0, 0], [np.nan, 1]], "float32"))
    assert stf.summary(model, print_fn=None).kernels[0].nonzeros == 2


def test_conv_dead_units():
    values = np.ones((3, 3, 4, 5), "float32")
    values[:, :, 1] = 0
    values[:, :, :, 2:4] = 0
    values[:, :, 0, 0] = 0
    model = model_of((8, 8, 4), layers.Conv2D(5, 3, name="a"))
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs) == (1, 2)
    assert row.shape == (3, 3, 4, 5) and row.nonzeros == int(values.sum())


def test_one_tap_left_is_alive():
    values = np.zeros((3, 3, 2, 2), "float32")
    values[2, 1, 0, 1] = 1
    model = model_of((8, 8, 2), layers.Conv2D(2, 3, name="a"))
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs, row.nonzeros) == (1, 1, 1)


def test_depthwise_dead_units():
    values = np.ones((2, 2, 3, 2), "float32")
    values[:, :, 0, 1] = 0  # one of the two outputs of input 0
    values[:, :, 2] = 0  # both outputs of input 2
    model = model_of((8, 8, 3), layers.DepthwiseConv2D(2, depth_multiplier=2, name="a"))
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs) == (1, 3)


def test_transposed_dead_units():
    values = np.ones((2, 2, 3, 5), "float32")  # height, width, outputs, inputs
    values[:, :, 1] = 0
    values[:, :, :, 3:] = 0
    model = model_of((4, 4, 5), layers.Conv2DTranspose(3, 2, name="a"))
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs) == (2, 1)


def test_einsum_dead_units():
    values = np.ones((2, 3, 4), "float32")  # one input axis, two output axes
    values[0] = 0
    values[:, 1, 2] = 0
    values[:, 2, :] = 0
    model = model_of((6, 2), layers.EinsumDense("abc,cde->abde", (6, 3, 4), name="a"))
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs) == (1, 5)


def test_separable_dead_units():
    model = stf.sparsify(model_of((8, 8, 3), layers.SeparableConv2D(4, 2, name="a")))
    depthwise = np.ones((2, 2, 3, 1), "float32")
    pointwise = np.ones((1, 1, 3, 4), "float32")
    depthwise[:, :, 0] = 0
    pointwise[..., 1:3] = 0
    model.layers[0].depthwise_kernel.assign(depthwise)
    model.layers[0].pointwise_kernel.assign(pointwise)
    first, second = stf.summary(model, print_fn=None).kernels
    assert (first.dead_inputs, first.dead_outputs) == (1, 1)
    assert (second.dead_inputs, second.dead_outputs) == (0, 2)


def test_grouped_conv_dead_units():
    # Four input channels, two groups: the kernel's input axis has but two places.
    values = np.ones((1, 1, 2, 2), "float32")
    values[..., 0, 0] = 0  # channel 0, which reaches output 0 alone
    model = model_of((4, 4, 4), layers.Conv2D(2, 1, groups=2, name="a"))
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs) == (1, 0)
    values[..., 1, 0] = 0  # channel 1: output 0 has no connection left
    row = row_of(model, values, "a/kernel")
    assert (row.dead_inputs, row.dead_outputs) == (2, 1)


@pytest.mark.parametrize("dtype, size", [("float16", 2), ("bfloat16", 2)])
def test_bytes_are_those_of_the_dtype(dtype, size):
    model = model_of((10,), layers.Dense(10, name="a", dtype=dtype))
    # Compressed is never more than dense.
    (row,) = stf.summary(model, print_fn=None).kernels
    assert row.bytes == row.compressed_bytes == 100 * size
    (row,) = stf.summary(stf.prune_one_shot(model, 0.9), print_fn=None).kernels
    assert row.bytes == 100 * size
    assert row.compressed_bytes == 10 * size + 13


def test_all_other_weights_are_counted_once():
    model = stf.sparsify(
        model_of((4,), layers.Dense(4, name="a"), layers.BatchNormalization())
    )
    table = stf.summary(model, print_fn=None)
    assert table.other_bytes == 4 * (4 + 4 * 4)  # bias, and four vectors


def test_plain_and_sparsified_models_have_the_same_numbers():
    model = model_of(
        (4,), layers.Dense(5, name="a"), layers.Dense(2, name="b", use_bias=False)
    )
    plain = stf.summary(model, print_fn=None)
    sparse = stf.summary(stf.sparsify(model, exclude="b"), print_fn=None)
    assert [row.masked for row in plain.kernels] == [False, False]
    assert [row.masked for row in sparse.kernels] == [True, False]
    assert plain.other_bytes == sparse.other_bytes == 20
    assert plain.bytes == sparse.bytes and plain.nonzeros == sparse.nonzeros == 30


def test_shared_layer_is_one_row():
    x = keras.Input((4,))
    shared = layers.Dense(4, name="a")
    model = keras.Model(x, shared(shared(x)))
    table = stf.summary(stf.sparsify(model), print_fn=None)
    assert [row.path for row in table.kernels] == ["a/kernel"]


def test_nothing_left():
    row = row_of(
        model_of((3,), layers.Dense(2, name="a")), np.zeros((3, 2)), "a/kernel"
    )
    assert (row.nonzeros, row.sparsity) == (0, 1.0)
    assert (row.dead_inputs, row.dead_outputs) == (3, 2)
    assert row.compressed_bytes == 1


def test_no_kernels():
    table = stf.summary(
        model_of((3,), layers.BatchNormalization(name="n")), print_fn=None
    )
    assert table.kernels == () and table.nonzeros == 0
    assert table.sparsity == 0.0 and table.bytes == 4 * 3 * 4
    assert "total" in str(table)


def big_model():
    return stf.sparsify(
        model_of(
            (30,), layers.Dense(50, name="hidden"), layers.Dense(10, name="logits")
        ),
        {"hidden/kernel": np.arange(1500).reshape(30, 50) < 375},
        exclude="logits",
    )


def test_table_text():
    table = stf.summary(big_model(), print_fn=None)
    lines = str(table).splitlines()
    assert lines[0].split() == [
        "kernel", "shape", "weights", "nonzeros", "sparsity", "dead", "in", "dead",
        "out", "bytes", "compressed",
    ]  # fmt: skip
    *lines, unmasked, dead_in, dead_out, compressed = lines
    assert lines[1] == lines[-2] == "-" * len(lines[0])
    assert unmasked.startswith("*  ") and "no mask" in unmasked
    assert dead_in.startswith("dead in  ") and dead_out.startswith("dead out  ")
    assert compressed.startswith("compressed  ")
    # Eight rows of 50, the eighth by half: 22 inputs are dead, and no output is.
    assert lines[2].split() == [
        "hidden/kernel", "30x50", "1,500", "375", "75.00%", "22", "0", "6,000", "1,688",
    ]  # fmt: skip
    assert lines[3].split()[:4] == ["logits/kernel", "*", "50x10", "500"]
    total = lines[-1].split()
    assert total[0] == "total" and "2,000" in total and "875" in total
    assert "56.25%" in total and "8,240" in total
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1


def test_notes_are_of_what_is_shown():
    model = model_of((4,), layers.Dense(5, name="a"))
    masked, hint = stf.sparsify(model), "PruningCallback(schedule) to fit"
    assert stf.summary(masked, print_fn=None).all_kept
    assert hint in str(stf.summary(masked, print_fn=None))
    assert "no mask" not in str(stf.summary(masked, print_fn=None))
    for other in (stf.prune_one_shot(model, 0.5), model):
        assert not stf.summary(other, print_fn=None).all_kept
        assert hint not in str(stf.summary(other, print_fn=None))


def test_repr_is_one_short_line():
    assert repr(stf.summary(big_model(), print_fn=None)) == (
        "<Summary: 2 kernels, 56.25% sparse, 8,240 bytes; print() shows a table>"
    )


def test_prints_by_default(capsys):
    table = stf.summary(big_model())
    assert capsys.readouterr().out == f"{table}\n"


def test_print_fn_gets_the_table_once(capsys):
    printed = []
    table = stf.summary(big_model(), print_fn=printed.append)
    assert printed == [str(table)]
    stf.summary(big_model(), print_fn=None)
    assert capsys.readouterr().out == ""


def test_nothing_is_changed():
    model = big_model()
    before = model.get_weights()
    stf.summary(model, print_fn=None)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_model_that_is_not_built():
    model = keras.Sequential([layers.Dense(3)], name="later")
    with pytest.raises(ValueError, match="`model` must be built.*'later'"):
        stf.summary(model)


@pytest.mark.parametrize("other", [None, {}, layers.Dense(3)])
def test_something_else_than_a_model(other):
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        stf.summary(other)
