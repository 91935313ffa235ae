"""CLIP's text tower as the encoder: a window of 77 tokens, and what is longer is said to be cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from drirl.data.settings import EncoderSettings
from drirl.hardness.encoder import Encoder, load_encoder
from drirl.hardness.settings import HardnessSettings
from drirl.hardness.state import Hardness

WINDOW = 77
FITS, LONG = "a" * (WINDOW - 2), "a" * (WINDOW - 1)  # a token a letter, and one each for start and end
TEXTS = ["I can't help.", "Hello there", "", FITS, LONG]


def save_parts(folder: Path) -> dict[str, int]:
    """Put a byte tokenizer of CLIP's kind into ``folder``; return what both towers' configs share."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    units = sorted(ByteLevel.alphabet())
    entries = [*units, *(f"{unit}</w>" for unit in units), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({entry: i for i, entry in enumerate(entries)}, [], model_max_length=WINDOW)
    tokenizer.save_pretrained(folder)
    return {
        "vocab_size": len(entries),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 8,
        "max_position_embeddings": WINDOW,
        "bos_token_id": len(entries) - 2,
        "eos_token_id": len(entries) - 1,
        "pad_token_id": len(entries) - 1,
    }


def whole_clip(folder: Path) -> None:
    """A random CLIP of both towers, as it lies on a hub: no file of sentence-transformers."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    text = save_parts(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 8, "patch_size": 4, "projection_dim": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


def text_tower(folder: Path) -> None:
    """A random text tower alone, saved by sentence-transformers with the pooling of its end token."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import CLIPTextConfig, CLIPTextModel

    parts = folder.parent / "parts"
    parts.mkdir()
    torch.manual_seed(0)
    CLIPTextModel(CLIPTextConfig(**save_parts(parts))).save_pretrained(parts)
    pooling = Pooling(16, pooling_mode="lasttoken")
    SentenceTransformer(modules=[Transformer(str(parts)), pooling], device="cpu").save(str(folder))


def projected(folder: Path, text: str) -> np.ndarray:
    """Return CLIP's text features of ``text``, straight from transformers."""
    from transformers import CLIPModel, CLIPTokenizer

    inputs = CLIPTokenizer.from_pretrained(folder)([text], truncation=True, return_tensors="pt")
    with torch.no_grad():
        return CLIPModel.from_pretrained(folder).get_text_features(**inputs).pooler_output[0].numpy()


def pooled(folder: Path, text: str) -> np.ndarray:
    """Return the text tower's state of the end token, before CLIP's projection."""
    from transformers import CLIPTextModel, CLIPTokenizer

    inputs = CLIPTokenizer.from_pretrained(folder)([text], truncation=True, return_tensors="pt")
    with torch.no_grad():
        return CLIPTextModel.from_pretrained(folder)(**inputs).pooler_output[0].numpy()


FORMS = [(whole_clip, projected, 8), (text_tower, pooled, 16)]


@pytest.mark.parametrize(("make", "expected", "dimension"), FORMS, ids=["whole", "tower"])
def test_clip_is_an_encoder(
    make: Callable[[Path], None],
    expected: Callable[[Path, str], np.ndarray],
    dimension: int,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    make(folder)
    encoder = load_encoder(EncoderSettings(path=str(folder)), tmp_path / "cache")
    assert (encoder.window, encoder.dimension) == (WINDOW, dimension)
    vectors = encoder.encode(TEXTS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        wanted = expected(folder, text)
        assert np.allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert vectors[4].tobytes() == encoder.encode([f"{LONG}b"])[0].tobytes()  # the end is not read
    assert [encoder.was_cut(text) for text in TEXTS] == [False, False, False, False, True]
    again = load_encoder(EncoderSettings(path=str(folder)), tmp_path / "cache")
    again._compute = None  # type: ignore[assignment,method-assign]  # all comes from the cache
    assert again.encode(TEXTS).tobytes() == vectors.tobytes()
    assert again.was_cut(LONG)
    flagged(encoder)


def flagged(encoder: Encoder) -> None:
    """A demonstration with a piece that the window cuts is flagged, one of many short pieces is not."""
    words = "no harm is done here "  # 17 letters: a token each
    demos = [f"{words * 5}.", f"{words}. " * 6, None]
    replies = [[f"{words}.", "Some other words."]] * 3
    batch = Hardness(HardnessSettings(), encoder)([2, 2, 2], replies, demos, torch.zeros(3, 2))
    assert batch.cut.tolist() == [True, False, False]
    assert batch.delta[1, 0].item() == 0.0
    assert 0 < batch.delta[1, 1].item() <= 2
