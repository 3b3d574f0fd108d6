"""`CosineDecay`: which share of the connections moves, in dynamic sparse training."""

import math

import keras

from sparsenet_tf.pruning.not_a_callback import NotACallback
from sparsenet_tf.topology.checks import check_integer, check_number, shown


@keras.saving.register_keras_serializable(package="sparsenet_tf")
class CosineDecay(NotACallback, place="fraction"):
    """The share of each kernel's connections to exchange, falling along a cosine.

    For a step `t` in `[begin_step, end_step]`::

        f(t) = initial_fraction / 2 * (1 + cos(pi * (t - begin) / (end - begin)))

    and 0 before and after. Connections move at `begin_step` and every `frequency`
    steps after it, as long as that is before `end_step`. They move after a training
    step, so at step 0, before the first one, they do not. A fraction of 0 is static
    sparse training: the connections stay as they are.

    Args:
        initial_fraction: share at `begin_step`, in [0, 1].
        end_step: optimizer step from which on connections stay, `begin_step` or more.
        begin_step: first one at which they may move, 0 or more.
        frequency: optimizer steps between updates, 1 or more.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, section 3, (2)
    "Update schedule", who take 0.3, 100 steps and an end at three quarters of the
    training.

    Example:
    >>> schedule = CosineDecay(0.3, end_step=1000)
    >>> schedule(0), round(schedule(500), 3), schedule(1000)
    (0.3, 0.15, 0.0)
    >>> schedule.last_update(450), schedule.last_update(5000)
    (400, 900)
    """

    def __init__(self, initial_fraction, end_step, begin_step=0, frequency=100):
        check_number(initial_fraction, "initial_fraction", "in [0, 1]")
        if not 0.0 <= initial_fraction <= 1.0:
            raise ValueError(
                "`initial_fraction` must be in [0, 1]. "
                f"Received: {shown(initial_fraction)}"
            )
        self.initial_fraction = float(initial_fraction)
        self.begin_step = check_integer(begin_step, "begin_step", 0)
        self.end_step = check_integer(end_step, "end_step", self.begin_step)
        self.frequency = check_integer(frequency, "frequency", 1)

    def __call__(self, step):
        """The share of the connections to exchange at `step`."""
        step = check_integer(step, "step", 0)
        if not self.begin_step <= step < self.end_step:
            return 0.0
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        return self.initial_fraction / 2 * (1 + math.cos(math.pi * done))

    def last_update(self, step):
        """The last step, `step` or before it, at which connections move, or None."""
        step = min(check_integer(step, "step", 0), self.end_step - 1)
        if step < self.begin_step:
            return None
        return step - (step - self.begin_step) % self.frequency

    def get_config(self):
        """The arguments."""
        return {
            "initial_fraction": self.initial_fraction,
            "end_step": self.end_step,
            "begin_step": self.begin_step,
            "frequency": self.frequency,
        }

    @classmethod
    def from_config(cls, config):
        """The schedule of `get_config`."""
        return cls(**config)
