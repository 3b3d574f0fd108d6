"""Many runs on one store: by several processes, stopped and started again at will."""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

from sparsenet_tf.experiments import runs
from sparsenet_tf.experiments.claims import Claims

POLL = 0.2  # seconds between two looks at what other processes do


class SweepError(RuntimeError):
    """Some runs of a sweep failed; its others are done, or left to other processes.

    Attributes:
        failures: tuple of `Failure`, in the order of the sweep.
    """

    def __init__(self, failures):
        super().__init__(failures)
        self.failures = tuple(failures)

    def __str__(self):
        lines = [f"  {f.name}: {f.error}\n    {f.settings!r}" for f in self.failures]
        trace = f"The first one's trace:\n{self.failures[0].trace}".rstrip()
        return "\n".join([f"{len(lines)} failed, all others ended:", *lines, trace])


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that failed."""

    name: str  # of the run
    settings: object
    error: str  # such as "ValueError: ..."
    trace: str  # where it was raised; may be empty


def sweep(
    run_settings, execute, store, workers=1, shard=None, progress=None, wait=True
):
    """Do those of some runs that the store does not hold yet, and return all results.

    It may be stopped at any moment, and resumes when called again. Several processes
    may sweep one store: each run is done by one of them.

    Args:
        run_settings: sequence of frozen dataclasses, as for `runs.run_name`. They are
            done in this order; equal ones once.
        execute: function of the settings that does a run and returns
            `(history, result)`, as for `Store.write`. For several workers it must be
            at the top level of a module.
        store: a `Store`.
        workers: how many processes do runs; with 1 it is this one.
        shard: such as "2/8": only the second, tenth and so on of the distinct runs.
            Shards are disjoint, and together they are all.
        progress: called at the start and after each run, with the runs dealt with, all
            runs of the shard, the seconds left as estimated from the runs that this
            call has done (None before any), and a label.
        wait: whether to wait for runs that other processes are doing, and do them
            should these stop. Otherwise they are left to them, which the last call of
            `progress` says.

    Returns:
        List with the result of each of `run_settings`: None for those of other shards
        and for those left to other processes.

    Raises:
        ValueError, TypeError: an argument is out of range, or a stored run is damaged;
            before anything is run.
        OSError: the store cannot be written to, or read.
        SweepError: runs have failed; the others are done first.
        KeyboardInterrupt: it was stopped, at once.
        RuntimeError: no worker process could be started.
    """
    if not isinstance(run_settings, Iterable) or isinstance(run_settings, str):
        raise TypeError(
            f"`run_settings` must be a sequence of dataclasses. Received: "
            f"{run_settings!r}"
        )
    if not callable(execute):
        raise TypeError(
            f"`execute` must be a function of the settings. Received: {execute!r}"
        )
    if not isinstance(store, runs.Store):
        raise TypeError(f"`store` must be a Store. Received: {store!r}")
    if progress is not None and not callable(progress):
        raise TypeError(
            f"`progress` must be a function or None. Received: {progress!r}"
        )
    run_settings = list(run_settings)
    names = [runs.run_name(settings) for settings in run_settings]
    distinct = dict(zip(names, run_settings, strict=True))
    index, count = (1, 1) if shard is None else parse_shard(shard)
    wanted = dict(list(distinct.items())[index - 1 :: count])
    if not (type(workers) is int and workers >= 1):
        raise ValueError(f"`workers` must be 1 or more. Received: {workers!r}")
    state = _Sweep(wanted, store, workers, progress)
    if state.pending:
        store.check_writable()
        _do(state, execute, store, workers, wait)
    else:
        with contextlib.suppress(OSError):  # a finished store may be read-only
            _clean(store)
    if failures := [state.failures[n] for n in wanted if n in state.failures]:
        raise SweepError(failures)
    return [state.results.get(name) for name in names]


def parse_shard(shard):
    """Return the two numbers of a text such as "2/8".

    Raises:
        ValueError: it is not "i/n" with i from 1 to n.

    >>> parse_shard("2/8")
    (2, 8)
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", shard) if type(shard) is str else None
    if not (match and 1 <= int(match[1]) <= int(match[2])):
        raise ValueError(
            f"`shard`: --shard must be i/n with 1 <= i <= n. Received: {shard!r}"
        )
    return int(match[1]), int(match[2])


class _Sweep:
    """What is done and what is left."""

    def __init__(self, wanted, store, workers, progress):
        self.workers, self.progress = workers, progress
        self.results, self.failures, self.pending = {}, {}, {}
        self.total, self.seconds = len(wanted), []
        for name, settings in wanted.items():
            if (result := store.result(settings)) is None:
                self.pending[name] = settings
            else:
                self.results[name] = result
        self.report(f"{len(self.results)} of {self.total} runs were done before")

    def done(self, name, store, seconds):
        """Note a run that is stored; `seconds` if it was done here."""
        self.results[name] = store.result(self.pending.pop(name))
        if seconds is not None:
            self.seconds.append(seconds)
        self.report(name)

    def failed(self, name, error, trace):
        """Note a run that failed."""
        self.failures[name] = Failure(name, self.pending.pop(name), error, trace)
        self.report(f"{name} failed: {error}")

    def report(self, label):
        """Call `progress`."""
        left = len(self.pending)
        seconds = None if left else 0.0
        if left and self.seconds:
            mean = sum(self.seconds) / len(self.seconds)
            seconds = mean * left / min(self.workers, left)
        if self.progress is not None:
            self.progress(self.total - left, self.total, seconds, label)


