"""`from_tfmot` on models that tensorflow-model-optimization (tfmot) really pruned.

This file, run as a script in another process, makes them: importing tfmot sets
`TF_USE_LEGACY_KERAS` for all that follows. It hands over what tf_keras predicts, what
the converted models do, and one converted model.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import sparsenet_tf as stf

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
TF_KERAS = importlib.metadata.version("tf_keras")
SEPARABLE = "separable/pointwise_kernel"  # tfmot prunes this one of its two

# For each model its masks and the formats, "" for SavedModel, that it is saved in.
# tf_keras cannot write a .h5 file if a wrapper has two masks, which have one name, or
# if two layers have one; and a wrapped MultiHeadAttention loads from none. And 2.18
# cannot load a wrapped LSTM from its own .keras file.
ALL = (".h5", ".keras", "")
MODELS = {
    "images": (["conv/kernel", SEPARABLE, "transposed/kernel", "out/kernel"], ALL),
    "branches": (["conv3/kernel", "conv1/kernel", "a/kernel", "b/kernel"], (".h5",)),
    "nested": (
        ["dense/kernel", "encoder/dense/kernel", "pair/one/kernel", "pair/two/kernel"],
        ("",),
    ),
    "text": (
        [
            "embedding/embeddings",
            "lstm/lstm_cell/kernel",
            "lstm/lstm_cell/recurrent_kernel",
            "decoder/lstm_cell/kernel",
            "decoder/lstm_cell/recurrent_kernel",
            "gru/gru_cell/kernel",
            "gru/gru_cell/recurrent_kernel",
            "out/kernel",
        ],
        ("",) if TF_KERAS.startswith("2.18.") else (".keras",),
    ),
    "masked_text": (
        ["rnn/simple_rnn_cell/kernel", "rnn/simple_rnn_cell/recurrent_kernel"],
        (),
    ),
    "attention": (
        [f"mha/{part}/kernel" for part in ("query", "key", "value")]
        + ["mha/attention_output/kernel", "out/kernel"],
        (),
    ),
    "deferred": (["first/kernel", "last/kernel"], ()),
    "blocks": (["first/kernel", "last/kernel"], ()),
}
ERRORS = {
    "lambda": "layer 'lam' of class Lambda that cannot be converted: it is a Python",
    "operation": "layer 'tf.math.multiply' of class TFOpLambda that cannot be conv",
    "own layer": "layer 'mine' of class Dense that cannot be converted: it is of your",
    "no longer there": "layer 'local' of class LocallyConnected1D that cannot be conv",
    "hard_sigmoid": "layer 'hard' of class LSTM that cannot be made in Keras 3 (Value",
    "time_major": "layer 'major' of class Bidirectional that cannot be made in Keras 3",
    "own function": "layer 'own' of class Dense that cannot be made in Keras 3 (TypeE",
    "lost timesteps": "layer 'after' that does not get its timestep mask",
    "unbuilt": "Received: 'unbuilt' of class Sequential, which is not built yet",
    "subclassed": "Received: 'subclassed' of class Subclassed, which is subclassed",
}


def make_models():
    """Returns `{name: model of tf_keras}`, pruned ones where tfmot can."""
    import tf_keras as tfk
    from tensorflow_model_optimization.sparsity import keras as tfmot

    layers = tfk.layers
    decay = tfmot.PolynomialDecay(0.0, 0.7, begin_step=0, end_step=4, frequency=2)

    def prune(part, **kwargs):
        return tfmot.prune_low_magnitude(part, pruning_schedule=decay, **kwargs)

    def images():
        """A Sequential model in which some layers are wrapped."""
        return tfk.Sequential(
            [
                tfk.Input((12, 12, 3)),
                prune(layers.Conv2D(8, 3, padding="same", name="conv")),
                layers.BatchNormalization(),
                layers.LeakyReLU(0.2),
                prune(layers.SeparableConv2D(8, 3, name="separable")),
                prune(layers.DepthwiseConv2D(3, activation="elu")),
                layers.DepthwiseConv2D(2, depth_multiplier=2),
                prune(layers.MaxPooling2D()),
                layers.ZeroPadding2D(),
                prune(layers.Conv2DTranspose(4, 3, strides=2, name="transposed")),
                layers.PReLU(shared_axes=(1, 2)),
                layers.AveragePooling2D(),
                layers.SpatialDropout2D(0.2),
                layers.Flatten(),
                prune(layers.Dropout(0.1)),
                prune(layers.Dense(5, "softmax", name="out", kernel_regularizer="l2")),
            ],
            name="images",
        )

    def branches():
        """A functional model with two inputs and outputs, all of it wrapped."""
        signal, volume = tfk.Input((10, 4)), tfk.Input((6, 6, 6, 2))
        x = layers.Conv1D(6, 3, dilation_rate=2, name="conv1")(signal)
        x = layers.GlobalMaxPooling1D()(x)
        y = layers.Conv3D(4, 2, strides=2, name="conv3")(volume)
        y = layers.GlobalAveragePooling3D()(layers.UpSampling3D((1, 1, 3))(y))
        z = layers.Concatenate()([x, layers.Reshape((4,))(y)])
        a, b = layers.Dense(9, name="a")(z), layers.Dense(9, "tanh", name="b")(z)
        outputs = [layers.Add()([a, b]), layers.Activation("softplus")(b)]
        return prune(tfk.Model([signal, volume], outputs))

    def nested():
        """Dicts of inputs and outputs, models in the model, shared layers."""
        encoder = tfk.Sequential(
            [tfk.Input((8,)), layers.Dense(6, name="dense"), layers.ReLU()], "encoder"
        )
        x = tfk.Input((6,))
        both = [layers.Dense(3, name="one")(x), layers.Dense(4, name="two")(x)]
        pair = tfk.Model(x, both, name="pair")
        dense = layers.Dense(8, name="dense", activation="relu")
        left, right = tfk.Input((8,)), tfk.Input((8,))
        parts = [*pair(encoder(dense(left))), *pair(encoder(dense(dense(right))))]
        outputs = {"joined": layers.Concatenate()(parts)}
        return prune(tfk.Model({"left": left, "right": right}, outputs))

    def text():
        """Recurrent layers that hand their states on, all wrapped."""
        tokens = tfk.Input((None,), dtype="int32")
        # A wrapper loses the mask, and the converted model has to lose it too.
        x = layers.Embedding(20, 6, mask_zero=True, name="embedding")(tokens)
        y, *states = layers.LSTM(
            5, return_state=True, return_sequences=True, name="lstm"
        )(x)
        y = layers.LSTM(5, return_sequences=True, name="decoder")(
            y, initial_state=states
        )
        y = layers.GRU(4, reset_after=False, name="gru")(y)
        return prune(tfk.Model(tokens, layers.Dense(3, name="out")(y)))

    def masked_text():
        """Timestep masks, out of a nested model and through layers not wrapped."""
        tokens = tfk.Input((7,), dtype="int32")
        embedding = layers.Embedding(20, 6, mask_zero=True)
        x = tfk.Sequential([tfk.Input((7,), dtype="int32"), embedding])(tokens)
        lstm = layers.LSTM(5, return_sequences=True)
        x = layers.Bidirectional(lstm, merge_mode="sum")(x)
        x = layers.TimeDistributed(layers.Dense(6))(x)
        return tfk.Model(tokens, prune(layers.SimpleRNN(4, name="rnn"))(x))

    def attention():
        x = tfk.Input((7, 5))
        y = layers.MultiHeadAttention(2, 3, name="mha")(x, value=x)
        y = layers.LayerNormalization()(layers.Add()([x, y]))
        y = layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(y))
        return prune(tfk.Model(x, y))

    def deferred():
        """Built by its first batch; frozen; 2 zeros in every 4 weights."""
        model = tfk.Sequential(
            [
                layers.Dense(8, name="first", kernel_constraint="max_norm"),
                layers.Dense(4, name="last"),
            ]
        )
        model(np.ones((3, 8), "float32"))
        model.layers[0].trainable = False
        return prune(model, sparsity_m_by_n=(2, 4))

    def blocks():
        model = tfk.Sequential(
            [
                tfk.Input((8,)),
                layers.Dense(8, "relu", name="first"),
                layers.Dense(4, name="last"),
            ]
        )
        return prune(model, block_size=(2, 2))

    makers = [images, branches, nested, text, masked_text, attention, deferred, blocks]
    return {make.__name__: make() for make in makers}


def batch(model, rng):
    """Random inputs as `model` takes them, and targets."""
    import tensorflow as tf

    def values(tensor):
        shape = (16, *(7 if size is None else size for size in tensor.shape[1:]))
        if tensor.dtype.is_integer:
            return rng.integers(0, 20, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    x = tf.nest.map_structure(values, model.input)
    y = tf.nest.map_structure(lambda out: rng.normal(size=out.shape), model(x))
    return x, y


def masks_of(model):
    """tfmot's masks, in the order of the layers, those of nested models too."""
    found = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found += masks_of(layer)
        found += [mask.numpy() for _, mask, _ in getattr(layer, "pruning_vars", ())]
    return found


