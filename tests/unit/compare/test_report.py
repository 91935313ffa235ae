"""What the tables say of differences: corrected p-values, marks, bold, groups, LaTeX, judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drirl.compare.collect import collect
from drirl.compare.latex import latex_escape, render_latex
from drirl.compare.names import grouped
from drirl.compare.page.tables import details as page_details
from drirl.compare.page.tables import headline as page_headline
from drirl.compare.published import Published, Value
from drirl.compare.report import Notes, _reading, render
from drirl.compare.stats import Bootstrap, Estimate
from drirl.compare.summary import headline
from drirl.compare.tables import COLUMNS, DIFFERENCE_COLUMNS, Analysis, Difference
from drirl.compare.texts import best, interval, p_text, signed, standing
from drirl.config import Params
from drirl.errors import DrirlError
from drirl.records import write_json

from .conftest import ROOT, item, synthetic, write_cell

CELL = ("drirl_tiny_harmful", "refusal_rate")
NOTES = Notes("tiny", True, "test", "weak", 0.95, 500, None)


def write(out: Path, method: str, rate: float, *, judge: str = "rules", model: str = "tiny") -> None:
    """Write 120 prompts of 60 intents, the first ``rate`` of which score 1, in three seeds."""
    items = [
        item(
            method=method,
            model=model,
            seed=seed,
            item_id=f"p{n:03d}",
            value=float(n < 120 * rate),
            cluster=f"{n // 2}",
            judge=judge,
        )
        for seed in range(3)
        for n in range(120)
    ]
    write_cell(out, model, method, items)


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    """Three methods: ``strong`` beats both others, ``twin`` equals ``weak``; ``gone`` has no records."""
    for method, rate in (("weak", 0.5), ("twin", 0.5), ("strong", 0.9)):
        write(tmp_path, method, rate)
    records = collect(tmp_path, ["tiny"], ["weak", "twin", "strong", "gone"], [0, 1, 2])
    published = Published({("", "strong", *CELL): Value(0.85, "Table 1")}, {"tiny": ""})
    return Analysis(records, Bootstrap(draws=500), published)


def test_families_are_corrected_together(analysis: Analysis) -> None:
    family = analysis.family("tiny", "weak", *CELL)
    strong, twin = family["strong"], family["twin"]
    # 24 intents gained, none lost: no draw of 500 is as far but by luck of 2^-23.
    assert strong.p_permutation == pytest.approx(1 / 501)
    assert strong.p_holm == pytest.approx(2 / 501)  # two methods with a p-value; ``gone`` has none
    assert strong.p_mcnemar == 2.0**-47  # 48 prompts on one side
    assert strong.effect_size == pytest.approx(2 * np.arcsin(np.sqrt(0.9)) - np.pi / 2)
    assert strong.better
    assert strong.significant(0.05)
    assert (twin.p_permutation, twin.p_holm, twin.p_mcnemar, twin.effect_size) == (1, 1, 1, 0)
    assert family["gone"].p_holm is None
    assert not family["gone"].significant(0.05)
    assert analysis.tested("tiny", "strong", "weak", *CELL) == strong


def test_a_difference_has_the_same_estimate_tested_or_not(analysis: Analysis, tmp_path: Path) -> None:
    plain = analysis.difference("tiny", "strong", "weak", *CELL)
    tested = analysis.tested("tiny", "strong", "weak", *CELL)
    assert plain is not None
    assert tested is not None
    assert plain.p_holm is None
    assert plain.estimate == tested.estimate


def test_lines_of_differences_have_all_columns(analysis: Analysis) -> None:
    lines = {
        one.method: dict(zip(DIFFERENCE_COLUMNS, one.cells(), strict=True))
        for one in analysis.differences("weak")
    }
    assert lines["strong"]["difference"] == "0.4"
    assert lines["strong"]["p_holm"] == "0.003992"
    assert lines["strong"]["p_mcnemar"] == "7.11e-15"
    assert (lines["strong"]["n"], lines["strong"]["intents"], lines["strong"]["seeds"]) == ("120", "60", "3")
    assert float(lines["strong"]["minimum_detectable"]) == pytest.approx(
        1.4294 * (float(lines["strong"]["ci_high"]) - float(lines["strong"]["ci_low"])) / 2, rel=1e-3
    )
    assert set(list(lines["gone"].values())[6:]) == {""}


def test_only_a_method_that_beats_all_is_the_best(analysis: Analysis) -> None:
    assert best(analysis, "tiny", *CELL, 0.05, "weak") == "strong"
    assert best(analysis, "tiny", *CELL, 0.0001, "weak") is None
    without = replace(analysis.records, methods=("weak", "twin"))
    assert best(Analysis(without, analysis.bootstrap, analysis.published), "tiny", *CELL, 0.05) is None


def test_page_and_report_agree_on_what_is_bold(tmp_path: Path) -> None:
    """The first beats ``weak`` by 6 intents (p 2/64) and the others by 8 (p 2/256), each on one side.

    Set against the first, 2/64 is the largest p of three and stays; set against ``weak`` it is the smallest
    and is tripled, so ``weak`` gets no mark, and then the first may not be bold.
    """
    for method, prompts in (("weak", 60), ("first", 72), ("low", 56), ("lower", 56)):
        write(tmp_path, method, (prompts - 0.5) / 120)
    records = collect(tmp_path, ["tiny"], ["weak", "first", "low", "lower"], [0, 1, 2])
    analysis = Analysis(records, Bootstrap(draws=2000), Published({}, {}))
    assert best(analysis, "tiny", *CELL, 0.05) == "first"
    assert best(analysis, "tiny", *CELL, 0.05, "weak") is None
    table = page_headline(analysis, "weak", 0.05)
    assert [(cell.told, cell.mark) for line in table.lines for cell in line.cells] == [(False, "")] * 4
    text = render(analysis, NOTES)
    assert "**" not in text[: text.index("## Beside the paper")]


def test_marks_and_bold_of_the_report(analysis: Analysis) -> None:
    text = render(analysis, NOTES)
    row = {
        line.split("|")[2].strip(): line for line in reversed(text.splitlines()) if line.startswith("| tiny,")
    }
    first = text.index("## Beside the paper")
    top = [line for line in text[:first].splitlines() if line.startswith("| tiny,")]
    assert "▲" in top[2]
    assert "**90.0 [" in top[2]
    assert "▲" not in top[1]
    assert "**" not in top[1]
    assert "missing" in row["`gone`"]
    assert "| `strong` | `drirl_tiny_harmful` | refusal rate | 85.0 | 90.0 [" in text
    assert "| +5.0 | 120 |" in text
    assert "**+40.0** (.004)" in text
    assert "| 0.50 [" in text  # twin against weak: ties count half


def test_published_deviation_and_judge_are_in_the_rows(analysis: Analysis) -> None:
    row = analysis.row("tiny", "strong", *CELL)
    assert row is not None
    line = dict(zip(COLUMNS, row.cells(), strict=True))
    assert (line["published"], line["deviation"]) == ("0.85", "0.05")
    assert (line["judge"], line["template_hash"]) == ("rules", "t")


def test_improvement_leaves_pooled_metrics_out(analysis: Analysis) -> None:
    chance = analysis.improvement("tiny", "strong", "weak")
    assert chance is not None
    assert (chance.value, chance.n) == (1.0, 1)
    assert analysis.improvement("tiny", "gone", "weak") is None


def test_a_benchmark_with_two_metrics_counts_once(tmp_path: Path) -> None:
    """``strong`` wins one benchmark by its one metric, and loses another by both of its two."""
    for method, good in (("strong", 0.0), ("weak", 1.0)):
        items = [item(method=method, item_id=f"p{n}", value=1 - good) for n in range(4)]
        for metric, value in (("accuracy", good), ("not_attempted_rate", 1 - good)):
            shared = {"method": method, "benchmark": "simpleqa", "metric": metric, "value": value}
            items += [item(item_id=f"q{n}", **shared) for n in range(4)]
        write_cell(tmp_path, "tiny", method, items)
    records = collect(tmp_path, ["tiny"], ["weak", "strong"], [0])
    analysis = Analysis(records, Bootstrap(draws=100), Published({}, {}))
    chance = analysis.improvement("tiny", "strong", "weak")
    assert chance is not None
    assert (chance.value, chance.n) == (0.5, 2)  # not 1/3 of three
    text = render(analysis, NOTES)
    assert (
        "`drirl_tiny_harmful` refusal rate,\n  `simpleqa` accuracy and not attempted rate (their mean)."
        in text
    )


def gappy(out: Path, method: str, *, cut: int = 0, gaps: bool = True) -> None:
    """Write 6 prompts of two levels in 2 seeds; p0 has no score, p4 none in seed 1, p5 is not there."""
    items = [
        item(
            method=method,
            seed=seed,
            item_id=f"p{n}",
            level="direct" if n < 3 else "disguised",
            value=None if gaps and (n == 0 or (n == 4 and seed)) else float(n % 2),
        )
        for seed in (0, 1)
        for n in range(5 if gaps else 6)
    ]
    config = {"truncated_prompts": cut} if cut else {}
    write_cell(out, "tiny", method, items, config=config)


def test_missing_scores_and_cut_prompts_are_said_under_their_tables(tmp_path: Path) -> None:
    gappy(tmp_path, "weak", cut=2)
    gappy(tmp_path, "full", cut=3, gaps=False)
    records = collect(tmp_path, ["tiny"], ["weak", "full", "gone"], [0, 1])
    analysis = Analysis(records, Bootstrap(draws=100), Published({}, {}))
    text = render(analysis, NOTES)
    top = text[: text.index("## Beside the paper")]
    # Disguised: p4 in one seed and p5 in both, of 3 prompts in 2 seeds.
    assert "\n- Scores missing, Refusal, disguised: tiny `weak` 3 of 6.\n" in top
    assert top.count("Scores missing") == 1  # the short table has no other column with gaps
    assert (
        "\n- Prompts cut to fit the context (`evaluate.overlong: truncate`), tiny: "
        "`drirl_tiny_harmful` 2–3 of 5–6.\n" in top
    )
    levels = text[text.index("## By difficulty") : text.index("## What the columns are")]
    assert "Prompts: direct 2–3; disguised 2–3." in levels
    assert (
        "\n\n- Scores missing, direct: tiny `weak` 2 of 6."
        "\n- Scores missing, disguised: tiny `weak` 3 of 6.\n" in levels
    )
    assert "- Scores missing, Refusal, direct: tiny `weak` 2 of 6.\n" in text[text.index("## Details") :]
    tables = {table.name.partition("-")[0]: table for table in page_details(analysis, "weak", 0.05)}
    assert tables["level"].notes == (
        "Scores missing, direct: tiny weak 2 of 6.",
        "Scores missing, disguised: tiny weak 3 of 6.",
    )
    assert page_headline(analysis, "weak", 0.05).notes == (
        "Scores missing, Refusal, direct: tiny weak 2 of 6.",
    )


def test_nothing_is_said_where_nothing_is_missing(tmp_path: Path) -> None:
    for method in ("weak", "full"):
        gappy(tmp_path, method, gaps=False)
    records = collect(tmp_path, ["tiny"], ["weak", "full", "gone"], [0, 1])
    analysis = Analysis(records, Bootstrap(draws=100), Published({}, {}))
    text = render(analysis, NOTES)
    assert "Scores missing" not in text
    assert "Prompts cut" not in text
    assert {table.notes for table in page_details(analysis, "weak", 0.05)} == {()}


def test_the_report_says_of_errors_what_the_document_says() -> None:
    """The numbers are checked in test_significance.py, the lines that are read here too."""
    text = " ".join(_reading(NOTES).split())
    assert (
        "equal methods are called different in at most 5 % of repetitions, in 4 to 6 % where the seeds of "
        "only one of them vary strongly; intervals hold the true value in 92 to 100 %." in text
    )
    document = " ".join((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split())
    assert "in at most 4.3 % of repetitions where both vary alike" in document
    assert "Where only one method varies, and strongly, it is 4 to 6 %" in document
    assert "**Intervals** cover 92 to 100 %" in document


def test_two_judges_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, "dpo", 0.5)
    write(tmp_path, "ppo", 0.5, judge="model/2")
    with pytest.raises(DrirlError, match=r"judged by 'rules' in tiny/dpo, by 'model/2' in tiny/ppo"):
        collect(tmp_path, ["tiny"], ["dpo", "ppo"], [0, 1, 2])
    write_cell(
        tmp_path, "tiny", "ppo", [item(method="ppo"), item(method="ppo", item_id="b", judge="model/2")]
    )
    with pytest.raises(DrirlError, match=r"judged by 'model/2' and by 'rules'; judges do not mix"):
        collect(tmp_path, ["tiny"], ["ppo"], [0])


def test_methods_are_grouped_as_in_the_papers_table() -> None:
    assert grouped(["base", "grpo_irl", "grpo", "dr_irl", "dpo"]) == [
        ("baselines", ["base", "grpo", "dpo"]),
        ("ours", ["grpo_irl", "dr_irl"]),
    ]
    assert grouped(["dr_irl_constant"]) == [("ours", ["dr_irl_constant"])]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0004, "<.001"), (0.004, ".004"), (0.05, ".050"), (1.0, "1.000")]
)
def test_p_values_as_text(value: float | None, text: str) -> None:
    assert p_text(value) == text


def test_signs_and_marks_follow_the_direction() -> None:
    estimate = Estimate(-0.1, -0.2, -0.01, 10, 5, 3)
    worse = Difference("m", "x", "y", *CELL, True, estimate, 0.001, 0.01)
    assert (standing(worse, 0.05), standing(worse, 0.005)) == ("▼", "")
    assert standing(replace(worse, higher_is_better=False), 0.05) == "▲"
    assert signed(worse, 0.05) == "**−10.0** (.010)"
    assert signed(worse, 0.005) == "−10.0 (.010)"
    assert signed(None, 0.05) == "missing"
    assert interval(-0.0001, -0.02, 0.5, sign="+") == "0.0 [−2.0, +50.0]"
    assert interval(0.984, 0.954, 1.0, bounds=0) == "98.4 [95, 100]"


def test_latex_has_balanced_rows_and_hostile_names_are_inert(analysis: Analysis) -> None:
    text = render_latex(analysis, NOTES)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    rows = [line for line in text.splitlines() if line.startswith(r"\texttt{")]
    assert len(rows) == 4 + 3
    assert all(line.count(" & ") == 1 and line.endswith(r" \\") for line in rows)
    assert r"\textbf{90.0 {\scriptsize[" in text
    assert r"$^{+}$" in text
    assert r"\texttt{gone} & -- \\" in text
    assert r"\textbf{$+40.0$} {\scriptsize(.004)}" in text
    assert latex_escape("a_b & \\input{x} $1% #^~\n<|>") == (
        r"a\_b \& \textbackslash{}input\{x\} \$1\% \#\textasciicircum{}\textasciitilde{} "
        r"\textless{}\textbar{}\textgreater{}"
    )


def test_the_summary_shows_cpu_seconds_where_measured(params_for: object, tmp_path: Path) -> None:
    from drirl.compare.stage import run

    synthetic(tmp_path / "out", ("tiny-llama",), ("base", "dpo"), (0, 1), intents=2)
    params: Params = params_for(models=["tiny-llama"], methods=["base", "dpo"], seeds=[0, 1])  # type: ignore[operator]
    run(params, formats=["csv"])
    assert "seconds" not in headline(params)
    for seed in (0, 1):
        value = {"stage": "align", "name": f"tiny-llama/dpo/seed{seed}", "wall_s": 20.0, "cpu_s": 9.0 + seed}
        write_json(tmp_path / "out" / "cost" / "align" / f"tiny-llama__dpo__seed{seed}.json", value)
    lines = headline(params).splitlines()
    assert lines[1].split()[-1] == "seconds"
    assert next(line for line in lines if " dpo " in line).split()[-1] == "19"
