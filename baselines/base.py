"""The base policy itself, untrained: the reference every other method starts from.

What is compared against it is the effect of alignment. Nothing is optimised; the policy folder of the base
model is copied, and a policy named by hub id is pointed to. Every seed is therefore the same policy.

Equations: none. Paper: the instruction-tuned models of its first table.
Deviations: none.
"""

from __future__ import annotations

from drirl.align.interface import Inputs
from drirl.settings import Section

PAPER = "https://arxiv.org/abs/2503.18991"
USES = ()
PRELOAD = ()


class Config(Section):
    """Section ``align.methods.base``; there is nothing to set."""


def train(inputs: Inputs, config: Config) -> None:
    """Copy the base policy, or point to it."""
    inputs.point()
