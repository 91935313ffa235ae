"""What the stages cost: seconds, memory, tokens, updates. Depends on the machine, so no hash may cover it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl.compare.names import escape
from drirl.compare.tables import number, write_csv
from drirl.errors import DrirlError
from drirl.records import atomic_write, read_json

__all__ = ["COLUMNS", "Cost", "read_costs", "write_costs"]

COLUMNS = (
    "stage",
    "name",
    "wall_s",
    "cpu_s",
    "peak_rss_bytes",
    "updates",
    "generated_tokens",
    "trained_tokens",
)
_STAGES = ("data", "base", "reward", "align", "evaluate", "compare")


@dataclass(frozen=True)
class Cost:
    """One measured unit of work, usually one process: ``name`` is for example ``llama/dpo/seed1``."""

    stage: str
    name: str
    values: dict[str, float]


def read_costs(out: Path) -> list[Cost]:
    """Read ``out/cost/<stage>/*.json``, by stage in the order of the pipeline; empty if there are none.

    Raises:
        DrirlError: a file that is not a JSON object with a stage and a name.
    """
    costs = []
    for path in sorted((Path(out) / "cost").glob("*/*.json")):
        value: Any = read_json(path)
        if not isinstance(value, dict) or not {"stage", "name"} <= set(value):
            raise DrirlError(
                f"{path}: expected a cost record with stage and name; delete it and rerun the stage"
            )
        numbers = {name: float(value[name]) for name in COLUMNS[2:] if value.get(name) is not None}
        costs.append(Cost(str(value["stage"]), str(value["name"]), numbers))
    place = {stage: index for index, stage in enumerate(_STAGES)}
    return sorted(costs, key=lambda cost: (place.get(cost.stage, len(place)), cost.stage, cost.name))


def write_costs(out: Path, reports: Path) -> list[Path]:
    """Write ``cost.csv`` and ``cost.md`` if anything was measured; return the files written."""
    costs = read_costs(out)
    if not costs:
        return []
    reports = Path(reports)
    lines = [
        [cost.stage, cost.name, *(number(cost.values.get(name)) for name in COLUMNS[2:])] for cost in costs
    ]
    write_csv(reports / "cost.csv", COLUMNS, lines)
    with atomic_write(reports / "cost.md") as temporary:
        temporary.write_text(_markdown(costs), encoding="utf-8")
    return [reports / "cost.csv", reports / "cost.md"]


def _markdown(costs: Sequence[Cost]) -> str:
    def by_stage(stages: Iterable[str]) -> list[list[str]]:
        found = [(stage, [cost for cost in costs if cost.stage == stage]) for stage in stages]
        return [_line(stage, of) for stage, of in found if of]

    parts = [
        "# Cost",
        "As measured on one machine when each stage last ran; not part of any hash. Time waited is that of "
        "the cells one after another; the processes inside a cell run side by side, so their wall times add "
        "up to more. Peak memory is that of the largest single process. Empty: not measured. Every record: "
        "`cost.csv`.",
        "## By stage",
        _table("Stage", by_stage(_STAGES)),
    ]
    cells: dict[str, list[Cost]] = {}
    for cost in costs:
        pieces = cost.name.split("/")
        if cost.stage == "align" and len(pieces) >= 2:
            cells.setdefault(f"{pieces[0]} / {pieces[1]}", []).append(cost)
    if cells:
        parts += [
            "## Alignment by model and method",
            _table("Model / method", [_line(*c) for c in cells.items()]),
        ]
    others = by_stage(dict.fromkeys(cost.stage for cost in costs if cost.stage not in _STAGES))
    if others:
        parts += ["## Measured for experiments, no part of the replication", _table("Stage", others)]
    return "\n\n".join(parts) + "\n"


def _line(name: str, costs: Sequence[Cost]) -> list[str]:
    """Sum the processes; ``llama/dpo`` with ``llama/dpo/seed0`` under it is their cell, not a process."""

    def over(cost: Cost) -> bool:
        return any((o.stage, o.name[: len(cost.name) + 1]) == (cost.stage, f"{cost.name}/") for o in costs)

    def total(field: str, of: Sequence[Cost]) -> str:
        known = [cost.values[field] for cost in of if field in cost.values]
        return f"{sum(known):,.0f}".replace(",", " ") if known else ""

    processes = [cost for cost in costs if not over(cost)]
    peaks = [cost.values["peak_rss_bytes"] for cost in costs if "peak_rss_bytes" in cost.values]
    return [
        escape(name),
        total("wall_s", [cost for cost in costs if over(cost)]),
        str(len(processes)),
        total("wall_s", processes),
        total("cpu_s", processes),
        f"{max(peaks) / 2**20:,.0f}".replace(",", " ") if peaks else "",
        *(total(field, processes) for field in ("updates", "generated_tokens", "trained_tokens")),
    ]


def _table(first: str, lines: Sequence[Sequence[str]]) -> str:
    titles = [
        first,
        "Time waited (s)",
        "Processes",
        "Their wall time (s)",
        "Their CPU time (s)",
        "Peak memory (MiB)",
        "Updates",
        "Tokens generated",
        "Tokens trained on",
    ]
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n".join(head + [f"| {' | '.join(line)} |" for line in lines])
