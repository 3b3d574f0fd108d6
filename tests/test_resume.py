"""Training that is interrupted and resumed equals training that is not, to the bit."""

import keras
import numpy as np
import pytest
from backends import assert_array_equal

import sparsenet_tf as stf
from sparsenet_tf.layers import RadixDense, SparseDense
from sparsenet_tf.pruning import PolynomialDecay, PruningCallback

L = keras.layers
STEPS = 16
SCHEDULE = PolynomialDecay(0.0, 0.9, begin_step=3, end_step=12, frequency=3)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4 * STEPS, 10)).astype("float32")
Y = RNG.normal(size=(4 * STEPS, 3)).astype("float32")
# Training in parts ends before the schedule does, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Training ended at step")


def build():
    """A network of each kind of layer, with momentum and moving statistics.

    Without Dropout, whose random state Keras does not save.
    """
    keras.utils.set_random_seed(0)
    mask = np.random.default_rng(0).random((16, 8)) < 0.5
    model = keras.Sequential(
        [
            keras.Input((10,)),
            L.Dense(16, "relu", name="first"),
            L.BatchNormalization(),
            RadixDense(stf.topology.RadixLayer(16, 4, 1), "relu"),
            SparseDense(mask, "relu"),
            L.Dense(3, name="last"),
        ]
    )
    model = stf.sparsify(model)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def callback():
    return PruningCallback(SCHEDULE)


def fit(model, begin, end, *callbacks):
    part = slice(4 * begin, 4 * end)
    model.fit(
        X[part],
        Y[part],
        batch_size=4,
        shuffle=False,
        verbose=0,
        callbacks=[callback(), *callbacks],
    )


def state(model):
    variables = model.variables + model.optimizer.variables
    return [keras.ops.convert_to_numpy(v) for v in variables]


def assert_same(model, expected):
    for one, two in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The state at the end, and a folder with a file of each kind after each step."""
    folder = tmp_path_factory.mktemp("steps")

    class SaveEachStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            step = int(self.model.optimizer.iterations)
            self.model.save_weights(folder / f"{step}.weights.h5")

    save = keras.callbacks.ModelCheckpoint(
        str(folder / "batch{batch}.keras"), save_freq=1
    )
    model = build()
    fit(model, 0, STEPS, save, SaveEachStep())
    return state(model), folder


# Around the first update of the masks, between two, at the last, near the end.
OFTEN = (1, 2, 3, 4, 7, 12, STEPS - 1)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=() if step in OFTEN else pytest.mark.slow)
        for step in range(1, STEPS)
    ],
)
def test_from_the_file_of_a_model_checkpoint(uninterrupted, step):
    expected, folder = uninterrupted
    resumed = keras.models.load_model(folder / f"batch{step}.keras")
    assert int(resumed.optimizer.iterations) == step
    fit(resumed, step, STEPS)
    assert_same(resumed, expected)


@pytest.mark.parametrize("step", [2, 3, 7])
@pytest.mark.often("3")
def test_from_a_weights_file(uninterrupted, step):
    expected, folder = uninterrupted
    resumed = build()
    resumed.load_weights(folder / f"{step}.weights.h5")
    fit(resumed, step, STEPS)
    assert_same(resumed, expected)


class Stop(keras.callbacks.Callback):
    """Power fails after a number of batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("backup_first", [True, False])
@pytest.mark.often("True")
def test_backup_and_restore(backup_first, tmp_path):
    """Keras' backup goes on where the last epoch ended, whichever callback is first."""

    def train(model, *others, folder=None):
        callbacks = [callback()]
        if folder is not None:
            backup = keras.callbacks.BackupAndRestore(str(folder))
            callbacks.insert(0 if backup_first else 1, backup)
        callbacks += others
        settings = {"batch_size": 4, "shuffle": False, "verbose": 0}
        model.fit(X[:16], Y[:16], epochs=4, callbacks=callbacks, **settings)

    whole = build()
    train(whole)
    for after in (2, 6, 11):
        folder = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            train(build(), Stop(after), folder=folder)
        resumed = build()
        train(resumed, folder=folder)
        assert int(resumed.optimizer.iterations) == STEPS
        assert_same(resumed, state(whole))


def test_clones_begin_anew_with_the_masks():
    model = stf.pruning.prune_one_shot(build(), 0.7)
    clone = keras.models.clone_model(model)
    masks = stf.get_masks(model)
    for path, mask in stf.get_masks(clone).items():
        np.testing.assert_array_equal(mask, masks[path])
    clone.set_weights(model.get_weights())
    assert_array_equal(clone(X[:4]), model(X[:4]))
