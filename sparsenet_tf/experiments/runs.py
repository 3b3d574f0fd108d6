"""What a run is, and the store that keeps its outcome.

A run is a frozen dataclass of settings, and the hash of these names its folder. Equal
settings mean the same run, in any process and under any version of Python, so that
nothing is run twice that a store holds.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import secrets
import shutil
import tempfile
import time

from sparsenet_tf.topology.checks import check_path

SETTINGS, HISTORY, RESULT = "settings.json", "history.json", "result.json"
WRITING = ".writing"  # what the names of unfinished folders begin with
DAY = 24 * 60 * 60.0


def run_name(settings):
    """Return the name of a run: its class in snake case and a hash of its settings.

    Hashed are the name of the class and all fields, save those with `metadata` of
    `{"hashed": False}`: such as where the data lie, which changes no result. The
    class's module does not count, and 1 is another value than 1.0.

    Args:
        settings: instance of a frozen dataclass, whose values are int, float, str,
            bool, None, tuples of these, or such dataclasses themselves.

    Raises:
        TypeError: it is no such dataclass, or a value is of another type, which those
            of NumPy are as well.
        ValueError: a float is NaN or infinite.

    >>> @dataclasses.dataclass(frozen=True)
    ... class PruneRun:
    ...     seed: int
    ...     data_dir: str = dataclasses.field(default="", metadata={"hashed": False})
    >>> run_name(PruneRun(0)), run_name(PruneRun(1)), run_name(PruneRun(0, "data"))
    ('prune_run-3cc93d95b7f8', 'prune_run-ad1651ea5817', 'prune_run-3cc93d95b7f8')
    """
    return _name(type(settings), describe(settings)[0])


def _name(kind, hashed):
    digest = hashlib.sha256(_compact(hashed).encode()).hexdigest()[:12]
    words = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return f"{re.sub(words, '_', kind.__name__).lower()}-{digest}"


def describe(settings):
    """Return `(hashed, not_hashed)`: what names a run, and its other settings.

    Args:
        settings: as for `run_name`.

    Returns:
        Two dictionaries that JSON has a form for. `hashed` is nested as the settings
        are; `not_hashed` has names such as "data.folder" as its keys.

    Raises:
        TypeError, ValueError: as `run_name`.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(
            f"`settings`: a run's settings must be a dataclass. Received: {settings!r}"
        )
    not_hashed = {}
    return _plain(settings, "", not_hashed), not_hashed


def _plain(value, where, not_hashed):
    # Exact types: np.float64 is a float and would not be told from one.
    if value is None or type(value) in (int, str, bool):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"`{where}` must be finite. Received: {value!r}")
        return value
    if type(value) is tuple:
        return [_plain(v, f"{where}[{i}]", not_hashed) for i, v in enumerate(value)]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        text = "an int, float, str, bool, None, tuple or frozen dataclass"
        hint = " Its `.item()` is one." if hasattr(value, "dtype") else ""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"`{where}` must be {text}. Received: {kind}, {value!r}.{hint}")
    kind = type(value)
    if not kind.__dataclass_params__.frozen:
        raise TypeError(
            f"`{where or 'settings'}` must be a frozen dataclass. Received: "
            f"{kind.__qualname__}, not frozen"
        )
    hashed = {}
    for field in dataclasses.fields(value):
        path = f"{where}.{field.name}" if where else field.name
        plain = _plain(getattr(value, field.name), path, not_hashed)
        if field.metadata.get("hashed", True):
            hashed[field.name] = plain
        else:
            not_hashed[path] = plain
    return {"class": kind.__name__, "settings": hashed}


