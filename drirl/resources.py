"""What a step cost: wall time and peak memory (never hashed), tokens and updates (deterministic)."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl.records import write_json

__all__ = ["Meter"]


@dataclass
class Meter:
    """Counts for one unit of work.

    ``updates`` and ``generated_tokens`` are deterministic and may enter hashed records; seconds and
    bytes go to ``out/cost/<stage>/<name>.json``, which no stage output or hash depends on.
    """

    stage: str
    name: str
    updates: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    started: float = field(default_factory=time.perf_counter)

    def counts(self) -> dict[str, int]:
        """Return the deterministic counts."""
        return {
            "updates": self.updates,
            "generated_tokens": self.generated_tokens,
            "trained_tokens": self.trained_tokens,
        }

    def write(self, out: Path, *, since_cpu_s: float = 0.0, **extra: Any) -> dict[str, Any]:
        """Write counts, wall seconds and peak resident memory (bytes) under ``out/cost``; return them.

        Args:
            since_cpu_s: CPU seconds of this process that belong to other work before.
        """
        usage = resource.getrusage(resource.RUSAGE_SELF)
        value = {
            "stage": self.stage,
            "name": self.name,
            "wall_s": round(time.perf_counter() - self.started, 3),
            "cpu_s": round(usage.ru_utime + usage.ru_stime - since_cpu_s, 3),
            "peak_rss_bytes": usage.ru_maxrss * 1024,
            **self.counts(),
            **extra,
        }
        write_json(Path(out) / "cost" / self.stage / f"{self.name.replace('/', '__')}.json", value)
        return value
