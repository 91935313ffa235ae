"""What is declared: data and reward variants, arms, experiments, claims; and what each resolves to.

An arm is a named overlay of params.yaml on a method: ``experiments/arms.yaml``. An experiment names the arms
it compares and what decides its answer: ``experiments/experiments.yaml``. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from drirl.config import Params, validate
from drirl.errors import DrirlError, nearest
from drirl.settings import Section

__all__ = [
    "Arm",
    "Contrast",
    "DataVariant",
    "Experiment",
    "Grid",
    "Plan",
    "Resolved",
    "RewardVariant",
    "load_plan",
]

FOLDER = "experiments"
ARMS = f"{FOLDER}/arms.yaml"
EXPERIMENTS = f"{FOLDER}/experiments.yaml"
_METRICS = ("refusal_disguised", "refusal", "false_refusal", "false_refusal_contrast", "help")


class DataVariant(Section):
    """A change of the training prompts; validation and test prompts stay as they are."""

    make: Literal["imbalanced", "leave_out", "label_noise"]
    category: int | None = Field(None, ge=0, le=6, description="leave_out: the category that is left out")
    share: float | None = Field(
        None, gt=0, le=1, description="label_noise: share of labels drawn anew; imbalanced: share kept"
    )
    why: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.make == "leave_out") != (self.category is not None):
            raise ValueError("'category' is set if, and only if, make is leave_out")
        if (self.make == "leave_out") == (self.share is not None):
            raise ValueError("'share' is set for label_noise and imbalanced, and for them only")
        return self


class RewardVariant(Section):
    """Rewards learnt with other settings or data; ``make: static`` puts the static reward in their place."""

    make: Literal["learn", "static"] = "learn"
    data: str | None = Field(None, description="name of a data variant; null: the headline's data")
    set: dict[str, Any] = Field({}, description="dotted keys of params.yaml and their values")
    together: str = Field("", description="variants with the same word are learnt side by side")
    why: str = ""


class Arm(Section):
    """A method with other settings, rewards or data than the headline replication.

    ``make`` says what is done. ``train``: train and score, as the headline does. ``route``: the same, but the
    reward comes from a classifier of the prompt, not from its label. ``rescore``: score the policies of
    another arm with other settings. ``rerank``: sample ``n`` replies of them and keep the best one.
    ``attack``: search for prompts on their weights (``drirl attack``).
    """

    make: Literal["train", "route", "rescore", "rerank", "attack"] = "train"
    method: str = Field("", description="train and route: file name in baselines/")
    of: str = Field("", description="the other kinds: arm or method whose policies are used")
    mode: Literal["hard", "soft", "worst"] | None = Field(None, description="route: how rewards are joined")
    harm_known: bool = Field(
        False, description="route: whether a prompt is harmful is known, its category is not"
    )
    n: int | None = Field(None, ge=1, description="rerank: replies per prompt")
    set: dict[str, Any] = Field({}, description="dotted keys of params.yaml and their values")
    rewards: str | None = Field(None, description="name of a reward variant; null: the headline's rewards")
    data: str | None = Field(None, description="name of a data variant; null: the headline's data")
    why: str = ""

    @model_validator(mode="after")
    def _parts(self) -> Self:
        own = self.make in ("train", "route")
        if bool(self.method) != own or bool(self.of) == own:
            raise ValueError("train and route name a 'method', the other kinds an arm with 'of'")
        if (self.make == "route") != (self.mode is not None):
            raise ValueError("'mode' is set if, and only if, make is route")
        if (self.make == "rerank") != (self.n is not None):
            raise ValueError("'n' is set if, and only if, make is rerank")
        if self.make != "train" and (self.rewards is not None or self.data is not None):
            raise ValueError(f"'{self.make}' works on the rewards and data that are there")
        return self


class Grid(Section):
    """The same grid of settings for every method, scored on the validation split (question 14).

    ``methods``: dotted keys of params.yaml and the values tried; the cells are all their combinations.
    """

    seed: int = Field(0, ge=0, description="the one seed each cell is trained with")
    max_degenerate: float = Field(0.03, ge=0, le=1, description="cells above it are not chosen")
    methods: dict[str, dict[str, list[float]]]


class Contrast(Section):
    """One paired difference ``of - against`` that takes part in the answer.

    ``expect``: what "yes" needs of the difference. ``higher``/``lower``: an interval on that side of zero;
    ``not_worse``: worse by less than the margin; ``differs``: an interval that excludes zero.
    """

    of: str
    against: str
    metric: str
    expect: Literal["higher", "lower", "not_worse", "differs"]


class Experiment(Section):
    """A table or figure of the paper, or a question of its reviewers."""

    title: str
    question: str
    models: Literal["all", "first", "smallest"] = "all"
    arms: dict[str, str] = Field({}, description="label in the tables -> arm or method")
    metrics: list[str] = Field(list(_METRICS), description="measures of the table, in its order")
    contrasts: list[Contrast] = Field([], description="differences that decide the answer")
    rule: Literal["all", "any"] = Field("all", description="yes needs all contrasts, or any of them")
    margin: float = Field(0.02, gt=0, description="smallest difference that matters")
    if_yes: str = Field("yes", description="the answer in words when the contrasts come out as expected")
    if_no: str = Field("no", description="the answer in words when they do not")
    extra: list[str] = Field([], description="further sections, functions of drirl/experiments/extras")
    reads: list[str] = Field([], description="folders under run.out that a section reads besides records")
    needs: str = Field("", description="what the code base lacks; empty: nothing")
    limits: list[str] = Field([], description="what the answer does not cover")

    @model_validator(mode="after")
    def _labels(self) -> Self:
        for contrast in self.contrasts:
            for label in (contrast.of, contrast.against):
                if label not in self.arms:
                    raise ValueError(f"contrast names '{label}'; {nearest(label, self.arms)}")
        return self


class _Arms(Section):
    data: dict[str, DataVariant] = Field({})
    rewards: dict[str, RewardVariant] = Field({})
    arms: dict[str, Arm] = Field({})
    grid: Grid | None = None


class _Experiments(Section):
    experiments: dict[str, Experiment]


@dataclass(frozen=True)
class Resolved:
    """An arm as it will run.

    Attributes:
        name: of the arm, or of the method for a headline cell.
        method: file name in ``baselines/``.
        params: the headline's params with the overlay, ``run.out`` being the arm's own folder.
        headline: it is a cell of the headline replication: nothing of its own is run.
        out: folder that holds ``align/`` and ``evaluate/``.
    """

    name: str
    method: str
    params: Params
    headline: bool
    out: Path


@dataclass(frozen=True)
class Plan:
    """Everything declared, on top of one set of params."""

    root: Path
    params: Params
    data: Mapping[str, DataVariant]
    rewards: Mapping[str, RewardVariant]
    arms: Mapping[str, Arm]
    experiments: Mapping[str, Experiment]
    grid: Grid | None = None

    @property
    def out(self) -> Path:
        """Folder of the arms."""
        return self.params.run.out / "arms"

    def experiment(self, name: str) -> Experiment:
        """Return an experiment.

        Raises:
            DrirlError: unknown; the known ones and the nearest are listed.
        """
        if name not in self.experiments:
            raise DrirlError(f"unknown experiment '{name}'; {nearest(name, self.experiments)}")
        return self.experiments[name]

    def arm(self, name: str) -> Arm:
        """Return an arm; the name of a method with a section in params.yaml is an arm without changes.

        Raises:
            DrirlError: unknown; the known ones and the nearest are listed.
        """
        if name in self.arms:
            return self.arms[name]
        if name in self.params.align.methods:
            return Arm(method=name)
        if name in PAPER_METHODS:
            raise DrirlError(f"needs baselines/{name}.py and a section align.methods.{name}")
        raise DrirlError(f"unknown arm '{name}'; {nearest(name, {*self.arms, *self.params.align.methods})}")

    def resolve(self, name: str) -> Resolved:
        """Return what an arm runs as.

        Raises:
            DrirlError: unknown arm, method, variant or key, or a value its section refuses.
        """
        from drirl.align.interface import find_method, parse_config

        arm = self.arm(name)
        where = f"{ARMS}: arms.{name}"
        if arm.of:
            return self._on_top(name, arm, where)
        method = find_method(arm.method, self.root / "baselines")
        if arm.method not in self.params.align.methods:
            raise DrirlError(
                f"{where}: params.yaml has no section align.methods.{arm.method}; "
                f"{nearest(arm.method, self.params.align.methods)}"
            )
        values = overlay(self.params, arm.set, where)
        changed = values.align.methods[arm.method]
        parse_config(method, changed, where)
        if arm.data is not None:
            self.data_variant(arm.data)
        if arm.rewards is not None:
            self.reward_params(arm.rewards)
        same = values == self.params and arm == Arm(method=arm.method)
        headline = same and arm.method in self.params.run.methods
        out = self.params.run.out if headline else self.out / name
        if not headline:
            values = values.model_copy(
                update={
                    "run": values.run.model_copy(update={"out": out, "methods": [arm.method]}),
                    # The rewards differ between arms, so scores by them would not compare.
                    "evaluate": values.evaluate.model_copy(update={"mean_reward": False}),
                }
            )
        return Resolved(name, arm.method, values, headline, out)

    def _on_top(self, name: str, arm: Arm, where: str) -> Resolved:
        """Return what an arm on another arm's policies runs as."""
        if self.arm(arm.of).of:
            raise DrirlError(f"{where}: 'of' names an arm that trains nothing itself")
        source = self.resolve(arm.of)
        values = overlay(self.params, {**self.arm(arm.of).set, **arm.set}, where)
        values = values.model_copy(
            update={
                "run": values.run.model_copy(update={"out": self.out / name, "methods": [source.method]}),
                "evaluate": values.evaluate.model_copy(update={"mean_reward": False}),
            }
        )
        return Resolved(name, source.method, values, False, self.out / name)

    def data_variant(self, name: str) -> DataVariant:
        """Return a data variant, or raise a DrirlError that lists the known ones."""
        if name not in self.data:
            raise DrirlError(f"{ARMS}: unknown data variant '{name}'; {nearest(name, self.data)}")
        return self.data[name]

    def reward_variant(self, name: str) -> RewardVariant:
        """Return a reward variant, or raise a DrirlError that lists the known ones."""
        if name not in self.rewards:
            raise DrirlError(f"{ARMS}: unknown reward variant '{name}'; {nearest(name, self.rewards)}")
        return self.rewards[name]

    def reward_params(self, name: str) -> Params:
        """Return the params a reward variant is learnt with, ``run.out`` being its own folder."""
        variant = self.reward_variant(name)
        if variant.data is not None:
            self.data_variant(variant.data)
        values = overlay(self.params, variant.set, f"{ARMS}: rewards.{name}")
        return values.model_copy(update={"run": values.run.model_copy(update={"out": self.reward_out(name)})})

    def data_out(self, name: str | None) -> Path:
        """Return the folder that holds ``data/`` of a variant (None: the headline's)."""
        return self.params.run.out if name is None else self.out / f"data-{name}"

    def reward_out(self, name: str | None) -> Path:
        """Return the folder that holds ``reward/`` of a variant (None: the headline's)."""
        return self.params.run.out if name is None else self.out / f"reward-{name}"

    def problem(self, name: str) -> str:
        """Return why an arm cannot run with this code and these params, or an empty text."""
        try:
            self.resolve(name)
        except DrirlError as error:
            return str(error).removeprefix(f"{ARMS}: ")
        return ""

    def unavailable(self, experiment: Experiment) -> str:
        """Return why an experiment cannot be done at all, or an empty text."""
        if experiment.needs:
            return experiment.needs
        problems = [self.problem(arm) for arm in experiment.arms.values()]
        lost = {label: p for label, p in zip(experiment.arms, problems, strict=True) if p}
        if not experiment.contrasts:
            return next(iter(lost.values())) if lost and len(lost) == len(problems) else ""
        # An experiment that lost one comparison of several still says something, unless it needs them all.
        gaps = [[label for label in (c.of, c.against) if label in lost] for c in experiment.contrasts]
        if any(gaps) and (experiment.rule == "all" or all(gaps)):
            first = next(gap[0] for gap in gaps if gap)
            return f"{first}: {lost[first]}"
        return ""

    def lacking(self, experiment: Experiment) -> list[str]:
        """Return the labels whose arms cannot run with this code."""
        return [label for label, arm in experiment.arms.items() if self.problem(arm)]

    def own_arms(self, names: Iterable[str] | None = None) -> list[str]:
        """Return the arms that experiments (default: all of them) need and run on their own, once each."""
        found: dict[str, None] = {}
        for name in self.experiments if names is None else names:
            for arm in self.experiment(name).arms.values():
                if self.problem(arm):
                    continue
                of = self.arm(arm).of
                for needed in (of, arm) if of else (arm,):
                    if not self.resolve(needed).headline:
                        found[needed] = None
        return list(found)

    def rerank_arms(self, of: str) -> list[str]:
        """Return the arms that rerank the policies of ``of``; they share their samples."""
        used = dict.fromkeys(arm for e in self.experiments.values() for arm in e.arms.values())
        return [a for a in used if a in self.arms and self.arms[a].n is not None and self.arms[a].of == of]

    def models_of(self, experiment: Experiment) -> list[str]:
        """Return the models an experiment is about; ``smallest`` by the size its settings give."""
        known = list(self.params.run.models)
        if experiment.models == "all":
            return known
        return known[:1] if experiment.models == "first" else [min(known, key=self._size)]

    def arm_models(self, arm: str) -> list[str]:
        """Return the models on which some experiment needs an arm, in the order of run.models."""
        wanted: set[str] = set()
        for experiment in self.experiments.values():
            if arm in experiment.arms.values() or any(
                other in self.arms and self.arms[other].of == arm for other in experiment.arms.values()
            ):
                wanted.update(self.models_of(experiment))
        return [model for model in self.params.run.models if model in wanted]

    def pages_of(self, arm: str) -> list[str]:
        """Return the experiments that need an arm, or an arm on top of it, in the order declared."""
        return [
            name
            for name, experiment in self.experiments.items()
            if any(arm in (a, self.arms[a].of if a in self.arms else "") for a in experiment.arms.values())
        ]

    def reward_models(self, variant: str) -> list[str]:
        """Return the models on which some arm needs a reward variant."""
        wanted = {
            m for arm in self.own_arms() if self.arm(arm).rewards == variant for m in self.arm_models(arm)
        }
        return [model for model in self.params.run.models if model in wanted]

    def _size(self, model: str) -> float:
        spec = self.params.base.models[model]
        if spec.train is not None:
            return float(spec.train.layers * spec.train.hidden_size**2)
        import re

        found = re.search(r"(\d+(?:\.\d+)?)\s*[bB]\b", spec.path or "")
        return float(found.group(1)) * 1e9 if found else float("inf")


