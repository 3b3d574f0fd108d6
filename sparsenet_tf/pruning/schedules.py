"""When to prune and how much: pure functions of the optimizer's step."""

import keras

from sparsenet_tf.pruning.not_a_callback import NotACallback
from sparsenet_tf.topology.checks import check_integer, check_number, shown
from sparsenet_tf.topology.selection import check_sparsity


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class PolynomialDecay(NotACallback, place="schedule"):
    """Sparsity that rises along a polynomial, fast at first and then ever slower.

    For a step `t` in `[begin_step, end_step]`::

        s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power

    before `begin_step` nothing is pruned, from `end_step` on `s = final_sparsity`.
    Masks are updated at `begin_step`, every `frequency` steps after it, and at
    `end_step`, so that the final sparsity is always reached. `begin_step == end_step`
    is pruning at once.

    Args:
        initial_sparsity: sparsity at `begin_step`, in [0, 1).
        final_sparsity: sparsity from `end_step` on, in [initial_sparsity, 1).
        begin_step: first optimizer step at which to prune, 0 or more.
        end_step: last one, `begin_step` or more.
        power: exponent, more than 0.
        frequency: optimizer steps between updates, 1 or more.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Source: Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, section 3;
    the argument names are those of tensorflow-model-optimization.

    Example:
    >>> schedule = PolynomialDecay(0.0, 0.5, begin_step=0, end_step=1000)
    >>> schedule(500), schedule.last_update(450), schedule.last_update(1500)
    (0.4375, 400, 1000)
    """

    def __init__(
        self,
        initial_sparsity,
        final_sparsity,
        begin_step,
        end_step,
        power=3,
        frequency=200,
    ):
        self.initial_sparsity = check_sparsity(initial_sparsity, "initial_sparsity")
        self.final_sparsity = check_sparsity(final_sparsity, "final_sparsity")
        if self.final_sparsity < self.initial_sparsity:
            raise ValueError(
                "`final_sparsity` must be at least `initial_sparsity`, because pruned "
                f"weights do not return. Received: {final_sparsity} < "
                f"{initial_sparsity}"
            )
        self.begin_step = check_integer(begin_step, "begin_step", 0)
        self.end_step = check_integer(end_step, "end_step", self.begin_step)
        self.frequency = check_integer(frequency, "frequency", 1)
        self.power = _check_power(power)

    def __call__(self, step):
        """The sparsity at `step`; 0.0 before `begin_step`."""
        step = check_integer(step, "step", 0)
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        left = 1 - (step - self.begin_step) / (self.end_step - self.begin_step)
        change = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + change * left**self.power

    def last_update(self, step):
        """The last step, `step` or before it, at which masks change; None before."""
        step = check_integer(step, "step", 0)
        if step < self.begin_step:
            return None
        if step >= self.end_step:
            return self.end_step
        return step - (step - self.begin_step) % self.frequency

    def get_config(self):
        """The arguments."""
        return {
            "initial_sparsity": self.initial_sparsity,
            "final_sparsity": self.final_sparsity,
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "power": self.power,
            "frequency": self.frequency,
        }

    @classmethod
    def from_config(cls, config):
        """The schedule of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class ConstantSparsity(NotACallback, place="schedule"):
    """One sparsity from `begin_step` on: pruning at once, then held.

    The sparsity at a step `t` is::

        s(t) = target_sparsity for t >= begin_step, 0 before

    Args:
        target_sparsity: in [0, 1).
        begin_step: optimizer step at which to prune, 0 or more.
        end_step: last step at which masks may change, or -1 for no end. Masks once
            at the target do not change, so this matters only if training resumes on
            other masks.
        frequency: optimizer steps between checks, 1 or more.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Source: tensorflow-model-optimization's `ConstantSparsity`, with its names.

    Example:
    >>> schedule = ConstantSparsity(0.9, begin_step=100)
    >>> schedule(99), schedule(100), schedule.last_update(350)
    (0.0, 0.9, 300)
    """

    def __init__(self, target_sparsity, begin_step, end_step=-1, frequency=200):
        self.target_sparsity = check_sparsity(target_sparsity, "target_sparsity")
        self.begin_step = check_integer(begin_step, "begin_step", 0)
        self.end_step = check_integer(end_step, "end_step", -1)
        if self.end_step != -1:
            check_integer(end_step, "end_step", self.begin_step)
        self.frequency = check_integer(frequency, "frequency", 1)

    @property
    def final_sparsity(self):
        """The sparsity at the end, as for `PolynomialDecay`."""
        return self.target_sparsity

    def __call__(self, step):
        """The sparsity at `step`; 0.0 before `begin_step`."""
        step = check_integer(step, "step", 0)
        return self.target_sparsity if step >= self.begin_step else 0.0

    def last_update(self, step):
        """The last step, `step` or before it, at which masks change; None before."""
        step = check_integer(step, "step", 0)
        if step < self.begin_step:
            return None
        if self.end_step != -1:
            step = min(step, self.end_step)
        return step - (step - self.begin_step) % self.frequency

    def get_config(self):
        """The arguments."""
        return {
            "target_sparsity": self.target_sparsity,
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }

    @classmethod
    def from_config(cls, config):
        """The schedule of `get_config`."""
        return cls(**config)


def as_schedule(schedule):
    """Return a schedule of this module, also for tensorflow-model-optimization's.

    Args:
        schedule: an object with `__call__(step)`, `last_update(step)`,
            `final_sparsity` and `end_step` is returned as it is; a `PolynomialDecay`
            or `ConstantSparsity` of tensorflow-model-optimization is translated from
            its config, without importing that package. Two of its properties change
            on the way: the final sparsity is always reached, and `begin_step ==
            end_step` prunes at once where it divides by zero.

    Raises:
        TypeError: `schedule` is neither.

    Example:
    >>> as_schedule(ConstantSparsity(0.5, 0)).target_sparsity
    0.5
    """
    is_object = not isinstance(schedule, type)
    is_schedule = is_object and callable(schedule) and hasattr(schedule, "last_update")
    if is_schedule and hasattr(schedule, "final_sparsity"):
        return schedule
    has_config = is_object and hasattr(schedule, "get_config")
    config = schedule.get_config() if has_config else {}
    known = {cls.__name__: cls for cls in (PolynomialDecay, ConstantSparsity)}
    if config.get("class_name") in known and "config" in config:
        return known[config["class_name"]](**config["config"])
    raise TypeError(
        "`schedule` must be a PolynomialDecay or ConstantSparsity (of sparsenet_tf or "
        f"of tensorflow-model-optimization). Received: {shown(schedule)}"
    )


def _check_power(power):
    check_number(power, "power", "more than 0")
    if not 0 < power < float("inf"):
        raise ValueError(f"`power` must be more than 0. Received: {power!r}")
    return int(power) if power == int(power) else float(power)
