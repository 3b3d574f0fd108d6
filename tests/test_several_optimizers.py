"""Training steps of the user's own: which optimizer's steps count, and all slots."""

import keras
import numpy as np
import pytest
from backends import values

import sparsenet_tf as stf
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.pruning import (
    SET,
    ConstantSparsity,
    CosineDecay,
    PolynomialDecay,
    PruningCallback,
    Random,
)
from sparsenet_tf.pruning.optimizers import optimizers_of
from sparsenet_tf.pruning.slots import slots_of
from sparsenet_tf.pruning.steps import optimizer_step

L, optimizers = keras.layers, keras.optimizers
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="train_step with a GradientTape"
)
X = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")


def _network(name, inputs, outputs):
    return keras.Sequential(
        [keras.Input((inputs,)), L.Dense(20, "relu", name="a"), L.Dense(outputs)],
        name=name,
    )


class GAN(keras.Model):
    """As in Keras' guide "Customizing what happens in `fit()`"."""

    def __init__(self, discriminator, generator, latent_dim=3):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.built = True

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn

    def train_step(self, data):
        import tensorflow as tf

        real = data[0] if isinstance(data, tuple) else data
        noise = keras.random.normal((tf.shape(real)[0], self.latent_dim))
        both = tf.concat([self.generator(noise), real], axis=0)
        labels = tf.concat(
            [tf.ones((tf.shape(real)[0], 1)), tf.zeros((tf.shape(real)[0], 1))], axis=0
        )
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(both))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        with tf.GradientTape() as tape:
            fake = self.discriminator(self.generator(noise))
            g_loss = self.loss_fn(tf.zeros_like(fake), fake)
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_loss_tracker.update_state(d_loss)
        return {"d_loss": self.d_loss_tracker.result()}


def _gan(d_optimizer=None, g_optimizer=None, sparsify=stf.sparsify):
    gan = GAN(sparsify(_network("d", 6, 1)), sparsify(_network("g", 3, 6)))
    gan.compile(
        d_optimizer=d_optimizer or optimizers.Adam(0.01),
        g_optimizer=g_optimizer or optimizers.SGD(0.01, momentum=0.9),
        loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return gan


def _fit(model, *callbacks, epochs=1, **args):
    return model.fit(
        X, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **args
    )


def _assert_half_is_zero(gan):
    slots = 0
    for masked in masked_kernels(gan).values():
        mask = masked.mask_value()
        assert mask.sum() == mask.size // 2
        assert np.count_nonzero(values(masked.kernel)[~mask]) == 0
        for optimizer in (gan.d_optimizer, gan.g_optimizer):
            for _, slot in slots_of(optimizer, masked.kernel):
                assert np.count_nonzero(values(slot)[~mask]) == 0
                assert np.count_nonzero(values(slot)) > 0
                slots += 1
    assert slots == 6  # two moments of two kernels, and the momentum of two


def test_a_gan_is_pruned_as_it_trains():
    gan = _gan()
    pruning = PruningCallback(PolynomialDecay(0.0, 0.5, 2, 20, frequency=3))
    history = _fit(gan, pruning, epochs=3)
    assert int(gan.optimizer.iterations) == 0  # that of `super().compile()`
    assert list(pruning.updates) == [2, 5, 8, 11, 14, 17, 20]
    assert history.history["sparsity"][1:] == [0.5, 0.5]
    _assert_half_is_zero(gan)


def test_a_schedule_of_a_gan_goes_on_in_the_next_fit():
    gan = _gan()
    schedule = PolynomialDecay(0.0, 0.5, 2, 20, frequency=3)
    with pytest.warns(UserWarning, match="ended at step 10 before the pruning"):
        _fit(gan, PruningCallback(schedule))
    again = PruningCallback(schedule)
    _fit(gan, again)
    # Step 10 is at the update of step 8, which is made again; it changes nothing.
    assert list(again.updates) == [10, 11, 14, 17, 20]
    _assert_half_is_zero(gan)


def test_several_steps_in_one_execution():
    gan = _gan()
    gan.steps_per_execution = 5
    pruning = PruningCallback(ConstantSparsity(0.5, 7))
    _fit(gan, pruning)
    assert list(pruning.updates) == [10]


def test_the_optimizer_of_compile_counts_if_it_steps():
    class Both(GAN):
        def train_step(self, data):
            logs = super().train_step(data)
            self.optimizer.apply(
                [keras.ops.zeros(v.shape) for v in self.trainable_variables],
                self.trainable_variables,
            )
            return logs

    gan = Both(stf.sparsify(_network("d", 6, 1)), _network("g", 3, 6))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    gan.compile(optimizers.SGD(), optimizers.SGD(), loss)
    gan.d_optimizer.iterations.assign(100)  # trained before
    gan.optimizer.build(gan.trainable_variables)
    pruning = PruningCallback(ConstantSparsity(0.5, 200))
    with pytest.warns(UserWarning, match="ended at step 10 before"):
        _fit(gan, pruning)


def test_a_model_inside_that_was_trained_before_does_not_count():
    base = _network("base", 6, 4)
    base.compile("sgd", "mse")
    base.fit(X, X[:, :4], batch_size=4, epochs=2, verbose=0)
    assert int(base.optimizer.iterations) == 40

    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    for kind in (keras.Model, Own):
        inputs = keras.Input((6,))
        model = stf.sparsify(kind(inputs, base(inputs)))
        model.compile("sgd", "mse")
        pruning = PruningCallback(ConstantSparsity(0.5, 15))
        with pytest.warns(UserWarning, match="ended at step 10 before"):
            model.fit(X, X[:, :4], batch_size=8, verbose=0, callbacks=[pruning])


def test_multi_optimizer():
    model = stf.sparsify(_network("m", 6, 6))
    first, second = optimizers.Adam(0.01), optimizers.SGD(0.01, momentum=0.9)
    several = optimizers.MultiOptimizer(lambda v: first if "a/" in v.path else second)
    model.compile(several, "mse")
    pruning = PruningCallback(ConstantSparsity(0.5, 5))
    model.fit(X, X, batch_size=8, verbose=0, callbacks=[pruning])
    assert list(pruning.updates) == [5]
    for masked in masked_kernels(model).values():
        mask = masked.mask_value()
        found = [*slots_of(first, masked.kernel), *slots_of(second, masked.kernel)]
        assert found
        for _, slot in found:
            assert np.count_nonzero(values(slot)[~mask]) == 0


def test_set_clears_the_slots_of_all_optimizers():
    gan = _gan(sparsify=lambda m: stf.pruning.prune_one_shot(m, 0.5, Random(seed=0)))
    method = SET(CosineDecay(0.3, 30, frequency=5))
    _fit(gan, method, epochs=2)
    assert list(method.updates) == [5, 10, 15, 20]
    assert all(sum(moved.values()) for moved in method.updates.values())
    _assert_half_is_zero(gan)


def test_prune_one_shot_clears_the_slots_of_all_optimizers():
    gan = _gan()
    _fit(gan)
    stf.pruning.prune_one_shot(gan, 0.5)
    _assert_half_is_zero(gan)


def test_finds_optimizers_wherever_they_are():
    model = GAN(_network("d", 6, 1), _network("g", 3, 6))
    model.compile(optimizers.SGD(), optimizers.Adam(), None)
    model.more = {
        "x": [optimizers.Lion()],
        "y": (optimizers.LossScaleOptimizer(optimizers.Adagrad()),),
    }
    model.discriminator.compile(optimizers.Nadam())
    names = [type(optimizer).__name__ for optimizer in optimizers_of(model)]
    assert names[0] == "RMSprop"
    assert sorted(names[1:]) == sorted(
        ["SGD", "Adam", "Lion", "LossScaleOptimizer", "Adagrad", "Nadam"]
    )
    model.g_optimizer.iterations.assign(7)
    model.discriminator.optimizer.iterations.assign(9)
    assert optimizer_step(model) == 7


class Hidden(keras.Model):
    """Its training steps apply what `optimizer` says, every `every` batches."""

    def __init__(self, optimizer, every=1):
        super().__init__()
        self.dense = L.Dense(6)
        self.apply_of, self.every = lambda: optimizer, every
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data) - data))
        weights = self.dense.trainable_weights
        grads = tape.gradient(loss, weights)
        self.count.assign_add(1)

        def apply():
            self.apply_of().apply(grads, weights)
            return True

        optimizer = self.apply_of()
        if not optimizer.built:
            with tf.init_scope():
                optimizer.build(weights)
        tf.cond(self.count.value % self.every == 0, apply, lambda: False)
        return {"loss": loss}


