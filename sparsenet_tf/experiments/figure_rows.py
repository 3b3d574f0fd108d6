"""The outcomes of a figure's runs as rows, and the rows as CSV."""

import csv
import io

from sparsenet_tf.experiments.pruning_runs import Iterative, OneTime
from sparsenet_tf.experiments.topology_runs import Topology
from sparsenet_tf.experiments.training import DENSE, check


def rows(figure, runs, outcomes):
    """Return a figure's rows, in the order of its runs.

    Args:
        figure: 7, 8 or 9.
        runs: list of the figure's runs, as from `figures.runs`.
        outcomes: `(history, result)` of each, as their `execute()` returns or as JSON
            gives it back: lists for tuples, strings for keys.

    Returns:
        List of dictionaries with the same keys in the same order. Accuracies are
        shares of the test set. All figures have "dataset", "model", "network",
        "logits" and "accuracy", and besides:

        - 7: "method", "sparsity" (0.0 of "dense") and "seed".
        - 8: "sparsity", "retraining" (its number in the run), "step", and, at a curve's
          last step alone (else None), "dead_logits" and "classes".
        - 9: "topology", "density" (as wanted), "neurons", "connections" and "seed".

    Raises:
        ValueError: `figure` is not one of these, a run is not one of its, or `runs`
            and `outcomes` differ in length.
    """
    check("figure", figure, figure in _ROWS, f"one of {tuple(_ROWS)}")
    if len(runs) != len(outcomes):
        raise ValueError(
            "`outcomes` must be as many as `runs`. "
            f"Received: {len(outcomes)} for {len(runs)}"
        )
    kinds, make = _ROWS[figure]
    found = []
    for run, (history, result) in zip(runs, outcomes, strict=True):
        kind = type(run).__name__
        names = tuple(k.__name__ for k in kinds)
        check("runs", kind, isinstance(run, kinds), f"of {names} for Figure {figure}")
        found += make(run, history, result)
    return found


def to_csv(rows):
    r"""Return rows as CSV: a line of the names, then a line for each row.

    Equal rows give equal text on every system: lines end with "\n", floats are written
    by `repr`, None is empty.

    Args:
        rows: non-empty list of dictionaries with the same keys in the same order.

    Raises:
        ValueError: `rows` is empty, or the keys of one differ.

    >>> to_csv([{"step": 1, "accuracy": 0.1, "classes": None}])
    'step,accuracy,classes\n1,0.1,\n'
    """
    if not rows:
        raise ValueError("`rows` must not be empty. Received: []")
    names = list(rows[0])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        if list(row) != names:
            raise ValueError(f"`rows` must all have {names}. Received: {list(row)}")
        writer.writerow(row.values())  # which writes floats by `repr`
    return text.getvalue()


def _pruning(run, history, result):
    def row(method, sparsity, accuracy):
        return {
            **_network(run.training),
            "method": method,
            "sparsity": sparsity,
            "seed": run.seed,
            "accuracy": accuracy,
        }

    if isinstance(run, Iterative):
        yield row("iterative", run.sparsity, result["pruned"])
        for found in result["retrained"]:
            yield row("iterative, retrained", run.sparsity, found["accuracy"])
        return
    yield row(DENSE, 0.0, result["dense"])
    for sparsity in run.sparsities:
        name = f"{sparsity:g}"  # as `OneTime.execute` names it
        yield row("one-time", sparsity, result["pruned"][name])
        yield row("one-time, retrained", sparsity, result["retrained"][name])


def _retrainings(run, history, result):
    pairs = zip(history["retrained"], result["retrained"], strict=True)
    for number, (curve, found) in enumerate(pairs):
        last = len(curve["step"]) - 1
        points = zip(curve["step"], curve["accuracy"], strict=True)
        for i, (step, accuracy) in enumerate(points):
            yield {
                **_network(run.retraining or run.training),
                "sparsity": run.sparsity,
                "retraining": number,
                "step": step,
                "accuracy": accuracy,
                "dead_logits": found["dead_logits"] if i == last else None,
                "classes": found["classes"] if i == last else None,
            }


def _topology(run, history, result):
    yield {
        **_network(run.training),
        "topology": run.kind,
        "density": run.density,
        "neurons": run.neurons,
        "connections": result["connections"],
        "seed": run.seed,
        "accuracy": result["accuracy"],
    }


def _network(training):
    names = ("dataset", "model", "network", "logits")
    return {name: getattr(training, name) for name in names}


_ROWS = {
    7: ((OneTime, Iterative), _pruning),
    8: ((Iterative,), _retrainings),
    9: ((Topology,), _topology),
}
