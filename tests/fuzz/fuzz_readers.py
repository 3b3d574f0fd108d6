"""Fuzzes the readers of files: they may refuse with a ValueError, and nothing else.

    make fuzz FUZZ_FLAGS="-max_total_time=600"

Masks, IDX and CIFAR-10 files, plain and in gzip. Each input is a file of one reader; it
must be read or refused in a second, and with no more memory than some multiple of its
own size. Found inputs are left in the folder that libFuzzer writes to.
"""

import gzip
import pathlib
import sys
import tempfile
import time
import tracemalloc

import atheris

with atheris.instrument_imports(include=["sparsenet_tf", "numpy.lib", "zipfile"]):
    import numpy as np

    import sparsenet_tf as stf
    from sparsenet_tf.experiments.data import read_cifar10_binary, read_idx

FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="fuzz_readers_"))
READERS = [
    ("masks.npz", stf.load_masks),
    ("images-idx3-ubyte", read_idx),
    ("images-idx3-ubyte.gz", read_idx),
    ("batch.bin", read_cifar10_binary),
    ("batch.bin.gz", read_cifar10_binary),
]
# Deflate shrinks at most 1,032 times, and what is read is copied at most thrice.
MOST_PER_BYTE, MOST_AT_ALL = 4 * 1032, 4_000_000
MOST_SECONDS = 1.0


def one_input(content):
    """Read `content`, whose first byte says by which reader."""
    if not content:
        return
    name, read = READERS[content[0] % len(READERS)]
    path = FOLDER / name
    path.write_bytes(content[1:])
    tracemalloc.start()
    begin = time.monotonic()
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error), f"no file is named: {error}"
    finally:
        seconds = time.monotonic() - begin
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= MOST_AT_ALL + MOST_PER_BYTE * len(content), f"{peak} bytes"
    assert seconds <= MOST_SECONDS, f"{seconds} seconds"


def write_seeds(folder):
    """Write whole files for each reader, from which the fuzzer begins."""
    folder.mkdir(parents=True, exist_ok=True)
    masks = {"dense/kernel": np.eye(3, dtype=bool), "b": np.ones((2, 1, 2), bool)}
    stf.save_masks(FOLDER / "seed.npz", masks)
    idx = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4])
    cifar = bytes([6] + [255] * 1024 + [0] * 2048)
    files = [(FOLDER / "seed.npz").read_bytes(), idx, gzip.compress(idx)]
    files += [cifar, gzip.compress(cifar)]
    for number, content in enumerate(files):
        (folder / f"seed{number}").write_bytes(bytes([number]) + content)


def main():
    """Fuzz with libFuzzer's flags and a folder for what it finds."""
    corpus = pathlib.Path(sys.argv[-1])
    if corpus.suffix or sys.argv[-1].startswith("-") or len(sys.argv) < 2:
        sys.exit("usage: fuzz_readers.py [libFuzzer flags] FOLDER")
    write_seeds(corpus)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