def _hidden(optimizer, **args):
    model = Hidden(optimizer, **args)
    model(X[:1])
    model = stf.sparsify(model)
    model.compile()
    return model


@pytest.mark.parametrize("batch_size, after", [(8, 10), (1, 32)])
def test_a_schedule_that_cannot_advance_is_an_error(batch_size, after):
    model = _hidden(optimizers.SGD())
    pruning = PruningCallback(ConstantSparsity(0.5, 5))
    with pytest.raises(ValueError, match=f"cannot advance.*{after} batches.*RMSprop"):
        model.fit(X, batch_size=batch_size, epochs=2, verbose=0, callbacks=[pruning])
    with pytest.raises(ValueError, match="cannot advance.*RMSprop"):
        stf.pruning.prune_one_shot(model, 0.5)
        _fit(model, SET(CosineDecay(0.5, 30)))


def test_no_optimizer_is_an_error_when_training_begins():
    model = _hidden(optimizers.SGD())
    model.optimizer = None
    pruning = PruningCallback(ConstantSparsity(0.5, 5))
    with pytest.raises(ValueError, match="`model` must have an optimizer"):
        _fit(model, pruning)
    assert int(model.count) == 0


def test_gradients_that_the_users_step_adds_up_are_waited_for():
    optimizer = optimizers.SGD(0.01)
    model = _hidden(optimizer, every=4)
    model.other = optimizer
    pruning = PruningCallback(ConstantSparsity(0.5, 2))
    _fit(model, pruning)
    assert list(pruning.updates) == [2] and int(model.count) == 10


def test_steps_that_overflow_are_waited_for():
    scale = optimizers.LossScaleOptimizer(optimizers.SGD(0.01), initial_scale=2.0**126)
    model = stf.sparsify(_network("m", 6, 6))
    model.compile(optimizers.SGD())

    class Own(keras.Model):
        def train_step(self, data):
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(data) - data)) * 1e3
                scaled = self.other.scale_loss(loss)
            weights = self.trainable_weights
            self.other.apply(tape.gradient(scaled, weights), weights)
            return {"loss": loss}

    model = Own(model.inputs, model.outputs)
    model.compile()
    model.other = scale
    pruning = PruningCallback(ConstantSparsity(0.5, 1))
    _fit(model, pruning, epochs=4)
    assert 0 < int(scale.inner_optimizer.iterations) < 39
    assert list(pruning.updates) == [1]