def largest_error(outputs, expected):
    """The largest difference in any output, over the largest value in it."""
    import tensorflow as tf

    outputs, expected = tf.nest.flatten(outputs), tf.nest.flatten(expected)
    pairs = zip(outputs, expected, strict=True)
    return max(float(np.abs(a.numpy() - b).max() / np.abs(b).max()) for a, b in pairs)


def compare(source, x, expected, masks):
    """Converts `source`; says how its outputs and masks differ from tf_keras' own."""
    model = stf.interop.tfmot.from_tfmot(source)
    ours = stf.get_masks(model) if masks else {}
    kernels = stf.transform.masks.masked_kernels(model)
    return {
        "error": largest_error(model(x), expected),
        "paths": list(ours),
        "masks_equal": [
            bool(np.array_equal(mask, other))
            for mask, other in zip(ours.values(), masks, strict=True)
        ],
        "kept": float(np.mean([mask.mean() for mask in ours.values()] or [1.0])),
        "zeros_kept": all(
            not np.any(masked.kernel.numpy()[~ours[path]])
            for path, masked in kernels.items()
        ),
        "compiled": model.compiled,
        "trainable": len(model.trainable_variables),
        "layers": [type(layer).__name__ for layer in model.layers],
    }


def convert_all(folder):
    """Prunes, converts, saves and converts again; yields `(key, what was found)`."""
    import tensorflow as tf
    import tf_keras as tfk
    from tensorflow_model_optimization.sparsity import keras as tfmot

    rng = np.random.default_rng(0)
    for name, model in make_models().items():
        x, y = batch(model, rng)
        model.compile("adam", "mse", run_eagerly=True)  # traces are slow
        model.fit(x, y, epochs=6, verbose=0, callbacks=[tfmot.UpdatePruningStep()])
        for variable in model.trainable_variables:
            # As after any training step: weights under the mask are not zero.
            variable.assign_add(tf.random.normal(variable.shape, stddev=0.1, seed=1))
        masks = masks_of(model)
        converted = stf.interop.tfmot.from_tfmot(model)
        expected = model.predict(x, verbose=0)
        yield f"{name} in memory", compare(model, x, expected, masks)
        # Converted before tf_keras was called again, it computes the same.
        yield f"{name} first", {"error": largest_error(converted(x), expected)}
        for ending in MODELS[name][1]:
            path = folder / f"{name}{ending}"
            model.save(path)
            yield f"{name}{ending}", compare(path, x, expected, masks)
        if name == "images":
            converted.save(folder / "converted.keras")
            np.savez(folder / "converted.npz", x=x, expected=expected)
            stripped = tfmot.strip_pruning(model)
            yield "stripped", compare(stripped, x, expected, [])
            stripped.save(folder / "stripped.h5")
            yield "stripped.h5", compare(folder / "stripped.h5", x, expected, [])
    dense = tfk.layers.Dense(5, "relu", dtype="mixed_bfloat16")
    plain = tfk.Sequential([tfk.Input((8,)), dense, tfk.layers.Dense(3)])
    x, _ = batch(plain, rng)
    yield "mixed precision", compare(plain, x, plain.predict(x, verbose=0), [])


