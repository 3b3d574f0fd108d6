"""A model of `keras.applications`, all the way: the library, and the example."""

import dataclasses
import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from keras import ops

import sparsenet_tf as stf
from sparsenet_tf.experiments import applications, applications_report, data
from sparsenet_tf.experiments.applications import Settings
from sparsenet_tf.layers import tree

L = keras.layers
SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "examples/prune_mobilenet.py"
SHORT = Settings(alpha=0.35, steps=3, batch_size=8, timed=1, sparsity=0.8)

# What the input pipeline is made of is traced all the same, TensorFlow says.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the:UserWarning")


@pytest.fixture(autouse=True)
def eager_steps():
    """Tracing 150 layers takes longer than the few steps taken here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def mobilenet(**compiled):
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3),
        alpha=0.35,
        weights=None,
        classes=10,
        classifier_activation=None,
    )
    if compiled:
        model.compile(**compiled)
    return model


def images(count=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 32, 32, 3)).astype("float32")


def values(variables):
    return [ops.convert_to_numpy(v) for v in variables]


def by_kind(model):
    """`{class: [layers that are masked, that are not]}` of layers with weights."""
    found = {}
    for layer in model.layers:
        if layer.weights:
            masked = tree.is_masked(layer)
            kind = type(layer.layer if masked else layer)
            found.setdefault(kind, [0, 0])[not masked] += 1
    return found


# The library.


@pytest.fixture(scope="module")
def pruned():
    """A pruned model whose batch normalizations have seen data, and what it was."""
    tf.config.run_functions_eagerly(True)
    model = mobilenet()
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(3):
        model(images(16), training=True)
    masked = stf.sparsify(model, exclude="Conv1", depthwise=False)
    return model, stf.pruning.prune_one_shot(masked, 0.9)


def test_which_layers_are_masked(pruned):
    model, sparse = pruned
    assert by_kind(sparse) == {
        L.Conv2D: [34, 1],  # Conv1 is excluded
        L.DepthwiseConv2D: [0, 17],
        L.BatchNormalization: [0, 52],
        L.Dense: [1, 0],
    }
    assert [a.name for a in sparse.layers] == [b.name for b in model.layers]
    masks = stf.get_masks(sparse)
    assert len(masks) == 35 and "Conv1/kernel" not in masks
    assert {round(float(m.mean()), 1) for m in masks.values()} == {0.1}


def test_the_summary_lists_every_kernel(pruned):
    table = stf.summary(pruned[1], print_fn=None)
    assert len(table.kernels) == 34 + 1 + 17 + 1
    masked = [k for k in table.kernels if k.masked]
    assert [k.path for k in masked] == list(stf.get_masks(pruned[1]))
    assert all(0.89 < k.sparsity < 0.91 for k in masked)
    assert all(k.sparsity == 0.0 for k in table.kernels if not k.masked)
    assert table.bytes == 4 * pruned[0].count_params()
    lines = str(table).splitlines()[:-4]  # without the notes below the table
    assert len(lines) == 53 + 4 and len({len(line) for line in lines}) == 1


def test_batch_statistics_come_along(pruned):
    model, sparse = pruned
    stripped = stf.strip(sparse)
    wanted = ops.convert_to_numpy(sparse(images(), training=False))
    for new in (stripped, stf.to_sparse(sparse, layers="all"), stf.sparsify(stripped)):
        for old in model.layers:
            if isinstance(old, L.BatchNormalization):
                layer = new.get_layer(old.name)
                assert layer.momentum == 0.5
                for a, b in zip(
                    values(old.weights), values(layer.weights), strict=True
                ):
                    np.testing.assert_array_equal(a, b)
        found = ops.convert_to_numpy(new(images(), training=False))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    norm = model.get_layer("bn_Conv1")
    assert np.abs(ops.convert_to_numpy(norm.moving_mean)).max() > 0.01


def test_batch_statistics_begin_anew_in_new_models(pruned):
    model, sparse = pruned
    new = stf.rebuild(model, stf.get_masks(sparse), seed=1)
    for layer in new.layers:
        if isinstance(layer, L.BatchNormalization):
            assert layer.momentum == 0.5
            assert not ops.convert_to_numpy(layer.moving_mean).any()
            assert (ops.convert_to_numpy(layer.moving_variance) == 1).all()
    again = stf.rebuild(sparse, stf.get_masks(sparse), seed=1)
    for a, b in zip(values(new.weights), values(again.weights), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_retraining_moves_the_statistics_and_keeps_the_masks(pruned):
    model, sparse = pruned
    masks = stf.get_masks(sparse)
    model = stf.strip(sparse)
    model.compile("adam", "mse")
    x = images(8)
    [history] = stf.retrain_from_scratch(
        model, masks, x, np.ones((8, 10)), seeds=3, batch_size=4, verbose=0
    )
    new = history.model
    assert ops.convert_to_numpy(new.get_layer("bn_Conv1").moving_mean).any()
    for path, kernel in tree.kernels(new).items():
        if path in masks:
            assert not ops.convert_to_numpy(kernel)[~masks[path]].any()


def test_sparse_form_and_back(pruned):
    _, sparse = pruned
    converted = stf.to_sparse(sparse, layers="all")
    assert sum(tree.is_sparse(layer) for layer in converted.layers) == 35
    back = stf.to_dense(converted)
    masks, again = stf.get_masks(sparse), stf.get_masks(back)
    assert list(masks) == list(again)
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, again[path])


@pytest.mark.slow
def test_layers_that_are_used_twice():
    """Two images through one MobileNetV2, as in a Siamese network."""
    encoder = mobilenet()
    left, right = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    joined = L.Concatenate()([encoder(left), encoder(right)])
    model = keras.Model([left, right], L.Dense(1, name="same")(joined))
    sparse = stf.pruning.prune_one_shot(model, 0.5)
    masks = stf.get_masks(sparse)
    assert len(masks) == 35 + 17 + 1 + 1  # each once, depthwise, Conv1, the new layer
    x = images(2)
    before = ops.convert_to_numpy(sparse([x, x[::-1]], training=False))
    for new in (stf.strip(sparse), stf.to_sparse(sparse, layers="all")):
        found = ops.convert_to_numpy(new([x, x[::-1]], training=False))
        np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-5)
    assert list(stf.get_masks(stf.rebuild(model, masks, 0))) == list(masks)


@pytest.mark.parametrize("make", ["new", "export"])
@pytest.mark.often("export")
def test_copies_that_nobody_trains_have_no_optimizer(make, tmp_path, monkeypatch):
    # A ResNet50 under Adam has 190 MB of slots.
    model = mobilenet(optimizer="adam", loss="mse")
    masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.5))
    sparse = stf.sparsify(model, masks)
    built = []
    original = keras.optimizers.Adam.build
    monkeypatch.setattr(
        keras.optimizers.Adam,
        "build",
        lambda self, variables: built.append(self) or original(self, variables),
    )
    if make == "new":
        new = stf.rebuild(model, masks, seed=0)
        assert new.compiled and built == [new.optimizer]
    else:
        stf.export(sparse, tmp_path / "model.keras", print_fn=None)
        assert built == []


# All of its families.

A = keras.applications
SMALL = {"input_shape": (32, 32, 3), "weights": None, "classes": 5}


def efficientnet(kind):
    """An EfficientNet with the statistics of ImageNet, as its weights bring them."""
    model = kind(**SMALL)
    for layer in model.layers:
        if isinstance(layer, L.Normalization) and layer.variables:
            mean, variance = [0.485, 0.456, 0.406], [0.229**2, 0.224**2, 0.225**2]
            layer.load_own_variables(
                {"0": np.array(mean), "1": np.array(variance), "2": np.array(1)}
            )
    return model


FAMILIES = {
    "EfficientNetB0": lambda: efficientnet(A.EfficientNetB0),
    "EfficientNetV2B0": lambda: efficientnet(A.EfficientNetV2B0),
    "MobileNet": lambda: A.MobileNet(**SMALL, alpha=0.25),
    "MobileNetV3Small": lambda: A.MobileNetV3Small(**SMALL, alpha=0.75),
    "MobileNetV2": lambda: A.MobileNetV2(**SMALL, alpha=0.35),
    "NASNetMobile": lambda: A.NASNetMobile(**SMALL),
    "DenseNet121": lambda: A.DenseNet121(**SMALL),
    "ConvNeXtTiny": lambda: A.ConvNeXtTiny(**SMALL),
    "ResNet50": lambda: A.ResNet50(**SMALL),
    "ResNet50V2": lambda: A.ResNet50V2(**SMALL),
    "VGG16": lambda: A.VGG16(**SMALL),
    "Xception": lambda: A.Xception(**{**SMALL, "input_shape": (71, 71, 3)}),
    "InceptionV3": lambda: A.InceptionV3(**{**SMALL, "input_shape": (75, 75, 3)}),
    "InceptionResNetV2": lambda: A.InceptionResNetV2(
        **{**SMALL, "input_shape": (75, 75, 3)}
    ),
}
FAST = ("EfficientNetB0",)


@pytest.mark.parametrize(
    "family",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_every_family_says_the_same(family):
    keras.utils.set_random_seed(0)
    model = FAMILIES[family]()
    shape = model.input_shape[1:]
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    wanted = ops.convert_to_numpy(model(x, training=False))
    sparse = stf.sparsify(model)
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            same = sparse.get_layer(layer.name)
            np.testing.assert_array_equal(same.mean, layer.mean)
            np.testing.assert_array_equal(same.variance, layer.variance)
    if family == "EfficientNetB0":
        found = [n for n in sparse.layers if isinstance(n, L.Normalization)]
        np.testing.assert_allclose(np.ravel(found[0].mean), [0.485, 0.456, 0.406])
    del model
    found = ops.convert_to_numpy(sparse(x, training=False))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    sparse = stf.pruning.prune_one_shot(sparse, 0.5)
    masks, kernels = stf.get_masks(sparse), tree.kernels(sparse)
    assert list(masks) == list(kernels)
    for path, mask in masks.items():
        assert np.count_nonzero(~mask) == min(round(0.5 * mask.size), mask.size - 1)
        assert not ops.convert_to_numpy(kernels[path])[~mask].any(), path
    pruned = ops.convert_to_numpy(sparse(x, training=False))
    assert np.isfinite(pruned).all()
    plain = stf.strip(sparse)
    assert not any(map(tree.is_masked, plain._flatten_layers()))
    found = ops.convert_to_numpy(plain(x, training=False))
    np.testing.assert_allclose(found, pruned, rtol=1e-5, atol=1e-6)


# The experiment.


@pytest.fixture(scope="module")
def few_digits():
    digits = data.load()
    return dataclasses.replace(
        digits,
        x_train=digits.x_train[:40],
        y_train=digits.y_train[:40],
        x_test=digits.x_test[:20],
        y_test=digits.y_test[:20],
    )


@pytest.fixture(scope="module")
def short_run(few_digits, tmp_path_factory):
    tf.config.run_functions_eagerly(True)
    folder = tmp_path_factory.mktemp("exported")
    calls = []
    outcome = applications.run(
        SHORT, few_digits, folder, lambda *call: calls.append(call)
    )
    return outcome, folder, calls


@pytest.mark.slow
def test_the_forms(short_run):
    outcome, _, calls = short_run
    assert [form.name for form in outcome.forms] == [
        "dense", "pruned", "retrained", "sparse",
    ]  # fmt: skip
    dense, pruned, retrained, sparse = outcome.forms
    assert dense.sparsity == 0.0
    assert pruned.sparsity == retrained.sparsity == sparse.sparsity > 0.7
    assert dense.parameters == pruned.parameters == retrained.parameters
    assert dense.parameters == mobilenet().count_params()
    assert sparse.parameters < dense.parameters
    assert sparse.accuracy == retrained.accuracy
    assert all(0 <= form.accuracy <= 1 for form in outcome.forms)
    assert min(dense.step_ms, retrained.step_ms, sparse.step_ms) > 0
    assert min(dense.predict_one_ms, sparse.predict_batch_ms) > 0
    assert pruned.step_ms is None
    assert calls[-1][:2] == (9, 9)


@pytest.mark.slow
def test_the_kinds_of_layers(short_run):
    kinds = {kind.name: kind for kind in short_run[0].kinds}
    assert list(kinds) == [
        "Conv2D", "BatchNormalization", "DepthwiseConv2D", "Dense",
    ]  # fmt: skip
    counts = {name: (kind.masked, kind.plain) for name, kind in kinds.items()}
    assert counts == {
        "Conv2D": (34, 1),
        "BatchNormalization": (0, 52),
        "DepthwiseConv2D": (0, 17),
        "Dense": (1, 0),
    }
    assert sum(kind.weights for kind in kinds.values()) == mobilenet().count_params()
    assert kinds["DepthwiseConv2D"].zeros == 0
    assert kinds["Conv2D"].zeros / kinds["Conv2D"].weights > 0.75


@pytest.mark.slow
def test_the_files(short_run, few_digits):
    outcome, folder, _ = short_run
    assert [file.format for file in outcome.files] == list(applications.FORMATS)
    assert max(outcome.compact_bytes, outcome.gzip_bytes) < outcome.dense_bytes
    x = applications.as_inputs(few_digits.x_test[:2], 32)
    loaded = keras.models.load_model(folder / "model.keras")
    wanted = ops.convert_to_numpy(loaded(x, training=False))
    plain = mobilenet()
    plain.set_weights(list(stf.transform.load_compact(folder / "model.npz").values()))
    # Equal weights, and the same arithmetic.
    np.testing.assert_array_equal(plain(x, training=False), wanted)
    saved = tf.saved_model.load(str(folder / "model"))
    np.testing.assert_allclose(saved.serve(x), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_report(short_run):
    text = applications_report.markdown(short_run[0])
    assert text.startswith("# MobileNetV2 on mnist_5k\n")
    for word in ("retrained", "DepthwiseConv2D", "tflite", "to_sparse", " ms |"):
        assert word in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_images_are_enlarged_and_coloured():
    x = np.zeros((2, 28, 28, 1), "float32")
    x[0] = 1.0
    found = applications.as_inputs(x, 40)
    assert found.shape == (2, 40, 40, 3)
    assert (found[0] == 1.0).all() and (found[1] == -1.0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "VGG16"),
        ("alpha", 0.0),
        ("alpha", float("nan")),
        ("image_size", 31),
        ("dataset", "mnist_6k"),
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("batch_norm_momentum", 1.0),
        ("sparsity", 1.0),
        ("scope", "model"),
        ("begin_step", -1),
        ("end_step", 501),
        ("frequency", 0),
        ("timed", 0),
        ("seed", -1),
    ],
)
def test_wrong_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received"):
        Settings(**{name: value})


def test_a_resnet_has_one_width():
    with pytest.raises(ValueError, match="`alpha` must be 1.0 for ResNet50"):
        Settings(model="ResNet50", alpha=0.5)


# The example.


def import_example():
    spec = importlib.util.spec_from_file_location("prune_mobilenet_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(example, *arguments):
    values = flags.FlagValues()
    example.define_flags(values)
    values(["prune_mobilenet.py", *arguments])
    return values


def test_flags_give_settings():
    example = import_example()
    assert example.settings_from_flags(parse(example)) == Settings()
    found = parse(example, "--model=ResNet50", "--image_size=64", "--sparsity=0.5")
    expected = Settings(model="ResNet50", image_size=64, sparsity=0.5)
    assert example.settings_from_flags(found) == expected
    assert {f.name for f in dataclasses.fields(Settings)} <= set(found)


def test_errors_come_before_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = import_example()
    monkeypatch.setattr(example, "run", lambda *_: pytest.fail("it trained"))
    values = parse(example, "--image_size=16")
    monkeypatch.setattr(example.flags, "FLAGS", values)
    with pytest.raises(SystemExit, match="^Error: `image_size` must be"):
        example.main(["prune_mobilenet.py"])


@pytest.mark.slow
def test_the_example_writes_its_files(short_run, tmp_path, capsys, monkeypatch):
    example = import_example()
    # It runs above; here it is what is written that matters.
    monkeypatch.setattr(applications, "run", lambda *_: short_run[0])
    results, report = example.run(SHORT, data.load(), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([results, report])
    [record] = json.loads(results.read_text())["records"]
    assert [form["name"] for form in record["forms"]][0] == "dense"
    assert report.read_text() in capsys.readouterr().out
