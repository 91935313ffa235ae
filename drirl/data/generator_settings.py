"""Subsection ``data.generator``: the LLM that writes demonstrations and paraphrases, if one does."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from drirl.settings import Section

__all__ = ["GeneratorSettings"]


class GeneratorSettings(Section):
    """A local transformers model or an OpenAI-compatible server, for ``writer`` and ``fill``."""

    kind: Literal["none", "transformers", "server"] = Field(
        "none", description="none, a local transformers model, or an OpenAI-compatible server"
    )
    model: str = Field("", description="transformers: folder or hub id; server: the name it gives the model")
    revision: str | None = Field(None, description="pinned revision of a hub id")
    url: str = Field(
        "http://127.0.0.1:8000/v1", description="server: address that ends before /chat/completions"
    )
    key_env: str = Field(
        "",
        description="server: NAME of the environment variable with the API key, never the key; empty: no key",
    )
    temperature: float = Field(0.8, ge=0, description="sampling temperature; 0 decodes greedily")
    top_p: float = Field(0.95, gt=0, le=1, description="nucleus of the sampling")
    max_tokens: int = Field(512, gt=0, description="longest completion, tokens")
    batch_size: int = Field(16, gt=0, description="transformers: completions decoded at once")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="transformers: where the model runs")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="transformers: number format")
    concurrency: int = Field(4, ge=1, le=256, description="server: requests under way at once, at most")
    requests_per_minute: float | None = Field(
        None, gt=0, description="server: rate limit, retries included; null: none"
    )
    timeout_s: float = Field(120.0, gt=0, description="server: longest silence of the server, seconds")
    retries: int = Field(5, ge=0, description="server: further tries after a failure that may pass")
    backoff_s: float = Field(
        1.0, ge=0, description="server: first wait between tries, seconds; doubles each time"
    )
    max_wait_s: float = Field(60.0, ge=0, description="server: longest wait between tries, seconds")
    extra: dict[str, Any] = Field(
        {}, description="server: further fields of the request body; null leaves a field out"
    )
    price_prompt: float = Field(0.0, ge=0, description="price of a million prompt tokens, for the cost count")
    price_completion: float = Field(0.0, ge=0, description="price of a million completion tokens")
    exemplars: int = Field(
        2, ge=0, le=3, description="hand-written examples shown in the prompt of a demonstration"
    )
    cache: str = Field(
        "out/cache/generations.sqlite", description="file that keeps every reply, for resuming; empty: none"
    )
