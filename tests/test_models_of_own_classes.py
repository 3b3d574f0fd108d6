"""Functional models whose class has a constructor of its own, as keras_hub's have."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import sparsenet_tf as stf

L = keras.layers
ops = keras.ops
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.ones((16, 2), "float32")


def outputs(model):
    return ops.convert_to_numpy(model(X))


@keras.saving.register_keras_serializable("tests")
class Body(keras.Model):
    def __init__(self, width=4, **kwargs):
        inputs = keras.Input((4,))
        hidden = L.Dense(width, name="h")
        super().__init__(inputs=inputs, outputs=hidden(inputs), **kwargs)
        self.width, self.hidden = width, hidden

    def get_config(self):
        return {"width": self.width, "name": self.name}

    def hidden_twice(self, x):
        return self.hidden(self.hidden(x))


def outer():
    return keras.Sequential(
        [keras.Input((4,)), Body(name="body"), L.Dense(2, name="o")]
    )


def test_it_stays_what_it_is():
    body = Body(5)
    before = outputs(body)
    pruned = stf.pruning.prune_one_shot(body, 0.5)
    assert isinstance(pruned, Body) and type(pruned).__name__ == "Body"
    assert pruned.width == 5 and pruned.get_config()["width"] == 5
    assert pruned.hidden is pruned.get_layer("h")
    assert list(stf.get_masks(pruned)) == ["h/kernel"]
    assert_array_equal(outputs(body), before)  # a copy was pruned
    stripped = stf.strip(pruned)
    assert type(stripped) is Body
    assert_array_equal(outputs(stripped), outputs(pruned))


@pytest.mark.parametrize("make", [lambda: Body(2), outer], ids=["top", "nested"])
def test_trains_saves_and_loads(make, tmp_path):
    pruned = stf.pruning.prune_one_shot(make(), 0.5)
    pruned.compile("adam", "mse")
    pruned.fit(X, Y, verbose=0)
    pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_array_equal(outputs(loaded), outputs(pruned))
    loaded.fit(X, Y, verbose=0)
    masks = stf.get_masks(pruned)
    assert list(stf.get_masks(loaded)) == list(masks)
    kernels = stf.layers.masked.masked_kernels(loaded)
    for path, mask in masks.items():
        assert_array_equal(stf.get_masks(loaded)[path], mask)
        assert not kernels[path].kernel_value()[~mask].any()
    assert_allclose(outputs(stf.strip(loaded)), outputs(loaded), rtol=1e-6)


def test_rebuilds_and_converts():
    pruned = stf.pruning.prune_one_shot(outer(), 0.5)
    masks = stf.get_masks(pruned)
    one, two = (stf.rebuild(pruned, masks, seed=3) for _ in range(2))
    assert isinstance(one.get_layer("body"), Body)
    for path, mask in stf.get_masks(one).items():
        assert_array_equal(mask, masks[path])
    assert_array_equal(outputs(one), outputs(two))
    assert not np.allclose(outputs(one), outputs(pruned))
    sparse = stf.to_sparse(pruned, layers="all")
    kinds = [type(layer).__name__ for layer in sparse.get_layer("body").layers]
    assert kinds == ["InputLayer", "SparseDense"]
    assert_allclose(
        outputs(stf.to_dense(sparse)), outputs(pruned), rtol=1e-5, atol=1e-6
    )


def test_what_was_set_after_the_constructor_is_copied():
    body = Body()
    body.get_layer("h").enable_lora(2)
    body.get_layer("h").lora_kernel_b.assign(np.ones((2, 4)))
    assert_allclose(outputs(stf.sparsify(body)), outputs(body), rtol=1e-6)


class WithoutConfig(L.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Dense(units)

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {**super().get_config(), "other": 3}


def test_a_layer_that_cannot_be_made_again_is_exchanged_in_the_model_itself():
    model = keras.Sequential([keras.Input((4,)), WithoutConfig(3, name="own")])
    before = outputs(model)
    with pytest.warns(UserWarning, match="changed in place.*'own' of class Without"):
        sparse = stf.sparsify(model)
    assert sparse is model and len(stf.get_masks(model)) == 1
    assert_array_equal(outputs(model), before)
    with pytest.raises(ValueError, match="'own' of class Without"):
        stf.rebuild(model, {}, seed=1)


class Tied(keras.Model):
    """Reads the kernel of a layer elsewhere than in that layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.dense = L.Embedding(20, 8), L.Dense(8)

    def call(self, x):
        hidden = self.dense(self.embed(x))
        return keras.ops.matmul(hidden, keras.ops.transpose(self.embed.embeddings))


def test_tied_weights_stay_zero():
    x = np.random.default_rng(0).integers(0, 20, (32, 5))
    model = Tied()
    model(x)
    model = stf.sparsify(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    callback = stf.pruning.PruningCallback(stf.pruning.ConstantSparsity(0.5, 0))
    model.fit(x, x, epochs=3, verbose=0, callbacks=[callback])
    for masked in stf.layers.masked.masked_kernels(model).values():
        assert not masked.kernel_value()[~masked.mask_value()].any()
