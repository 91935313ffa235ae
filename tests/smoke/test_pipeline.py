"""The real pipeline, end to end: the smoke profile in a temporary clone, with the real commands.

The clone holds the files of the working tree (tracked, and new ones git does not ignore), so that what is
tested is what would be committed.
"""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COLUMNS = [
    *(
        "model",
        "method",
        "benchmark",
        "metric",
        "higher_is_better",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "seeds",
    ),
    *("published", "published_source"),
]
THROWAWAY = '''"""Returns the base policy unchanged; exists in this test only."""

from drirl.settings import Section

PAPER = "https://example.org/throwaway"


class Config(Section):
    strength: float


def train(inputs, config):
    from drirl.models import load_policy

    inputs.save(*load_policy(inputs.policy_path))
'''

pytestmark = pytest.mark.slow


def _cpu_of_children() -> float:
    """Return the CPU seconds of the processes that have ended; other work on the machine does not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Clone:
    """A clone of the project and the commands run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DRIRL_", "DVC_", "OMP_"))
        }
        self.environment = {
            **kept,
            "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}",
            "PYTHONPATH": str(path),  # before the installed project: the clone's own code runs
            "PYTHONHASHSEED": "0",
            "DVC_NO_ANALYTICS": "1",
        }
        self.cpu_s = 0.0

    def run(self, *command: str, status: int = 0) -> str:
        started = _cpu_of_children()
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.cpu_s = _cpu_of_children() - started
        assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-8000:]}"
        return done.stdout

    def repro(self, *options: str) -> list[str]:
        """Run ``dvc repro``; return the stages that ran (not those skipped or restored)."""
        return sorted(re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", *options)))

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "params.yaml").read_text())

    def write_params(self, values: dict[str, Any]) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def lock(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "dvc.lock").read_text())["stages"]

    def rows(self) -> list[dict[str, str]]:
        with (self.path / "reports" / "smoke" / "comparison.csv").open(newline="") as handle:
            return list(csv.DictReader(handle))


