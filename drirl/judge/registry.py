"""Judges by name: the rules, and the model judges that params.yaml names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drirl.errors import DrirlError, nearest
from drirl.judge.interface import Judge, Kind
from drirl.judge.rules import RULE_JUDGES, rule_judge
from drirl.judge.settings import JudgeSettings

__all__ = ["Known", "describe", "find_judge", "known_judges", "resolve"]


_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Known:
    """What can be said of a judge without loading a model or asking a server."""

    name: str
    kind: Kind
    metrics: dict[str, bool]
    where: str


def known_judges(settings: JudgeSettings) -> list[str]:
    """Return the names of all judges: rules first, then those of params.yaml."""
    return [*RULE_JUDGES, *settings.chats, *settings.classifiers]


def resolve(name: str, settings: JudgeSettings) -> str:
    """Return the full name of a known judge; a rule may be named without its version.

    Raises:
        DrirlError: unknown name (the nearest is shown), or one name in both tables of params.yaml.
    """
    known = known_judges(settings)
    for double in known:
        if known.count(double) > 1 or (double not in RULE_JUDGES and not _NAME.fullmatch(double)):
            raise DrirlError(
                f"params.yaml: judge: '{double}' is no usable name: give each judge its own, of letters, "
                "digits, '.', '_' and '-'"
            )
    if name in known:
        return name
    versions = [rule for rule in RULE_JUDGES if rule.rpartition("/")[0] == name]
    if len(versions) == 1:
        return versions[0]
    raise DrirlError(f"unknown judge '{name}'; {nearest(name, known)}")


def find_judge(name: str, settings: JudgeSettings) -> Judge:
    """Return the judge of that name, its model loaded.

    Raises:
        DrirlError: as :func:`resolve`, or the judge cannot be opened.
    """
    name = resolve(name, settings)
    if name in settings.chats:
        from drirl.judge.chat import ChatJudge

        return ChatJudge(name, settings.chats[name], settings)
    if name in settings.classifiers:
        from drirl.judge.classifier import ClassifierJudge

        return ClassifierJudge(name, settings.classifiers[name], settings)
    return rule_judge(name)


def describe(settings: JudgeSettings) -> list[Known]:
    """Return what ``drirl judge list`` shows; loads nothing.

    Raises:
        DrirlError: a template of params.yaml is malformed.
    """
    from drirl.judge.templates import load_template

    rows = []
    for name in known_judges(settings):
        if name in settings.chats:
            chat = settings.chats[name]
            template = load_template(chat.template)
            place = (
                f"{chat.generator.kind} {chat.generator.model}, template {template.name}/{template.version}"
            )
            rows.append(Known(name, template.kind, template.metrics, place))
        elif name in settings.classifiers:
            spec = settings.classifiers[name]
            metric = {"refusal": "refusal_rate", "harm": "harmless_rate"}[spec.kind]
            rows.append(Known(name, spec.kind, {metric: True}, f"classifier {spec.model}"))
        else:
            rule = rule_judge(name)
            rows.append(Known(name, rule.kind, rule.metrics, "rules"))
    return rows
