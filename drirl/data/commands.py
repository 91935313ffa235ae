"""The commands ``drirl data ...``: hand labels and the cost of drafts. Heavy imports wait for the call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drirl.errors import DrirlError, nearest

if TYPE_CHECKING:
    from drirl.config import Params
    from drirl.records import Prompt

__all__ = ["app"]

app = typer.Typer(help="Hand labels of the built prompts, and what drafts cost.")


def _params() -> Params:
    from drirl.config import load_params, project_root

    return load_params(project_root() / "params.yaml")


def _out(params: Params) -> Path:
    from drirl.config import project_root

    return project_root() / params.run.out


def _prompts(params: Params) -> list[Prompt]:
    from drirl.records import Prompt, read_jsonl

    return read_jsonl(_out(params) / "data" / "prompts.jsonl", Prompt)


@app.command("label-sheet")
def label_sheet(
    output: Annotated[Path, typer.Argument(help="The .csv file to write.")],
    count: Annotated[int, typer.Option(min=1, help="Prompts in it.")] = 100,
) -> None:
    """Write mapped prompts for labelling by hand; two people fill in a copy each."""
    from drirl.data.agreement import write_sheet

    params = _params()
    rows = [p for p in _prompts(params) if p.category_origin == "mapped"]
    n = write_sheet(rows, output, count=count, seed=params.run.seed)
    typer.echo(f"{n} prompts are in {output}: write a number 0 to 6, a name, or benign into 'category'")


@app.command("agreement")
def agreement(
    first: Annotated[Path, typer.Argument(help="One labeller's sheet.")],
    second: Annotated[Path, typer.Argument(help="The other's.")],
) -> None:
    """Print Cohen's kappa of two sheets, and of each with the mapping of the built data."""
    from drirl.data.agreement import compare_labels

    params = _params()
    built = (_out(params) / "data" / "prompts.jsonl").is_file()
    mapped = {p.prompt_id: p.category for p in _prompts(params)} if built else None
    typer.echo(json.dumps(compare_labels(first, second, mapped), indent=2, ensure_ascii=False))


@app.command("drafts")
def drafts(
    count: Annotated[int, typer.Option(min=1, help="Harmful prompts asked about.")] = 100,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    style: Annotated[str, typer.Option(help="Comma list of cod, cot.")] = "cod,cot",
    model: Annotated[
        str | None, typer.Option(help="Transformers folder or hub id, instead of data.generator.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="No template: the model was trained to draft by itself.")
    ] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count the bundled grammar's demonstrations with it; no LLM.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The .json file; default: cost/data/drafts.json under run.out.")
    ] = None,
) -> None:
    """Measure tokens and seconds a prompt, Chain of Draft against Chain of Thought (paper Table 7)."""
    from drirl.config import project_root
    from drirl.data.drafting import as_json, choose, measure, measure_bundled
    from drirl.data.generators import open_generator
    from drirl.records import write_json

    params = _params()
    styles = [name.strip() for name in style.split(",") if name.strip()]
    for name in styles:
        if name not in ("cod", "cot"):
            raise DrirlError(f"unknown style '{name}'; {nearest(name, ('cod', 'cot'))}")
    if split not in ("train", "val", "test"):
        raise DrirlError(f"unknown split '{split}'; {nearest(split, ('train', 'val', 'test'))}")
    chosen = choose([p for p in _prompts(params) if p.split == split], count, params.run.seed)
    seed, demos, rows = params.run.seed, params.data.demos, []
    if tokenizer is not None:
        from drirl.models import load_tokenizer

        reader = load_tokenizer(tokenizer)
        for name in styles:
            rows += measure_bundled(chosen, reader, demos, style=name, seed=seed)  # type: ignore[arg-type]
    else:
        settings = params.data.generator
        if model is not None:
            settings = settings.model_copy(update={"kind": "transformers", "model": model, "revision": None})
        if settings.cache:
            settings = settings.model_copy(update={"cache": str(project_root() / settings.cache)})
        generator = open_generator(settings)
        for name in styles:
            rows += measure(chosen, generator, demos, style=name, seed=seed, bare=bare)  # type: ignore[arg-type]
    where = output or _out(params) / "cost" / "data" / "drafts.json"
    value = as_json(rows, seed)
    write_json(where, value)
    typer.echo(json.dumps({key: part for key, part in value.items() if key != "records"}, indent=2))
    typer.echo(f"per prompt: {where}")
