"""The real encoder, loaded once per session."""

from __future__ import annotations

import pytest

from drirl.data.settings import EncoderSettings
from drirl.hardness.encoder import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(EncoderSettings())
