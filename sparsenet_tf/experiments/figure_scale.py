"""A scale of accuracies on which 11%, 97% and 99% are all told apart."""

import numpy as np

_LEAST = 0.02  # points of error; a logarithm has no place for none
_STEPS = (50, 10, 5, 1, 0.5, 0.1, 0.05, 0.01)  # of ticks, the roundest first
_LEAST_GAP = 0.055  # between two ticks, as a share of the axis
_MOST_GAP = 0.25  # below which no less round ticks are added


def set_scale(axes, accuracies):
    """Make the y axis logarithmic in the error, with room for some accuracies.

    Args:
        axes: of matplotlib.
        accuracies: non-empty sequence of values in %; those out of 0 to 100 count as
            the nearest in it.
    """
    accuracies = np.clip(accuracies, 0, 100)
    places = _place(accuracies)
    low, high = places.min(), places.max()
    margin = 0.06 * (high - low) or 0.05
    low, high = low - margin, high + margin
    axes.set_yscale("function", functions=(_place, _accuracy))
    axes.set_ylim(_accuracy(low), _accuracy(high))
    found = ticks(_accuracy(low), min(_accuracy(high), 100 - _LEAST))
    axes.set_yticks(found, [f"{tick:g}" for tick in found])
    axes.minorticks_off()


def ticks(low, high):
    """Return round accuracies between two, spread over the axis, in order.

    >>> ticks(8, 99.5)
    [30.0, 50.0, 70.0, 80.0, 85.0, 90.0, 93.0, 95.0, 97.0, 98.0, 99.0]
    """
    span, found = _place(high) - _place(low), []
    for step in _STEPS:
        gaps = np.diff(_place([low, *sorted(found), high]))
        if gaps.max() <= _MOST_GAP * span:
            break
        # From the top, where there is most room.
        for tick in np.round(np.arange(100 - step, -step / 2, -step), 2):
            near = np.abs(_place(found) - _place(tick)) < _LEAST_GAP * span
            if low <= tick <= high and not near.any():
                found.append(float(tick))
    return sorted(found)


def _place(accuracy):
    return -np.log10(np.maximum(100 - np.asarray(accuracy, float), _LEAST))


def _accuracy(place):
    return 100 - 10 ** -np.asarray(place, float)
