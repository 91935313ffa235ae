"""Hyper-parameters as run, beside those that public sources give."""

from __future__ import annotations

from pathlib import Path

from drirl.compare.names import code, escape
from drirl.experiments.gather import Gathered
from drirl.experiments.page import Fact, Section, markdown_table

__all__ = ["hyper_parameters"]

NOT_FOUND = "not found"
FOUND = {
    "align.shared.beta": "not found; DeepSeekMath's GRPO: 0.04",
    "align.shared.epsilon": "not found; PPO's usual 0.2",
    "align.shared.group_size": NOT_FOUND,
    "align.methods.dr_irl.hardness.gamma": "not found; DAMA's code: 0.9",
    "align.methods.dr_irl.hardness.mask_share": "tau not found; DAMA and beta-DPO keep 80 %",
    "align.methods.dr_irl.hardness.combine": "product (Table 3)",
    "align.methods.dr_irl.hardness.clamp_low": "not found; DAMA's code clamps at 1e-3",
    "align.methods.dr_irl.hardness.splitter": "an LLM (reviews)",
    "align.methods.dr_irl.hardness.direction": "gen_to_demo (public notes: S is the policy's text)",
    "align.methods.dr_irl.hardness.mask": "squared deviation against a fixed tau; tau not found",
    "align.methods.sacpo.beta_helpful": "not found; SACPO's repository: 0.1",
    "align.methods.sacpo.beta_safe": "not found; SACPO's repository: 0.1, 0.05, 0.025 or 0.01",
    "align.methods.self_rewarding.iterations": "not found; Self-Rewarding's paper: 2 to 3",
    "align.methods.stair.rounds": "not found; STAIR: 3",
    "align.methods.stair.iterations": "not found; STAIR: 200",
    "align.methods.stair.children": "not found; STAIR: 4",
    "align.methods.stair.exploration": "not found; STAIR: 1.5",
    "align.methods.stair.temperature": "not found; STAIR: 1.2",
    "align.methods.stair.top_p": "not found; STAIR: 0.9",
    "data.encoder.path": "CLIP text similarity (version 3), a text encoder (version 5); model not named",
    "align.methods.dpo.beta": "not found; DPO's usual 0.1",
    "align.methods.ppo.gae_lambda": "not found; PPO's usual 0.95",
    "reward.sharing": "seven separate models (Table 2)",
    "base.models": "Llama-3.1-8B-Instruct, Qwen-2-7B-Instruct",
}
"""What public sources say of the paper's value; everything else was not found."""

SHOWN = ("data.encoder", "align.shared", "align.methods", "reward")


def hyper_parameters(found: Gathered, target: Path) -> Section:
    """List every setting of rewards and alignment with the paper's value where one is known."""
    params = found.plan.params
    values = params.model_dump(mode="json")
    lines = [
        [
            code("base.models"),
            escape(", ".join(params.run.models)),
            FOUND["base.models"],
        ]
    ]
    for section in SHOWN:
        value = values
        for part in section.split("."):
            value = value[part]
        lines += [
            [code(key), code(str(shown)), escape(FOUND.get(key, NOT_FOUND))]
            for key, shown in _flat(value, section)
        ]
    known = sum(line[2] != NOT_FOUND for line in lines)
    text = "## Settings as run\n\n" + markdown_table(["Setting", "As run", "The paper"], lines)
    return Section(
        text,
        {
            "count": f"{len(lines)} settings are listed; of {known} a public source says something, "
            "the others were not found."
        },
        [Fact(line[2], line[0].strip("`"), "as run", line[1].strip("`")) for line in lines],
    )


def _flat(value: object, prefix: str) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}")]
    return [(prefix, value)]
