"""Which process is doing which run of a store, so that no two do the same."""

import contextlib
import fcntl
import os
import threading

from sparsenet_tf.experiments import runs

HEARTBEAT = 10.0  # seconds between two signs of life of a claim
SILENCE = 180.0  # seconds without one until a claim of another host is void


class Claims:
    """Files that say which process is doing which run of a store.

    A claim is void once its process has died; that of another host if it was not
    touched, as happens every `HEARTBEAT`, for `SILENCE` seconds of the files' clock.

    Args:
        store: a `Store`, whose folder must be there.
    """

    def __init__(self, store):
        self.folder = store.folder / ".claims"

    @contextlib.contextmanager
    def claim(self, name):
        """Claim a run for the duration of a `with`, which gets whether it worked."""
        if not self._take(name):
            yield False
            return
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(name, ended), daemon=True)
        try:
            beat.start()
            yield True
        finally:
            ended.set()
            self.release(name)

    def release(self, name):
        """Give up the claim of a run, if it is this process's."""
        with self._guard():
            # Another host may have taken it over while this process was stopped.
            if self._holder(name) == runs.this_process():
                (self.folder / name).unlink()

    def clean(self):
        """Remove the claims that are void."""
        with self._guard() as now:
            for path in self.folder.iterdir():
                if path.name != "guard" and not self._is_held(path.name, now):
                    path.unlink()

    @contextlib.contextmanager
    def _guard(self):
        """Exclude all others that look at claims, and give the file system's time.

        Without, of two that find a void claim the slower would remove the claim that
        the faster has made meanwhile. The system releases it when a process dies.
        """
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / "guard", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.utime(file.fileno())
            yield os.fstat(file.fileno()).st_mtime

    def _take(self, name):
        with self._guard() as now:
            if self._is_held(name, now):
                return False
            path = self.folder / name
            path.unlink(missing_ok=True)
            with open(path, "x") as file:  # O_CREAT | O_EXCL
                file.write(runs.this_process())
            return True

    def _is_held(self, name, now):
        holder = self._holder(name)
        if not holder:  # none, or killed before it wrote its name
            return False
        if (dead := runs.has_died(holder)) is not None:
            return not dead
        return now - (self.folder / name).stat().st_mtime < SILENCE

    def _holder(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else None

    def _beat(self, name, ended):
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.folder / name)