def find_errors():
    """Returns `{name: message}` of models that cannot be converted."""
    import tf_keras as tfk
    from tensorflow_model_optimization.sparsity import keras as tfmot

    layers = tfk.layers

    class Dense(layers.Dense):
        pass

    class Subclassed(tfk.Model):
        pass

    def own_function(x):
        return x * x

    def operation():
        x = tfk.Input((4,))
        return tfk.Model(x, x * 2.0)

    def lost_timesteps():
        drops = tfmot.prune_low_magnitude(layers.LSTM(3, return_sequences=True))
        x = tfk.Input((6,), dtype="int32")
        y = drops(layers.Embedding(5, 4, mask_zero=True)(x))
        return tfk.Model(x, layers.LSTM(2, name="after")(layers.Dense(3)(y)))

    def after(shape, layer):
        return tfk.Sequential([tfk.Input(shape), layer])

    lstm = layers.LSTM(3, recurrent_activation="hard_sigmoid", name="hard")
    major = layers.Bidirectional(layers.LSTM(3, time_major=True), name="major")
    models = {
        "lambda": after((4,), layers.Lambda(lambda x: x, name="lam")),
        "operation": operation(),
        "own layer": after((4,), Dense(3, name="mine")),
        "no longer there": after((6, 4), layers.LocallyConnected1D(3, 2, name="local")),
        "hard_sigmoid": after((6, 4), lstm),
        "time_major": after((6, 4), major),
        "own function": after((4,), layers.Dense(3, own_function, name="own")),
        "lost timesteps": lost_timesteps(),
        "unbuilt": tfk.Sequential([layers.Dense(3)], name="unbuilt"),
        "subclassed": Subclassed(name="subclassed"),
    }
    messages = {}
    for name, model in models.items():
        try:
            stf.interop.tfmot.from_tfmot(model)
        except ValueError as error:
            messages[name] = str(error)
    scope = {"Dense": keras.layers.Dense, "own_function": own_function}
    with keras.saving.custom_object_scope(scope):
        for name in ("own layer", "own function"):
            new = stf.interop.tfmot.from_tfmot(models[name])
            x = np.arange(8.0).reshape(2, 4)
            np.testing.assert_allclose(new(x), models[name](x), rtol=1e-6)
    return messages


