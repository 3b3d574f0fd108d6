"""`made_beside`: files and folders that are there whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile

from sparsenet_tf.topology.checks import check_path


@contextlib.contextmanager
def made_beside(path):
    """Yield a path in a new folder beside `path`; what is made there takes its place.

    It does so when the block ends; if it raises, `path` is left as it was.

    Args:
        path: a file or folder, which may exist; its parent must.

    Raises:
        TypeError: `path` is no path.
        FileNotFoundError: the parent is no folder.
        OSError: what was made cannot take the place, such as a file that of a folder.

    Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "result.txt"
    >>> with made_beside(path) as made:
    ...     _ = made.write_text("whole")
    >>> path.read_text(), [p.name for p in path.parent.iterdir()]
    ('whole', ['result.txt'])
    """
    path = check_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"`path` must be in an existing folder. Received: {str(path)!r}"
        )
    folder = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        made = folder / path.name
        yield made
        for file in [made, *made.rglob("*")]:
            if file.is_file():
                _sync(file)
        if made.is_dir() and path.is_dir():
            _exchange(made, path, folder / "before")
        else:
            os.replace(made, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(file):
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(made, path, before):
    # Nothing replaces a folder that is not empty in one step.
    os.replace(path, before)
    try:
        os.replace(made, path)
    except BaseException:
        os.replace(before, path)
        raise
