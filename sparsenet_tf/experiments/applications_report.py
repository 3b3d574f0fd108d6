"""What came out of `applications`, as tables in Markdown."""

_NONE = "-"


def markdown(outcome):
    """Return the tables of an `Outcome`: its forms, layers, files, times, memory.

    Args:
        outcome: as from `applications.run`.

    Returns:
        A text of several lines.
    """
    parts = (
        ("Forms", _forms(outcome)),
        ("Layers with weights, pruned model", _kinds(outcome)),
        ("Files of the retrained model", _files(outcome)),
        ("Seconds, and the peak memory of the process up to there", _seconds(outcome)),
    )
    lines = [f"# {outcome.model} on {outcome.dataset}"]
    for title, rows in parts:
        lines += ["", f"## {title}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _forms(outcome):
    names = ("", "accuracy", "sparsity", "parameters", "step", "predict 1", "a batch")
    return [
        names,
        *(
            (
                form.name,
                f"{form.accuracy:.2%}",
                f"{form.sparsity:.2%}",
                f"{form.parameters:,}",
                _milliseconds(form.step_ms),
                _milliseconds(form.predict_one_ms),
                _milliseconds(form.predict_batch_ms),
            )
            for form in outcome.forms
        ),
    ]


def _kinds(outcome):
    names = ("class", "masked", "not masked", "as nonzeros", "weights", "sparsity")
    return [
        names,
        *(
            (
                kind.name,
                f"{kind.masked}",
                f"{kind.plain}",
                f"{kind.exchanged}",
                f"{kind.weights:,}",
                f"{kind.zeros / kind.weights:.2%}",
            )
            for kind in outcome.kinds
        ),
    ]


def _files(outcome):
    rows = [("file", "seconds", "bytes")]
    rows += [(f.format, f"{f.seconds:.2f}", f"{f.bytes:,}") for f in outcome.files]
    sizes = {
        "weights, dense": outcome.dense_bytes,
        "weights, gzip": outcome.gzip_bytes,
        "weights, compact": outcome.compact_bytes,
    }
    for name, size in sizes.items():
        rows.append((name, _NONE, _NONE if size is None else f"{size:,}"))
    return rows


def _seconds(outcome):
    rows = [("", "seconds", "MB")]
    for name, memory in outcome.peak_memory_mb.items():
        seconds = outcome.seconds.get(name)
        rows.append(
            (
                name,
                _NONE if seconds is None else f"{seconds:.2f}",
                _NONE if memory is None else f"{memory:,.0f}",
            )
        )
    return rows


def _milliseconds(value):
    return _NONE if value is None else f"{value:.1f} ms"


def _table(rows):
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]]
