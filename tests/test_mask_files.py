"""Masks into a file and back, whatever happens to the file."""

import os
import pathlib
import random
import stat
import tracemalloc
import zipfile
import zlib

import keras
import numpy as np
import pytest
from keras import layers

import sparsenet_tf as stf


def some_masks(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense/kernel": rng.random((3, 4)) < 0.5,
        "conv/kernel": rng.random((3, 3, 2, 5)) < 0.2,
        "encoder/query/kernel": np.ones((7, 2, 2), bool),
        "none/kernel": np.zeros((9, 1), bool),
    }


def same(masks, expected):
    return list(masks) == list(expected) and all(
        masks[name].dtype == bool
        and masks[name].shape == expected[name].shape
        and np.array_equal(masks[name], expected[name])
        for name in expected
    )


def flip(data, place, value):
    return data[:place] + bytes([data[place] ^ value]) + data[place + 1 :]


def test_round_trip(tmp_path):
    path = tmp_path / "masks.npz"
    stf.save_masks(path, some_masks())
    assert same(stf.load_masks(path), some_masks())
    stf.save_masks(str(path), some_masks(1))
    assert same(stf.load_masks(str(path)), some_masks(1))


def test_order_is_kept(tmp_path):
    masks = {name: np.eye(2, dtype=bool) for name in ("z", "a", "m", "10", "9")}
    stf.save_masks(tmp_path / "m", masks)
    assert list(stf.load_masks(tmp_path / "m")) == ["z", "a", "m", "10", "9"]


def test_nothing_is_appended_to_the_name(tmp_path):
    stf.save_masks(tmp_path / "masks.bin", some_masks())
    assert [p.name for p in tmp_path.iterdir()] == ["masks.bin"]


def test_plain_numpy_can_read_the_file(tmp_path):
    path = tmp_path / "masks.npz"
    stf.save_masks(path, some_masks())
    with np.load(path, allow_pickle=False) as file:
        assert same({name: file[name] for name in file.files}, some_masks())


def test_a_file_that_numpy_wrote_is_read(tmp_path):
    np.savez_compressed(tmp_path / "m.npz", a=np.eye(3, dtype=bool))
    assert same(stf.load_masks(tmp_path / "m.npz"), {"a": np.eye(3, dtype=bool)})


@pytest.mark.parametrize(
    "name",
    [
        "file", "self", "args", "a/b/c/kernel", "/a", "../../up", "a\\b", "a.npy",
        ".npy", "x.npy.npy", "a b", " ", "schicht_\u00e4\u00f6\u00fc", "\u5c64",
        "\U0001f600/kernel", "con", "a:b*?", "%s{}", "-", "\n", "k" * 300,
    ],
)  # fmt: skip
def test_odd_names(tmp_path, name):
    masks = {name: np.eye(3, dtype=bool), "other": np.ones((1, 2), bool)}
    stf.save_masks(tmp_path / "m.npz", masks)
    assert same(stf.load_masks(tmp_path / "m.npz"), masks)
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "k" * 70_000])
def test_names_that_a_file_cannot_hold_are_kept_or_refused(tmp_path, name):
    masks = {name: np.eye(3, dtype=bool), "a": np.ones((1, 2), bool)}
    try:
        stf.save_masks(tmp_path / "m.npz", masks)
    except ValueError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert same(stf.load_masks(tmp_path / "m.npz"), masks)


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (0, 3), (2, 3, 4, 5)])
def test_any_shape(tmp_path, shape):
    masks = {"a": np.random.default_rng(0).random(shape) < 0.5}
    stf.save_masks(tmp_path / "m.npz", masks)
    assert same(stf.load_masks(tmp_path / "m.npz"), masks)


@pytest.mark.parametrize(
    "view",
    [np.transpose, np.asfortranarray, lambda a: a[::2, ::-1], lambda a: a[:, 1:2]],
    ids=["transposed", "fortran", "strided", "column"],
)
def test_any_memory_layout(tmp_path, view):
    mask = view(np.random.default_rng(0).random((6, 5)) < 0.5)
    stf.save_masks(tmp_path / "m.npz", {"a": mask})
    assert same(stf.load_masks(tmp_path / "m.npz"), {"a": mask})


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_zeros_and_ones_of_any_dtype(tmp_path, dtype):
    stf.save_masks(tmp_path / "m.npz", {"a": np.eye(3, dtype=dtype)})
    assert same(stf.load_masks(tmp_path / "m.npz"), {"a": np.eye(3, dtype=bool)})