def _do(state, execute, store, workers, wait):
    _clean(store)
    pool = (_Workers if workers > 1 else _Here)(execute, store, workers)
    try:
        while state.pending:
            others = []
            for name, outcome in pool.outcomes(dict(state.pending)):
                if outcome.taken:
                    others.append(name)
                elif outcome.error is not None:
                    state.failed(name, outcome.error, outcome.trace)
                else:
                    state.done(name, store, outcome.seconds)
            if others and not wait:
                state.report(f"{len(others)} left to other processes")
                break
            if others:
                time.sleep(POLL)
    except BaseException as error:
        pool.close(at_once=True)
        _clean(store)
        if isinstance(error, KeyboardInterrupt):
            done = f"Stopped with {len(state.results)} of {state.total} runs done"
            raise KeyboardInterrupt(f"{done}; starting again resumes") from None
        raise
    pool.close()


def _clean(store):
    Claims(store).clean()
    store.clean()


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """Of an attempt. If nothing is said, the run was done already."""

    seconds: float | None = None  # it took, if it was done here
    taken: bool = False  # another process is doing it
    error: str | None = None
    trace: str = ""


def _attempt(settings, execute, store):
    """Do a run, unless it is done or another process is doing it."""
    try:
        with Claims(store).claim(runs.run_name(settings)) as mine:
            if not mine:
                return _Outcome(taken=True)
            # It may have been done since the last look.
            if store.result(settings) is not None:
                return _Outcome()
            start = time.perf_counter()
            outcome = execute(settings)
            if not (isinstance(outcome, tuple) and len(outcome) == 2):
                raise TypeError(f"Not `(history, result)` is returned: {outcome!r}")
            store.write(settings, *outcome)
            return _Outcome(seconds=time.perf_counter() - start)
    except Exception as error:
        # As text: not every exception survives the way between processes.
        text = f"{type(error).__name__}: {error}"
        return _Outcome(error=text, trace=traceback.format_exc())


class _Here:
    """Does runs in this process."""

    def __init__(self, execute, store, workers):
        self.execute, self.store, self.name = execute, store, None

    def outcomes(self, todo):
        """Yield `(name, outcome)` for each of `todo`, a dictionary of settings."""
        for name, settings in todo.items():
            self.name = name
            yield name, _attempt(settings, self.execute, self.store)

    def close(self, at_once=False):
        """Release what a Ctrl-C during a release has left claimed."""
        if at_once and self.name:
            Claims(self.store).release(self.name)


class _Workers:
    """Does runs in other processes; one that dies takes no run but its own with it."""

    def __init__(self, execute, store, workers):
        try:
            pickle.dumps((execute, store))
        except Exception as error:
            raise ValueError(
                "`execute` must be at the top level of a module for several workers. "
                f"Received: {execute!r} ({error})"
            ) from error
        self.execute, self.store, self.workers = execute, store, workers
        self.pool = None

    def outcomes(self, todo):
        """Yield `(name, outcome)` for each of `todo`, in the order they end."""
        suspects = {}
        for name, outcome in self._together(todo, self.workers):
            if outcome is None:
                suspects[name] = todo[name]
            else:
                yield name, outcome
        # When a worker dies, all that were under way end. One by one shows which it is.
        for name, settings in suspects.items():
            for _, outcome in self._together({name: settings}, 1):
                died = "BrokenProcessPool: the process that did this run died"
                yield name, outcome or _Outcome(error=died)

    def _together(self, todo, most):
        """Yield as `outcomes`, but None as outcome if some process died meanwhile."""
        waiting, running = list(todo.items()), {}
        while waiting or running:
            try:
                while waiting and len(running) < most:
                    name, settings = waiting[0]
                    running[self._submit(settings)] = name
                    waiting.pop(0)
                for future in futures.wait(running, None, futures.FIRST_COMPLETED)[0]:
                    outcome = future.result()
                    yield running.pop(future), outcome
            except BrokenProcessPool as error:
                if not (self.ready.done() and self.ready.exception() is None):
                    text = 'Is the script\'s work under `if __name__ == "__main__":`?'
                    raise RuntimeError(f"No worker has started. {text}") from error
                self.close(at_once=True)
                for name in running.values():
                    yield name, None
                running.clear()

    def _submit(self, settings):
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            reader, self.alive = context.Pipe(duplex=False)
            self.pool = futures.ProcessPoolExecutor(
                self.workers, context, initializer=_start_worker, initargs=(reader,)
            )
            self.ready = self.pool.submit(os.getpid)
        return self.pool.submit(_attempt, settings, self.execute, self.store)

    def close(self, at_once=False):
        """End the processes; `at_once` in the middle of their runs."""
        if self.pool is not None:
            if at_once:
                self.alive.close()
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = self.alive = None


def _start_worker(alive):
    # Ctrl-C reaches workers too; what it means is the first process's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        # Ends when the first process closes its end of the pipe, or is killed.
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
