"""Values, intervals and p-values as short texts, and Markdown tables of them."""

from __future__ import annotations

from collections.abc import Sequence

from drirl.compare.names import TRAINING, code, escape, grouped
from drirl.compare.tables import Analysis, Difference, Row

__all__ = [
    "arrow",
    "below",
    "best",
    "cell",
    "details",
    "interval",
    "method_lines",
    "p_text",
    "points",
    "signed",
    "span",
    "standing",
    "table",
]


def interval(
    value: float,
    low: float | None,
    high: float | None,
    scale: float = 100,
    *,
    digits: int = 1,
    bounds: int | None = None,
    sign: str = "",
) -> str:
    """Write ``value [low, high]`` times ``scale``; ``bounds`` are the digits of the ends, else ``digits``."""
    ends = digits if bounds is None else bounds
    texts = [
        _fixed(value, scale, digits, sign),
        *("" if end is None else _fixed(end, scale, ends, sign) for end in (low, high)),
    ]
    return texts[0] if low is None or high is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _fixed(value: float, scale: float, digits: int, sign: str) -> str:
    text = f"{scale * value:{sign}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def cell(row: Row | None, rate: bool, *, short: bool = False) -> str:
    """Write one cell: a share in percent, another score as it is, a count; ``missing`` if there is none.

    ``short`` rounds the ends of the interval to whole percent.
    """
    if row is None or row.value is None:
        return "missing"
    if row.benchmark == TRAINING:
        return f"{row.value:,.0f}".replace(",", " ")
    if rate:
        return interval(row.value, row.low, row.high, bounds=0 if short else 1)
    return interval(row.value, row.low, row.high, 1, digits=2)


def points(difference: Difference | None) -> str:
    """Write a difference of shares in points with its interval."""
    estimate = difference.estimate if difference else None
    if estimate is None:
        return "missing"
    return interval(estimate.value, estimate.low, estimate.high, sign="+")


def signed(difference: Difference | None, level: float) -> str:
    """Write a difference of shares in points and its corrected p, bold if p is below ``level``."""
    estimate = difference.estimate if difference else None
    if difference is None or estimate is None:
        return "missing"
    text = _fixed(estimate.value, 100, 1, "+")
    if difference.significant(level):
        text = f"**{text}**"
    return f"{text} ({p_text(difference.p_holm)})"


def p_text(p_value: float | None) -> str:
    """Write a p-value with three decimals, ``<.001`` below that, ``–`` if there is none."""
    if p_value is None:
        return "–"
    return "<.001" if p_value < 0.0005 else f"{p_value:.3f}".removeprefix("0")


def standing(difference: Difference | None, level: float) -> str:
    """Return ▲ if significantly better than the reference, ▼ if worse, else an empty text."""
    if difference is None or not difference.significant(level):
        return ""
    return "▲" if difference.better else "▼"


def best(
    analysis: Analysis, model: str, benchmark: str, metric: str, level: float, reference: str = ""
) -> str | None:
    """Return the method with the best value if it differs from every other after Holm's correction.

    It also has to differ from ``reference`` among the methods set against that, so that it never stands out
    while its mark says that nothing can be told. None if it does not, if two methods share the best value, or
    if fewer than two were measured.
    """
    rows = [analysis.row(model, method, benchmark, metric) for method in analysis.records.methods]
    known = {row.method: row for row in rows if row is not None and row.value is not None}
    if benchmark == TRAINING or len(known) < 2:
        return None
    order = sorted(known.values(), key=lambda row: row.value or 0.0, reverse=rows[0].higher_is_better)  # type: ignore[union-attr]
    first = order[0].method
    others = analysis.family(model, first, benchmark, metric)
    if not all(others[name].significant(level) for name in known if name != first):
        return None
    if reference in known and reference != first:
        gap = analysis.tested(model, first, reference, benchmark, metric)
        return first if gap is not None and gap.significant(level) else None
    return first


def arrow(analysis: Analysis, benchmark: str, metric: str) -> str:
    """Return ↑ if higher is better, ↓ if lower is, an empty text if nothing was measured."""
    for row in analysis.rows:
        if (row.benchmark, row.metric) == (benchmark, metric):
            return "↑" if row.higher_is_better else "↓"
    return ""


def span(values: Sequence[int]) -> str:
    """Write sorted numbers as one number or ``low–high``."""
    if not values:
        return "0"
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}–{values[-1]}"


def method_lines(analysis: Analysis, model: str) -> list[tuple[str, list[str]]]:
    """Return (method, first two cells) in the order of the paper's Table 1, parts told apart in the first."""
    return [
        (method, [f"{escape(model)}, {part}", code(method)])
        for part, methods in grouped(analysis.records.methods)
        for method in methods
    ]


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n".join(head + [f"| {' | '.join(line)} |" for line in lines])


def below(lines: Sequence[str]) -> str:
    """Return sentences as a list to stand under a table; an empty text for none."""
    return "\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def details(summary: str, text: str) -> str:
    """Fold ``text`` away under a line that a reader opens."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"
