"""Files of results: JSON and pictures, written whole or not at all."""

import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import tempfile

import keras

from sparsenet_tf.version import __version__
from sparsenet_tf.visualization.figure import import_matplotlib as import_matplotlib
from sparsenet_tf.visualization.figure import new_figure as new_figure


def write_results(path, settings, records):
    """Write settings, records and versions to a JSON file, whole or not at all.

    Args:
        path: file to write; its folder must exist.
        settings: a dataclass of the settings.
        records: list of dataclasses, such as `prune_and_retrain.Record`.

    Raises:
        ValueError, TypeError: a value has no form in JSON, such as NaN.
        OSError: the file cannot be written. One that was there before is left whole.
    """
    backend = keras.backend.backend()  # named as its package is
    versions = {
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
    }
    results = {
        "settings": dataclasses.asdict(settings),
        "versions": {"sparsenet_tf": __version__, **versions},
        "records": [dataclasses.asdict(record) for record in records],
    }
    # All of it before any file is touched.
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def write_figure(path, figure):
    """Write a figure to a PNG file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    canvas = import_matplotlib().backends.backend_agg.FigureCanvasAgg(figure)
    png = io.BytesIO()
    canvas.print_png(png)
    write_whole(path, png.getvalue())


def write_whole(path, content):
    """Write bytes to a file, whole or not at all.

    Raises:
        OSError: the file cannot be written. One that was there before is left whole.
    """
    path = pathlib.Path(path)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o644)  # mkstemp keeps others out
        os.replace(beside, path)
    except BaseException:
        pathlib.Path(beside).unlink(missing_ok=True)
        raise
