"""The command line: light imports, exit statuses, one-line errors."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drirl import cli
from drirl.errors import DrirlError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone's shape: profiles, baselines, benchmarks, params.yaml; the working directory is inside it."""
    for name in ("profiles", "baselines", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "profiles" / "tiny.yaml", tmp_path / "params.yaml")
    for name in ("DRIRL_OUT", "DRIRL_DEBUG", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _error(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert cli.main(arguments) == status
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("error: ")
    return text


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, drirl.cli\n"
        "heavy = ['torch', 'transformers', 'trl', 'pandas', 'numpy', 'lm_eval', 'dvc', 'matplotlib']\n"
        "sys.exit(' '.join(name for name in heavy if name in sys.modules) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for command in ("stage", "evaluate", "compare", "trace", "profile", "methods", "validate", "summary"):
        assert command in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stge"], "No such command 'stge'"),
        (["stage"], "Missing argument"),
        (
            ["stage", "datta"],
            "unknown stage 'datta'; known: align, base, compare, data, evaluate, reward; did you mean",
        ),
        (["stage", "data", "--model", "x"], "runs once for all models"),
        (["stage", "align"], "give --model and --method"),
        (["stage", "align", "--model", "tiny-lama", "--method", "sft"], "did you mean 'tiny-llama'"),
        (["stage", "align", "--model", "tiny-llama", "--method", "dr_irrl"], "did you mean 'dr_irl'"),
        (["profile", "use", "tinny"], "did you mean 'tiny'"),
        (
            ["evaluate", "--model", "baselines"],
            "'baselines' is not a transformers folder: there is no config.json",
        ),
        (
            ["evaluate", "--model", "out/align/x/policy"],
            "'out/align/x/policy': no such folder, and not a hub id",
        ),
    ],
)
def test_mistakes_on_the_command_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in _error(capsys, *arguments)


def _edit(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert text.count(old) >= 1, f"params.yaml no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  profile: tiny", "  profil: tiny", "unknown key 'run.profil'; known:"),
        ("  seeds: [0, 1, 2]", "  seeds: []", "run.seeds: List should have at least 1 item"),
        ("  models: [tiny-llama,", "  models: [tiny-lama,", "unknown model 'tiny-lama'"),
        ("  methods: [base,", "  methods: [bse,", "'bse' has no section under align.methods"),
        ("    sft:", "    sfft:", "'sft' has no section under align.methods"),
        ("  tasks: [drirl_tiny]", "  tasks: [drirl_tinny]", "no task or group 'drirl_tinny'"),
        ("  subset: {}", "  subset: {drirl_tny: 5}", "evaluate.subset: no task or group 'drirl_tny'"),
        (
            "  subset: {}",
            "  subset: {xstest: 5}",
            "'xstest' is a group; name its tasks instead: xstest_",
        ),
        ("  seeds: [0, 1, 2]", "  seeds: [0, 1, 2", "params.yaml:13: not valid YAML"),
        ('  root: ""', "  root: nowhere", "data.root: no folder 'nowhere'"),
    ],
)
def test_mistakes_in_params_are_named_by_validate(
    project: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, expected: str
) -> None:
    _edit(project, old, new)
    assert expected in _error(capsys, "validate")


def test_a_stage_stops_at_a_mistake_in_the_section_of_a_later_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit(project, "  subset: {}", "  subset: {xstest: 5}")
    assert "evaluate.subset: 'xstest' is a group" in _error(capsys, "stage", "data")
    assert not (project / "out").exists()


def test_a_method_section_is_checked_against_its_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit(project, "    sft:\n", "    sft:\n      learning_rate_typo: 1\n")
    assert "unknown key 'align.methods.sft.learning_rate_typo'" in _error(capsys, "validate")


def test_no_project_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run drirl inside a clone" in _error(capsys, "validate")
    assert "run drirl inside a clone" in _error(capsys, "profile", "list")


