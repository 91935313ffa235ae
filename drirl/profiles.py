"""Profiles: complete sets of values in ``profiles/``, written out as ``params.yaml``.

``profiles/tiny.yaml`` is complete and commented. Every other profile is an overlay: ``inherits: <name>`` and
the values that differ, merged key by key, so that comments survive. A mapping tagged ``!replace`` takes the
place of the inherited one instead of being merged with it. Lists are always replaced.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.tag import Tag

from drirl.errors import DrirlError, nearest
from drirl.records import atomic_write

__all__ = [
    "describe",
    "describe_params",
    "differences",
    "identify",
    "known_profiles",
    "render",
    "use_profile",
    "values_of",
]

_REPLACE = "!replace"
_HEADER = (
    "# Written by `drirl profile use {name}` from profiles/{name}.yaml; see that folder for the others.\n"
)


def known_profiles(root: Path) -> list[str]:
    """Return the names of the profiles in ``root/profiles``, sorted."""
    return sorted(path.stem for path in (Path(root) / "profiles").glob("*.yaml"))


def render(name: str, root: Path) -> str:
    """Return the text of ``params.yaml`` for a profile.

    Raises:
        DrirlError: unknown profile, invalid YAML (with its line), or profiles that inherit in a circle.
    """
    path, overlay = _read(name, root)
    if "inherits" not in overlay:
        return path.read_text(encoding="utf-8")
    buffer = io.StringIO()
    _yaml().dump(_resolve(name, root, ()), buffer)
    return _HEADER.format(name=name) + buffer.getvalue()


def values_of(name: str, root: Path) -> dict[str, Any]:
    """Return the plain values of a profile, inherited ones included."""
    return dict(YAML(typ="safe", pure=True).load(render(name, root)) or {})


def identify(root: Path) -> str | None:
    """Return the profile whose text ``root/params.yaml`` is, or None if it was edited or is missing."""
    path = Path(root) / "params.yaml"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    for name in known_profiles(root):
        if render(name, root) == text:
            return name
    return None


def describe(name: str, root: Path) -> str:
    """Return the first comment line of a profile's file."""
    first = (Path(root) / "profiles" / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def describe_params(root: Path) -> str:
    """Say which profile ``root/params.yaml`` holds, or list what was changed in it."""
    path = Path(root) / "params.yaml"
    if not path.is_file():
        return "there is no params.yaml; write one with 'drirl profile use tiny'"
    current = identify(root)
    if current is not None:
        return f"params.yaml holds the profile '{current}' unchanged"
    values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    name = str((values.get("run") or {}).get("profile"))
    if name not in known_profiles(root):
        return f"params.yaml names the profile '{name}', which is not in profiles/"
    changes = differences(values_of(name, root), values)
    lines = [f"  {key}: {before!r} -> {after!r}" for key, before, after in changes]
    return "\n".join(
        [f"params.yaml is the profile '{name}' with these changes:", *(lines or ["  comments only"])]
    )


def use_profile(name: str, root: Path, *, force: bool = False) -> Path:
    """Write ``root/params.yaml`` from a profile, atomically.

    Args:
        force: overwrite an edited params.yaml too; it is kept as params.yaml.bak.
    Raises:
        DrirlError: unknown profile, or params.yaml holds edits that would be lost.
    """
    text = render(name, root)
    path = Path(root) / "params.yaml"
    if path.is_file() and identify(root) is None:
        if not force:
            raise DrirlError(
                f"{path.name} was edited and equals no profile, its values would be lost; add --force to "
                f"overwrite it (the old one is kept as {path.name}.bak)"
            )
        with atomic_write(path.with_name(path.name + ".bak")) as backup:
            backup.write_bytes(path.read_bytes())
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def differences(left: Any, right: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """List ``(dotted key, left value, right value)`` where two mappings differ; a missing value is None."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in sorted({*left, *right}, key=str):
            found += differences(left.get(key), right.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return [] if left == right else [(prefix, left, right)]


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 200
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _read(name: str, root: Path) -> tuple[Path, CommentedMap]:
    path = Path(root) / "profiles" / f"{name}.yaml"
    if name not in known_profiles(root):
        raise DrirlError(f"unknown profile '{name}'; {nearest(name, known_profiles(root))}")
    try:
        value = _yaml().load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DrirlError(f"{path}{line}: not valid YAML: {error.problem}") from None
    if not isinstance(value, CommentedMap):
        raise DrirlError(f"{path}: expected a mapping of sections")
    return path, value


def _resolve(name: str, root: Path, seen: tuple[str, ...]) -> CommentedMap:
    if name in seen:
        raise DrirlError(f"profiles inherit in a circle: {' -> '.join([*seen, name])}")
    _, overlay = _read(name, root)
    parent = overlay.pop("inherits", None)
    if parent is None:
        return overlay
    return _merge(_resolve(str(parent), root, (*seen, name)), overlay)


def _merge(base: CommentedMap, overlay: CommentedMap) -> CommentedMap:
    for key, value in overlay.items():
        if isinstance(value, CommentedMap) and value.tag.value == _REPLACE:
            delattr(value, Tag.attrib)
            base[key] = value
        elif isinstance(value, CommentedMap) and isinstance(base.get(key), CommentedMap):
            _merge(base[key], value)
        else:
            base[key] = value
    return base
