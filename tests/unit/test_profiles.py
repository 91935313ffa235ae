"""Profiles: merging with comments kept, what counts as edited, and the shipped ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl.check import check_params, check_project
from drirl.config import Params
from drirl.errors import DrirlError
from drirl.profiles import describe_params, differences, identify, render, use_profile, values_of
from drirl.settings import Section

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ["paper", "small", "smoke", "tiny", "tiny-real"]

PARENT = """\
# The whole set.
run:
  profile: parent  # its name
  seeds: [0, 1, 2]  # one policy each
base:
  models:
    a: {path: x}
    b: {path: y}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "parent.yaml").write_text(PARENT)
    (tmp_path / "profiles" / "child.yaml").write_text(
        "# A smaller set.\ninherits: parent\nrun: {profile: child, seeds: [7]}\n"
        "base: {models: {b: {path: z}}}\n"
    )
    (tmp_path / "profiles" / "other.yaml").write_text(
        "inherits: child\nbase:\n  models: !replace\n    c:\n      path: w  # the only one\n"
    )
    return tmp_path


def test_merges_key_by_key_and_keeps_comments(project: Path) -> None:
    text = render("child", project)
    assert yaml.safe_load(text) == {
        "run": {"profile": "child", "seeds": [7]},
        "base": {"models": {"a": {"path": "x"}, "b": {"path": "z"}}},
    }
    assert "# its name" in text
    assert "# one policy each" in text
    assert "inherits" not in text


def test_replace_tag_drops_what_was_inherited(project: Path) -> None:
    text = render("other", project)
    assert yaml.safe_load(text)["base"] == {"models": {"c": {"path": "w"}}}
    assert yaml.safe_load(text)["run"] == {"profile": "child", "seeds": [7]}
    assert "!replace" not in text
    assert "# the only one" in text


def test_a_complete_profile_is_written_byte_for_byte(project: Path) -> None:
    assert render("parent", project) == PARENT


def test_use_writes_and_identifies(project: Path) -> None:
    use_profile("child", project)
    assert identify(project) == "child"
    use_profile("parent", project)
    assert identify(project) == "parent"
    assert not (project / "params.yaml.bak").exists()


def test_edited_params_are_kept_unless_forced(project: Path) -> None:
    path = use_profile("parent", project)
    edited = path.read_text().replace("[0, 1, 2]", "[0]")
    path.write_text(edited)
    with pytest.raises(DrirlError, match="was edited"):
        use_profile("child", project)
    assert path.read_text() == edited
    use_profile("child", project, force=True)
    assert identify(project) == "child"
    assert (project / "params.yaml.bak").read_text() == edited


def test_describe_params_lists_each_change(project: Path) -> None:
    path = use_profile("parent", project)
    assert "unchanged" in describe_params(project)
    path.write_text(path.read_text().replace("[0, 1, 2]", "[0]"))
    assert "run.seeds: [0, 1, 2] -> [0]" in describe_params(project)


def test_differences_by_hand() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == [
        ("a.b", 1, 3),
        ("a.c", 2, None),
        ("d", None, 4),
    ]


def test_unknown_profile_names_the_nearest(project: Path) -> None:
    with pytest.raises(
        DrirlError, match=r"unknown profile 'chlid'; known: child, other, parent; did you mean 'child'"
    ):
        render("chlid", project)


def test_circle_and_malformed_yaml_are_one_line_errors(project: Path) -> None:
    (project / "profiles" / "parent.yaml").write_text("inherits: child\n")
    with pytest.raises(DrirlError, match="child -> parent -> child"):
        render("child", project)
    (project / "profiles" / "parent.yaml").write_text("run:\n  seeds: [0, 1\nbase: {}\n")
    with pytest.raises(DrirlError, match=r"parent\.yaml:\d+: not valid YAML"):
        render("child", project)


# -------------------------------------------------------------------------------- the shipped profiles


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_is_valid(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRIRL_DATA", str(tmp_path))
    assert check_project(ROOT, name)[0] == f"profiles/{name}.yaml: valid, profile '{name}'"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "tiny"])
def test_shipped_profiles_keep_their_outputs_apart(name: str) -> None:
    values = values_of(name, ROOT)
    assert values["run"]["out"] == f"out/{name}"
    assert values["compare"]["reports"] == f"reports/{name}"


def test_smoke_is_labelled_as_meaningless() -> None:
    assert values_of("smoke", ROOT)["run"]["meaningful"] is False
    assert values_of("tiny", ROOT)["run"]["meaningful"] is True


def test_committed_params_are_the_default_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "profiles" / "tiny.yaml").read_text()


def _missing(section: type[Section], values: dict[str, Any], where: str) -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        if name not in values:
            found.append(f"{where}{name}")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += _missing(field.annotation, values[name] or {}, f"{where}{name}.")
    return found


def test_default_profile_writes_out_every_value() -> None:
    from drirl.align.interface import find_method

    values = values_of("tiny", ROOT)
    missing = _missing(Params, values, "")
    for name, section in values["align"]["methods"].items():
        config = find_method(name, ROOT / "baselines").config
        missing += _missing(config, section or {}, f"align.methods.{name}.")
    assert missing == []


def test_every_method_file_is_in_the_default_profile() -> None:
    from drirl.align.interface import known_methods

    values = values_of("tiny", ROOT)
    assert sorted(values["align"]["methods"]) == known_methods(ROOT / "baselines")
    assert set(values["run"]["methods"]) <= set(known_methods(ROOT / "baselines"))


def test_shipped_tree_is_enough_to_use_a_profile(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    for name in SHIPPED:
        use_profile(name, tmp_path)
        assert identify(tmp_path) == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"sources": ["do_not_answer"]}},
            "none of data.sources gives prompts of the kind 'contrast'",
        ),
        ({"reward": {"update": "none"}}, "reward.update is none"),
        ({"reward": {"update": "reweight", "samples": 1}}, "one sample has nothing to be weighed against"),
    ],
)
def test_settings_that_cannot_work_together_are_named(changes: dict[str, Any], message: str) -> None:
    values = values_of("tiny", ROOT)
    for section, keys in changes.items():
        values[section].update(keys)
    with pytest.raises(DrirlError, match=message):
        check_params(Params.model_validate(values), ROOT)