def test_loaded_masks_can_be_written_to_and_used(tmp_path):
    model = stf.sparsify(
        keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a")])
    )
    masks = {"a/kernel": np.eye(3, 4, dtype=bool)}
    stf.save_masks(tmp_path / "m.npz", masks)
    loaded = stf.load_masks(tmp_path / "m.npz")
    model.layers[0].set_masks(loaded["a/kernel"])
    assert same(stf.get_masks(model), masks)
    loaded["a/kernel"][0, 0] = False


def test_files_are_small(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.npz"
    stf.save_masks(path, {"a": rng.random((400, 500)) < 0.5})
    assert path.stat().st_size < 200_000 / 5
    stf.save_masks(path, {"a": rng.random((400, 500)) < 0.01})
    assert path.stat().st_size < 200_000 / 40


@pytest.mark.parametrize("fill", [True, False])
def test_a_large_constant_mask_is_no_bomb(tmp_path, fill):
    masks = {"a": np.full((2000, 1000), fill)}
    stf.save_masks(tmp_path / "m.npz", masks)
    assert (tmp_path / "m.npz").stat().st_size < 4000
    assert same(stf.load_masks(tmp_path / "m.npz"), masks)


# --- Writing that fails --------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A file from before, in a folder with nothing else."""
    path = tmp_path / "masks.npz"
    stf.save_masks(path, some_masks(7))
    return path


def assert_only_the_old_file(path):
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert same(stf.load_masks(path), some_masks(7))


@pytest.mark.parametrize("error", [OSError, MemoryError, KeyboardInterrupt])
def test_failure_in_the_middle_leaves_the_old_file(old, monkeypatch, error):
    write, calls = np.lib.format.write_array, []

    def fail(file, array, **kwargs):
        calls.append(array)
        write(file, array, **kwargs)
        if len(calls) == 3:
            raise error("no space left")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(error, match="no space left"):
        stf.save_masks(old, some_masks(8))
    assert len(calls) == 3
    assert_only_the_old_file(old)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_failure_at_the_end_leaves_the_old_file(old, monkeypatch, name):
    def fail(*args, **kwargs):
        raise OSError("input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="input/output error"):
            stf.save_masks(old, some_masks(8))
    assert_only_the_old_file(old)


def test_failure_without_an_old_file_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="no space left"):
        stf.save_masks(tmp_path / "m.npz", some_masks())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "masks, error, message",
    [
        (None, TypeError, "`masks` must be a dict"),
        ([np.ones(2, bool)], TypeError, "`masks` must be a dict"),
        (np.ones(2, bool), TypeError, "`masks` must be a dict"),
        ({}, ValueError, "`masks` must not be empty"),
        ({1: np.ones(2, bool)}, ValueError, "`masks` must have strings as keys"),
        ({"": np.ones(2, bool)}, ValueError, "`masks` must have strings as keys"),
        ({"a": np.full(2, 2)}, ValueError, "`mask` of kernel 'a'.*only 0 and 1"),
        ({"a": np.full(2, 0.5)}, ValueError, "`mask` of kernel 'a'.*only 0 and 1"),
        ({"a": np.full(2, np.nan)}, ValueError, "`mask` of kernel 'a'.*only 0 and 1"),
        ({"a": np.array(["x"])}, ValueError, "`mask` of kernel 'a'.*dtype"),
        ({"a": None}, ValueError, "`mask` of kernel 'a'.*dtype"),
        ({"a": np.array([object()])}, ValueError, "`mask` of kernel 'a'.*dtype"),
    ],
)
def test_bad_masks_are_not_written(old, masks, error, message):
    with pytest.raises(error, match=message):
        stf.save_masks(old, masks)
    assert_only_the_old_file(old)


def test_one_bad_mask_of_several_writes_nothing(old):
    with pytest.raises(ValueError, match="'bad'"):
        stf.save_masks(old, {**some_masks(8), "bad": np.full(2, 3)})
    assert_only_the_old_file(old)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be in an existing folder"):
        stf.save_masks(tmp_path / "no" / "m.npz", some_masks())
    assert list(tmp_path.iterdir()) == []


