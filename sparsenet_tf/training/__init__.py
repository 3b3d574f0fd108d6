"""Training loops."""

import keras

from sparsenet_tf.training.lottery import LotteryTicket as LotteryTicket
from sparsenet_tf.training.lottery import lottery_ticket as lottery_ticket
from sparsenet_tf.training.retrain import retrain_from_scratch as retrain_from_scratch
from sparsenet_tf.training.sparsity_logger import SparsityLogger as SparsityLogger


def __getattr__(name):
    # Only now, because it imports TensorFlow, which other backends have no need of.
    if name == "fit":
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise RuntimeError(
                "`stf.training.fit` needs the TensorFlow backend. Received: backend "
                f"{backend!r}, for which there is `model.fit`"
            )
        from sparsenet_tf.training.loop import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    late = ["fit"] if keras.backend.backend() == "tensorflow" else []
    return sorted([*globals(), *late])
