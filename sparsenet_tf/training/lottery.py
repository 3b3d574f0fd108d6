"""`lottery_ticket`: prune a trained model by magnitude, rewind it, and so on."""

import dataclasses

import keras
import numpy as np

from sparsenet_tf.layers import tree
from sparsenet_tf.layers.copying import is_copyable
from sparsenet_tf.layers.mask_values import to_numpy
from sparsenet_tf.layers.masked import masked_kernels
from sparsenet_tf.layers.sparsify import sparsify
from sparsenet_tf.pruning.criteria import magnitude
from sparsenet_tf.pruning.guards import lower_guards, raise_guards
from sparsenet_tf.pruning.schedules import ConstantSparsity
from sparsenet_tf.pruning.scope import check_scope
from sparsenet_tf.pruning.slots import clear_slots_of
from sparsenet_tf.pruning.update import prunable_kernels, prune_kernels, sparsity_of
from sparsenet_tf.topology.checks import check_integer, shown
from sparsenet_tf.topology.selection import check_sparsity
from sparsenet_tf.transform.masks import get_masks
from sparsenet_tf.transform.strip import strip


def lottery_ticket(
    model, train, sparsity, rounds=5, rewind_step=0, scope="global", exclude=()
):
    """Find a sparse network that trains well from weights that a dense one had early.

    In each round the model is trained, pruned by the magnitude of its weights, and
    rewound: weights, moving averages and the optimizer's state become again what they
    were at an early step of the first training, the masks stay. After round k of n,
    `(1 - sparsity) ** (k / n)` of the weights are left.

    Controls, which tell what matters of a ticket: `stf.rebuild(ticket.model,
    ticket.masks, seed)` has new weights on its masks, and
    `ticket.on(stf.transform.shuffle_masks(ticket.masks, seed))` its weights on other
    masks.

    Args:
        model: a built and compiled `keras.Model`, plain or sparsified, with the weights
            to begin from. A Sequential or functional one is not changed, unless it is
            sparsified.
        train: function `train(model, callbacks)` that trains a model in place, with
            these callbacks, and returns anything, such as `lambda model, callbacks:
            model.fit(x, y, epochs=3, callbacks=callbacks)`.
        sparsity: of the ticket, in [0, 1).
        rounds: how many times to train, prune and rewind, 1 or more.
        rewind_step: optimizer step whose weights the ticket has; 0 for those that
            `model` begins with. Of several steps in one execution, the first at or
            after it that callbacks see.
        scope: as for `prune_one_shot`.
        exclude: layer name or names that are not pruned.

    Returns:
        A `LotteryTicket`, whose `model` is ready to be trained.

    Raises:
        TypeError: `model` is no Keras model, `train` not callable, or a number has
            another type.
        ValueError: an argument is out of range, the model is not compiled, or training
            ended before `rewind_step`.

    Source: Frankle and Carbin, "The Lottery Ticket Hypothesis", arXiv 1803.03635,
    section 1 and Figure 4 (random weights); Frankle et al., "Linear Mode Connectivity
    and the Lottery Ticket Hypothesis", arXiv 1912.05671 (rewinding to early weights).

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> ticket = lottery_ticket(
    ...     model,
    ...     lambda model, callbacks: model.fit(x, y, callbacks=callbacks, verbose=0),
    ...     sparsity=0.75,
    ...     rounds=2,
    ... )
    >>> ticket.sparsities
    (0.5, 0.75)
    >>> history = ticket.model.fit(x, y, verbose=0)
    """
    tree.check_model(model)
    sparsity, scope = check_sparsity(sparsity), check_scope(scope, model)
    exclude = tree.check_names(model, exclude, "exclude")
    if not callable(train):
        raise TypeError(
            "`train` must be a function of a model and callbacks. "
            f"Received: {shown(train)}"
        )
    check_integer(rounds, "rounds", 1)
    check_integer(rewind_step, "rewind_step", 0)
    if not (model.built and model.compiled):
        raise ValueError(
            f"`model` must be built and compiled. Received: model {model.name!r}, "
            f"built: {model.built}, compiled: {model.compiled}"
        )
    if not masked_kernels(model):
        model = sparsify(model, exclude=exclude)
    kernels = prunable_kernels(model, exclude)
    model.optimizer.build(model.trainable_variables)
    early, outcomes, sparsities = _Snapshot(rewind_step), [], []
    if rewind_step == 0:
        early.take(model)
    for k in range(1, rounds + 1):
        lower_guards(model, masked_kernels(model).values())
        try:
            outcomes.append(train(model, [early] if early.values is None else []))
        finally:
            raise_guards(masked_kernels(model).values())
        if early.values is None:
            raise ValueError(
                "`train` must go on to step `rewind_step`. Received: training that "
                f"ended at step {early.step(model)}, rewind_step={rewind_step}"
            )
        share = sparsity if k == rounds else 1 - (1 - sparsity) ** (k / rounds)
        prune_kernels(model, kernels, share, magnitude, scope, None, sparsity)
        early.put_back(model)
        sparsities.append(sparsity_of([m.mask_value() for m in kernels.values()]))
    return LotteryTicket(model, early, tuple(sparsities), tuple(outcomes))


