"""How a network of the paper is made and trained, as settings that name a run."""

import dataclasses
import math

import keras

import sparsenet_tf as stf
from sparsenet_tf.experiments import models, training
from sparsenet_tf.experiments.data import load
from sparsenet_tf.experiments.training import check, check_integer, check_optimizer
from sparsenet_tf.topology.checks import check_path

NETWORKS = ("today", "authors")
LOGITS = ("linear", "relu")
CROP = 24  # side of the crops that the authors cut from CIFAR-10's images


@dataclasses.dataclass(frozen=True)
class Training:
    """A network, its data and how it is trained: all but seeds, masks and topologies.

    Raises:
        TypeError: `data_dir` is no path.
        ValueError: an attribute is out of range; the message names it.

    >>> Training(logits="softmax")
    Traceback (most recent call last):
        ...
    ValueError: `logits` must be one of ('linear', 'relu'). Received: 'softmax'
    """

    dataset: str = "mnist_5k"  # one of training.DATASETS
    model: str = "lenet_300_100"  # one of training.MODELS
    network: str = "today"  # or "authors": their initial values, weight decay and LRN
    logits: str = "linear"  # or "relu", as the authors had them at last
    steps: int = 1000
    learning_rate: float = 0.2
    momentum: float = 0.9
    warmup: int = 0  # steps in which the learning rate rises from zero, linearly
    batch_size: int = 100
    evaluate_every: int = 200  # steps, as the paper
    data_dir: str | None = dataclasses.field(default=None, metadata={"hashed": False})

    def __post_init__(self):
        datasets, known = training.DATASETS, tuple(training.MODELS)
        check("dataset", self.dataset, self.dataset in datasets, f"one of {datasets}")
        check("model", self.model, self.model in known, f"one of {known}")
        check("network", self.network, self.network in NETWORKS, f"one of {NETWORKS}")
        check("logits", self.logits, self.logits in LOGITS, f"one of {LOGITS}")
        for name in ("steps", "batch_size", "evaluate_every"):
            check_integer(name, getattr(self, name), 1)
        check_integer("warmup", self.warmup, 0, self.steps)
        check_optimizer(self)
        if self.data_dir is not None:
            check_path(self.data_dir, "data_dir")

    def load(self):
        """Return the `Dataset`."""
        return load(self.dataset, self.data_dir)

    def new_model(self, dataset, seed, **widths):
        """Return a compiled model with weights drawn from `seed`.

        Args:
            dataset: the `Dataset`, whose images and classes it takes.
            seed: integer, 0 or more.
            **widths: further arguments of the model's function.
        """
        arguments = {
            **self._authors(),
            "logit_activation": "relu" if self.logits == "relu" else None,
            "input_shape": self.input_shape(dataset),
            "num_classes": dataset.num_classes,
            "seed": seed,
        }
        model = training.MODELS[self.model](**arguments, **widths)
        if self.dataset == "cifar10":
            images = keras.Input(dataset.x_train.shape[1:], name="whole_images")
            front = [images, *_authors_augmentation(seed)]
            model = keras.Sequential([*front, *model.layers], name=model.name)
        self.compile(model)
        return model

    def input_shape(self, dataset):
        """Shape of the images that the network itself sees."""
        shape = dataset.x_train.shape[1:]
        return (CROP, CROP, shape[-1]) if self.dataset == "cifar10" else shape

    def _authors(self):
        if self.network == "today":
            return {}
        if self.model == "lenet_300_100":
            return dict(models.PAPER_LENET_300_100)
        return dict(
            models.PAPER_LENET_5_CIFAR10
            if self.dataset == "cifar10"
            else models.PAPER_LENET_5
        )

    def compile(self, model):
        """Compile `model` with a new optimizer of these settings."""
        rate = self.learning_rate
        if self.warmup:
            rate = keras.optimizers.schedules.PolynomialDecay(0.0, self.warmup, rate)
        model.compile(
            keras.optimizers.SGD(rate, self.momentum),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def train(self, model, dataset, seed, callbacks=()):
        """Train a compiled model and return its history, a dictionary of lists.

        The order of the images depends on `seed` alone.

        Returns:
            {"step": steps done, "accuracy": share of the test set classified right}.

        Raises:
            FloatingPointError: training diverged.
        """
        keras.utils.set_random_seed(seed)
        history = stf.training.fit(
            model,
            dataset.x_train,
            dataset.y_train,
            steps=self.steps,
            batch_size=self.batch_size,
            evaluate_every=self.evaluate_every,
            validation_data=(dataset.x_test, dataset.y_test),
            callbacks=[*callbacks, _StopIfDiverged()],
            seed=seed,
        ).history
        steps = [int(step) for step in history["step"]]
        # Keras counts in float32: back to the share that it stands for.
        images = len(dataset.x_test)
        shares = [round(share * images) / images for share in history["val_accuracy"]]
        return {"step": steps, "accuracy": shares}


class _StopIfDiverged(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"Training diverged: the loss is {logs['loss']} at step "
                f"{logs['step']}. Lower `learning_rate`."
            )


def _authors_augmentation(seed):
    """Layers that crop, flip and shade images in training, as the authors did.

    Test images are cropped in the middle. All are standardized one by one. Where the
    authors cut each image at a place of its own, Keras cuts a whole batch at one.
    """
    layers, seeds = keras.layers, range(4 * seed, 4 * seed + 4)
    return [
        layers.RandomCrop(CROP, CROP, seed=seeds[0]),
        layers.CenterCrop(CROP, CROP),  # for test images, which RandomCrop may leave
        layers.RandomFlip("horizontal", seed=seeds[1]),
        layers.RandomBrightness(63 / 255, value_range=(0, 1), seed=seeds[2]),
        layers.RandomContrast(0.8, value_range=(0, 1), seed=seeds[3]),
        layers.LayerNormalization((1, 2, 3), center=False, scale=False),
    ]
