"""What the libraries read from the environment, set before any of them is imported.

Kernels are held to AVX2 on processors that have more. A matrix product adds up in another order with AVX-512,
and training from scratch turns the last bit of a sum into another model: two machines would print two tables
from the same ``params.yaml``. A variable that the user has set stays as it is.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drirl.config import Params

__all__ = ["set_environment"]

_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
"""PyTorch's own kernels and MKL's. Costs about a sixth of the time of small matrix products."""


def set_environment(params: Params, *, offline: bool) -> None:
    """Set threads, output folder, kernels and, if ``offline``, that no model hub is asked.

    Args:
        params: ``run.threads`` and ``run.out`` are used.
        offline: nothing named in ``params`` comes from a hub.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(params.run.threads))
    os.environ["DRIRL_OUT"] = str(params.run.out)
    if _has_avx2():
        for name, value in _AVX2.items():
            os.environ.setdefault(name, value)
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # nothing is downloaded


def _has_avx2(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether this is an x86 processor known to have AVX2; unknown (other systems) counts as no."""
    if platform.machine().lower() not in {"x86_64", "amd64"} or not cpuinfo.is_file():
        return False
    flags = [line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    return bool(flags) and all("avx2" in line for line in flags)
