"""`AtFinalSparsity`: the best model is chosen among those of the final sparsity."""

import keras
import numpy as np
import pytest
from backends import values

import sparsenet_tf as stf
from sparsenet_tf.pruning import AtFinalSparsity, PolynomialDecay, PruningCallback

L, C = keras.layers, keras.callbacks
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 10)).astype("float32")
Y = RNG.normal(size=(40, 5)).astype("float32")


def _model():
    model = keras.Sequential(
        [keras.Input((10,)), L.Dense(20, name="hidden"), L.Dense(5, name="out")]
    )
    model = stf.sparsify(model)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


class Scripted(keras.callbacks.Callback):
    """Writes the next of `scores` into the logs, and remembers the weights."""

    def __init__(self, monitor, scores):
        super().__init__()
        self.monitor, self.scores, self.weights = monitor, scores, []

    def on_epoch_end(self, epoch, logs=None):
        logs[self.monitor] = self.scores[epoch]
        self.weights.append(self.model.get_weights())


def _pruning(end_step=10):
    # 5 steps an epoch. It ends after the first batch of the third epoch by default.
    return PruningCallback(PolynomialDecay(0.0, 0.8, 1, end_step, 1, frequency=3))


def _fit(model, callbacks, epochs=6):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )


def _sparsity(model):
    masks = stf.get_masks(model).values()
    kernels = stf.layers.tree.kernels(model).values()
    for mask, kernel in zip(masks, kernels, strict=True):
        assert np.count_nonzero(values(kernel)[~mask]) == 0
    zeros = sum(np.count_nonzero(values(kernel) == 0) for kernel in kernels)
    return zeros / sum(mask.size for mask in masks)


# It ends at step 11, in the third epoch, whose mean over the training does not count.
@pytest.mark.parametrize("monitor, best", [("val_score", 2), ("score", 4)])
def test_restores_and_saves_the_best_of_the_final_sparsity(monitor, best, tmp_path):
    model, pruning = _model(), _pruning(end_step=11)
    script = Scripted(monitor, [0.1, 0.2, 0.5, 0.7, 0.6, 0.8])
    stop = C.EarlyStopping(monitor, patience=9, restore_best_weights=True, mode="min")
    path = str(tmp_path / "{epoch}.keras")
    save = C.ModelCheckpoint(path, monitor, save_best_only=True, mode="min")
    history = _fit(model, [pruning, script, AtFinalSparsity(pruning, [stop, save])])
    assert history.history["sparsity"][1] < 0.8 == history.history["sparsity"][2]
    assert stop.best_epoch == best
    first = 2 if best == 2 else 3
    written = sorted(p.name for p in tmp_path.iterdir())
    assert written == [f"{e + 1}.keras" for e in sorted({first, best})]
    loaded = keras.models.load_model(tmp_path / f"{best + 1}.keras")
    for found in (model, loaded):
        for one, other in zip(found.get_weights(), script.weights[best], strict=True):
            np.testing.assert_array_equal(one, other)
        assert _sparsity(found) == 0.8


def test_early_stopping_waits_for_the_final_sparsity():
    model, pruning = _model(), _pruning(end_step=16)
    script = Scripted("val_score", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    stop = C.EarlyStopping("val_score", patience=1, mode="min")
    _fit(model, [pruning, script, AtFinalSparsity(pruning, stop)], epochs=7)
    assert stop.stopped_epoch == 4  # one epoch after the first of the final sparsity
    assert _sparsity(model) == 0.8


def test_files_of_batches_are_of_the_final_sparsity_and_name_their_epoch(tmp_path):
    model, pruning = _model(), _pruning(end_step=11)
    save = C.ModelCheckpoint(str(tmp_path / "{epoch}-{batch}.keras"), save_freq=1)
    _fit(model, [pruning, AtFinalSparsity(pruning, save)], epochs=4)
    names = sorted(p.stem for p in tmp_path.iterdir())
    assert names == [f"{epoch}-{batch}" for epoch in (3, 4) for batch in range(1, 6)]
    for name in names:
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        assert _sparsity(loaded) == 0.8


def test_says_if_the_callbacks_saw_no_epoch(tmp_path):
    model, pruning = _model(), _pruning(end_step=100)
    path = str(tmp_path / "best.keras")
    save = C.ModelCheckpoint(path, "loss", save_best_only=True)
    with pytest.warns(UserWarning) as caught:
        _fit(model, [pruning, AtFinalSparsity(pruning, [save])], epochs=2)
    messages = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(messages) == 2
    assert "before the pruning schedule did" in messages[0]
    assert "['ModelCheckpoint'] in `AtFinalSparsity` saw no epoch" in messages[1]
    assert not list(tmp_path.iterdir())


def test_best_checkpoint_of_a_denser_model_is_told(tmp_path):
    model, pruning = _model(), _pruning()
    script = Scripted("val_score", [0.1, 0.2, 0.3, 0.4])
    path = str(tmp_path / "best.keras")
    save = C.ModelCheckpoint(path, "val_score", save_best_only=True, mode="min")
    with pytest.warns(UserWarning, match=r"saved.*0\.8000.*AtFinalSparsity") as caught:
        history = _fit(model, [pruning, script, save], epochs=4)
    messages = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(messages) == 1
    reached = history.history["sparsity"][0]
    assert _sparsity(keras.models.load_model(path)) == pytest.approx(reached)
    assert f"the last file has sparsity {reached:.4f}" in messages[0]


def test_a_file_of_the_final_sparsity_needs_no_warning(tmp_path):
    model, pruning = _model(), _pruning()
    model.save(tmp_path / "before.keras")
    _fit(model, [pruning], epochs=3)
    model.save_weights(tmp_path / "after.weights.h5")
    every = C.ModelCheckpoint(str(tmp_path / "{epoch}.weights.h5"), "loss")
    every.save_weights_only = True
    model, pruning = _model(), _pruning()
    _fit(model, [pruning, every], epochs=3)


def test_early_stopping_alone_restores_under_the_masks_and_says_so():
    model, pruning = _model(), _pruning()
    script = Scripted("val_score", [0.1, 0.2, 0.3, 0.4])
    stop = C.EarlyStopping(
        "val_score", patience=9, restore_best_weights=True, mode="min"
    )
    with pytest.warns(UserWarning, match="AtFinalSparsity"):
        _fit(model, [pruning, script, stop], epochs=4)
    assert _sparsity(model) == 0.8


def test_pruning_must_be_in_the_same_fit():
    model, pruning = _model(), _pruning()
    best = AtFinalSparsity(pruning, C.EarlyStopping("loss"))
    with pytest.raises(ValueError, match="`pruning` must be in the callbacks of the"):
        _fit(model, [_pruning(), best])
    _fit(model, [pruning], epochs=3)
    with pytest.raises(ValueError, match="`pruning` must be in the callbacks of the"):
        _fit(model, [best])


def test_bad_arguments():
    with pytest.raises(TypeError, match="`pruning` must be the PruningCallback"):
        AtFinalSparsity(C.EarlyStopping(), [])
    with pytest.raises(ValueError, match="`callbacks` must be a Keras callback"):
        AtFinalSparsity(_pruning(), [])
    with pytest.raises(TypeError, match="`callbacks` must be Keras callbacks"):
        AtFinalSparsity(_pruning(), [0.5])
    assert stf.AtFinalSparsity is AtFinalSparsity
