"""Prune, retrain, convert and export a model of `keras.applications`.

One run, whose parts are what a user of such a model does: train it, prune it while it
trains, train new weights on the masks, store only its nonzeros, write files for others.
What each costs and gives is in the `Outcome`.
"""

import dataclasses
import math
import pathlib
import time

import keras
from keras import ops

import sparsenet_tf as stf
from sparsenet_tf.experiments import application_costs as costs
from sparsenet_tf.experiments import training
from sparsenet_tf.experiments.data import load
from sparsenet_tf.experiments.training import DATASETS, DENSE, check, check_integer
from sparsenet_tf.layers import tree

# Each with its first convolution, which stays dense: it has few weights, and all else
# depends on them.
FIRST = {"MobileNetV2": "Conv1", "ResNet50": "conv1_conv"}
SCOPES = ("layer", "global")
LEAST_SIZE = 32  # in pixels, of what keras.applications accepts
PRUNED, RETRAINED, SPARSE = "pruned", "retrained", "sparse"
FORMATS = {
    "saved_model": "model",
    "keras": "model.keras",
    "tflite": "model.tflite",
    "npz": "model.npz",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the outcome.

    Raises:
        ValueError: an attribute is out of range; the message names it.

    >>> settings = Settings(steps=100)
    >>> settings.begin_step, settings.end_step, settings.frequency
    (10, 60, 2)
    """

    model: str = "MobileNetV2"  # one of FIRST
    alpha: float = 1.0  # width multiplier of MobileNetV2
    image_size: int = 32  # in pixels; images are enlarged to it
    dataset: str = "mnist_5k"  # one of DATASETS
    data_dir: str | None = None  # folder of its published files, as for `load`
    steps: int = 500  # optimizer steps of each of the three training runs
    batch_size: int = 64
    learning_rate: float = 0.002  # of Adam, falling to 0 along a cosine
    batch_norm_momentum: float = 0.9  # of moving averages; see `new_model`
    sparsity: float = 0.9
    scope: str = "layer"  # or "global": rank the weights of all kernels together
    begin_step: int | None = None  # of pruning; None: 10% of `steps`
    end_step: int | None = None  # of pruning, at most `steps`; None: 60% of `steps`
    frequency: int | None = None  # steps between two cuts; None: 2% of `steps`
    timed: int = 20  # steps and predictions that each form is timed for
    seed: int = 0

    def __post_init__(self):
        def settle(name, value):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        check("model", self.model, self.model in FIRST, f"one of {tuple(FIRST)}")
        check("alpha", self.alpha, 0 < self.alpha < math.inf, "a positive number")
        if self.model != "MobileNetV2":
            check("alpha", self.alpha, self.alpha == 1, f"1.0 for {self.model}")
        check_integer("image_size", self.image_size, LEAST_SIZE)
        check("dataset", self.dataset, self.dataset in DATASETS, f"one of {DATASETS}")
        check_integer("steps", self.steps, 1)
        check_integer("batch_size", self.batch_size, 1)
        rate = self.learning_rate
        check("learning_rate", rate, 0 < rate < math.inf, "a positive number")
        momentum = self.batch_norm_momentum
        check("batch_norm_momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
        check("sparsity", self.sparsity, 0 < self.sparsity < 1, "between 0 and 1")
        check("scope", self.scope, self.scope in SCOPES, f"one of {SCOPES}")
        settle("begin_step", round(0.1 * self.steps))
        check_integer("begin_step", self.begin_step, 0, self.steps)
        settle("end_step", max(self.begin_step, round(0.6 * self.steps)))
        check_integer("end_step", self.end_step, self.begin_step, self.steps)
        settle("frequency", max(1, self.steps // 50))
        check_integer("frequency", self.frequency, 1)
        check_integer("timed", self.timed, 1)
        check_integer("seed", self.seed, 0)


@dataclasses.dataclass(frozen=True)
class Form:
    """The model dense, pruned, retrained, or with its nonzeros alone."""

    name: str  # DENSE, PRUNED, RETRAINED or SPARSE
    accuracy: float  # share of the test set that is classified right
    parameters: int  # stored ones, masks not counted
    sparsity: float  # share of zeros in all kernels
    step_ms: float | None = None  # median of a training step; None: not timed
    predict_one_ms: float | None = None  # median, a single image
    predict_batch_ms: float | None = None  # median, a batch


@dataclasses.dataclass(frozen=True)
class Kind:
    """Layers of one class that have weights, in the pruned model."""

    name: str  # of the class
    masked: int  # how many layers carry masks
    plain: int  # how many do not
    exchanged: int  # how many hold only their nonzeros in the sparse form
    weights: int  # in all of them, whether they are trained or not
    zeros: int


@dataclasses.dataclass(frozen=True)
class File:
    """What `stf.export` wrote of the retrained model."""

    format: str
    seconds: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that came out of a run."""

    dataset: str
    model: str
    forms: tuple  # of `Form`
    kinds: tuple  # of `Kind`
    files: tuple  # of `File`
    dense_bytes: int  # all weights, dense
    gzip_bytes: int | None  # the same, compressed
    compact_bytes: int  # nonzeros and their places, compressed
    seconds: dict  # by what was done
    peak_memory_mb: dict  # of the process, after what was done; None: not known


def run(settings, dataset=None, output_dir=".", progress=None):
    """Run it all, and leave the exported files in a folder.

    Sets the global random seed of Keras, of its backend and of NumPy.

    Args:
        settings: a `Settings`.
        dataset: a `Dataset` to use instead of `settings.dataset`, such as a part of it.
        output_dir: existing folder for what `stf.export` writes.
        progress: function called during training with the steps done, the steps of
            all runs together, and a text that says what is being trained.

    Returns:
        `Outcome`.

    Raises:
        ValueError, OSError, ImportError, RuntimeError: as `load`.
        FloatingPointError: training diverged.
    """
    dataset = dataset or load(settings.dataset, settings.data_dir)
    return _Run(settings, dataset, pathlib.Path(output_dir), progress).run()


def new_model(settings, num_classes):
    """Return the compiled architecture with new weights from `settings.seed`.

    The moving averages of its batch normalizations get the settings' momentum:
    MobileNetV2's own, 0.999, is made for a hundred times as many steps, and would leave
    them near where they began, so that what is trained well predicts badly.
    """
    s = settings
    keras.utils.set_random_seed(s.seed)
    width = {"alpha": s.alpha} if s.model == "MobileNetV2" else {}
    model = getattr(keras.applications, s.model)(
        input_shape=(s.image_size, s.image_size, 3),
        weights=None,
        classes=num_classes,
        classifier_activation=None,
        **width,
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = s.batch_norm_momentum
    rate = keras.optimizers.schedules.CosineDecay(s.learning_rate, s.steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # A step that has to make the optimizer's variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    return model


def as_inputs(images, size):
    """Return images in [0, 1] as the model takes them: enlarged, coloured, in [-1, 1].

    >>> as_inputs(np.ones((2, 28, 28, 1), "float32"), 32).shape
    (2, 32, 32, 3)
    """
    if images.shape[1:3] != (size, size):
        images = ops.image.resize(images, (size, size), interpolation="bilinear")
    if images.shape[-1] == 1:
        images = ops.repeat(images, 3, axis=-1)
    return ops.convert_to_numpy(images * 2.0 - 1.0)


class _Batches(training.Batches):
    """Batches as the model takes them, for so many steps."""

    def __init__(self, dataset, settings, steps):
        super().__init__(dataset, settings, settings.seed)
        self.steps = steps

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        images, labels = super().__getitem__(step)
        return as_inputs(images, self.settings.image_size), labels


class _Run:
    def __init__(self, settings, dataset, output_dir, progress):
        self.settings, self.data = settings, dataset
        self.output_dir = output_dir
        self.start_run = training.report_runs(progress, 3, settings.steps)
        self.seconds, self.memory = {}, {}

    def run(self):
        s = self.settings
        dense = self.timed("build", lambda: new_model(s, self.data.num_classes))
        self.timed("train dense", lambda: self.train(dense, DENSE))
        pruned = self.timed("prune in fit", self.prune)
        masks = self.timed("get_masks", lambda: stf.get_masks(pruned))
        retrained = self.timed(
            "retrain_from_scratch", lambda: self.retrain(dense, masks)
        )
        sparse = self.timed(
            "to_sparse", lambda: stf.to_sparse(retrained, batch_size=s.batch_size)
        )
        self.timed("strip", lambda: stf.strip(retrained))
        self.timed("summary", lambda: stf.summary(retrained, print_fn=None))
        forms = [
            self.form(name, model)
            for name, model in zip(
                (DENSE, PRUNED, RETRAINED, SPARSE),
                (dense, pruned, retrained, sparse),
                strict=True,
            )
        ]
        kinds = _kinds(pruned, sparse)
        files, sizes = self.export(retrained)
        # Only now: the steps that are timed change the models.
        forms = self.time_forms(forms, dense, retrained, sparse)
        return Outcome(
            dataset=self.data.name,
            model=s.model,
            forms=tuple(forms),
            kinds=kinds,
            files=tuple(files),
            dense_bytes=sizes.dense,
            gzip_bytes=sizes.gzip,
            compact_bytes=sizes.compact,
            seconds=self.seconds,
            peak_memory_mb=self.memory,
        )

    def timed(self, name, function):
        start = time.perf_counter()
        result = function()
        self.seconds[name] = time.perf_counter() - start
        self.memory[name] = costs.peak_memory_mb()
        return result

    def train(self, model, name, callbacks=()):
        keras.utils.set_random_seed(self.settings.seed)
        model.fit(**self.fit_arguments(name, callbacks))

    def fit_arguments(self, name, callbacks=()):
        s = self.settings
        arguments = training.fit_arguments(
            self.data, s, s.seed, self.start_run(name), callbacks
        )
        return {**arguments, "x": _Batches(self.data, s, s.steps)}

    def prune(self):
        s = self.settings
        model = new_model(s, self.data.num_classes)
        model = self.timed(
            "sparsify",
            lambda: stf.sparsify(model, exclude=FIRST[s.model], depthwise=False),
        )
        schedule = stf.pruning.PolynomialDecay(
            0.0, s.sparsity, s.begin_step, s.end_step, frequency=s.frequency
        )
        pruning = stf.pruning.PruningCallback(schedule, scope=s.scope)
        self.train(model, PRUNED, [pruning])
        return model

    def retrain(self, model, masks):
        arguments = self.fit_arguments(RETRAINED)
        # Other weights than the ones that were pruned.
        seed = self.settings.seed + 1
        [history] = stf.retrain_from_scratch(model, masks, seeds=seed, **arguments)
        return history.model

    def form(self, name, model):
        size = self.settings.image_size
        return Form(
            name=name,
            accuracy=training.accuracy(
                lambda x, training: model(as_inputs(x, size), training=training),
                self.data.x_test,
                self.data.y_test,
                batch_size=250,
            ),
            parameters=_parameters(model),
            sparsity=stf.summary(model, print_fn=None).sparsity,
        )

    def export(self, model):
        found = []
        for format, name in FORMATS.items():
            path = self.output_dir / name
            sizes = self.timed(
                f"export {format}",
                lambda format=format, path=path: stf.export(
                    model, path, format, print_fn=None
                ),
            )
            seconds = self.seconds.pop(f"export {format}")
            found.append(File(format, seconds, sizes.written))
        return found, sizes

    def time_forms(self, forms, dense, retrained, sparse):
        s = self.settings
        models = {DENSE: dense, RETRAINED: retrained, SPARSE: sparse}
        batches = _Batches(self.data, s, s.timed)
        steps = costs.step_times(models, batches)
        del models[RETRAINED]  # which predicts as the dense one
        images = batches[0][0]
        one = costs.predict_times(models, images[:1], s.timed)
        batch = costs.predict_times(models, images, s.timed)
        self.memory["timing"] = costs.peak_memory_mb()
        return [
            dataclasses.replace(
                form,
                step_ms=steps.get(form.name),
                predict_one_ms=one.get(form.name),
                predict_batch_ms=batch.get(form.name),
            )
            for form in forms
        ]


def _parameters(model):
    masks = {id(layer) for _, layer in tree.walk(model) if tree.is_masked(layer)}
    return sum(
        math.prod(weight.shape)
        for layer in [part for _, part in tree.walk(model)]
        if id(layer) not in masks
        for weight in layer._trainable_variables + layer._non_trainable_variables
    )


def _kinds(model, sparse):
    """A `Kind` for each class of layers with weights, in the model's order."""
    exchanged = {layer.name for layer in sparse.layers if tree.is_sparse(layer)}
    found = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        masked = tree.is_masked(layer)
        inner = layer.layer if masked else layer
        values = [ops.convert_to_numpy(weight) for weight in inner.weights]
        row = (
            int(masked),
            int(not masked),
            int(layer.name in exchanged),
            sum(value.size for value in values),
            sum(int((value == 0).sum()) for value in values) if masked else 0,
        )
        before = found.get(type(inner).__name__, (0,) * len(row))
        found[type(inner).__name__] = [a + b for a, b in zip(before, row, strict=True)]
    return tuple(Kind(name, *row) for name, row in found.items())
