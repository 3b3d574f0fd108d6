"""`retrain_from_scratch`: train new weights on frozen masks, once per seed."""

import random

import keras
import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.pruning.guards import lower_guards, raise_guards, trains_as_keras
from sparsenet_tf.topology.checks import check_flag, check_integer, is_integer, shown
from sparsenet_tf.transform.rebuild import rebuild
from sparsenet_tf.transform.rebuild_sparse import rebuild_sparse


def retrain_from_scratch(
    model,
    masks,
    x,
    y,
    seeds=(0, 1, 2),
    scale_to_fan_in=False,
    sparse=False,
    **fit_args,
):
    """Train the architecture of `model` from new weights on frozen masks.

    For each seed: `rebuild(model, masks, seed)`, compiled as `model` is with a fresh
    optimizer, then `fit`. The seed also sets Keras' and TensorFlow's seeds, so that
    shuffling and dropout repeat; Python's and NumPy's states are given back.

    Args:
        model: a built and compiled `keras.Model`, plain or sparsified. It is not
            changed, and nothing of its weights is used.
        masks: dict `{path: mask}`, as from `get_masks`.
        x: training inputs, as for `fit`.
        y: training targets, as for `fit`; None if `x` holds them.
        seeds: distinct integers, one training run each.
        scale_to_fan_in: as for `rebuild`.
        sparse: whether the Dense layers with masks hold their nonzeros alone, and
            never a dense kernel (`rebuild_sparse`). They are then drawn from the same
            distribution, but are not the same as without.
        **fit_args: for `fit` (`epochs`, `batch_size`, `validation_data`, ...).
            Callbacks are used in each run in turn.

    Returns:
        List of `keras.callbacks.History`, one per seed; the trained model is its
        `.model`.

    Raises:
        TypeError, ValueError: as `rebuild`; the model is not compiled, or `seeds` is
            empty or has a seed twice.

    Source: Alford et al., section II.A: the pruned network "is then used as a sparse
    network structure for a new network, which is trained with new weights".

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> masks = stf.get_masks(stf.pruning.prune_one_shot(model, 0.75))
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> histories = retrain_from_scratch(model, masks, x, y, seeds=(0, 1), verbose=0)
    >>> [int(np.count_nonzero(h.model.layers[0].kernel)) for h in histories]
    [5, 5]
    """
    tree.check_model(model)
    seeds = (seeds,) if is_integer(seeds) else seeds
    if not np.iterable(seeds):
        raise TypeError(f"`seeds` must be distinct integers. Received: {shown(seeds)}")
    seeds = tuple(check_integer(seed, f"seeds[{i}]", 0) for i, seed in enumerate(seeds))
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"`seeds` must be distinct integers. Received: {shown(seeds)}")
    if not model.compiled:
        raise ValueError(
            f"`model` must be compiled, with the optimizer, loss and metrics to train "
            f"with. Received: model {model.name!r}, not compiled"
        )
    check_flag(sparse, "sparse")
    _check_targets(model, x, y)
    # All are built before any is trained: bad masks should not cost a training run.
    build = rebuild_sparse if sparse else rebuild
    models = [build(model, masks, seed, scale_to_fan_in) for seed in seeds]
    return [
        _train(new, x, y, seed, fit_args)
        for new, seed in zip(models, seeds, strict=True)
    ]


def _check_targets(model, x, y):
    """Say what Keras says as "None values not supported"."""
    of_keras = type(model).compute_loss is keras.Model.compute_loss
    needs_targets = model.loss is not None and of_keras and trains_as_keras(model)
    if y is None and isinstance(x, np.ndarray) and needs_targets:
        raise ValueError(
            "`y` must be given, since `x` is an array and the model has a loss. "
            "Received: None"
        )


def _train(model, x, y, seed, fit_args):
    kernels = masked_kernels(model).values()
    lower_guards(model, kernels)
    python, numpy = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        return model.fit(x, y, **fit_args)
    finally:
        raise_guards(kernels)
        random.setstate(python)
        np.random.set_state(numpy)
