import dataclasses
import json
import os
import struct
import sys
import zlib

import pytest
from backends import BACKEND

from sparsenet_tf.experiments import files, report
from sparsenet_tf.experiments.prune_and_retrain import METHODS, Record, Settings


def record(method, sparsity, seed, accuracy):
    return Record("digits", "lenet", sparsity, sparsity, method, seed, accuracy)


RECORDS = [
    record("dense", 0.0, 0, 0.96),
    record("dense", 0.0, 1, 0.98),
    *(
        record(method, sparsity, seed, 0.9 - 0.1 * i - seed / 100 - sparsity / 10)
        for i, method in enumerate(METHODS)
        for sparsity in (0.99, 0.5)
        for seed in (0, 1)
    ),
]


# The table.


def test_table():
    expected = """\
Test accuracy of lenet on digits in %: mean ± standard deviation over 2 seeds

dense: 97.00 ± 1.41

sparsity     iterative  iterative, retrained      one-time  one-time, retrained
     50%  84.50 ± 0.71          74.50 ± 0.71  64.50 ± 0.71         54.50 ± 0.71
     99%  79.60 ± 0.71          69.60 ± 0.71  59.60 ± 0.71         49.60 ± 0.71"""
    assert report.format_table(RECORDS) == expected
    # The order of the records does not matter.
    assert report.format_table(RECORDS[::-1]) == expected


def test_a_single_seed_has_no_deviation():
    table = report.format_table([r for r in RECORDS if r.seed == 0])
    assert "±" not in table and "deviation" not in table and "dense: 96.00" in table


def test_what_is_missing_is_a_dash():
    some = [record(METHODS[0], 0.5, 0, 0.5), record(METHODS[2], 0.9, 0, 0.25)]
    lines = report.format_table(some).splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["50%", "50.00", "-"],
        ["90%", "-", "25.00"],
    ]


def test_no_records_is_an_error():
    with pytest.raises(ValueError, match="`records`"):
        report.format_table([])


# The file.


def test_results_round_trip(tmp_path):
    path = tmp_path / "results.json"
    files.write_results(path, Settings(steps=10), RECORDS)
    results = json.loads(path.read_text())
    assert results["settings"]["steps"] == 10
    assert [Record(**r) for r in results["records"]] == RECORDS
    assert set(results["versions"]) == {"sparsenet_tf", "keras", BACKEND}
    assert os.listdir(tmp_path) == ["results.json"]


def fail(*_):
    raise OSError("disk full")


@pytest.mark.parametrize("function", ["replace", "fdopen", "chmod"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "results.json"
    files.write_results(path, Settings(), RECORDS)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match="disk full"):
            files.write_results(path, Settings(), RECORDS[:1])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_json_cannot_say_is_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    bad = [dataclasses.replace(RECORDS[0], accuracy=float("nan"))]
    with pytest.raises(ValueError):
        files.write_results(path, Settings(), bad)
    with pytest.raises(TypeError):
        files.write_results(path, Settings(data_dir=b"here"), RECORDS)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]


# The picture.


def pixels(path):
    """Width, height and raw bytes of a PNG file, whose checksums are compared."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content[-8:-4] == b"IEND"
    at, data = 8, b""
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunk = content[at + 4 : at + 8 + length]
        check = content[at + 8 + length : at + 12 + length]
        assert zlib.crc32(chunk) == struct.unpack(">I", check)[0]
        data += chunk[4:] if chunk[:4] == b"IDAT" else b""
        at += 12 + length
    return (*struct.unpack(">II", content[16:24]), zlib.decompress(data))


@pytest.mark.parametrize(
    "records",
    [
        RECORDS,
        RECORDS[2:],  # no dense network
        [r for r in RECORDS if r.seed == 0],
        [record(METHODS[0], 0.5, 0, 0.0)],
        [record(METHODS[0], s / 20, 0, 1.0) for s in range(1, 20)],
    ],
)
def test_picture(tmp_path, records):
    pytest.importorskip("matplotlib")
    path = tmp_path / "accuracy.png"
    report.plot_accuracy(records, path, "A title")
    width, height, raw = pixels(path)
    assert width >= 800 and height >= 400 and len(set(raw)) > 10
    assert os.listdir(tmp_path) == ["accuracy.png"]


def test_a_picture_needs_sparse_networks(tmp_path):
    with pytest.raises(ValueError, match="`records`"):
        report.plot_accuracy(RECORDS[:2], tmp_path / "accuracy.png", "A title")
    assert os.listdir(tmp_path) == []


def test_the_picture_leaves_global_state_alone(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    before = matplotlib.rcParams.copy()
    report.plot_accuracy(RECORDS, tmp_path / "accuracy.png", "A title")
    # A copy, since to look at the backend of the original is to choose it.
    assert matplotlib.rcParams.copy() == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        files.import_matplotlib()
