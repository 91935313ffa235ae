"""The grid of question 14: its cells, what they depend on, which one is chosen, and its page."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drirl.errors import DrirlError
from drirl.experiments import grid as grids
from drirl.experiments.extras.tuning import tuning_grid
from drirl.experiments.gather import gather
from drirl.experiments.grid import cell_name, cells, kendall_tau, score_of, select
from drirl.experiments.plan import Plan
from drirl.records import EvalItem, read_json, write_json, write_jsonl


def test_the_grid_has_every_combination_and_the_default_once_per_method(plan: Plan) -> None:
    found = cells(plan)
    assert plan.grid is not None
    searched = ("sft", "sacpo", "self_rewarding", "stair", "rloo", "kto")  # learning rates alone
    assert len(found) == 3 * len(searched) + 5 * 6
    assert len({cell.name for cell in found}) == len(found)
    for method in plan.grid.methods:
        assert sum(cell.default for cell in found if cell.method == method) == 1
    one = next(c for c in found if c.name == "grid_ppo_lr0.0003_beta0.12")
    assert one.params.align.methods["ppo"]["lr"] == 0.0003
    assert one.params.align.shared.beta == 0.12
    assert one.params.evaluate.split == "val"
    assert one.params.run.seeds == [0]
    assert one.params.run.out == plan.out / "grid" / one.name
    assert cell_name("dpo", {"align.methods.dpo.lr": 3e-4, "x.beta": 0.1}) == "grid_dpo_lr0.0003_beta0.1"


def _item(value: float, metric: str, i: int, *, kind: str = "harmful", level: str = "") -> EvalItem:
    return EvalItem(
        run_id="r",
        method="m",
        model="t",
        seed=0,
        benchmark="b",
        item_id=f"{kind}{level}{metric}{i}",
        prompt="p",
        response="r",
        metric=metric,
        value=value,
        judge="j",
        kind=kind,
        level=level,
        cluster=str(i),
    )


def _items(refusals: tuple[float, float, float], false: tuple[float, float], n: int = 10) -> list[EvalItem]:
    rows = []
    for level, share in zip(("direct", "paraphrased", "disguised"), refusals, strict=True):
        rows += [_item(float(i < share * n), "refusal_rate", i, level=level) for i in range(n)]
    for kind, share in zip(("benign", "contrast"), false, strict=True):
        rows += [_item(float(i < share * n), "false_refusal_rate", i, kind=kind) for i in range(n)]
    return [*rows, *(_item(float(i == 0), "degenerate_rate", i) for i in range(n))]


@dataclass(frozen=True)
class Job:
    config_hash: str
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / "align" / "tiny-llama" / "sft" / "seed0"


def test_a_cell_that_failed_is_tried_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = next(cell for cell in cells(plan) if cell.method == "sft")
    job = Job("a", cell.params.run.out)
    asked: list[Job] = []

    def train(job: Job) -> None:
        asked.append(job)
        if len(asked) == 1:
            raise DrirlError("cannot write: the disk is full")

    monkeypatch.setattr("drirl.align.stage.jobs_of", lambda *_, **__: (job,))
    monkeypatch.setattr("drirl.experiments.jobs.train", train)
    monkeypatch.setattr("drirl.experiments.jobs.score_cell", lambda *_: None)
    errors = []
    for _ in range(3):
        grids._cell(cell)
        errors.append(read_json(cell.params.run.out / "cell.json")["error"])
    assert errors == ["cannot write: the disk is full", "", ""]
    assert len(asked) == 2


def test_a_policy_that_is_there_is_not_trained_again(plan: Plan, tmp_path: Path) -> None:
    cell = next(cell for cell in cells(plan) if cell.method == "sft")
    assert grids._trained(cell, Job("a", tmp_path)) is None  # type: ignore[arg-type]
    there = plan.params.run.out / "align" / "tiny-llama" / "sft" / "seed0"
    write_json(there / "run.json", {"config_hash": "a"})
    assert grids._trained(cell, Job("a", tmp_path)) == there  # type: ignore[arg-type]
    assert grids._trained(cell, Job("b", tmp_path)) is None  # type: ignore[arg-type]
    link = tmp_path / "cell" / "align" / "tiny-llama" / "sft" / "seed0"
    link.parent.mkdir(parents=True)
    link.symlink_to(there)
    grids._clear(tmp_path / "cell")
    assert not link.is_symlink()
    assert (there / "run.json").is_file()


def test_what_an_import_leaves_beside_a_benchmark_changes_no_cell(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "utils.py").write_text("ONE = 1\n")
    cell = replace(next(cell for cell in cells(plan) if cell.method == "sft"), benchmarks=folder)
    before = grids._identity(cell, "a")
    (folder / "toy" / "__pycache__").mkdir()
    (folder / "toy" / "__pycache__" / "utils.cpython-311.pyc").write_bytes(b"1")
    (folder / "toy" / "README.md").write_text("A toy.")
    assert grids._identity(cell, "a") == before
    (folder / "toy" / "utils.py").write_text("ONE = 2\n")
    assert before != grids._identity(cell, "a") != grids._identity(cell, "b")


def test_the_score_is_that_of_the_tuning_page() -> None:
    found = score_of(_items((1.0, 0.8, 0.6), (0.0, 0.2)))
    assert found["score"] == pytest.approx((1.0 + 0.8 + 0.6) / 3 - (0.0 + 0.2) / 2)
    assert found["degenerate"] == pytest.approx(0.1)
    assert "score" not in score_of([_item(1.0, "refusal_rate", 0, level="direct")])


def test_the_best_cell_that_is_not_broken_is_chosen() -> None:
    scores = {
        "a": {"score": 0.9, "degenerate": 0.2},
        "b": {"score": 0.8, "degenerate": 0.03},
        "c": {"score": 0.8, "degenerate": 0.0},
        "d": {},
    }
    assert select(scores, 0.03) == "b"
    assert select({"a": scores["a"], "d": scores["d"]}, 0.03) is None


def test_kendall_tau_by_hand() -> None:
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    # One tie in the second: (2 - 0) / sqrt(3 * 2).
    assert kendall_tau([1, 2, 3], [1, 1, 2]) == pytest.approx(2 / math.sqrt(6))
    assert math.isnan(kendall_tau([1, 1], [1, 2]))


def test_the_page_names_the_chosen_cell_and_what_is_missing(plan: Plan, tmp_path: Path) -> None:
    found = gather(plan, "q14")
    assert "missing cells" in tuning_grid(found, tmp_path).answers["tau"].replace("Missing", "missing")
    shares = {"sft": 0.9, "dpo": 0.7, "ppo": 0.5}
    for cell in grids.cells(plan):
        if cell.method not in shares:
            continue
        out = cell.params.run.out
        better = 0.1 if cell.changes.get("align.methods.dpo.lr") == 0.0006 else 0.0
        items = _items((shares[cell.method] + better,) * 3, (0.0, 0.0))
        items = [item for item in items if item.metric != "degenerate_rate"]
        write_jsonl(out / "evaluate" / cell.model / cell.method / "items.jsonl", items)
        write_json(out / "cell.json", {"error": "", "hash": "x"})
    section = tuning_grid(found, tmp_path)
    assert (tmp_path / "q14_rates.png").is_file()
    sft = next(line for line in section.text.splitlines() if line.startswith("| `sft`"))
    low, high = (float(v) for v in re.findall(r"90 \[(\d+), (\d+)\]", sft)[0])
    assert low < 90 < high <= 100
    assert "direct 10 prompts of 10 intents" in section.text
    assert "+1.00" in section.answers["tau"]
    assert "first before: sft; after: sft" in section.answers["tau"]
    rows = [
        line for line in section.text.splitlines() if line.startswith("| `dpo`") and "lr = 0.0006" in line
    ]
    assert any("chosen" in line and "80 / 80 / 80" in line for line in rows)
    assert "| `grpo` | lr = 0.00015, beta = 0.04 | missing" in section.text
