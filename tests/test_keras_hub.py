"""Models of `keras_hub`, in small and with weights of their own, all the way."""

import os

import keras
import numpy as np
import pytest
from keras import ops

import sparsenet_tf as stf
from sparsenet_tf.layers import tree

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
try:
    import keras_hub
except ImportError as error:
    pytest.skip(
        f"NOT TESTED: models of keras_hub, which is not installed ({error}). "
        'Install it with `pip install -e ".[hub]"`',
        allow_module_level=True,
    )

M = keras_hub.models

# What keras_hub's models say without us too.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "`shuffle=True` was passed",
        r"Layer '.*' \(of type T5MultiHeadAttention\) was passed an input",
        "Layer .* does not have a `quantize` method",
        # Tasks compile themselves when they are made, and so when they are loaded.
        r"`compile\(\)` was not called as part of model loading",
        "Skipping variable loading for optimizer",
    )
]


def tokens(length=6, **more):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 30, (4, length)).astype("int32")
    found = {"token_ids": ids, "padding_mask": np.ones((4, length), "int32")}
    for name in more:
        found[name] = np.zeros((4, length), "int32")
    return found


def images(size=32):
    return np.random.default_rng(0).uniform(size=(4, size, size, 3)).astype("float32")


SMALL = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}


def bert():
    backbone = M.BertBackbone(**SMALL, max_sequence_length=8)
    return M.BertTextClassifier(backbone, num_classes=3), tokens(segment_ids=0)


def gpt2():
    return M.GPT2CausalLM(M.GPT2Backbone(**SMALL, max_sequence_length=8)), tokens()


def llama():
    sizes = {key: v for key, v in SMALL.items() if key != "num_heads"}
    backbone = M.LlamaBackbone(**sizes, num_query_heads=2, num_key_value_heads=1)
    return M.LlamaCausalLM(backbone), tokens()


def vit():
    backbone = M.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=12,
    )
    return M.ViTImageClassifier(backbone, num_classes=3), images()


def resnet_backbone(**kwargs):
    return M.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
        **kwargs,
    )


def resnet():
    return M.ResNetImageClassifier(resnet_backbone(), num_classes=3), images()


def efficientnet():
    backbone = M.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 2,
        stackwise_depth_coefficients=[1.0] * 2,
        stackwise_kernel_sizes=[3, 5],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 12],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "unfused"],
        input_shape=(32, 32, 3),
    )
    return M.EfficientNetImageClassifier(backbone, num_classes=3), images()


def mix_transformer():
    return M.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        image_shape=(64, 64, 3),
        hidden_dims=[4, 8, 12, 16],
        num_layers=4,
        layerwise_num_heads=[1, 2, 2, 2],
        layerwise_sr_ratios=[4, 2, 1, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
    )


def segformer():
    backbone = M.SegFormerBackbone(mix_transformer(), projection_filters=8)
    return M.SegFormerImageSegmenter(backbone, num_classes=3), images(64)


def deeplab():
    backbone = M.DeepLabV3Backbone(
        resnet_backbone(),
        spatial_pyramid_pooling_key="P3",
        low_level_feature_key="P2",
        upsampling_size=2,
        dilation_rates=[2, 4],
        projection_filters=4,
    )
    return M.DeepLabV3ImageSegmenter(backbone, num_classes=3), images()


def whisper():
    backbone = M.WhisperBackbone(
        **SMALL,
        num_mels=8,
        max_encoder_sequence_length=16,
        max_decoder_sequence_length=6,
    )
    found = tokens()
    sound = np.random.default_rng(1).normal(size=(4, 16, 8)).astype("float32")
    return backbone, {
        "encoder_features": sound,
        "decoder_token_ids": found["token_ids"],
        "decoder_padding_mask": found["padding_mask"],
    }


