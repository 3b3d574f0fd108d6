"""The C++ of the sparse products, under sanitizers and for each instruction set."""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess

import pytest

from sparsenet_tf.kernels.native import build

NATIVE = pathlib.Path(build.__file__).parent
TESTS = pathlib.Path(__file__).parent / "native"
SOURCES = ("sparse_simd.cc", "sparse_dispatch.cc")  # those without TensorFlow
SANITIZERS = {
    "address and undefined behaviour": ("address,undefined",),
    "threads": ("thread",),
}
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here"
)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("sanitizers", list(SANITIZERS.values()), ids=list(SANITIZERS))
def test_sparse_products_and_convolutions_are_clean(tmp_path, sanitizers):
    flags = ["-std=c++17", "-O1", "-g", "-w", "-pthread", f"-I{NATIVE}"]
    flags += [f"-fsanitize={','.join(sanitizers)}", "-fno-sanitize-recover=all"]
    units = [
        (source, name, own)
        for source, name, own in build.compilation_units()
        if pathlib.Path(source).name in SOURCES
    ]
    tests = sorted(TESTS.glob("*_test.cc"))
    assert [test.stem for test in tests] == ["conv_test", "sparse_test"]
    units += [(str(test), test.stem, []) for test in tests]
    compiler = build.find_compiler()

    def run(*command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    def compile_unit(unit):
        source, name, own = unit
        made = str(tmp_path / f"{name}.o")
        run(compiler, *flags, *own, "-c", source, "-o", made)
        return made

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_unit, units))
    shared = objects[: -len(tests)]
    for test, made in zip(tests, objects[-len(tests) :], strict=True):
        program = str(tmp_path / test.stem)
        run(compiler, *flags, *shared, made, "-o", program)
        assert run(program).endswith(" 0 failures\n")
