"""A masked weight is exactly zero after every optimizer step, whatever the step is."""

import keras
import numpy as np
import pytest
from backends import (
    BACKEND,
    COMPILED,
    assert_allclose,
    own_step,
    separate_arrays,
    values,
)

import sparsenet_tf as stf


class KeepAwayFromZero(keras.constraints.Constraint):
    """A user's own constraint, which moves every weight off zero."""

    def __call__(self, w):
        return keras.ops.where(keras.ops.abs(w) < 0.01, 0.01, w)


class Drag(keras.regularizers.Regularizer):
    """A user's own regularizer, whose gradient at zero is not zero."""

    def __call__(self, x):
        return 0.01 * keras.ops.sum(keras.ops.square(x - 1.0))

    def get_config(self):
        return {}


def _sgd(**kwargs):
    return keras.optimizers.SGD(0.1, **kwargs)


OPTIMIZERS = {
    "sgd": _sgd,
    "momentum": lambda: _sgd(momentum=0.9),
    "nesterov": lambda: _sgd(momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "adafactor": lambda: keras.optimizers.Adafactor(0.1),
    "ema": lambda: _sgd(momentum=0.9, use_ema=True, ema_momentum=0.9),
    "ema_overwrite": lambda: keras.optimizers.Adam(
        0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        _sgd(momentum=0.9, use_ema=True)
    ),
    "clipnorm": lambda: _sgd(momentum=0.9, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
}
EXECUTIONS = {
    "tensorflow": {
        "graph": {},
        "jit": {"jit_compile": True},
        "eager": {"run_eagerly": True},
        "many_steps": {"steps_per_execution": 50},
        "jit_many_steps": {"steps_per_execution": 50, "jit_compile": True},
    },
    "jax": {
        "jit": {},
        "eager": {"run_eagerly": True},
        "many_steps": {"steps_per_execution": 50},
    },
    "torch": {"eager": {}},
}[BACKEND]
SINGLY = tuple(e for e in EXECUTIONS if e != "jit_many_steps")
KERNELS = {
    "plain": {},
    "l2": {"kernel_regularizer": keras.regularizers.L2(0.01)},
    "drag": {"kernel_regularizer": Drag()},
    "orthogonal": {"kernel_regularizer": keras.regularizers.OrthogonalRegularizer()},
    "constraint": {"kernel_constraint": KeepAwayFromZero()},
    "max_norm": {"kernel_constraint": keras.constraints.MaxNorm(1.0)},
}


def in_every_way(names, always, executions=tuple(EXECUTIONS)):
    """All pairs; those that are slow have neither `always` nor the usual execution."""
    usual = executions[0]
    return [
        pytest.param(
            name,
            execution,
            marks=() if name == always or execution == usual else pytest.mark.slow,
        )
        for name in names
        for execution in executions
    ]


def _model(**kernel_args):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", name="hidden", **kernel_args),
            keras.layers.Dense(3, name="out", **kernel_args),
        ]
    )
    return stf.sparsify(model)


def _data(size=1000):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 6)).astype("float32")
    return x, rng.normal(size=(size, 3)).astype("float32")


def assert_masked_are_zero(model, masks):
    for path, kernel in stf.layers.tree.kernels(model).items():
        weights = values(kernel)
        assert np.isfinite(weights).all(), path
        moved = np.count_nonzero(weights[~masks[path]])
        assert moved == 0, f"{moved} masked weights of {path} moved"
        assert np.count_nonzero(weights) > 0, path


class CheckEveryStep(keras.callbacks.Callback):
    def __init__(self, masks):
        super().__init__()
        self.masks = masks
        self.checks = 0

    def on_train_batch_end(self, batch, logs=None):
        assert_masked_are_zero(self.model, self.masks)
        self.checks += 1


def _fit_dense_then_pruned(model, optimizer, execution):
    """Train without zeros first, so that all slots are full when weights go."""
    steps = execution.get("steps_per_execution", 1)
    model.compile(optimizer, "mse", **execution)
    x, y = _data(10 * max(2 * steps, 7))
    model.fit(x, y, batch_size=10, verbose=0, shuffle=False)
    separate_arrays(model)
    stf.pruning.prune_one_shot(model, 0.7)
    masks = stf.get_masks(model)
    check = CheckEveryStep(masks)
    model.fit(x, y, batch_size=10, verbose=0, shuffle=False, callbacks=[check])
    assert check.checks == max(2, 7 if steps == 1 else 0)
    assert_masked_are_zero(model, masks)  # after the averages were written, too


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="what follows compiles on others")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
def test_compiled_by_pytorch():
    _fit_dense_then_pruned(_model(), _sgd(momentum=0.9), {"jit_compile": True})