@dataclasses.dataclass(frozen=True, eq=False)
class LotteryTicket:
    """What `lottery_ticket` found.

    Attributes:
        model: the sparsified model at its early weights, on the final masks, compiled,
            with the optimizer's state of that step. Not trained since.
        early: the state to which it was rewound.
        sparsities: what share of the weights was pruned after each round.
        outcomes: what `train` returned in each round.

    Example:
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="d")])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> ticket = lottery_ticket(
    ...     model, lambda model, callbacks: model.fit(x, y, verbose=0), 0.75, rounds=1)
    >>> other = ticket.on(stf.transform.shuffle_masks(ticket.masks, seed=1))
    >>> int(ticket.masks["d/kernel"].sum()), int(stf.get_masks(other)["d/kernel"].sum())
    (5, 5)
    """

    model: keras.Model
    early: object = dataclasses.field(repr=False)
    sparsities: tuple
    outcomes: tuple = dataclasses.field(repr=False)

    @property
    def masks(self):
        """The masks by path, as from `get_masks`."""
        return get_masks(self.model)

    def on(self, masks):
        """Return a model with the same early weights and other masks.

        Args:
            masks: dict `{path: mask}`; kernels that are not in it stay dense.

        Raises:
            ValueError: the model is subclassed, so it cannot be copied; or as
                `sparsify`.
        """
        if not is_copyable(self.model):
            raise ValueError(
                "`on` needs a Sequential or functional model. Received: model "
                f"{self.model.name!r} of class {type(self.model).__name__}"
            )
        new = sparsify(strip(self.model), masks)
        new.optimizer.build(new.trainable_variables)
        self.early.put_back(new)
        return new


class _Snapshot(keras.callbacks.Callback):
    """Takes a model's state, but for its masks, at a step of its training."""

    def __init__(self, at_step):
        super().__init__()
        self.at_step, self.values = at_step, None
        # Where `stf.training.fit` stops for its callbacks.
        self.schedule = ConstantSparsity(0.0, at_step, end_step=at_step)

    def on_train_batch_end(self, batch, logs=None):
        if self.values is None and self.step(self.model) >= self.at_step:
            self.take(self.model)

    def step(self, model):
        return int(to_numpy(_inner(model.optimizer).iterations))

    def take(self, model):
        self.values = [np.array(to_numpy(v)) for v in _state(model)]

    def put_back(self, model):
        kernels = masked_kernels(model).values()
        masks = {id(masked.kernel): masked.mask_value() for masked in kernels}
        for variable, value in zip(_state(model), self.values, strict=True):
            mask = masks.get(id(variable))
            variable.assign(value if mask is None else value * mask + 0.0)
        clear_slots_of(model, kernels)


def _state(model):
    masks = {id(masked.mask) for masked in masked_kernels(model).values()}
    own = [v for v in model.variables if id(v) not in masks]
    return own + list(model.optimizer.variables)


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)
