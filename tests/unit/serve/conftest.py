"""The real encoder, and category rewards with random heads on the tiny policy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from drirl.data.settings import EncoderSettings
from drirl.hardness.encoder import Encoder, load_encoder

sys.path.insert(0, str(Path(__file__).parent))

from serve_world import TRAIN


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(EncoderSettings())


@pytest.fixture(scope="session")
def labelled() -> tuple[list[str], list[int]]:
    """Nine prompts of three categories."""
    return [t for texts in TRAIN.values() for t in texts], [c for c, texts in TRAIN.items() for _ in texts]


@pytest.fixture(scope="session")
def rewards(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a reward bank whose heads are random: every category likes something else."""
    import torch

    from drirl.reward.bank import RewardBank

    bank = RewardBank.from_policy(tiny_policy, [-1, 0, 1, 2, 3, 4, 5, 6])
    torch.manual_seed(3)
    torch.nn.init.normal_(bank.head.weight)
    torch.nn.init.normal_(bank.head.bias)
    path = tmp_path_factory.mktemp("rewards") / "irl"
    bank.save(path)
    return path
