"""Section ``judge`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from drirl.data.generator_settings import GeneratorSettings
from drirl.settings import Section

__all__ = ["ChatSettings", "ClassifierSettings", "JudgeSettings"]


class ChatSettings(Section):
    """A chat model that judges: a local transformers model or an OpenAI-compatible server."""

    template: str = Field(
        "refusal3", description="refusal3, strongreject, or the path of a .yaml written like those"
    )
    generator: GeneratorSettings = Field(
        description="as data.generator; its cache, exemplars and temperature are not used"
    )


class ClassifierSettings(Section):
    """A transformers sequence classifier that judges."""

    model: str = Field(description="transformers folder or hub id")
    revision: str | None = Field(None, description="pinned revision of a hub id")
    kind: Literal["refusal", "harm"] = Field("refusal", description="what its classes mean")
    labels: dict[str, str] = Field(
        min_length=1,
        description="class of each of the model's labels; refusal: full_refusal, partial_refusal, "
        "full_compliance; harm: safe, harmful",
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="least probability of full_refusal (harm: of harmful) to say so"
    )
    reads: Literal["reply", "prompt_and_reply"] = Field(
        "reply", description="the reply alone, or the prompt and the reply as a pair of texts"
    )
    max_tokens: PositiveInt = Field(512, description="longer texts are cut; the record says so")
    batch_size: PositiveInt = Field(32, description="texts read at once")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="number format of the weights")


class JudgeSettings(Section):
    """How model judges are asked, and how judges are compared with people's labels."""

    default: str = Field("refusal-rules/1", description="judge of 'drirl judge' when none is named")
    chats: dict[str, ChatSettings] = Field({}, description="chat models that judge, by a name of your own")
    classifiers: dict[str, ClassifierSettings] = Field(
        {}, description="sequence classifiers that judge, by a name of your own"
    )
    retries: int = Field(2, ge=0, description="further tries, with other seeds, after a malformed verdict")
    retry_temperature: float = Field(0.7, ge=0, description="temperature of those; the first try is greedy")
    max_chars: PositiveInt = Field(
        8000, description="a longer prompt or reply is cut before a chat model reads it; the record says so"
    )
    cache: str = Field(
        "out/cache/verdicts.sqlite", description="file that keeps every answer, for resuming; empty: none"
    )
    bootstrap: PositiveInt = Field(2000, description="bootstrap draws of the agreement with people")
    confidence: float = Field(0.95, gt=0, lt=1, description="of its intervals")
    sheet: PositiveInt = Field(100, description="replies in a sheet for labelling by hand")
