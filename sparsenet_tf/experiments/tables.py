"""Numbers as text: means with their spread, and rows in columns."""

from statistics import fmean, stdev


def deviation(values):
    """Return the sample's standard deviation (n - 1), 0.0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def mean_and_deviation(values):
    """Return "mean ± deviation", the mean alone of one value, "-" of none.

    >>> mean_and_deviation([96.0, 98.0]), mean_and_deviation([96.0])
    ('97.00 ± 1.41', '96.00')
    """
    if not values:
        return "-"
    mean = f"{fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.2f}"


def spread_title(records):
    """Return what follows "Test accuracy in %" if there are several seeds."""
    seeds = len({record.seed for record in records})
    return f": mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""


def align(rows, left=0):
    """Return a line for each row of texts, the first `left` columns flush left.

    >>> align([["a", "10"], ["bcd", "5"]], left=1)
    ['a    10', 'bcd   5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
