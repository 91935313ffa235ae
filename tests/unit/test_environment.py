"""Kernels are held to AVX2 where the processor has it; what the user has set stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drirl import environment
from drirl.config import load_params, project_root

KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KERNELS, "DRIRL_OUT", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever the code sets
        monkeypatch.delenv(name)


def set_it(*, offline: bool = True) -> None:
    environment.set_environment(load_params(project_root() / "params.yaml"), offline=offline)


@pytest.mark.usefixtures("clean")
def test_kernels_are_avx2_where_there_is_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_has_avx2", lambda: True)
    set_it()
    assert {name: os.environ[name] for name in KERNELS} == KERNELS


@pytest.mark.usefixtures("clean")
def test_other_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_has_avx2", lambda: False)
    set_it()
    assert not set(KERNELS) & set(os.environ)


@pytest.mark.usefixtures("clean")
def test_a_variable_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_has_avx2", lambda: True)
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    set_it(offline=False)
    assert os.environ["MKL_CBWR"] == "AUTO"
    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", "flags\t\t: fpu sse2 avx avx2 fma\nflags\t\t: fpu sse2 avx avx2 fma\n", True),
        ("AMD64", "flags\t\t: fpu avx2\n", True),
        ("x86_64", "flags\t\t: fpu sse2 avx avx2\nflags\t\t: fpu sse2 avx\n", False),
        ("x86_64", "flags\t\t: fpu sse2 avx512f\n", False),
        ("x86_64", "", False),
        ("aarch64", "flags\t\t: avx2\n", False),
    ],
)
def test_what_counts_as_avx2(
    machine: str, text: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    (tmp_path / "cpuinfo").write_text(text)
    assert environment._has_avx2(tmp_path / "cpuinfo") is expected
    assert not environment._has_avx2(tmp_path / "none")
