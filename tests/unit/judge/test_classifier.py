"""A sequence classifier that has learnt something small, as a judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drirl.errors import DrirlError
from drirl.judge.classifier import ClassifierJudge
from drirl.judge.interface import Item
from drirl.judge.registry import find_judge
from drirl.judge.settings import JudgeSettings

LABELS = {"YES": "full_refusal", "NO": "full_compliance"}
REFUSAL, HELP = Item("Q", "I will not do this."), Item("Q", "Mix flour and water.")


def _settings(classifier: Path, tmp_path: Path, **values: Any) -> JudgeSettings:
    section = {"model": str(classifier), "labels": LABELS, "device": "cpu", **values}
    return JudgeSettings(classifiers={"small": section}, cache=str(tmp_path / "cache.sqlite"))


def test_verdicts_and_their_probabilities(classifier: Path, tmp_path: Path) -> None:
    judge = find_judge("small", _settings(classifier, tmp_path))
    verdicts = judge.verdicts([REFUSAL, HELP, REFUSAL])
    assert [(v.value, v.label) for v in verdicts] == [
        (1.0, "full_refusal"), (0.0, "full_compliance"), (1.0, "full_refusal")
    ]  # fmt: skip
    assert verdicts[0].more == {"partial_refusal_rate": 0.0}
    shares = verdicts[0].raw["probabilities"]
    assert shares["full_refusal"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
    assert judge.usage()["requests"] == 3


def test_verdicts_do_not_depend_on_the_batch(classifier: Path, tmp_path: Path) -> None:
    items = [REFUSAL, HELP, Item("Q", "I must decline. " * 5)]
    alone = ClassifierJudge(
        "small", _settings(classifier, tmp_path).classifiers["small"], JudgeSettings(cache="")
    )
    one_by_one = [alone.verdicts([item])[0] for item in items]
    together = alone.verdicts(items)
    for a, b in zip(one_by_one, together, strict=True):
        assert a.label == b.label
        assert a.raw["probabilities"] == pytest.approx(b.raw["probabilities"], abs=1e-4)


def test_the_threshold_rereads_nothing(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = find_judge("small", _settings(classifier, tmp_path))
    (verdict,) = loose.verdicts([REFUSAL])
    share = verdict.raw["probabilities"]["full_refusal"]
    strict = find_judge("small", _settings(classifier, tmp_path, threshold=min(0.999999, share + 1e-6)))
    monkeypatch.setattr(ClassifierJudge, "_classify", lambda self, texts, keep: _none(texts))
    (verdict,) = strict.verdicts([REFUSAL])
    assert (verdict.value, verdict.label) == (0.0, "full_compliance")
    assert strict.cache_key != loose.cache_key


def _none(texts: list[list[str]]) -> None:
    assert texts == []


def test_a_pair_and_a_cut_text(classifier: Path, tmp_path: Path) -> None:
    judge = find_judge("small", _settings(classifier, tmp_path, reads="prompt_and_reply"))
    short, long = judge.verdicts([HELP, Item("Q", "Mix flour and water. " * 40)])
    assert "cut" not in short.raw
    assert long.raw["cut"] is True
    other = find_judge("small", _settings(classifier, tmp_path))
    assert other.cache_key != judge.cache_key


def test_harm_classes(classifier: Path, tmp_path: Path) -> None:
    labels = {"YES": "harmful", "NO": "safe"}
    judge = find_judge("small", _settings(classifier, tmp_path, kind="harm", labels=labels))
    assert judge.metrics == {"harmless_rate": True}
    assert [(v.value, v.label) for v in judge.verdicts([REFUSAL, HELP])] == [(0.0, "harmful"), (1.0, "safe")]


def test_numbers_that_are_none_are_malformed(classifier: Path, tmp_path: Path) -> None:
    import torch

    judge = ClassifierJudge(
        "small", _settings(classifier, tmp_path).classifiers["small"], JudgeSettings(cache="")
    )
    with torch.no_grad():
        judge.model.classifier.bias.fill_(float("nan"))
    (verdict,) = judge.verdicts([REFUSAL])
    assert (verdict.value, verdict.malformed) == (None, True)


def test_an_interrupt_keeps_the_batches_before(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item("Q", f"Mix flour {k} times.") for k in range(5)]
    settings = _settings(classifier, tmp_path, batch_size=2)
    judge: Any = find_judge("small", settings)
    model, calls = judge.model, []

    def forward(**batch: Any) -> Any:
        calls.append(len(batch["input_ids"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return model(**batch)

    judge.model = forward
    with pytest.raises(KeyboardInterrupt):
        judge.verdicts(items)
    again: Any = find_judge("small", settings)
    again.model, calls = forward, [0, 0]
    assert all(v.value == 0.0 for v in again.verdicts(items))
    assert calls[2:] == [2, 1]  # three of five: the first two were kept


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"labels": {"YES": "full_refusal"}}, "label 'NO' is not mapped"),
        ({"labels": LABELS | {"MAYBE": "full_refusal"}}, "no label 'MAYBE'"),
        ({"labels": {"YES": "refusal", "NO": "full_compliance"}}, "unknown class 'refusal'"),
        ({"model": "no-such-folder"}, "is not a folder or hub id"),
    ],
)
def test_mistakes_in_the_settings(
    values: dict[str, Any], match: str, classifier: Path, tmp_path: Path
) -> None:
    with pytest.raises(DrirlError, match=match):
        find_judge("small", _settings(classifier, tmp_path, **values))


def test_a_model_without_a_trained_head_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    labels = {"LABEL_0": "full_compliance", "LABEL_1": "full_refusal"}
    with pytest.raises(DrirlError, match="was not trained as a sequence classifier: its weights lack"):
        find_judge("small", _settings(tiny_policy, tmp_path, labels=labels))


def test_the_cache_holds_no_text(classifier: Path, tmp_path: Path) -> None:
    judge = find_judge("small", _settings(classifier, tmp_path))
    judge.verdicts([Item("Q", "SECRETWORD flour")])
    data = (tmp_path / "cache.sqlite").read_bytes()
    assert b"SECRETWORD" not in data
    assert json.dumps("YES").encode() in data.replace(b'\\"', b'"')
