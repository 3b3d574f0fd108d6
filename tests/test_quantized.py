"""Zeros of kernels that Keras has quantized: counted, shown and stored as such."""

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.transform.quantized import quantized_kernels

L = keras.layers

pytestmark = pytest.mark.skipif(
    not hasattr(L, "ReversibleEmbedding"),
    reason="this Keras has no ReversibleEmbedding",
)


def int4(block_size):
    return keras.quantizers.Int4QuantizationConfig(block_size=block_size)


MODES = {
    "int8": ("int8", None),
    "int4": ("int4", None),
    "int4_channels": ("int4", lambda: int4(None)),
    "int4_blocks": ("int4", lambda: int4(6)),
    "float8": ("float8", None),
}
of_each = pytest.mark.parametrize("mode", MODES)


def build():
    """A model of each layer that Keras quantizes, with odd sizes."""
    tokens = keras.Input((6,), dtype="int32")
    shared = L.ReversibleEmbedding(50, 15, tie_weights=False, name="reversible")
    x = L.Embedding(50, 15, name="embedding")(tokens)
    x = L.EinsumDense("abc,cde->abde", (6, 5, 3), bias_axes="d", name="einsum")(x)
    x = L.Reshape((6, 15))(x)
    x = L.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = L.Dense(641, name="dense")(L.Flatten()(x))
    return keras.Model(tokens, [x, shared(shared(tokens), reverse=True)], name="m")


def quantize(model, mode):
    mode, config = MODES[mode]
    for layer in model._flatten_layers():
        if type(layer) in (L.Dense, L.EinsumDense, L.Embedding, L.ReversibleEmbedding):
            if mode == "float8" and "Embedding" in type(layer).__name__:
                continue  # which Keras leaves as they are
            layer.quantize(mode, config=config and config())
    return model


def pruned(mode, sparsity=0.8):
    keras.utils.set_random_seed(0)
    plain = stf.strip(stf.prune_one_shot(build(), sparsity))
    before = stf.summary(plain, print_fn=None)
    return before, quantize(plain, mode)


@of_each
@pytest.mark.often("int8", "int4_blocks")
def test_summary_counts_the_zeros_that_quantizing_keeps(mode):
    before, model = pruned(mode)
    after = stf.summary(model, print_fn=None)
    assert [row.path for row in after.kernels] == [row.path for row in before.kernels]
    for old, new in zip(before.kernels, after.kernels, strict=True):
        assert (new.shape, new.size) == (old.shape, old.size)
        # Quantizing may turn a small weight into a zero, and no zero into a weight.
        assert 0.8 * old.nonzeros < new.nonzeros <= old.nonzeros
        assert new.sparsity == 1 - new.nonzeros / new.size
        assert new.dead_inputs >= old.dead_inputs
        assert not new.masked
    sizes = {"float32": 4, "int8": 1}
    assert after.bytes == sum(
        int(np.prod(v.shape)) * sizes[v.dtype] for v in model.weights
    )
    assert after.compressed_bytes < after.bytes < before.bytes or mode == "float8"


def test_bytes_of_int4_are_half():
    model = keras.Sequential([keras.Input((64,)), L.Dense(32, name="a")])
    model = stf.strip(stf.prune_one_shot(model, 0.75))
    model.layers[0].quantize("int4", config=int4(None))
    (row,) = stf.summary(model, print_fn=None).kernels
    assert (row.path, row.shape, row.size) == ("a/kernel", (64, 32), 2048)
    assert row.bytes == 1024 and row.nonzeros <= 512
    assert row.compressed_bytes == (row.nonzeros + 1) // 2 + 256


def effective(layer, path):
    """The kernel that a quantized layer multiplies with, in floats."""
    name = path.rpartition("/")[2]
    if name == "reverse_embeddings":
        return layer(np.eye(layer.output_dim, dtype="float32"), reverse=True)
    if name == "embeddings":
        return layer(np.arange(layer.input_dim))
    if layer.bias is not None:
        layer.bias.assign(keras.ops.zeros_like(layer.bias))
    if isinstance(layer, L.Dense):
        return layer(np.eye(layer.input_spec.axes[-1], dtype="float32"))
    size = layer.original_kernel_shape[0]
    return layer(np.eye(size, dtype="float32")[None])[0]


