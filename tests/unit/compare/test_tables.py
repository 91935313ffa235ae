"""Numbers as text, untrusted text in Markdown, published values."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl.compare.names import code, escape
from drirl.compare.published import load_published
from drirl.compare.tables import number
from drirl.errors import DrirlError

from .conftest import ROOT

REAL = {"llama": "meta-llama/Llama-3.1-8B-Instruct", "qwen": "Qwen/Qwen2-7B-Instruct", "tiny": ""}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (-1e-9, "0"), (0.5, "0.5"), (1 / 3, "0.333333"), (60.0, "60"), (-0.25, "-0.25")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("tiny_llama", "tiny_llama"),
        ("a | b", "a \\| b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("two\nlines\x00", "two lines"),
        ("**bold** _it_", "\\*\\*bold\\*\\* \\_it\\_"),
        ("[x](y)", "\\[x\\](y)"),
        ("# head", "\\# head"),
        ("&lt; A & B", "&amp;lt; A & B"),
        ("\\|", "\\\\\\|"),
    ],
)
def test_escape(text: str, safe: str) -> None:
    assert escape(text) == safe


def test_code_cannot_be_left() -> None:
    assert code("a`b|c\nd") == "`abc d`"


def test_published_values_need_the_same_model_method_benchmark_and_metric() -> None:
    published = load_published(ROOT / "reports" / "published.csv", REAL)
    found = published.find("llama", "dr_irl", "xstest_unsafe", "refusal_rate")
    assert found is not None
    assert found.value == 0.99
    assert found.source.startswith("Table 1; ")
    gsm8k = published.find("qwen", "dr_irl", "drirl_gsm8k", "exact_match")
    assert gsm8k is not None
    assert gsm8k.value == 0.897
    wildchat = published.find("llama", "dr_irl", "wildchat_toxic", "refusal_rate")
    assert wildchat is not None
    assert wildchat.value == 0.7421
    assert published.find("llama", "dr_irl", "wildchat_toxic", "degenerate_rate") is None
    for part in ("advglue_sst2", "drirl_hhh_honest"):  # published is one accuracy of all parts
        assert published.find("llama", "dr_irl", part, "accuracy") is None
    assert published.find("tiny", "dr_irl", "xstest_unsafe", "refusal_rate") is None
    assert published.find("llama", "dr_irl_constant", "xstest_unsafe", "refusal_rate") is None
    assert published.find("llama", "dr_irl", "xstest_safe", "false_refusal_rate") is None
    assert published.find("llama", "dr_irl", "strongreject", "refusal_rate") is None
    assert published.find("llama", "dr_irl", "xstest_unsafe", "refusal_rate[category=Insult]") is None


def test_published_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    with pytest.raises(DrirlError, match="no such file"):
        load_published(path, REAL)
    head = "table,model,method,benchmark,metric,value,source\n"
    path.write_text("table,model\n")
    with pytest.raises(DrirlError, match=":1: expected the columns"):
        load_published(path, REAL)
    path.write_text(head + "T,m,dpo,gsm8k,accuracy,high,s\n")
    with pytest.raises(DrirlError, match=":2: expected a number, found 'high'"):
        load_published(path, REAL)
    path.write_text(head + "T,m,dpo,gsm8k,accuracy,0.5,s\nT,m,dpo,gsm8k,accuracy,0.6,s\n")
    with pytest.raises(DrirlError, match=":3: a second value"):
        load_published(path, REAL)