def mobilenet():
    backbone = M.MobileNetBackbone(
        stackwise_expansion=[[8], [16, 24]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[8], [12, 12]],
        stackwise_kernel_size=[[3], [5, 5]],
        stackwise_num_strides=[[2], [1, 1]],
        stackwise_se_ratio=[[0.25], [None, 0.25]],
        stackwise_activation=[["relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1], [2, 2]],
        output_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=16,
        squeeze_and_excite=0.5,
        image_shape=(32, 32, 3),
    )
    model = M.MobileNetImageClassifier(backbone, num_classes=3, num_features=16)
    return model, images()


def deberta():
    backbone = M.DebertaV3Backbone(**SMALL, max_sequence_length=8, bucket_size=4)
    return M.DebertaV3TextClassifier(backbone, num_classes=3), tokens()


def t5():
    found = tokens()
    return M.T5Backbone(**SMALL), {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in found.items()
    }


FAST = [bert, llama, vit]
SLOW = [
    gpt2, resnet, efficientnet, segformer, deeplab, whisper, mobilenet, deberta, t5,
]  # fmt: skip
MODELS = [*FAST, *(pytest.param(make, marks=pytest.mark.slow) for make in SLOW)]


def made(make):
    keras.utils.set_random_seed(0)
    return make()


def outputs(model, x):
    return keras.tree.map_structure(ops.convert_to_numpy, model(x, training=False))


def assert_equal(found, wanted, **tolerance):
    tolerance = tolerance or {"rtol": 1e-6, "atol": 1e-6}
    keras.tree.assert_same_structure(found, wanted)
    pairs = zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, **tolerance)


def assert_pruned(model, sparsity):
    masks = stf.get_masks(model)
    kernels = tree.kernels(model)
    assert len(masks) > 6
    for path, mask in masks.items():
        size = mask.size
        pruned = min(round(sparsity * size), size - 1)
        assert np.count_nonzero(~mask) == pruned, path
        assert not ops.convert_to_numpy(kernels[path])[~mask].any(), path


def kernels_of(model):
    """`{path: values}` of the kernels of a plain model, quantized ones too."""
    found = {}
    for index, layer in enumerate(model._flatten_layers()):
        kernel = getattr(layer, "_kernel", getattr(layer, "_embeddings", None))
        if kernel is not None and getattr(kernel, "dtype", None) is not None:
            found[f"{index} {layer.path}"] = ops.convert_to_numpy(kernel)
    return found


def fit(model, x, callbacks=(), batches=4):
    rng = np.random.default_rng(2)
    wanted, optimizer = outputs(model, x), keras.optimizers.Adam(1e-3)
    if isinstance(model, M.Task):  # with its own loss and metrics, of classes
        model.compile(optimizer=optimizer, run_eagerly=True)
        y = rng.integers(0, wanted.shape[-1], wanted.shape[:-1])
    else:
        loss = {name: "mse" for name in wanted} if isinstance(wanted, dict) else "mse"
        model.compile(optimizer, loss, run_eagerly=True)
        y = keras.tree.map_structure(lambda out: rng.normal(size=out.shape), wanted)
    epochs = batches // 2
    model.fit(x, y, batch_size=2, epochs=epochs, callbacks=[*callbacks], verbose=0)


@pytest.mark.parametrize("make", MODELS)
def test_copies_are_what_they_were(make):
    model, x = made(make)
    wanted, weights = outputs(model, x), model.get_weights()
    sparse = stf.sparsify(model)
    assert type(sparse).__name__ == type(model).__name__
    assert isinstance(sparse, type(model)) and sparse is not model
    assert_equal(outputs(sparse, x), wanted)
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    assert isinstance(pruned, type(model))
    assert_pruned(pruned, 0.5)
    plain = stf.strip(pruned)
    assert type(plain) is type(model) and not any(
        map(tree.is_masked, plain._flatten_layers())
    )
    assert_equal(outputs(plain, x), outputs(pruned, x))
    for a, b in zip(*map(keras.tree.flatten, (outputs(plain, x), wanted)), strict=True):
        assert np.abs(a - b).max() > 1e-3 * np.abs(b).max()  # it was pruned
    # The original is left as it is.
    assert_equal(outputs(model, x), wanted, rtol=0, atol=0)
    assert_equal(model.get_weights(), weights, rtol=0, atol=0)


@pytest.mark.parametrize("make", MODELS)
def test_pruned_in_training_saved_and_stripped(make, tmp_path):
    model, x = made(make)
    sparse = stf.sparsify(model)
    schedule = stf.pruning.PolynomialDecay(
        0.0, 0.5, begin_step=1, end_step=3, frequency=1
    )
    fit(sparse, x, [stf.pruning.PruningCallback(schedule)], batches=6)
    assert_pruned(sparse, 0.5)
    wanted = outputs(sparse, x)

    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    assert isinstance(loaded, type(model))
    assert_equal(outputs(loaded, x), wanted)
    assert_equal(stf.get_masks(loaded), stf.get_masks(sparse), rtol=0, atol=0)
    fit(loaded, x)
    assert_pruned(loaded, 0.5)

    plain = stf.strip(sparse)
    assert type(plain) is type(model)
    assert_equal(outputs(plain, x), wanted)
    plain.save(tmp_path / "plain.keras")
    again = keras.models.load_model(tmp_path / "plain.keras")
    assert type(again) is type(model)
    assert_equal(outputs(again, x), wanted)


@pytest.mark.parametrize("make", MODELS)
def test_rebuilt_on_masks(make):
    model, x = made(make)
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    masks = stf.get_masks(pruned)
    new = stf.rebuild(model, masks, seed=1)
    assert isinstance(new, type(model))
    assert_equal(stf.get_masks(new), masks, rtol=0, atol=0)
    assert_pruned(new, 0.5)
    assert_equal(outputs(stf.rebuild(pruned, masks, seed=1), x), outputs(new, x))
    old, kernels = tree.kernels(model), tree.kernels(new)
    for path, mask in masks.items():
        fresh, learned = (ops.convert_to_numpy(k[path])[mask] for k in (kernels, old))
        assert (fresh != learned).any() == old[path].trainable, path
    fit(new, x)
    assert_pruned(new, 0.5)


@pytest.mark.parametrize("make", MODELS)
def test_quantized_after_strip(make):
    model, x = made(make)
    plain = stf.strip(stf.pruning.prune_one_shot(model, 0.5))
    wanted, before = outputs(plain, x), kernels_of(plain)
    plain.quantize("int8")
    after = kernels_of(plain)
    quantized = [path for path, kernel in after.items() if kernel.dtype == "int8"]
    assert quantized
    for path in quantized:
        assert after[path].shape == before[path].shape
        assert not after[path][before[path] == 0].any()
        assert 0.49 < np.mean(after[path] == 0) < 0.6
    for a, b in zip(
        keras.tree.flatten(outputs(plain, x)), keras.tree.flatten(wanted), strict=True
    ):
        assert np.abs(a - b).max() < 0.1 * np.abs(b).max()


def test_an_encoders_parts_are_where_they_were():
    model, x = made(bert)
    sparse = stf.sparsify(model)
    assert isinstance(sparse.backbone, M.BertBackbone)
    table = sparse.backbone.token_embedding
    assert tree.is_masked(table) and table is sparse.backbone.get_layer(table.name)
    found = table(x["token_ids"])
    assert_equal(
        ops.convert_to_numpy(found),
        ops.convert_to_numpy(model.backbone.token_embedding(x["token_ids"])),
    )
    config = model.backbone.get_config()
    assert {key: sparse.backbone.get_config()[key] for key in config} == config


@pytest.mark.parametrize("make", [llama, pytest.param(gpt2, marks=pytest.mark.slow)])
def test_a_causal_model_generates(make):
    model, x = made(make)
    pruned = stf.pruning.prune_one_shot(model, 0.5)
    plain = stf.strip(pruned)
    ids = x["token_ids"]
    layers, heads = SMALL["num_layers"], 1 if make is llama else 2
    cache = np.zeros((4, layers, 2, 6, heads, 4), "float32")
    wanted = plain.call_with_cache(ids, cache, 0)
    assert_equal(
        [ops.convert_to_numpy(part) for part in pruned.call_with_cache(ids, cache, 0)],
        [ops.convert_to_numpy(part) for part in wanted],
    )
    prompt = {
        "token_ids": ids,
        "padding_mask": (np.arange(6) < 3).astype("int32") * np.ones((4, 1), "int32"),
    }
    made_by = {}
    for name, one in (("pruned", pruned), ("plain", plain)):
        one.compile(sampler="greedy", jit_compile=False)
        made_by[name] = one.generate(prompt, stop_token_ids=None)["token_ids"]
    made_by = {k: ops.convert_to_numpy(v) for k, v in made_by.items()}
    np.testing.assert_array_equal(made_by["pruned"], made_by["plain"])
    np.testing.assert_array_equal(made_by["plain"][:, :3], ids[:, :3])


def flattened(make):
    """A plain functional model out of a backbone's graph, and inputs."""
    task, x = made(make)
    backbone = getattr(task, "backbone", task)
    out = keras.tree.flatten(backbone.output)[-1]
    return keras.Model(backbone.input, keras.layers.Dense(2, name="new")(out)), x


@pytest.mark.parametrize("make", MODELS)
def test_flattened_into_a_plain_functional_model(make, tmp_path):
    model, x = flattened(make)
    wanted = outputs(model, x)
    sparse = stf.sparsify(model)
    assert type(sparse) is keras.Model or type(sparse).__name__ == "Functional"
    assert_equal(outputs(sparse, x), wanted)
    fit(sparse, x)
    pruned = stf.pruning.prune_one_shot(sparse, 0.5)
    fit(pruned, x)
    assert_pruned(pruned, 0.5)
    wanted = outputs(pruned, x)
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(outputs(loaded, x), wanted)
    assert_equal(outputs(stf.strip(pruned), x), wanted)
    masks = stf.get_masks(pruned)
    assert list(stf.get_masks(stf.rebuild(model, masks, seed=1))) == list(masks)