def load_plan(root: Path, params: Params) -> Plan:
    """Read ``experiments/*.yaml``.

    Raises:
        DrirlError: a file is missing or malformed, a name is used twice, two arms are the same.
    """
    arms = _parse(root / ARMS, ARMS, _Arms)
    experiments = _parse(root / EXPERIMENTS, EXPERIMENTS, _Experiments)
    for name in arms.arms:
        if name in params.align.methods:
            raise DrirlError(f"{ARMS}: arms.{name}: a method has this name; choose another")
    seen: dict[str, str] = {}
    for name, arm in arms.arms.items():
        key = arm.model_dump_json(exclude={"why"})
        if key in seen:
            raise DrirlError(f"{ARMS}: arms.{name} is the same as arms.{seen[key]}; keep one")
        seen[key] = name
    plan = Plan(root, params, arms.data, arms.rewards, arms.arms, experiments.experiments, arms.grid)
    for name, experiment in plan.experiments.items():
        for arm_name in experiment.arms.values():
            if arm_name in plan.arms or (root / "baselines" / f"{arm_name}.py").is_file():
                continue
            if not _declared(arm_name):
                raise DrirlError(
                    f"{EXPERIMENTS}: {name}: unknown arm '{arm_name}'; "
                    f"{nearest(arm_name, {*plan.arms, *params.align.methods})}"
                )
    return plan


