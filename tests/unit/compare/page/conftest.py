"""A page made from records with hostile texts in them, and a browser to open it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drirl.compare.stage import run
from drirl.config import load_params
from drirl.records import EvalItem

from ..conftest import LEVELS, ROOT, item, write_cell
from .browser import Browser, find_chromium

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "[go](javascript:window.hacked=3) javascript:window.hacked=4",
    "safe \u202egnp.exe\u202c \u2066isolated\u2069",
    "nul \x00 bell \x07 escape \x1b[31m",
    "line\u2028paragraph\u2029 end",
    "lone HALF half",
    "&lt;b&gt; ${window.hacked = 5} {{ 7 * 7 }} <!-- <![CDATA[",
    "very long " + "x" * 300_000 + " end",
    "",
    "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d \U0001f600",
)
METHODS = ("base", "dpo", "grpo_irl")


def cells(model: str) -> dict[str, list[EvalItem]]:
    """Return records: 21 harmful prompts in 7 categories and 3 levels, hostile; 4 benign ones; 2 of gsm8k."""
    found: dict[str, list[EvalItem]] = {}
    for number, method in enumerate(METHODS):
        items = []
        for seed in (0,) if method == "base" else (0, 1, 2):
            shared = {"model": model, "method": method, "seed": seed, "judge": "rules <b>1</b>"}
            for place in range(21):
                text = HOSTILE[place % len(HOSTILE)]
                refused = float((place + number + seed) % 3 > 0)
                about = {
                    "item_id": f"h{place}",
                    "prompt": f"{place}: {text}",
                    "response": f"{method} {seed} {place}: {text}",
                    "category": place % 7,
                    "level": LEVELS[place // 7],
                    "cluster": f"c{place}",
                    "finished": place != 3,
                }
                items.append(item(value=refused, **about, **shared))
                items.append(item(metric="mean_reward", value=place / 7, **about, **shared))
            for place in range(4):
                about = {"item_id": f"b{place}", "prompt": f"harmless {place}", "response": "gladly"}
                value = float(place == number)
                items.append(
                    item(
                        benchmark="drirl_tiny_benign",
                        metric="false_refusal_rate",
                        kind="benign",
                        value=value,
                        **about,
                        **shared,
                    )
                )
            for place in range(2):
                about = {"item_id": f"g{place}", "prompt": f"secret sum {place}", "response": "secret answer"}
                items.append(
                    item(
                        benchmark="drirl_gsm8k",
                        metric="accuracy",
                        kind="task",
                        value=None if place and number else 1.0,
                        **about,
                        **shared,
                    )
                )
        found[method] = items
    return found


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of outputs with hostile texts."""
    out = tmp_path_factory.mktemp("hostile")
    for model in ("tiny-llama", "tiny-qwen2"):
        for method, items in cells(model).items():
            write_cell(out, model, method, items)
            # half a surrogate pair: JSON can hold it, UTF-8 cannot
            path = out / "evaluate" / model / method / "items.jsonl"
            path.write_text(path.read_text(encoding="utf-8").replace("HALF", "\\ud800"), encoding="utf-8")
    return out


@pytest.fixture(scope="session")
def make_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes the page of a folder of outputs; keywords go to ``compare``."""

    def make(out: Path, meaningful: bool = True, **options: object) -> Path:
        params = load_params(ROOT / "profiles" / "tiny.yaml")
        reports = tmp_path_factory.mktemp("page")
        looks = reports / "none.yaml"
        compare = params.compare.model_copy(
            update={"bootstrap": 100, "published": ROOT / "reports" / "published.csv", "test_looks": looks}
        )
        changed = params.run.model_copy(
            update={"out": out, "methods": [*METHODS, "ppo"], "meaningful": meaningful}
        )
        params = params.model_copy(update={"run": changed, "compare": compare})
        run(params, formats=["html"], output=reports, **options)  # type: ignore[arg-type]
        return reports / "index.html"

    return make


@pytest.fixture(scope="session")
def page(hostile: Path, make_page: Callable[..., Path]) -> Path:
    """The page of the hostile records."""
    return make_page(hostile)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; they are skipped without one."""
    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with Browser(program) as found:
        yield found
