from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drirl import parallel
from drirl.errors import DrirlError
from drirl.parallel import WorkerError, map_processes

SOURCE = """
import os, time
from drirl.errors import DrirlError

def square(x):
    return x * x, os.environ["OMP_NUM_THREADS"], os.getpid()

def malloc(x):
    return os.environ.get("MALLOC_TRIM_THRESHOLD_")

def mistake(x):
    if x == 2:
        raise DrirlError("item two is wrong")
    time.sleep(60)

def bug(x):
    return 1 // (x - 2)

def killed(x):
    os.kill(os.getpid(), 9)

def mark(item):
    folder, name, seconds = item
    open(os.path.join(folder, name + ".start"), "w").close()
    time.sleep(seconds)
    running = [f for f in os.listdir(folder) if f.endswith(".start")]
    os.remove(os.path.join(folder, name + ".start"))
    return len(running)
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Functions in a module that worker processes can import."""
    (tmp_path / "drirl_parallel_probe.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drirl_parallel_probe", raising=False)
    import importlib

    module = importlib.import_module("drirl_parallel_probe")
    return lambda name: getattr(module, name)


def test_results_in_order_each_in_its_own_process(functions: Callable[[str], Any]) -> None:
    found = map_processes(functions("square"), [3, 1, 2], threads=2)
    assert [value for value, _, _ in found] == [9, 1, 4]
    assert {threads for _, threads, _ in found} == {"2"}
    assert len({pid for _, _, pid in found}) == 3


def test_memory_settings_reach_the_workers(functions: Callable[[str], Any]) -> None:
    expected = os.environ.get("MALLOC_TRIM_THRESHOLD_", parallel._malloc().get("MALLOC_TRIM_THRESHOLD_"))
    assert map_processes(functions("malloc"), [0]) == [expected]


def test_a_c_library_that_refuses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def mallopt(self, what: int, value: int) -> int:
            return 0

    monkeypatch.setattr("ctypes.CDLL", lambda name: Refuses())
    assert parallel._malloc() == {}
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert parallel._malloc() == {}


def test_the_users_own_memory_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_malloc", lambda: dict(parallel._MALLOC))
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    with parallel._environment(3):
        inside = dict(os.environ)
    assert inside["MALLOC_MMAP_THRESHOLD_"] == str(2**30)
    assert (inside["MALLOC_TRIM_THRESHOLD_"], inside["OMP_NUM_THREADS"]) == ("5", "3")
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "5"


def test_nothing_to_do() -> None:
    assert map_processes(abs, []) == []


def test_the_users_mistake_comes_back_and_ends_the_others(functions: Callable[[str], Any]) -> None:
    start = time.perf_counter()
    with pytest.raises(DrirlError, match=r"^item two is wrong$"):
        map_processes(functions("mistake"), [1, 2, 3])
    assert time.perf_counter() - start < 30


def test_a_bug_comes_back_with_its_traceback(functions: Callable[[str], Any]) -> None:
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        map_processes(functions("bug"), [2])


def test_a_killed_worker_is_one_line(functions: Callable[[str], Any]) -> None:
    with pytest.raises(DrirlError, match="signal 9, often out of memory"):
        map_processes(functions("killed"), [1])


def test_workers_limits_what_runs_at_once(functions: Callable[[str], Any], tmp_path: Path) -> None:
    folder = tmp_path / "running"
    folder.mkdir()
    items = [(str(folder), f"i{k}", 0.1) for k in range(4)]
    assert max(map_processes(functions("mark"), items, workers=1)) == 1