PAPER_METHODS = frozenset({"dpo_s", "ppo_s", "sacpo", "self_rewarding", "stair"})
"""Methods of the paper that an experiment may name before their file is in ``baselines/``."""


def _declared(name: str) -> bool:
    return name in PAPER_METHODS


def overlay(params: Params, changes: Mapping[str, Any], where: str) -> Params:
    """Return params with dotted keys replaced, checked again.

    Raises:
        DrirlError: a key that is not in params.yaml (with the nearest), or a value its section refuses.
    """
    if not changes:
        return params
    values = params.model_dump(mode="python")
    for key, value in changes.items():
        *path, last = key.split(".")
        section: Any = values
        for depth, part in enumerate(path):
            if not isinstance(section, dict) or not isinstance(section.get(part), dict):
                known = section if isinstance(section, dict) else {}
                raise DrirlError(
                    f"{where}: no section '{'.'.join(path[: depth + 1])}'; {nearest(part, known)}"
                )
            section = section[part]
        section[last] = value
    return validate(values, where)


def _parse(path: Path, where: str, section: Any) -> Any:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DrirlError(f"{where}: no such file; restore it from the repository") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DrirlError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    try:
        return section.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DrirlError(f"{where}: {key}: {first['msg']}, found {first.get('input')!r}") from None