def test_a_file_as_the_folder(old):
    with pytest.raises(OSError, match="`path`"):
        stf.save_masks(old / "m.npz", some_masks())
    assert_only_the_old_file(old)


def test_a_folder_as_the_path(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        stf.save_masks(tmp_path / "folder", some_masks())
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_read_only_folder(old, monkeypatch):
    def refuse(*args, **kwargs):  # Modes would not hold back root.
        raise PermissionError(13, "Permission denied", str(old.parent))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(PermissionError):
        stf.save_masks(old, some_masks(8))
    assert_only_the_old_file(old)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_the_file_has_the_usual_mode(tmp_path):
    (tmp_path / "other").touch()
    stf.save_masks(tmp_path / "m", some_masks())
    modes = {stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("m", "other")}
    assert len(modes) == 1


# --- Files that are damaged, or something else ---------------------------------------


def assert_refused(path):
    with pytest.raises(ValueError, match="`path` must") as caught:
        stf.load_masks(path)
    assert path.name in str(caught.value)


def damage(path, data):
    """None where exactly `some_masks` or a ValueError comes back, else what does."""
    path.write_bytes(data)
    try:
        masks = stf.load_masks(path)
    except ValueError:
        return None
    except Exception as error:
        return repr(error)
    return None if same(masks, some_masks()) else "other masks"


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be a file.*none.npz"):
        stf.load_masks(tmp_path / "none.npz")


def test_folder(tmp_path):
    with pytest.raises(OSError, match="`path` must be a file"):
        stf.load_masks(tmp_path)


def test_truncated_at_every_length(tmp_path):
    stf.save_masks(tmp_path / "whole", some_masks())
    data, path = (tmp_path / "whole").read_bytes(), tmp_path / "cut"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="`path` must"):
            stf.load_masks(path)


def test_every_flipped_bit(tmp_path):
    masks = {"\u00e4/kernel": np.eye(3, dtype=bool), "b": np.zeros((1, 2), bool)}
    stf.save_masks(tmp_path / "whole", masks)
    data, path = (tmp_path / "whole").read_bytes(), tmp_path / "flipped"
    wrong = []
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(flip(data, place, 1 << bit))
            try:
                loaded = stf.load_masks(path)
            except ValueError:
                continue
            except Exception as error:
                wrong.append((place, bit, repr(error)))
            else:
                if not same(loaded, masks):
                    wrong.append((place, bit, list(loaded)))
    assert not wrong


def test_random_damage(tmp_path):
    stf.save_masks(tmp_path / "whole", some_masks())
    data, rng = (tmp_path / "whole").read_bytes(), random.Random(0)
    wrong = []
    for trial in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        if trial % 3 == 0:  # A piece is missing, or is there twice.
            start = rng.randrange(len(data))
            end = start + rng.randrange(60)
            damaged[start:end] = damaged[start:end] * rng.choice([0, 2])
        found = damage(tmp_path / "damaged", bytes(damaged))
        if found:
            wrong.append((trial, found))
    assert not wrong


def test_damage_in_the_header_of_a_large_mask(tmp_path):
    # Such a header is read before all of the data is, and so before its checksum.
    masks = {"a": np.random.default_rng(0).random((200, 300)) < 0.5}
    stf.save_masks(tmp_path / "whole", masks)
    data, path = (tmp_path / "whole").read_bytes(), tmp_path / "damaged"
    wrong = []
    for place in range(30, 280):
        for value in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            path.write_bytes(flip(data, place, value))
            try:
                loaded = stf.load_masks(path)
            except ValueError:
                continue
            except Exception as error:
                wrong.append((place, value, repr(error)))
            else:
                if not same(loaded, masks):
                    wrong.append((place, value, "other masks"))
    assert not wrong


def test_another_compression_method_than_was_used(tmp_path):
    stf.save_masks(tmp_path / "whole", some_masks())
    data = (tmp_path / "whole").read_bytes()
    place = data.index(b"PK\1\2") + 10  # in the directory at the end
    assert data[place] == zipfile.ZIP_DEFLATED
    for method in range(256):
        if method != zipfile.ZIP_DEFLATED:
            damaged = data[:place] + bytes([method]) + data[place + 1 :]
            (tmp_path / "damaged").write_bytes(damaged)
            assert_refused(tmp_path / "damaged")