@pytest.mark.parametrize(
    "optimizer, execution", in_every_way(OPTIMIZERS, "ema_overwrite")
)
@pytest.mark.often(
    "momentum-*",
    "adam-*",
    "ftrl-*",
    "adafactor-*",
    "ema_overwrite-*",
    "accumulation-*",
    "global_clipnorm-*",
)
def test_optimizers(optimizer, execution):
    _fit_dense_then_pruned(_model(), OPTIMIZERS[optimizer](), EXECUTIONS[execution])


@pytest.mark.parametrize("kernel, execution", in_every_way(KERNELS, "drag", SINGLY))
@pytest.mark.often("drag-*", "orthogonal-*", "constraint-*")
def test_regularizers_and_constraints(kernel, execution):
    optimizer = OPTIMIZERS["ema"]()
    _fit_dense_then_pruned(_model(**KERNELS[kernel]), optimizer, EXECUTIONS[execution])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "policy, execution",
    in_every_way(
        ["mixed_float16", "mixed_bfloat16", "float64"], "mixed_float16", SINGLY
    ),
)
def test_dtype_policies(policy, execution):
    keras.config.set_dtype_policy(policy)
    model = _model()
    _fit_dense_then_pruned(model, _sgd(momentum=0.9), EXECUTIONS[execution])
    wrapped = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert wrapped == (policy == "mixed_float16")


@pytest.mark.parametrize(
    "optimizer, compiled", in_every_way(OPTIMIZERS, "ema", tuple(COMPILED))
)
@pytest.mark.often(
    "momentum-*", "adam-*", "ftrl-*", "ema-*", "accumulation-*", "global_clipnorm-*"
)
def test_own_loop(optimizer, compiled):
    """A user's own loop, which the package is told nothing about."""
    model, optimizer = _model(), OPTIMIZERS[optimizer]()
    step = own_step(model, optimizer, *_data(20), compiled)
    step()
    step()
    stf.pruning.prune_one_shot(model, 0.7)  # slots are full, the optimizer unknown
    masks = stf.get_masks(model)
    for _ in range(5):
        step()
        assert_masked_are_zero(model, masks)


def test_own_loop_averages_need_the_optimizer():
    model, optimizer = _model(), OPTIMIZERS["ema"]()
    step = own_step(model, optimizer, *_data(20))
    step()
    stf.pruning.prune_one_shot(model, 0.7, optimizer=optimizer)
    step()
    optimizer.finalize_variable_values(model.trainable_variables)
    assert_masked_are_zero(model, stf.get_masks(model))


def test_guard_is_what_holds_stale_momentum():
    """Without the guard, momentum from before the pruning does move weights."""
    model, optimizer = _model(), _sgd(momentum=0.9)
    x, y = _data(20)
    model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=10, verbose=0)
    for masked in stf.layers.masked.masked_kernels(model).values():
        masked.set_mask(np.zeros(masked.mask.shape, bool))
        masked.lower_guard(model)
    model.make_train_function(force=True)
    model.fit(x, y, batch_size=10, verbose=0)
    assert any(values(k).any() for k in stf.layers.tree.kernels(model).values())


def test_clipping_sees_kept_gradients_alone():
    """Masked training is the training of the sparse network, clipping included."""
    mask = np.zeros((6, 3), bool)
    mask[:2] = True
    x, y = _data(50)
    wide = stf.layers.Masked(keras.layers.Dense(3, name="out"), mask)
    masked = keras.Sequential([keras.Input((6,)), wide])
    narrow = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    narrow.layers[0].kernel.assign(values(wide.kernel)[:2])
    for model, inputs in [(masked, x), (narrow, x[:, :2])]:
        model.compile(_sgd(global_clipnorm=0.1), "mse")
        model.fit(inputs, y, batch_size=10, verbose=0, shuffle=False)
    assert_allclose(
        values(wide.kernel)[:2], narrow.layers[0].kernel, rtol=1e-5, atol=1e-6
    )
