"""`Wanda` on models with embeddings and attention, by hand."""

import keras
import numpy as np
import pytest

import sparsenet_tf as stf
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.pruning import ConstantSparsity, PruningCallback, Wanda

L = keras.layers
RNG = np.random.default_rng(0)


def _scores(model, x, batch_size=256):
    model = stf.sparsify(model)
    return Wanda(x, batch_size).scores(model, masked_kernels(model))


def _kernel(layer):
    return np.abs(keras.ops.convert_to_numpy(layer.kernel))


def _assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5)


TOKENS = np.array([[0, 1, 1], [1, 3, 0], [1, 1, 3]])
COUNTS = np.array([2, 5, 0, 2])


def test_an_embedding_is_scored_by_how_often_a_token_comes():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), L.Embedding(4, 2, name="e"), L.Flatten()]
    )
    weights = np.array([[1.0, -2.0], [3.0, 0.5], [9.0, 9.0], [-4.0, 1.0]], "float32")
    model.set_weights([weights])
    expected = np.abs(weights) * np.sqrt(COUNTS)[:, None]
    _assert_close(_scores(model, TOKENS)["e/embeddings"], expected)
    _assert_close(_scores(model, TOKENS, 2)["e/embeddings"], expected)
    # A quarter: those of the token that never comes, however large they are.
    pruned = stf.pruning.prune_one_shot(model, 0.25, Wanda(TOKENS))
    mask = stf.get_masks(pruned)["e/embeddings"]
    np.testing.assert_array_equal(mask, [[1, 1], [1, 1], [0, 0], [1, 1]])


def test_a_model_with_an_embedding_and_attention():
    inputs = keras.Input((3,), dtype="int32")
    embedding = L.Embedding(4, 6, name="e")
    attention = L.MultiHeadAttention(2, 5, name="m")
    x = embedding(inputs)
    model = keras.Model(inputs, L.Dense(2, name="out")(attention(x, x)))
    found = _scores(model, TOKENS, 2)
    assert set(found) == set(stf.layers.tree.kernels(model))

    e = keras.ops.convert_to_numpy(embedding.embeddings)
    _assert_close(found["e/embeddings"], np.abs(e) * np.sqrt(COUNTS)[:, None])
    x = e[TOKENS]  # (batch, place, channel)
    norms = np.sqrt(np.square(x).sum(axis=(0, 1)))
    for name in ("query", "key", "value"):
        layer = getattr(attention, f"{name}_dense", None)
        layer = layer if layer is not None else getattr(attention, f"_{name}_dense")
        _assert_close(found[f"m/{name}/kernel"], _kernel(layer) * norms[:, None, None])

    def project(layer):
        kernel, bias = (keras.ops.convert_to_numpy(w) for w in layer.weights)
        return np.einsum("bpc,chd->bphd", x, kernel) + bias

    query, key, value = (
        project(layer)
        for layer in (
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
        )
    )
    logits = np.einsum("bphd,bqhd->bhpq", query, key) / np.sqrt(5)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    heads = np.einsum("bhpq,bqhd->bphd", shares, value)
    norms = np.sqrt(np.square(heads).sum(axis=(0, 1)))  # (head, channel)
    output = attention._output_dense
    _assert_close(
        found["m/attention_output/kernel"], _kernel(output) * norms[:, :, None]
    )
    _, bias = output.weights
    y = np.einsum(
        "bphd,hdc->bpc", heads, keras.ops.convert_to_numpy(output.kernel)
    ) + keras.ops.convert_to_numpy(bias)
    norms = np.sqrt(np.square(y).sum(axis=(0, 1)))
    _assert_close(found["out/kernel"], _kernel(model.get_layer("out")) * norms[:, None])


@pytest.mark.parametrize(
    "equation, output_shape, x_shape, sums, shape",
    [
        ("ab,bc->ac", (4,), (5, 3), (0,), (3, 1)),
        ("ab,cb->ac", (4,), (5, 3), (0,), (1, 3)),
        ("...x,xy->...y", 4, (5, 2, 3), (0, 1), (3, 1)),
        ("abc,bcd->abd", (2, 4), (5, 2, 3), (0,), (2, 3, 1)),
    ],
)
def test_einsum_dense(equation, output_shape, x_shape, sums, shape):
    layer = L.EinsumDense(equation, output_shape)
    model = keras.Sequential([keras.Input(x_shape[1:]), layer])
    x = RNG.normal(size=x_shape).astype("float32")
    norms = np.sqrt(np.square(x).sum(axis=sums)).reshape(shape)
    (found,) = _scores(model, x).values()
    _assert_close(found, _kernel(layer) * norms)


def test_a_reversible_embedding_adds_up_what_it_sees_in_both_ways():
    inputs = keras.Input((3,), dtype="int32")
    layer = L.ReversibleEmbedding(4, 2, name="e")
    hidden = layer(inputs)
    model = keras.Model(inputs, layer(hidden, reverse=True))
    e = keras.ops.convert_to_numpy(layer.embeddings)
    of_outputs = np.square(e[TOKENS]).sum(axis=(0, 1))
    expected = np.abs(e) * np.sqrt(COUNTS[:, None] + of_outputs[None])
    _assert_close(_scores(model, TOKENS)["e/embeddings"], expected)


def test_prunes_such_a_model_in_fit():
    inputs = keras.Input((3,), dtype="int32")
    x = L.Embedding(4, 6, mask_zero=True)(inputs)
    x = L.MultiHeadAttention(2, 5)(x, x)
    model = stf.sparsify(keras.Model(inputs, L.Dense(2)(x)))
    model.compile("adam", "mse")
    pruning = PruningCallback(ConstantSparsity(0.5, 1), Wanda(TOKENS))
    y = np.zeros((3, 3, 2), "float32")
    model.fit(TOKENS, y, batch_size=1, verbose=0, callbacks=[pruning])
    assert pruning.sparsity == 0.5


def test_other_layers_are_refused_by_name():
    model = keras.Sequential([keras.Input((3, 2)), L.LSTM(4, name="r")])
    message = "Wanda needs Dense, EinsumDense.*'r/lstm_cell/kernel' of a LSTMCell"
    with pytest.raises(ValueError, match=message):
        _scores(model, np.ones((2, 3, 2), "float32"))
