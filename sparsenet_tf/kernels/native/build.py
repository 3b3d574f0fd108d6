"""Builds our operations against the installed TensorFlow, with the C++ compiler.

    python -m sparsenet_tf.kernels.native.build

Run in a clone, it builds for the clone and for the package that is installed, which
Python imports in all other folders. `setup.py` runs this too where TensorFlow is there
before this package. Without it, all works as well, at the speed of TensorFlow's own
operations.
"""

import concurrent.futures
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

_HERE = pathlib.Path(__file__).resolve().parent

_FLAGS = (
    "-w",  # TensorFlow's headers warn a thousand times.
    "-O3",
    "-fPIC",
    "-std=c++17",
    # Products and sums are rounded one by one, as TensorFlow's are.
    "-ffp-contract=off",
)
_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq")
# By whether the processor is an x86: instruction sets and what the compiler calls them.
_INSTRUCTION_SETS = {
    True: {
        "kPortable": (),
        "kAvx2": ("-mavx2", "-mfma"),
        "kAvx512": ("-mavx2", "-mfma", *_AVX512, "-mprefer-vector-width=512"),
    },
    False: {"kPortable": ()},
}

# Not imported: it is only asked where the package is.
_ASK_PACKAGE = """
import importlib.util
spec = importlib.util.find_spec("sparsenet_tf")
print(spec.origin if spec and spec.origin else "")
"""
_ASK_TENSORFLOW = """
import json, tensorflow as tf
flags = tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags()
print("\\n" + json.dumps([tf.__version__, *flags]))
"""


class BuildError(Exception):
    """The operations cannot be built here, with the reason."""


def build(folder=_HERE, sources=_HERE):
    """Compile the sources into one library for the installed TensorFlow.

    Args:
        folder: where to write it; by default beside the sources.
        sources: the folder that has them.

    Returns:
        The library's path.

    Raises:
        BuildError: there is no C++ compiler or no TensorFlow, or the compiler fails.
    """
    compiler = find_compiler()
    version, compile_flags, link_flags = _ask_tensorflow()
    path = pathlib.Path(folder) / f"_ops_tf{version}.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        units = [
            (source, os.path.join(temporary, f"{name}.o"), flags)
            for source, name, flags in compilation_units(sources)
        ]
        commands = [
            [compiler, *_FLAGS, *compile_flags, *flags, "-c", source, "-o", made]
            for source, made, flags in units
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        made = os.path.join(temporary, path.name)
        objects = [unit[1] for unit in units]
        _run([compiler, "-shared", *objects, "-o", made, *link_flags])
        os.replace(made, path)
    return path


def compilation_units(sources=_HERE):
    """What is compiled: a list of (source, name, flags of its own)."""
    units = []
    for source in sorted(pathlib.Path(sources).glob("*.cc")):
        if source.name == "sparse_simd.cc":
            sets = _INSTRUCTION_SETS[platform.machine() in ("x86_64", "AMD64")]
            for name, flags in sets.items():
                own = [f"-DSPARSENET_SIMD={name}", "-ffp-contract=fast", *flags]
                units.append((str(source), f"{source.stem}_{name}", own))
        else:
            units.append((str(source), source.stem, []))
    return units


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{command[0]} failed:\n{done.stderr[-2000:]}")


def find_compiler():
    """The C++ compiler: $CXX, or else the first of c++, g++ and clang++.

    Raises:
        BuildError: there is none.
    """
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if shutil.which(name):
            return name
    raise BuildError("no C++ compiler found among $CXX, c++, g++ and clang++")


def installed_folder():
    """This folder in the package that Python imports elsewhere, or None if it has none.

    It is another one where this module runs in a clone and a copy is installed.
    """
    done = _run_elsewhere(["-c", _ASK_PACKAGE])
    origin = done.stdout.strip()
    if done.returncode or not origin:
        return None
    return pathlib.Path(origin).resolve().parent / "kernels" / "native"


def _ask_tensorflow():
    # pip hides what is installed from a `setup.py`, by variables that -E ignores.
    done = _run_elsewhere(["-E", "-c", _ASK_TENSORFLOW])
    if done.returncode:
        raise BuildError("TensorFlow is not installed")
    return json.loads(done.stdout.splitlines()[-1])


def _run_elsewhere(arguments):
    """Run Python in an empty folder, where it finds only what is installed."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as elsewhere:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=quiet,
            cwd=elsewhere,
        )


def _sources(folder):
    files = [*folder.glob("*.cc"), *folder.glob("*.h")]
    return {file.name: file.read_bytes() for file in files}


def main():
    """Build for the package that this module is in, and for the one installed."""
    installed = installed_folder()
    print("Compiling, which takes one to three minutes ...", flush=True)
    library = build()
    print(f"Built {library}")
    if installed == _HERE:
        return
    here = _HERE.parents[2]
    print(f"This is for the package that Python imports in {here}.")
    if installed is None:
        print(
            "In other folders Python finds no sparsenet_tf. Once it is installed, run "
            "this command again, in any folder."
        )
        return
    try:
        if _sources(installed) == _sources(_HERE):
            with tempfile.TemporaryDirectory(dir=installed) as temporary:
                made = shutil.copy2(library, temporary)
                os.replace(made, installed / library.name)
        else:
            print("The package that is installed has other sources. Compiling them ...")
            build(installed, installed)
    except OSError as error:
        raise BuildError(
            f"the package that Python imports elsewhere, in {installed.parents[2]}, "
            f"cannot be written to ({error})"
        ) from error
    print(f"Built {installed / library.name}")
    print("This is for the package that is installed, which Python imports elsewhere.")


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        print(f"Our own operations are not built: {error}", file=sys.stderr)
        print("Everything works without them, more slowly.", file=sys.stderr)
