"""The command ``drirl attack``; heavy imports wait for the call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drirl.errors import DrirlError, nearest

__all__ = ["ATTACKS", "attack"]

ATTACKS = ("gcg", "autodan")


def attack(
    model: Annotated[str, typer.Option(help="Name under base.models.")],
    method: Annotated[str, typer.Option(help="Method under out/align, or base; with --policy: any name.")],
    attack: Annotated[
        str | None, typer.Option(help="gcg or autodan; default: attack.attacks. Needs --output.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Folder of another policy, recorded as seed 0. Needs --output.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the records; default: out/attack/MODEL/METHOD.")
    ] = None,
) -> None:
    """Attack the policies of a cell with their weights known (GCG, AutoDAN); prints rates, no attack text."""
    from drirl.attack.stage import TEXTS, attack_cell
    from drirl.cli import _params

    if attack is not None and attack not in ATTACKS:
        raise DrirlError(f"--attack: unknown attack '{attack}'; {nearest(attack, ATTACKS)}")
    if output is None and (attack is not None or policy is not None):
        raise DrirlError(
            "--attack and --policy give records of a part: say with --output where they go, so that they do "
            "not take the place of a whole cell's"
        )
    where = output.resolve() if output else None
    folder = policy.resolve() if policy else None
    params = _params()
    if model not in params.base.models:
        raise DrirlError(f"unknown model '{model}' in base.models; {nearest(model, params.base.models)}")
    summary = attack_cell(
        params,
        model,
        method,
        attacks=[attack] if attack else None,
        policies={0: folder} if folder else None,
        output=where,
        texts=params.run.out / TEXTS / "-".join(where.parts[1:]) if where else None,
    )
    for name, found in summary.items():
        curve = found["success_by_step"]
        typer.echo(
            f"{name}: {curve[-1]:.1%} of {found['prompts']} prompts succeed within {len(curve) - 1} steps "
            f"({curve[0]:.1%} without an attack), {found['seeds']} seed(s), "
            f"{found['forward_passes']} forward passes"
        )
    typer.echo(f"records are in {where or params.run.out / 'attack' / model / method}")
