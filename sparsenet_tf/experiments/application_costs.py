"""What models cost: times of steps and predictions, and the memory they took."""

import statistics
import sys
import time

import keras

ROUNDS = 3


def step_times(models, batches):
    """Return `{name: milliseconds}`, the median time of a training step.

    The models take turns, so that what else the machine does slows all of them down.
    Each is traced, if need be, in a turn that does not count.

    Args:
        models: dict `{name: compiled model}`, which are trained.
        batches: a `keras.utils.PyDataset` of the steps of a turn.
    """
    times = {name: _StepTimes() for name in models}
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            if turn == 1:
                times[name].found.clear()
            model.fit(batches, shuffle=False, verbose=0, callbacks=[times[name]])
    return {name: 1000 * statistics.median(t.found) for name, t in times.items()}


class _StepTimes(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # which waits for the step to end
        self.found.append(time.perf_counter() - self.start)


def predict_times(models, images, repeats):
    """Return `{name: milliseconds}`, the median time of `predict_on_batch`.

    Args:
        models: dict `{name: model}`, which take turns.
        images: a batch of them.
        repeats: calls that count, after one that does not.
    """
    times = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict_on_batch(images)
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(found) for name, found in times.items()}


def peak_memory_mb():
    """Return the most memory that the process ever had, or None on Windows.

    >>> peak_memory_mb() is None or peak_memory_mb() > 10
    True
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
