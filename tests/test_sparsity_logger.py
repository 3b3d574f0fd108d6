"""`SparsityLogger`: its event files, read back."""

import glob
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparsenet_tf as stf
from sparsenet_tf.pruning import ConstantSparsity, PolynomialDecay, PruningCallback
from sparsenet_tf.visualization.mask_image import mask_images

X = np.random.default_rng(0).normal(size=(80, 8, 8, 2)).astype("float32")
Y = np.random.default_rng(1).normal(size=(80, 3)).astype("float32")


def small_model(**compile_args):
    model = stf.sparsify(
        keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                keras.layers.Conv2D(4, 3, strides=2, name="conv"),
                keras.layers.Flatten(),
                keras.layers.Dense(10, name="dense"),
                keras.layers.Dense(3, name="out"),
            ]
        ),
        exclude="out",
    )
    model.compile("sgd", "mse", **compile_args)
    return model


def fit(model, *callbacks, epochs=2, **fit_args):
    model.fit(
        X, Y, batch_size=10, epochs=epochs, callbacks=list(callbacks), verbose=0,
        **fit_args,
    )  # fmt: skip


def events(run):
    """`{tag: {step: value}}` of the event files in a folder: numbers and pictures."""
    found = {}
    for path in sorted(glob.glob(f"{run}/events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                plugin = value.metadata.plugin_data.plugin_name
                if plugin == "images":
                    width, height, png = array
                    array = tf.io.decode_png(png, dtype=tf.uint8).numpy()[..., 0]
                    assert array.shape == (int(height), int(width))
                elif plugin:
                    assert plugin == "scalars" and array.shape == ()
                found.setdefault(value.tag, {})[event.step] = array
    return found


def numbers(tag_events):
    return {step: float(value) for step, value in tag_events.items()}


def test_scalars_follow_the_schedule(tmp_path):
    model = small_model()
    schedule = PolynomialDecay(0.0, 0.9, begin_step=3, end_step=13, frequency=5)
    pruning = PruningCallback(schedule, exclude="dense")
    logger = stf.SparsityLogger(tmp_path, update_freq=2, pruning=pruning)
    fit(model, pruning, logger)
    found = events(tmp_path / "sparsity")
    planned = numbers(found["sparsity/planned"])
    assert list(planned) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    for step, value in planned.items():
        due = schedule.last_update(step)
        expected = 0 if due is None else schedule(due)
        assert value == pytest.approx(expected)
        # 72 weights, so sparsity is the planned one to a 72nd.
        for tag in ("sparsity/pruned", "sparsity/conv/kernel"):
            reached = float(found[tag][step])
            assert reached == pytest.approx(expected, abs=0.5 / 72 + 1e-6)
        assert float(found["sparsity/dense/kernel"][step]) == 0
    table = stf.summary(model, print_fn=None)
    assert float(found["sparsity/total"][16]) == pytest.approx(table.sparsity)
    assert "sparsity/out/kernel" not in found  # has no mask


def test_dead_units_are_counted(tmp_path):
    mask = np.ones((36, 10), bool)
    mask[5:9] = False
    mask[:, 2] = False
    model = small_model()
    model.get_layer("dense").set_masks(mask)
    fit(model, stf.SparsityLogger(tmp_path), epochs=1)
    found = events(tmp_path / "sparsity")
    assert numbers(found["dead_inputs/dense/kernel"]) == {0: 4, 8: 4}
    assert numbers(found["dead_outputs/dense/kernel"]) == {0: 1, 8: 1}
    assert numbers(found["dead_outputs/conv/kernel"]) == {0: 0, 8: 0}
    assert not any("planned" in tag or "pruned" in tag for tag in found)


def test_pictures_are_the_masks_and_come_when_these_change(tmp_path):
    model = small_model()
    pruning = PruningCallback(ConstantSparsity(0.5, begin_step=4), exclude="dense")
    logger = stf.SparsityLogger(tmp_path, "batch", pruning, image_size=20)
    fit(model, pruning, logger, epochs=1)
    found = events(tmp_path / "sparsity")
    assert list(found["masks/conv/kernel"]) == [0, 4]
    assert list(found["masks/dense/kernel"]) == [0]
    before, after = found["masks/conv/kernel"].values()
    assert set(np.unique(before)) == {0, 200}
    conv, dense = mask_images(model, 20)
    mask = stf.get_masks(model)["conv/kernel"]
    assert np.array_equal(after, conv.to_grey())
    assert conv.is_tiled
    # The last channel of the last filter is the last tile.
    assert np.array_equal(after[-3:, -3:] == 0, mask[:, :, 1, 3])
    # 36 x 10 is 18 x 10 pixels here, blocks of two inputs.
    assert dense.block == (2, 1)
    assert np.array_equal(found["masks/dense/kernel"][0], dense.to_grey())


def test_long_pictures_are_stretched(tmp_path):
    model = keras.Sequential([keras.Input((60,)), keras.layers.Dense(3, name="a")])
    model = stf.pruning.prune_one_shot(model, 0.5)
    model.compile("sgd", "mse")
    x, y = np.ones((4, 60)), np.ones((4, 3))
    model.fit(x, y, verbose=0, callbacks=[stf.SparsityLogger(tmp_path)])
    [picture] = events(tmp_path / "sparsity")["masks/a/kernel"].values()
    mask = stf.get_masks(model)["a/kernel"]
    assert np.array_equal(picture == 0, np.repeat(mask, 10, axis=1))


def test_no_pictures(tmp_path):
    fit(small_model(), stf.SparsityLogger(tmp_path, image_size=0), epochs=1)
    assert not any("masks" in tag for tag in events(tmp_path / "sparsity"))


@pytest.mark.parametrize(
    ("update_freq", "expected"),
    [("epoch", [0, 8, 16]), ("batch", range(17)), (3, [0, 3, 6, 9, 12, 15, 16])],
)
def test_when_it_writes(tmp_path, update_freq, expected):
    logger = stf.SparsityLogger(tmp_path, update_freq, image_size=0)
    fit(small_model(), logger)
    assert list(events(tmp_path / "sparsity")["sparsity/total"]) == list(expected)


def test_several_steps_an_execution(tmp_path):
    logger = stf.SparsityLogger(tmp_path, 3, image_size=0)
    fit(small_model(steps_per_execution=4), logger)
    steps = list(events(tmp_path / "sparsity")["sparsity/total"])
    assert steps == [0, 4, 8, 12, 16]


def test_training_goes_on(tmp_path):
    model = small_model()
    logger = stf.SparsityLogger(tmp_path)
    fit(model, logger, epochs=1)
    fit(model, logger, epochs=1)
    assert len(os.listdir(tmp_path / "sparsity")) == 2
    assert sorted(events(tmp_path / "sparsity")["sparsity/total"]) == [0, 8, 16]


def test_in_the_compiled_loop(tmp_path):
    model = small_model()
    schedule = PolynomialDecay(0.0, 0.8, begin_step=2, end_step=12, frequency=5)
    pruning = PruningCallback(schedule)
    logger = stf.SparsityLogger(tmp_path, pruning=pruning)
    stf.training.fit(
        model, X, Y, steps=15, batch_size=10, evaluate_every=5,
        callbacks=[pruning, logger],
    )  # fmt: skip
    found = events(tmp_path / "sparsity")
    planned = numbers(found["sparsity/planned"])
    assert planned == pytest.approx({0: 0, 5: 0, 10: 0.7, 15: 0.8})
    for step, value in numbers(found["sparsity/pruned"]).items():
        assert value == pytest.approx(planned[step], abs=0.5 / 72)


def test_layers_of_nonzeros(tmp_path):
    topology = stf.topology.RadixLayer(8, 2, 1, width_out=2)
    model = keras.Sequential(
        [keras.Input((8,)), stf.layers.RadixDense(topology, name="radix")]
    )
    model.compile("sgd", "mse")
    x, y = np.ones((4, 8)), np.ones((4, 16))
    model.fit(x, y, verbose=0, callbacks=[stf.SparsityLogger(tmp_path)])
    found = events(tmp_path / "sparsity")
    assert float(found["sparsity/radix/kernel"][1]) == 0.75
    [picture] = found["masks/radix/kernel"].values()
    assert np.array_equal(picture == 0, topology.mask())


def test_beside_the_callback_of_keras(tmp_path):
    pytest.importorskip("tensorboard")

    def run(folder, *callbacks):
        keras.utils.set_random_seed(0)
        board = keras.callbacks.TensorBoard(folder, update_freq=2, write_graph=False)
        fit(small_model(), board, *callbacks, validation_split=0.25)
        return {part: events(f"{folder}/{part}") for part in ("train", "validation")}

    alone = run(tmp_path / "alone")
    together = run(tmp_path / "both", stf.SparsityLogger(tmp_path / "both"))
    for part, tags in alone.items():
        assert {tag: list(steps) for tag, steps in tags.items()} == {
            tag: list(steps) for tag, steps in together[part].items()
        }
        losses = tags["epoch_loss"], together[part]["epoch_loss"]
        assert numbers(losses[0]) == pytest.approx(numbers(losses[1]))
    assert "epoch_loss" in alone["train"]
    ours = events(tmp_path / "both" / "sparsity")
    assert list(ours["sparsity/total"]) == [0, 6, 12]


def test_tensorboard_reads_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import plugin_event_accumulator

    model = small_model()
    fit(model, stf.SparsityLogger(tmp_path), epochs=1)
    reader = plugin_event_accumulator.EventAccumulator(str(tmp_path / "sparsity"))
    reader.Reload()
    ours = events(tmp_path / "sparsity")
    plugins = {
        plugin: set(reader.PluginTagToContent(plugin)) for plugin in
        ("scalars", "images")
    }  # fmt: skip
    assert plugins["images"] == {"masks/conv/kernel", "masks/dense/kernel"}
    assert plugins["scalars"] == set(ours) - plugins["images"]
    for tag in ours:
        assert [e.step for e in reader.Tensors(tag)] == list(ours[tag])


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match='must be "epoch", "batch" or an integer'):
        stf.SparsityLogger(tmp_path, "step")
    with pytest.raises(ValueError, match="`update_freq` must be 1 or more"):
        stf.SparsityLogger(tmp_path, 0)
    with pytest.raises(TypeError, match="`update_freq` must be an integer"):
        stf.SparsityLogger(tmp_path, 1.5)
    with pytest.raises(TypeError, match="`pruning` must be a PruningCallback"):
        stf.SparsityLogger(tmp_path, pruning=ConstantSparsity(0.5, 0))
    with pytest.raises(ValueError, match="`image_size` must be 0 or more"):
        stf.SparsityLogger(tmp_path, image_size=-1)
    with pytest.raises(TypeError, match="os.PathLike"):
        stf.SparsityLogger(None)


def test_a_model_without_masks_is_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must have masked kernels"):
        fit(model, stf.SparsityLogger(tmp_path))
    assert os.listdir(tmp_path) == []


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match="pip install tensorflow"):
        stf.SparsityLogger(tmp_path)
