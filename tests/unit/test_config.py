"""Typed settings: the first mistake is one line that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl.config import load_params, project_root, validate
from drirl.errors import DrirlError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "profiles" / "tiny.yaml").read_text())


def test_the_default_profile_is_typed(values: dict[str, Any]) -> None:
    params = validate(values)
    assert params.run.seeds == [0, 1, 2]
    assert params.run.out == Path("out")
    assert params.align.shared.group_size == values["align"]["shared"]["group_size"]


def test_settings_cannot_be_changed_afterwards(values: dict[str, Any]) -> None:
    params = validate(values)
    with pytest.raises(ValueError, match="frozen"):
        params.run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("run", "sede"), 1, "params.yaml: unknown key 'run.sede'; known: .*did you mean 'seed'"),
        (("rewards",), {}, "unknown key 'rewards'; known: align, .*did you mean 'reward'"),
        (("reward", "policy", "stepps"), 1, "unknown key 'reward.policy.stepps'; .*did you mean 'steps'"),
        (
            ("base", "models", "tiny-llama", "train", "layer"),
            1,
            "unknown key 'base.models.tiny-llama.train.layer'; .*did you mean 'layers'",
        ),
        (("run", "seeds"), ["a"], "run.seeds.0: Input should be a valid integer, .*found 'a'"),
        (("run", "device"), "tpu", "run.device: Input should be 'auto', 'cpu' or 'cuda', found 'tpu'"),
        (
            ("align", "shared", "group_size"),
            1,
            "align.shared.group_size: .*greater than or equal to 2, found 1",
        ),
        (("run", "models"), ["tiny-lama"], "unknown model 'tiny-lama'; .*did you mean 'tiny-llama'"),
        (
            ("run", "methods"),
            ["dr-irl"],
            "'dr-irl' has no section under align.methods; .*did you mean 'dr_irl'",
        ),
    ],
)
def test_one_line_names_the_key(
    values: dict[str, Any], path: tuple[str, ...], value: Any, expected: str
) -> None:
    section = values
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    with pytest.raises(DrirlError, match=expected) as caught:
        validate(values)
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named(values: dict[str, Any]) -> None:
    del values["reward"]
    with pytest.raises(DrirlError, match=r"params.yaml: 'reward' is missing"):
        validate(values)


def test_malformed_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("run:\n  seeds: [0\nbase: {}\n")
    with pytest.raises(DrirlError, match=r"params\.yaml:\d: not valid YAML"):
        load_params(path)
    path.write_text("- 1\n")
    with pytest.raises(DrirlError, match="expected a mapping"):
        load_params(path)
    with pytest.raises(DrirlError, match="no such file"):
        load_params(tmp_path / "other.yaml")


def test_environment_variables_are_expanded(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["data"]["root"] = "${DRIRL_DATA}/x"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setenv("DRIRL_DATA", "/somewhere")
    assert load_params(path).data.root == "/somewhere/x"


def test_project_root_is_found_from_below(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert project_root(tmp_path / "a" / "b") == tmp_path