def main(folder):
    import tensorflow as tf

    before = dict(os.environ)
    found = {}
    # The file is there; its contents are not looked at without tfmot.
    (folder / "pruned.h5").write_bytes(b"")
    sys.modules["tensorflow_model_optimization"] = None
    try:
        stf.interop.tfmot.from_tfmot(folder / "pruned.h5")
    except ImportError as error:
        found["without tfmot"] = str(error)
    del sys.modules["tensorflow_model_optimization"]
    try:
        stf.interop.tfmot.from_tfmot(str(folder / "pruned.h5"))
    except ValueError as error:
        found["damaged"] = str(error)
    found["environment kept"] = dict(os.environ) == before
    found["tf.keras"] = tf.keras.layers.Dense is keras.layers.Dense
    found["tfmot loaded"] = "tensorflow_model_optimization" in sys.modules
    found["errors"] = find_errors()
    found.update(convert_all(folder))
    (folder / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfmot")
    environ = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "found.json").read_text())


def is_right(found, paths):
    assert found["error"] <= 1e-6
    assert found["paths"] == paths
    assert len(found["masks_equal"]) == len(paths) and all(found["masks_equal"])
    assert found["zeros_kept"] and not found["compiled"]


@pytest.mark.parametrize("name", MODELS)
def test_models_in_memory(found, name):
    paths, _ = MODELS[name]
    is_right(found[f"{name} in memory"], paths)
    kept = 0.5 if name == "deferred" else 0.3
    assert abs(found[f"{name} in memory"]["kept"] - kept) < 0.1
    assert found[f"{name} first"]["error"] <= 1e-6


@pytest.mark.parametrize(
    "key",
    [name + ending for name, (_, formats) in MODELS.items() for ending in formats],
)
def test_models_from_files(found, key):
    paths, _ = MODELS[key.split(".")[0]]
    is_right(found[key], paths)


@pytest.mark.parametrize("key", ["stripped", "stripped.h5", "mixed precision"])
def test_models_without_wrappers_have_no_masks(found, key):
    is_right(found[key], [])
    assert "Masked" not in found[key]["layers"]


def test_what_is_not_wrapped_is_not_masked(found):
    layers = found["images in memory"]["layers"]
    assert layers.count("Masked") == 4
    assert {"BatchNormalization", "DepthwiseConv2D", "Dropout"} <= set(layers)


def test_frozen_layers_stay_frozen(found):
    assert found["deferred in memory"]["trainable"] == 2  # those of the last layer


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_layer(found, name):
    assert ERRORS[name] in found["errors"][name]


def test_loading_leaves_environment_and_tf_keras(found):
    assert found["tfmot loaded"]
    assert found["environment kept"]
    assert found["tf.keras"]


def test_a_file_that_is_no_model(found):
    assert "`model` must be a .h5 or .keras file or a SavedModel" in found["damaged"]


def test_missing_packages_are_named(found, tmp_path, monkeypatch):
    command = "pip install tensorflow-model-optimization tf-keras"
    assert command in found["without tfmot"]
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ImportError, match=command):
        stf.interop.tfmot.from_tfmot(tmp_path)


def test_the_result_works_without_tf_keras(folder):
    model = keras.models.load_model(folder / "converted.keras")
    data = np.load(folder / "converted.npz")
    x, expected = data["x"], data["expected"]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)
    masks = stf.get_masks(model)
    assert list(masks) == MODELS["images"][0]
    for new in (stf.strip(model), stf.to_sparse(model, layers="all")):
        np.testing.assert_allclose(new.predict(x, verbose=0), expected, atol=1e-5)
    model.compile("sgd", "mse")
    model.fit(x, expected, verbose=0)
    histories = stf.retrain_from_scratch(
        model, masks, x, expected, seeds=0, epochs=1, verbose=0
    )
    for trained in (model, histories[0].model):
        found = stf.get_masks(trained)
        for path, mask in masks.items():
            np.testing.assert_array_equal(found[path], mask)
        kernel = trained.get_layer("out").kernel.numpy()
        assert not kernel[~masks["out/kernel"]].any()


def test_bad_input():
    with pytest.raises(TypeError, match="`model` must be a model of tf_keras"):
        stf.interop.tfmot.from_tfmot(keras.Sequential([keras.Input((2,))]))
    with pytest.raises(FileNotFoundError, match="`model` must be a file or folder"):
        stf.interop.tfmot.from_tfmot("no_such_model.h5")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