@pytest.mark.parametrize("mode", [m for m in MODES if m != "float8"])
@pytest.mark.often("int8", "int4_blocks")
def test_alive_is_what_the_layer_multiplies_with(mode):
    _, model = pruned(mode)
    kernels = quantized_kernels(model)
    wanted = ("dense/kernel", "einsum/kernel", "embedding/embeddings")
    for path in (*wanted, "reversible/embeddings", "reversible/reverse_embeddings"):
        kernel = kernels[path]
        if path == "einsum/kernel" and mode == "int8":
            kernel.owner.original_kernel_shape = kernel.alive.shape
        found = keras.ops.convert_to_numpy(effective(kernel.owner, path))
        np.testing.assert_array_equal(kernel.alive, found != 0, err_msg=path)


@pytest.mark.parametrize("bits", [4, 8])
def test_kernels_of_gptq(bits):
    config = keras.quantizers.GPTQConfig(
        dataset=[], tokenizer=len, weight_bits=bits, group_size=4
    )
    layer = L.Dense(7, name="a")
    model = keras.Sequential([keras.Input((10,)), layer])
    layer.quantize("gptq", config=config)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**bits, (7, 10), "uint8")
    zeros = rng.integers(0, 2**bits, (7, 3), "uint8")
    groups = np.arange(10) // 4
    values[::2] = zeros[::2][:, groups]
    stored = values
    if bits == 4:
        stored = keras.quantizers.pack_int4(values, axis=0, dtype="uint8")[0]
    layer.quantized_kernel.assign(stored)
    layer.kernel_zero.assign(zeros)
    layer.g_idx.assign(groups)
    layer.is_gptq_calibrated = True
    alive = quantized_kernels(model)["a/kernel"].alive
    np.testing.assert_array_equal(alive, (values != zeros[:, groups]).T)
    found = keras.ops.convert_to_numpy(effective(layer, "a/kernel"))
    np.testing.assert_array_equal(alive, found != 0)


@of_each
@pytest.mark.often("int8", "int4_blocks")
def test_the_compact_file_has_integers_and_gives_them_back(mode, tmp_path):
    _, model = pruned(mode, 0.9)
    sizes = stf.export(model, tmp_path / "m.npz", print_fn=None)
    assert sizes.compact < sizes.dense
    with np.load(tmp_path / "m.npz") as archive:
        values = archive["dense/kernel.values"]
    assert values.dtype == ("float32" if mode == "float8" else "int8")
    loaded = list(stf.transform.load_compact(tmp_path / "m.npz").values())
    again = quantize(stf.strip(build()), mode)
    again.set_weights(loaded)
    for old, new, read in zip(
        model.get_weights(), again.get_weights(), loaded, strict=True
    ):
        np.testing.assert_array_equal(old, new)
        assert old.dtype == read.dtype
    tokens = np.arange(12).reshape(2, 6)
    for a, b in zip(model(tokens), again(tokens), strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        )


def test_a_stripped_model_has_the_compact_file_of_the_masked_one(tmp_path):
    model = keras.Sequential([keras.Input((64,)), L.Dense(64), L.Dense(10)], name="m")
    masked = stf.prune_one_shot(model, 0.9)
    sizes = [
        stf.export(m, tmp_path / f"{i}.npz", print_fn=None)
        for i, m in enumerate((masked, stf.strip(masked)))
    ]
    assert sizes[1].compact < 0.3 * sizes[1].dense
    assert abs(sizes[1].compact - sizes[0].compact) < 2000


def test_a_negative_zero_comes_back(tmp_path):
    model = keras.Sequential([keras.Input((64,)), L.Dense(64, name="a")], name="m")
    kernel = np.zeros((64, 64), "float32")
    kernel[3, 4], kernel[5, 6] = -0.0, np.nan
    model.layers[0].kernel.assign(kernel)
    stf.export(model, tmp_path / "m.npz", print_fn=None)
    loaded = next(iter(stf.transform.load_compact(tmp_path / "m.npz").values()))
    assert loaded.tobytes() == kernel.tobytes()


def test_masks_of_a_quantized_model_are_an_error():
    _, model = pruned("int8")
    with pytest.raises(ValueError):
        stf.get_masks(model)
