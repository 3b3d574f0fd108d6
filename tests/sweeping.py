"""Settings, runs and processes for the tests of the store and of sweeps."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from sparsenet_tf.experiments import runs

PACKAGE = Path(runs.__file__).resolve().parent.parent
# A process that sweeps. The packages are empty, which spares it Keras; only the two
# modules are real. Each run appends to a log, and fails if another does it as well.
SCRIPT = """
import dataclasses, fcntl, json, os, signal, sys, time, types

# A shell's background jobs ignore it, and so would this one.
signal.signal(signal.SIGINT, signal.default_int_handler)

for name, folder in (("sparsenet_tf", ""), ("sparsenet_tf.experiments", "experiments")):
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(PACKAGE, folder)]
    sys.modules[name] = package

from sparsenet_tf.experiments import sweep
from sparsenet_tf.experiments.runs import Store

@dataclasses.dataclass(frozen=True)
class Run:
    seed: int
    sleep: float = dataclasses.field(metadata={"hashed": False})
    log: str = dataclasses.field(metadata={"hashed": False})

def note(run, text):
    line = f"{text} {run.seed} {os.getpid()}\\n".encode()
    handle = os.open(run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)

def execute(run):
    note(run, "start")
    with open(f"{run.log}.{run.seed}", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            note(run, "overlap")
        if run.seed == DEADLY:
            os._exit(3)
        time.sleep(run.sleep)
    history = [{"step": step, "loss": 1 / (run.seed + step + 1)} for step in range(5)]
    return history, {"seed": run.seed, "accuracy": (run.seed * 7919 % 1000) / 1000}

def main(folder, log, count, sleep, workers):
    sweep.POLL = 0.02
    todo = [Run(seed, sleep, log) for seed in range(count)]
    say = lambda *call: print(json.dumps(call), flush=True)
    print(json.dumps(sweep.sweep(todo, execute, Store(folder), workers, None, say)))

if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
"""


@dataclasses.dataclass(frozen=True)
class Data:
    name: str = "mnist_5k"
    folder: str | None = dataclasses.field(default=None, metadata={"hashed": False})


@dataclasses.dataclass(frozen=True)
class PruneRun:
    seed: int = 0
    rate: object = 0.1
    levels: tuple = (0.5, 0.9)
    nesterov: bool = False
    data: Data = Data()
    data_dir: str = dataclasses.field(default="", metadata={"hashed": False})


# What `execute` was called with in this process.
CALLS = []


def execute(settings):
    CALLS.append(settings.seed)
    return [settings.rate] * 2, {"seed": settings.seed, "half": settings.seed / 2}


def fail_odd(settings):
    if settings.seed % 2:
        raise ArithmeticError(f"odd {settings.seed}")
    return execute(settings)


def some(count):
    return [PruneRun(seed) for seed in range(count)]


def write_script(folder, deadly=-1):
    path = folder / "sweep_script.py"
    head = f"PACKAGE, DEADLY = {str(PACKAGE)!r}, {deadly}\n"
    path.write_text(head + SCRIPT)
    return path


def start(script, store, log, count, sleep, workers=1):
    arguments = json.dumps([str(store), str(log), count, sleep, workers])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, script, arguments], **pipes)


def finish(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def contents(store):
    """All of a store's files; only the empty file that guards claims left out."""
    files = [path for path in Path(store).rglob("*") if path.is_file()]
    names = {str(path.relative_to(store)): path.read_bytes() for path in files}
    assert names.pop(".claims/guard") == b""
    return names


def comparable(files):
    """Contents but for the settings that are not hashed."""
    values = {name: json.loads(content) for name, content in files.items()}
    for value in values.values():
        if isinstance(value, dict):
            value.pop("not_hashed", None)
    return values