class Boom:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("unpickled"),))


def test_a_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "m.npz", a=np.array([Boom()], dtype=object))
    assert_refused(tmp_path / "m.npz")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "<U1"])
def test_arrays_that_are_no_booleans(tmp_path, dtype):
    np.savez(tmp_path / "m.npz", a=np.ones((2, 3), dtype))
    assert_refused(tmp_path / "m.npz")


def test_one_array_of_several_that_is_no_boolean(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.ones(2, bool), b=np.ones(2))
    assert_refused(tmp_path / "m.npz")


def npy(values, shape, descr="|b1"):
    """A `.npy` file with these bytes as its data."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(values)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


def test_written_by_hand(tmp_path):
    write_zip(tmp_path / "m", [("a.npy", npy([1, 0, 1], "(3,)"))])
    assert same(stf.load_masks(tmp_path / "m"), {"a": np.array([True, False, True])})


@pytest.mark.parametrize(
    "data",
    [
        npy([1, 2, 1], "(3,)"),
        npy([1, 0, 255], "(3,)"),
        npy([1, 0], "(3,)"),
        npy([1, 0, 1, 1], "(3,)"),
        npy([], "(3,)"),
        npy([1] * 6, "(-2, -3)"),
        npy([1], "(-1,)"),
        npy([1], "(-2,)"),
        npy([1], f"({2**62}, 8)"),
        npy([], f"({2**40},)"),
        npy([1], "(1.0,)"),
        npy([1], "3"),
        npy([1], "(1,)", descr="|O"),
        npy([1], "(1,)", descr="nonsense"),
        npy([1], "(1,)", descr=[("x", "|b1")]),
        npy([1], "(1,)").replace(b"'shape'", b"'shapo'"),
        npy([1], "(1,)").replace(b"\x93NUMPY\x01", b"\x93NUMPY\x02"),
        npy([1], "(" * 45 + "1"),
        npy([1], "'''"),
        b"",
        b"\x93NUMPY",
        b"text",
    ],
)
def test_members_that_are_no_masks(tmp_path, data):
    write_zip(tmp_path / "m", [("good.npy", npy([1], "(1,)")), ("a.npy", data)])
    assert_refused(tmp_path / "m")


def test_more_data_than_the_file_can_hold(tmp_path):
    write_zip(tmp_path / "m", [("a.npy", npy([0] * 3_000_000, "(10,)"))])
    assert_refused(tmp_path / "m")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a.npy", "a"])
def test_the_same_name_twice(tmp_path, second):
    members = [("a.npy", npy([1], "(1,)")), (second, npy([0], "(1,)"))]
    write_zip(tmp_path / "m", members)
    assert_refused(tmp_path / "m")


def test_other_members_beside_masks(tmp_path):
    members = [("a.npy", npy([1], "(1,)")), ("readme.txt", b"hello")]
    write_zip(tmp_path / "m", members)
    assert_refused(tmp_path / "m")


def test_a_zip_that_is_empty(tmp_path):
    write_zip(tmp_path / "m", [])
    assert_refused(tmp_path / "m")


@pytest.mark.parametrize(
    "data", [b"", b"text", b"PK", b"PK\3\4", b"\0" * 1000, zlib.compress(b"x" * 99)]
)
def test_no_zip_at_all(tmp_path, data):
    (tmp_path / "m").write_bytes(data)
    assert_refused(tmp_path / "m")


def test_a_single_array_file(tmp_path):
    np.save(tmp_path / "m.npy", np.ones(3, bool))
    assert_refused(tmp_path / "m.npy")


def test_a_saved_model(tmp_path):
    keras.Sequential([keras.Input((3,)), layers.Dense(4)]).save(tmp_path / "m.keras")
    assert_refused(tmp_path / "m.keras")


def test_a_claim_of_many_bytes_is_refused_before_they_are_asked_for(tmp_path):
    # Found by tests/fuzz/fuzz_readers.py: sizes in the directory, a gigabyte each.
    path = tmp_path / "masks.npz"
    stf.save_masks(path, {"dense/kernel": np.eye(9, dtype=bool)})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    content[directory + 20 : directory + 24] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="claims 1073741824 bytes"):
            stf.load_masks(path)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
