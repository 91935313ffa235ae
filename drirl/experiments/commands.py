"""``drirl experiments ...``: thin commands; what they need is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from drirl.experiments.plan import Plan

__all__ = ["experiments_app"]

experiments_app = typer.Typer(help="The paper's tables and figures and the reviewers' questions.")

Model = Annotated[str | None, typer.Option(help="Name under base.models; default: all that need it.")]


@experiments_app.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Do not ask DVC what is stale.")] = False,
) -> None:
    """List the experiments with cost and state (the default), or run a part of them."""
    if context.invoked_subcommand is None:
        from drirl.experiments.listing import show

        typer.echo(show(_plan(), status=not fast))


@experiments_app.command()
def run(
    arms: Annotated[list[str], typer.Argument(help="Names of arms, or of methods.")], model: Model = None
) -> None:
    """Train and score arms side by side; experiments/dvc.yaml calls this."""
    from drirl.experiments.run import run_arms

    run_arms(_plan(), arms, [model] if model else None)


@experiments_app.command()
def rerank(
    of: Annotated[str, typer.Argument(help="Arm or method whose policies are sampled.")],
    model: Annotated[str, typer.Option(help="Name under base.models.")],
) -> None:
    """Sample the policies of an arm and keep the best of N; experiments/dvc.yaml calls this."""
    from drirl.experiments.best_of import run_best_of

    run_best_of(_plan(), of, model)


@experiments_app.command()
def routes() -> None:
    """Classify the training prompts for the routed arms; experiments/dvc.yaml calls this."""
    from drirl.experiments.routing import make_routes

    make_routes(_plan())


@experiments_app.command()
def grid() -> None:
    """Train and score the grid of settings of question 14; experiments/dvc.yaml calls this."""
    from drirl.experiments.grid import run_grid

    run_grid(_plan())


@experiments_app.command()
def scoring() -> None:
    """Measure what asking each kind of reward costs; experiments/dvc.yaml calls this."""
    from drirl.experiments.scoring import run_scoring

    run_scoring(_plan())


@experiments_app.command()
def cross() -> None:
    """Score human-written pairs with the category rewards; experiments/dvc.yaml calls this."""
    from drirl.experiments.cross import run_cross

    run_cross(_plan())


@experiments_app.command()
def rewards(
    names: Annotated[list[str], typer.Argument(help="Names of reward variants.")], model: Model = None
) -> None:
    """Learn reward variants side by side; experiments/dvc.yaml calls this."""
    from drirl.experiments.run import make_rewards

    make_rewards(_plan(), names, [model] if model else None)


@experiments_app.command()
def data(names: Annotated[list[str], typer.Argument(help="Names of data variants.")]) -> None:
    """Build variants of the training prompts; experiments/dvc.yaml calls this."""
    from drirl.experiments.run import make_data

    make_data(_plan(), names)


@experiments_app.command()
def page(
    name: Annotated[str, typer.Argument(help="Name of an experiment: table1, fig4, q05, ...")],
    output: Annotated[Path | None, typer.Option(help="Folder in place of the reports folder.")] = None,
) -> None:
    """Write the page of an experiment from records alone."""
    from drirl.experiments.page import write_page

    where = output.resolve() if output else None
    for path in write_page(_plan(), name, where):
        typer.echo(path)


@experiments_app.command()
def replication(
    output: Annotated[Path | None, typer.Option(help="Folder in place of the reports folder.")] = None,
) -> None:
    """Write the summary page: every claim of the paper and what became of it here."""
    from drirl.experiments.replication import write_replication

    typer.echo(write_replication(_plan(), output.resolve() if output else None))


@experiments_app.command()
def pipeline() -> None:
    """Write experiments/dvc.yaml from arms.yaml and experiments.yaml."""
    from drirl.experiments.pipeline import write_pipeline

    typer.echo(write_pipeline(_plan()))


def _plan() -> Plan:
    from drirl.cli import _params
    from drirl.config import project_root
    from drirl.experiments.plan import load_plan

    params = _params()
    return load_plan(project_root(), params)