def _compact(value):
    # Floats are written by `float.__repr__`, the same in every Python since 3.1.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Store:
    """A folder with a folder for each finished run: complete, or not there at all.

    It holds settings.json, history.json and result.json. They are written to a hidden
    folder beside, which is then renamed. Works on POSIX systems; several processes may
    use one store at once.

    Args:
        folder: where; made when something is written.
    """

    def __init__(self, folder):
        self.folder = check_path(folder, "folder")

    def __repr__(self):
        return f"Store({str(self.folder)!r})"

    def path(self, settings):
        """Return the folder of a run, which is there if the run is done."""
        return self.folder / run_name(settings)

    def result(self, settings):
        """Return the result of a run, a dictionary, or None if it is not done.

        Raises:
            ValueError, OSError: as `load`.
        """
        found = self.load(settings)
        return None if found is None else found[1]

    def load(self, settings):
        """Return `(history, result)` of a run, or None if it is not done.

        Both are as JSON gives them back: lists for tuples, strings for keys.

        Raises:
            ValueError: a file in its folder is damaged, missing or foreign, or is of
                other settings; the message names it.
            OSError: a file cannot be read.
        """
        hashed, _ = describe(settings)
        path = self.folder / _name(type(settings), hashed)
        if not path.exists():
            return None
        if not path.is_dir():
            raise _damaged(path, "is not the folder of a run")
        names = set(os.listdir(path))
        for name in sorted(names ^ {SETTINGS, HISTORY, RESULT}):
            text = "does not belong to a run" if name in names else "is missing"
            raise _damaged(path / name, text)
        stored = _read(path / SETTINGS, dict)
        stored.pop("not_hashed", None)
        # As text, since 1, 1.0 and True are equal.
        if _compact(stored) != _compact(hashed):
            raise _damaged(path / SETTINGS, "is of other settings than those asked for")
        return _read(path / HISTORY), _read(path / RESULT, dict)

    def write(self, settings, history, result):
        """Store a finished run, whole or not at all.

        Args:
            settings: as for `run_name`.
            history: of the run, any value that JSON has a form for.
            result: dictionary, likewise.

        Returns:
            False if the run was stored already, by another process perhaps: the first
            is kept. Otherwise True.

        Raises:
            ValueError, TypeError: a value has no form in JSON, such as NaN.
            OSError: the store cannot be written to.
        """
        if not isinstance(result, dict):
            raise TypeError(f"`result` must be a dictionary. Received: {result!r}")
        hashed, not_hashed = describe(settings)
        target = self.folder / _name(type(settings), hashed)
        values = {**hashed, "not_hashed": not_hashed}
        values = {SETTINGS: values, HISTORY: history, RESULT: result}
        # All of it before any file is touched.
        texts = {name: _to_json(name, value) for name, value in values.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(4)
        beside = self.folder / f"{WRITING}@{this_process()}@{token}"
        try:
            beside.mkdir()
            for name, text in texts.items():
                with open(beside / name, "xb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
            _sync_folder(beside)
            os.rename(beside, target)
            _sync_folder(self.folder)
        except BaseException as error:
            shutil.rmtree(beside, ignore_errors=True)
            taken = (errno.ENOTEMPTY, errno.EEXIST)
            if isinstance(error, OSError) and error.errno in taken:
                return False
            raise
        return True

    def check_writable(self):
        """Make the folder, and raise an OSError unless it can be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise type(error)(
                f"The store {self.folder} cannot be written to ({error.strerror})"
            ) from error

    def clean(self):
        """Remove what killed processes left half-written; return how many folders.

        Those of another host, whose processes cannot be seen, only after a day.
        """
        removed = 0
        for path in self.folder.glob(f"{WRITING}@*"):
            process = path.name.partition("@")[2].rpartition("@")[0]
            dead = has_died(process)
            try:
                if dead or dead is None and time.time() - path.stat().st_mtime > DAY:
                    shutil.rmtree(path)
                    removed += 1
            except FileNotFoundError:  # another process was first
                pass
        return removed


def _to_json(name, value):
    try:
        return json.dumps(value, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} cannot be written: {error}") from error


def _read(path, kind=object):
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse)
    except ValueError as error:
        raise _damaged(path, f"is damaged ({error})") from error
    if not isinstance(value, kind):
        raise _damaged(path, "is damaged (not a JSON object)")
    return value


def _refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def _damaged(path, text):
    return ValueError(f"{path} {text}. To run it again, remove the run from the store.")


def _sync_folder(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def this_process():
    """Return a text that names this process: "pid@start@host"."""
    pid = os.getpid()
    return f"{pid}@{_start(pid)}@{_host()}"


def has_died(process):
    """Return whether a process, named by `this_process`, is gone.

    Returns:
        None if that cannot be told: it is of another host, or not named so at all.

    >>> has_died(this_process())
    False
    """
    pid, _, rest = process.partition("@")
    start, _, host = rest.partition("@")
    if host != _host() or not pid.isdecimal():
        return None
    now = _start(int(pid))
    # Another start: the system has given the number to another process.
    return now is None or bool(start and now and start != now)


def _start(pid):
    """Return when a process started, "" if that is unknown, None if it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # Its name, in parentheses, can be anything.
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    state, *fields = stat.rpartition(b")")[2].decode().split()
    # A main thread that has ended, while others are about to, is not the end.
    ended = state in ("Z", "X") and int(fields[16]) <= 1
    return None if ended else fields[18]


def _host():
    # In containers two hosts can share a name, but then see other processes.
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        space = ""
    return re.sub(r"[^\w.-]", "_", f"{platform.node()}-{space}")
