"""A safety classifier that replies have to pass: any transformers sequence classifier (paper section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drirl.errors import DrirlError, nearest

if TYPE_CHECKING:
    from drirl.data.settings import ClassifierSettings

__all__ = ["SafetyClassifier"]

_BATCH = 16


class SafetyClassifier:
    """Reads (prompt, reply) pairs and says which replies are safe; one thread, full precision."""

    def __init__(self, settings: ClassifierSettings) -> None:
        """Load the classifier.

        Raises:
            DrirlError: it cannot be loaded, or none of its labels is in ``settings.safe``.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        where = "data.demos.classifier"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(settings.path, revision=settings.revision)
            self.model = AutoModelForSequenceClassification.from_pretrained(
                settings.path, revision=settings.revision, use_safetensors=True
            ).eval()
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise DrirlError(f"{where}.path: '{settings.path}' is no sequence classifier: {reason}") from None
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        labels = {index: str(label) for index, label in self.model.config.id2label.items()}
        unknown = [name for name in settings.safe if name not in labels.values()]
        if unknown or not settings.safe:
            raise DrirlError(f"{where}.safe: {nearest(unknown[0] if unknown else '', labels.values())}")
        self.safe_ids = [index for index, label in labels.items() if label in settings.safe]
        self.threshold = settings.threshold

    def safe(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return for each (prompt, reply) whether the safe labels together reach the threshold."""
        import torch

        found: list[bool] = []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                for start in range(0, len(pairs), _BATCH):
                    part = pairs[start : start + _BATCH]
                    inputs = self.tokenizer(
                        [prompt for prompt, _ in part],
                        [reply for _, reply in part],
                        padding=True,
                        truncation=True,
                        return_tensors="pt",
                    )
                    chances = self.model(**inputs).logits.float().softmax(-1)  # (<=16, labels)
                    found += (chances[:, self.safe_ids].sum(-1) >= self.threshold).tolist()
        finally:
            torch.set_num_threads(threads)
        return found