def test_validate_and_methods_and_profiles_report(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate"]) == 0
    assert "params.yaml: valid, profile 'tiny'" in capsys.readouterr().out
    assert cli.main(["profile", "list"]) == 0
    assert "* tiny" in capsys.readouterr().out
    assert cli.main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name in ("dr_irl", "grpo", "ppo"):
        assert f"\n{name} " in f"\n{listed}"
    assert listed.count("http") >= 8


def test_a_new_method_file_is_listed_with_nothing_else_edited(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "baselines" / "throwaway.py").write_text(
        '"""One line about it."""\n\nPAPER = "https://x.test/p"\n'
    )
    assert cli.main(["methods"]) == 0
    text = capsys.readouterr().out
    assert "throwaway" in text
    assert "One line about it." in text
    assert "https://x.test/p" in text


def test_a_new_method_file_and_its_section_are_checked_with_nothing_else_edited(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "baselines" / "throwaway.py").write_text(
        '"""One line about it."""\nfrom drirl.settings import Section\nPAPER = "https://x.test/p"\n'
        "class Config(Section):\n    strength: float = 2.0\n"
        "def train(inputs, config):\n    raise NotImplementedError\n"
    )
    _edit(project, "  methods: [base,", "  methods: [throwaway, base,")
    assert "'throwaway' has no section under align.methods" in _error(capsys, "validate")
    _edit(project, "    sft:\n", "    throwaway:\n      strenght: 1.0\n    sft:\n")
    assert "unknown key 'align.methods.throwaway.strenght'" in _error(capsys, "validate")
    _edit(project, "strenght", "strength")
    assert cli.main(["validate"]) == 0
    assert "methods: throwaway, base, " in capsys.readouterr().out
    assert "did you mean 'throwaway'" in _error(
        capsys, "stage", "align", "--model", "tiny-llama", "--method", "throwawy"
    )


def test_malformed_method_file_is_named_with_its_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "baselines" / "broken.py").write_text("x = 1\ndef train(:\n")
    assert "broken.py:2: not valid Python" in _error(capsys, "methods")


# -------------------------------------------------------------------------------- how main() ends


def _run_raising(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> int:
    def raises(**_: object) -> None:
        raise problem

    monkeypatch.setattr(cli, "app", raises)
    return cli.main([])


def test_disk_full_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    problem = OSError(errno.ENOSPC, "No space left on device", "out/x")
    assert _run_raising(monkeypatch, problem) == 2
    assert capsys.readouterr().err == "error: the disk is full: cannot write out/x; free some space\n"
    monkeypatch.setenv("DRIRL_OUT", "out/x")
    compiled = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert _run_raising(monkeypatch, compiled) == 2
    assert capsys.readouterr().err == "error: the disk is full: cannot write below out/x; free some space\n"


def test_a_model_folder_without_a_config_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "models").mkdir()
    text = (project / "params.yaml").read_text()
    start, end = text.index("      train:\n"), text.index("    tiny-qwen2:\n      path")
    text = text[:start] + "      train: null\n" + text[end:]
    (project / "params.yaml").write_text(text.replace("path: null", "path: ./models", 1))
    assert "tiny-llama.path: ./models is not a transformers folder" in _error(capsys, "validate")


def test_other_exceptions_are_bugs_and_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="denied"):
        _run_raising(monkeypatch, OSError(errno.EACCES, "denied"))


def test_error_text_is_folded_into_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_raising(monkeypatch, DrirlError("first\n  second")) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_debug_shows_the_traceback(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--debug", "profile", "use", "tinny"]) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("did you mean 'tiny'?\n")


def test_interrupt_ends_with_130(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drirl.check.check_project", interrupted)
    assert "interrupted" in _error(capsys, "validate", status=130)


def test_stage_sets_what_libraries_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    params = cli._params()
    assert params.run.profile == "tiny"
    assert os.environ["DRIRL_OUT"] == "out"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_hub_models_leave_the_network_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("DRIRL_DATA", str(project))
    assert cli.main(["profile", "use", "small"]) == 0
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    cli._params()
    assert "HF_HUB_OFFLINE" not in os.environ
