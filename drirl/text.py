"""The Chain-of-Draft format: notes, the separator, then the reply that is judged."""

from __future__ import annotations

__all__ = ["SEPARATOR", "split_draft"]

SEPARATOR = "####"


def split_draft(completion: str) -> tuple[str, str]:
    """Split a completion into ``(draft, answer)``.

    The answer is what follows the first separator; a completion without one is all answer. Rewards,
    hardness and judges see the answer only (``input_mode="answer"``).
    """
    draft, separator, answer = completion.partition(SEPARATOR)
    return (draft.strip(), answer.strip()) if separator else ("", completion.strip())
