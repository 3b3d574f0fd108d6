"""Resumed from TensorFlow's checkpoints, in its compiled loop, and served by it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_resume import STEPS, X, Y, assert_same, build, callback, fit, state

import sparsenet_tf as stf

# Training in parts ends before the schedule does, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Training ended at step")


@pytest.fixture(scope="module")
def uninterrupted():
    model = build()
    fit(model, 0, STEPS)
    return state(model)


@pytest.mark.parametrize("step", [2, 3, 7])
@pytest.mark.often("3")
def test_from_a_tensorflow_checkpoint(uninterrupted, step, tmp_path):
    model = build()
    fit(model, 0, step)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    resumed = build()
    status = tf.train.Checkpoint(model=resumed).read(path)
    status.assert_existing_objects_matched()
    fit(resumed, step, STEPS)
    assert_same(resumed, uninterrupted)


def test_the_compiled_loop_resumes(tmp_path):
    """`stf.training.fit` goes on from a file, in the middle of a schedule."""

    def train(model, steps):
        stf.training.fit(
            model,
            X,
            Y,
            steps=steps,
            batch_size=4,
            evaluate_every=4,
            seed=0,
            callbacks=[callback()],
            verbose=0,
        )

    whole = build()
    train(whole, 7)
    whole.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    for model in (whole, resumed):
        train(model, STEPS - 7)
    assert_same(resumed, state(whole))


def test_exported_models_serve(tmp_path):
    model = stf.pruning.prune_one_shot(build(), 0.7)
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(X), model(X), rtol=1e-5, atol=1e-6)
