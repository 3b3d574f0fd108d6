"""`plot_sparsity`: how sparse a schedule makes a model, and how sparse it became."""

import itertools

import numpy as np

from sparsenet_tf.pruning import PruningCallback
from sparsenet_tf.pruning.schedules import as_schedule
from sparsenet_tf.topology.checks import check_integer
from sparsenet_tf.visualization.figure import new_figure

_POINTS = 2000  # more than a picture has columns
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven to six colours: 42 pairs
_LONG_LEGEND = 20


def plot_sparsity(schedule, end_step=None):
    """Draw sparsity against the optimizer's step: planned, and as it became.

    The planned sparsity `s(t)` is a dashed line; a solid line of steps is what the
    updates make of it, `s(t')` for the last update `t'` at or before `t`. Of a
    `PruningCallback` that has been in a `fit`, a line with markers shows for each
    kernel which share of it was masked after each update.

    Args:
        schedule: a `PolynomialDecay` or `ConstantSparsity`, of this package or of
            tensorflow-model-optimization; or a `PruningCallback`, whose schedule and
            updates are drawn.
        end_step: last step to draw, 1 or more. Default: a tenth past the schedule's
            end and past the last update.

    Returns:
        A `matplotlib.figure.Figure` with one panel, to save or to show. It is tied to
        no window and no global state.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: `schedule` is neither.
        ValueError: `end_step` is too small.

    Example:
    >>> schedule = stf.pruning.PolynomialDecay(0.0, 0.5, begin_step=100, end_step=1100)
    >>> figure = plot_sparsity(schedule)
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['schedule', 'planned updates']
    """
    updates = {}
    if isinstance(schedule, PruningCallback):
        schedule, updates = schedule.schedule, schedule.updates
    schedule = as_schedule(schedule)
    if end_step is None:
        end_step = _end(schedule, updates)
    end_step = check_integer(end_step, "end_step", 1)
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    _draw_schedule(axes, schedule, end_step)
    _draw_updates(axes, {s: u for s, u in updates.items() if s <= end_step}, end_step)
    axes.set_xlabel("Step of the optimizer")
    axes.set_ylabel("Sparsity (%)")
    axes.set_xlim(0, end_step)
    axes.set_ylim(-2, 102)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    columns = -(-len(axes.get_lines()) // _LONG_LEGEND)
    figure.legend(loc="outside right upper", ncols=columns, fontsize=8)
    return figure


def _end(schedule, updates):
    # A ConstantSparsity may have no end: then its begin is what there is to see.
    last = max(schedule.end_step, getattr(schedule, "begin_step", 0), *updates, 1)
    return last + -(-last // 10)


def _draw_schedule(axes, schedule, end_step):
    steps = np.unique(np.linspace(0, end_step, _POINTS).astype(int)).tolist()
    due = [schedule.last_update(step) for step in steps]
    planned = [0.0 if step is None else schedule(step) for step in due]
    percent = [100 * schedule(step) for step in steps]
    axes.plot(steps, percent, "--", color="0.55", linewidth=1, label="schedule")
    axes.plot(
        steps,
        [100 * share for share in planned],
        color="black",
        linewidth=1.2,
        drawstyle="steps-post",
        label="planned updates",
    )


def _draw_updates(axes, updates, end_step):
    """A line for each kernel that any update names, in the first one's order."""
    steps = sorted(updates)
    paths = dict.fromkeys(itertools.chain.from_iterable(updates.values()))
    for i, path in enumerate(paths):
        seen = [step for step in steps if path in updates[step]]
        # Held to the picture's end, as the masks are.
        shares = [100 * updates[step][path] for step in seen]
        axes.plot(
            [*seen, end_step],
            [*shares, shares[-1]],
            color=_COLORS[i % len(_COLORS)],
            marker=_MARKERS[i % len(_MARKERS)],
            markevery=range(len(seen)),
            markersize=4,
            fillstyle="none",
            linewidth=1,
            drawstyle="steps-post",
            label=path,
        )
