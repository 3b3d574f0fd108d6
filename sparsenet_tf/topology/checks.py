"""What an argument may be: checks whose errors name it and say what came instead."""

import operator
import os
import pathlib
import reprlib

import numpy as np

# Entries of an array that a message still shows.
_FEW = 10


class _Short(reprlib.Repr):
    """Arrays by kind, shape and dtype, wherever they are; all else cut."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 4, 8, 8
        self.maxstring = self.maxother = self.maxlong = 200

    def repr1(self, x, level):
        try:
            shape, dtype = tuple(x.shape), x.dtype
        except (AttributeError, TypeError, ValueError):  # not an array, or of any rank
            return super().repr1(x, level)
        if None not in shape and np.prod(shape, dtype=object) <= _FEW:
            return super().repr1(x, level)
        return f"<{type(x).__name__} of shape {shape} and dtype {dtype}>"


_SHORT = _Short()


def shown(value):
    """Return what an error message shows of a value that may be large.

    That is its repr, of which much is left out where it is long. Arrays and tensors of
    more than ten entries, also in lists and dicts, are shown by shape and dtype.

    >>> shown(np.zeros((784, 300)))
    '<ndarray of shape (784, 300) and dtype float64>'
    >>> shown({"a": np.ones((3, 4), bool), "b": None})
    "{'a': <ndarray of shape (3, 4) and dtype bool>, 'b': None}"
    >>> shown(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, 6, 7, ...]'
    """
    return _SHORT.repr(value)


def is_integer(value):
    """Whether `value` is an integer of Python, NumPy or a tensor library, and no bool.

    >>> is_integer(np.int64(3)), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        operator.index(value)  # Arrays have an `__index__` too, whatever they hold.
    except TypeError:
        return False
    return True


def check_integer(value, name, least):
    """Return `value` as an int of at least `least`, or say what is wrong with it.

    Raises:
        TypeError: it is no integer, or a bool.
        ValueError: it is less than `least`.

    >>> check_integer(np.int64(3), "nodes", 1)
    3
    """
    if not is_integer(value):
        raise TypeError(f"`{name}` must be an integer. Received: {shown(value)}")
    if value < least:
        raise ValueError(f"`{name}` must be {least} or more. Received: {shown(value)}")
    return operator.index(value)


def check_number(value, name, expected):
    """Return `value`, or raise a TypeError if it is no real number, or a bool.

    >>> check_number(0.5, "power", "more than 0")
    0.5
    """
    if isinstance(value, bool) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(
            f"`{name}` must be a number {expected}. Received: {shown(value)}"
        )
    return value


def check_flag(value, name):
    """Return `value` as a bool, or raise a TypeError: "no" would count as True.

    >>> check_flag(np.True_, "exact")
    True
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False. Received: {shown(value)}")
    return bool(value)


def check_path(path, name="path"):
    """Return `path` as a `pathlib.Path`.

    Raises:
        TypeError: it is no path; an integer would be an open file to `open`.

    >>> check_path("masks.npz").suffix
    '.npz'
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"`{name}` must be a path (str or os.PathLike). Received: {shown(path)}"
        )
    return pathlib.Path(path)


def as_array(values, name):
    """Return `values` as a NumPy array.

    Raises:
        ValueError: they are no array, such as lists of several lengths.

    >>> as_array([[1, 2]], "mask").shape
    (1, 2)
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be an array. Received: {shown(values)} ({error})"
        ) from error


def as_generator(seed):
    """Return a `numpy.random.Generator` from `seed`; one that is given goes on.

    Raises:
        TypeError: `seed` is neither an integer nor a generator.
        ValueError: it is negative.

    >>> int(as_generator(0).integers(10))
    8
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if not is_integer(seed):
        raise TypeError(
            "`seed` must be an integer or a numpy.random.Generator. Received: "
            f"{shown(seed)}"
        )
    return np.random.default_rng(check_integer(seed, "seed", 0))
