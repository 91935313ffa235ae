"""The router: calibrated probabilities, folds by cluster, exact files, retraining when the data change."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from serve_world import VAL, write_prompts

from drirl.data.settings import EncoderSettings
from drirl.errors import DrirlError
from drirl.hardness.encoder import Encoder
from drirl.serve.router import Router, _temperature, train_router


def _two(temperature: float = 2.0) -> Router:
    """Classes -1 and 3 over vectors (x, y): the logits are (0, 2 ln 3 * x)."""
    return Router(
        [-1, 3],
        np.array([[0.0, 0.0], [2 * math.log(3), 0.0]]),
        np.zeros(2),
        temperature,
        lambda texts: np.array([[float(t), 1.0] for t in texts]),
    )


def test_probabilities_are_the_softmax_of_logits_over_the_temperature() -> None:
    """x = 1, T = 2: logits (0, ln 3), so (1/4, 3/4); x = 0: (1/2, 1/2)."""
    router = _two()
    assert router.probabilities(["1", "0"]).tolist() == [
        pytest.approx([0.25, 0.75]),
        pytest.approx([0.5, 0.5]),
    ]
    assert router.categories(["1", "-1", "0"]) == [3, -1, -1]  # of equals the first


def test_temperature_is_the_most_likely_one() -> None:
    """Three of four rows at logits (0, 2 ln 3) are of the second class: softmax must give 3/4, so T = 2."""
    logits = np.tile([0.0, 2 * math.log(3)], (4, 1))
    assert _temperature(logits, np.array([1, 1, 1, 0])) == pytest.approx(2.0, abs=1e-3)


def test_evaluate_by_hand() -> None:
    """Probabilities of class 3: 3/4, 3/4, 1/4; labels 3, -1, 5 (unknown): one right of three."""
    found = _two().evaluate(["1", "1", "-1"], [3, -1, 5])
    assert found["accuracy"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["nll"] == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, abs=1e-4)
    assert found["categories"]["5"] == {"recall": 0.0, "n": 1}
    assert found["reliability"]["ece"] == pytest.approx(0.75 - 1 / 3, abs=1e-4)  # all three are 0.75 sure


def test_learns_meaning_not_words(encoder: Encoder, labelled: tuple[list[str], list[int]]) -> None:
    router = Router.fit(*labelled, encode=encoder.encode, seed=0)
    assert router.classes == [-1, 2, 4]
    texts = [text for own in VAL.values() for text in own]
    assert router.categories(texts) == list(VAL)
    chances = router.probabilities(texts)
    assert chances.sum(1) == pytest.approx(1.0)
    again = Router.fit(*labelled, encode=encoder.encode, seed=0)
    assert np.array_equal(again.probabilities(texts), chances)


def test_two_classes_and_clusters_that_cannot_be_held_out(encoder: Encoder) -> None:
    texts, labels = ["Bake bread.", "Cook soup.", "Rob a bank.", "Steal a car."], [-1, -1, 2, 2]
    router = Router.fit(texts, labels, encode=encoder.encode, clusters=[0, 0, 1, 1])
    assert router.temperature == 1.0
    assert router.categories(texts) == labels
    assert router.weight.shape == (2, encoder.dimension)


def test_save_and_load_are_exact(
    encoder: Encoder, labelled: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    router = Router.fit(*labelled, encode=encoder.encode, seed=1)
    router.save(tmp_path / "r")
    again = Router.load(tmp_path / "r")  # loads the encoder by itself
    texts = ["Is this a crime?", "Good night."]
    assert np.array_equal(again.probabilities(texts), router.probabilities(texts))
    assert again.info == router.info
    with pytest.raises(DrirlError, match="made for vectors of 384 numbers, this encoder gives 2"):
        Router.load(tmp_path / "r", lambda texts: np.zeros((len(texts), 2)))
    (tmp_path / "r" / "router.json").unlink()
    with pytest.raises(DrirlError, match=r"is not a router: router\.json is missing"):
        Router.load(tmp_path / "r")


def test_train_router_keeps_what_fits_the_data(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    settings = EncoderSettings()
    router = train_router(tmp_path, settings, seed=0)
    assert router.info["train_prompts"] == 9
    assert router.info["val"]["n"] == 3
    assert router.classes == [-1, 2, 4]  # the test prompt of category 6 was not read
    folder = tmp_path / "route" / "router"
    before = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
    train_router(tmp_path, settings, seed=0)
    assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == before
    write_prompts(tmp_path, flip=True)
    assert train_router(tmp_path, settings, seed=0).classes == [-1, 2]


def test_mistakes(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match="at least two categories"):
        Router.fit(["a", "b"], [1, 1], encode=encoder.encode)
    with pytest.raises(DrirlError, match="2 prompts, 1 labels, 2 clusters"):
        Router.fit(["a", "b"], [1], encode=encoder.encode)
    with pytest.raises(DrirlError, match=r"prompts\.jsonl: no such file; run the stage"):
        train_router(tmp_path, EncoderSettings(), seed=0)