def _cells(values: dict[str, Any], methods: list[str]) -> list[str]:
    return [f"{model}-{method}" for model in values["run"]["models"] for method in methods]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The clone after one complete ``dvc repro`` of the smoke profile."""
    path = tmp_path_factory.mktemp("clone") / "drirl"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and Path(name).name != "dvc.lock":
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    clone = Clone(path)
    clone.run("git", "init", "--quiet")
    clone.run("git", "add", "--all")
    clone.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "clone"
    )
    where = clone.run("python", "-c", "import drirl; print(drirl.__file__)")
    assert Path(where.strip()).is_relative_to(path)
    clone.run("drirl", "profile", "use", "smoke", "--force")
    clone.first = clone.repro()  # type: ignore[attr-defined]
    clone.first_cpu_s = clone.cpu_s  # type: ignore[attr-defined]
    return clone


def test_every_stage_ran(clone: Clone) -> None:
    values = clone.params()
    cells = _cells(values, values["run"]["methods"])
    expected = ["data", "base", "reward", "compare"]
    expected += [f"{stage}@{cell}" for stage in ("align", "evaluate") for cell in cells]
    assert clone.first == sorted(expected)  # type: ignore[attr-defined]
    assert sorted(clone.lock()) == sorted(expected)
    print(f"smoke profile: {clone.first_cpu_s:.0f} CPU s")  # type: ignore[attr-defined]


def test_the_table_has_the_promised_columns_and_every_cell(clone: Clone) -> None:
    rows = clone.rows()
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    values = clone.params()
    cells = {(model, method) for model in values["run"]["models"] for method in values["run"]["methods"]}
    per_cell = {cell: [r for r in rows if (r["model"], r["method"]) == cell] for cell in cells}
    numbers = {cell: len(found) for cell, found in per_cell.items()}
    assert min(numbers.values()) == max(numbers.values()) > 5, numbers
    filled = [row for row in rows if row["value"]]
    assert {(row["model"], row["method"]) for row in filled} == cells
    for row in filled:
        assert row["benchmark"] == "training" or int(row["n"]) > 0
        assert row["higher_is_better"].lower() in {"true", "false"}
        if row["ci_low"]:
            assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])


def test_the_tables_say_that_the_numbers_mean_nothing(clone: Clone) -> None:
    text = (clone.path / "reports" / "smoke" / "comparison.md").read_text().lower()
    assert "meaningless" in text or "not a result" in text or "wiring check" in text


def test_dvc_shows_metrics_plots_and_parameters(clone: Clone) -> None:
    metrics = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    assert metrics[""]["data"]["reports/smoke/metrics.json"]["data"]
    assert "index.html" in clone.run("dvc", "plots", "show")
    assert "run.meaningful" in clone.run("dvc", "params", "diff")


def test_outputs_hold_no_path_of_this_machine(clone: Clone) -> None:
    needle = str(clone.path).encode()
    found = []
    for folder in ("out", "reports"):
        for path in sorted((clone.path / folder).rglob("*")):
            if path.is_file() and needle in path.read_bytes():
                found.append(str(path.relative_to(clone.path)))
    assert found == []


def test_a_second_repro_runs_nothing(clone: Clone) -> None:
    assert clone.repro() == []
    assert clone.cpu_s < 10, "measured by hand it waits at most 5 s"


def test_a_page_runs_its_arms_and_rewards_and_no_other(clone: Clone) -> None:
    pages = "experiments/dvc.yaml:table3", "experiments/dvc.yaml:q12"
    stages = ("reward-learning", "arms-table3-q06", "arms-q12", "table3", "q12")
    assert clone.repro(*pages) == sorted(f"experiments/dvc.yaml:{stage}" for stage in stages)
    out = clone.path / "out" / "smoke" / "arms"
    for variant in ("implicit", "one_iteration", "three_iterations"):
        assert {p.name for p in (out / f"reward-{variant}" / "reward" / "tiny-llama").iterdir()} == {
            *("irl", "pairs.jsonl", "report.json")
        }
        with (out / variant / "evaluate" / "tiny-llama" / "dr_irl" / "items.jsonl").open() as handle:
            found = {(row["method"], row["seed"]) for row in map(json.loads, handle)}
        assert found == {("dr_irl", seed) for seed in clone.params()["run"]["seeds"]}
    text = (clone.path / "reports" / "smoke" / "questions" / "q12.md").read_text()
    assert "meaningless" in text
    assert "missing" not in text.partition("## What decides")[0].lower()
    assert clone.repro(*pages) == []


def test_a_cell_trained_again_has_the_same_hash(clone: Clone) -> None:
    cell = f"{clone.params()['run']['models'][0]}-dr_irl"
    before = clone.lock()[f"align@{cell}"]["outs"]
    shutil.rmtree(clone.path / "out" / "smoke" / "align" / cell.split("-dr_irl")[0] / "dr_irl")
    ran = clone.repro("--force", "--no-run-cache", "--single-item", f"align@{cell}")
    assert ran == [f"align@{cell}"]
    assert clone.lock()[f"align@{cell}"]["outs"] == before


def test_changing_one_method_reruns_its_cells_alone(clone: Clone) -> None:
    values = clone.params()
    values["align"]["methods"]["dpo"]["lr"] *= 2
    clone.write_params(values)
    cells = _cells(values, ["dpo"])
    changed = json.loads(clone.run("dvc", "status", "--json", "dvc.yaml"))
    assert sorted(changed) == sorted(f"align@{cell}" for cell in cells) + ["compare"] * ("compare" in changed)
    ran = clone.repro()
    assert ran == sorted(
        [*(f"{stage}@{cell}" for stage in ("align", "evaluate") for cell in cells), "compare"]
    )


def test_a_new_method_is_a_file_and_a_section(clone: Clone) -> None:
    (clone.path / "baselines" / "throwaway.py").write_text(THROWAWAY)
    values = clone.params()
    values["run"]["methods"] += ["throwaway"]
    values["align"]["methods"]["throwaway"] = {"strength": 1.0}
    clone.write_params(values)
    assert "throwaway" in clone.run("drirl", "methods")
    ran = clone.repro()
    cells = _cells(values, ["throwaway"])
    assert ran == sorted(
        [*(f"{stage}@{cell}" for stage in ("align", "evaluate") for cell in cells), "compare"]
    )
    rows = clone.rows()
    assert {row["method"] for row in rows} == set(values["run"]["methods"])
    figures = {
        method: {(r["benchmark"], r["metric"]): r["value"] for r in rows if r["method"] == method}
        for method in ("base", "throwaway")
    }
    assert figures["throwaway"] == figures["base"]  # it is the base policy under another name


def test_mistakes_stop_the_pipeline_with_one_line(clone: Clone) -> None:
    values = clone.params()
    values["align"]["methods"]["dpo"]["lrr"] = 1
    clone.write_params(values)
    text = clone.run(
        "drirl", "stage", "align", "--model", values["run"]["models"][0], "--method", "dpo", status=2
    )
    assert re.fullmatch(r"error: .*align\.methods\.dpo\.lrr.*\n", text), text
