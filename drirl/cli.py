"""The command ``drirl``: each command parses, calls one function and says where the result went.

Nothing heavy is imported here; a stage imports what it needs when it runs. Mistakes in the input end with one
line ``error: ...`` and status 2, an interrupt with status 130; ``--debug`` shows the traceback of either.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drirl import __version__
from drirl.attack.commands import attack
from drirl.data.commands import app as data_app
from drirl.errors import DrirlError, nearest
from drirl.evaluate.export import export
from drirl.experiments.commands import experiments_app
from drirl.judge.commands import judge_app

if TYPE_CHECKING:
    from drirl.config import Params
    from drirl.serve.lines import Summary

__all__ = ["STAGES", "app", "main"]

STAGES = ("data", "base", "reward", "align", "evaluate", "compare")
CELL_STAGES = ("align", "evaluate")
"""Stages that run once per (model, method); the others run once."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
profile_app = typer.Typer(help="Choose the set of values that params.yaml holds.")
app.add_typer(profile_app, name="profile")
app.add_typer(data_app, name="data")
app.add_typer(experiments_app, name="experiments")
app.add_typer(judge_app, name="judge")
app.command()(attack)
app.command()(export)

Model = Annotated[str | None, typer.Option(help="Name under base.models.")]
Method = Annotated[str | None, typer.Option(help="File name in baselines/, without .py.")]
Names = Annotated[list[str] | None, typer.Option(help="Repeat the option, or give a comma list.")]
Source = Annotated[str, typer.Argument(help="File of JSON lines, each with a prompt; '-': standard input.")]
Target = Annotated[str, typer.Option(help="File for the lines; '-': standard output.")]
Routing = Annotated[str, typer.Option(help="soft, hard or worst: how rewards are joined without a label.")]
Floor = Annotated[float, typer.Option(help="worst: categories less probable than this do not count.")]
RouterFolder = Annotated[
    Path | None, typer.Option(help="Folder of a router; default: the project's, made when needed.")
]
Batch = Annotated[int, typer.Option(min=1, help="Lines worked on at once.")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Leave bad lines out; they fail the end.")]


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Reproducible benchmark of safety alignment: DR-IRL and its baselines, end to end."""
    if debug:
        os.environ["DRIRL_DEBUG"] = "1"
    if version:
        typer.echo(f"drirl {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    model: Model = None,
    method: Method = None,
) -> None:
    """Run one stage of the pipeline; dvc.yaml calls this."""
    from drirl.check import check_params
    from drirl.config import project_root

    if name not in STAGES:
        raise DrirlError(f"unknown stage '{name}'; {nearest(name, STAGES)}")
    params = _params()
    cell = _cell(name, params, model, method)
    if name != "compare":  # a mistake in a later section costs no hours of this one
        check_params(params, project_root(), stage=name)
    importlib.import_module(f"drirl.{name}.stage").run(params, **cell)


@app.command()
def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            help="Transformers folder or hub id; repeat it for more. With --server: its name there."
        ),
    ],
    tasks: Names = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the records; of several models, a folder each in it.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server, as in http://127.0.0.1:8000/v1.")
    ] = None,
    key_env: Annotated[str, typer.Option(help="Server: NAME of the variable with the API key.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Server: requests at once.")] = 4,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.001, help="Server: rate limit; default: none.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Server: longest silence, seconds.")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="Server: further tries after a failure.")] = 5,
) -> None:
    """Score any policies, or a served model, on the benchmarks."""
    names = [name.strip() for name in model if name.strip()]
    if not names or (server is not None and len(names) > 1):
        raise DrirlError("--model: give one model" + (" with --server" if server is not None else ""))
    default = Path("evaluation") / Path(names[0]).name if len(names) == 1 else Path("evaluation")
    where = (output or default).resolve()
    if server is not None:
        params = _params()
        importlib.import_module("drirl.evaluate.served").evaluate_served(
            params,
            server=server,
            model=names[0],
            tasks=_split(tasks) or list(params.evaluate.tasks),
            output=where,
            key_env=key_env,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            timeout_s=timeout,
            retries=retries,
        )
        typer.echo(f"records are in {where}")
        return
    targets = []
    for name in names:
        folder = Path(name).expanduser()
        if folder.exists() and not (folder / "config.json").is_file():
            raise DrirlError(f"'{name}' is not a transformers folder: there is no config.json in it")
        if not folder.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise DrirlError(f"'{name}': no such folder, and not a hub id (owner/name)")
        targets.append(str(folder.resolve()) if folder.exists() else name)
    params = _params(hub=not all(Path(target).exists() for target in targets))
    for folder in importlib.import_module("drirl.evaluate.stage").evaluate_paths(
        params, models=targets, tasks=_split(tasks) or list(params.evaluate.tasks), output=where
    ):
        typer.echo(f"records are in {folder}")


@app.command()
def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Two folders of results: compare these prompt by prompt.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Method the others are compared with.")] = None,
    models: Names = None,
    methods: Names = None,
    benchmarks: Names = None,
    judges: Annotated[
        list[str] | None,
        typer.Option(help="Folders of out/judge whose scores become columns too; comma lists or repeated."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Comma list of csv, md, html, latex; default: the first three.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables; default: the reports folder (two folders: none)."),
    ] = None,
    allow_uneven: Annotated[
        bool | None, typer.Option("--allow-uneven", help="Accept cells that lack some of run.seeds.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="Prompts and completions in index.html: bundled (default), all or none."),
    ] = None,
) -> None:
    """Make tables, figures and a page from records alone; or show what flipped between two folders."""
    where = output.resolve() if output else None
    if runs:
        options = {
            "--reference": reference,
            "--judges": judges,
            "--format": format,
            "--allow-uneven": allow_uneven,
            "--texts": texts,
        }
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise DrirlError(f"{', '.join(given)}: not for two folders, which are compared as they are")
        importlib.import_module("drirl.compare.diff").command(
            runs, models=_split(models), methods=_split(methods), benchmarks=_split(benchmarks), output=where
        )
        return
    importlib.import_module("drirl.compare.stage").run(
        _params(),
        reference=reference,
        models=_split(models),
        methods=_split(methods),
        benchmarks=_split(benchmarks),
        judges=_split(judges),
        formats=_split([format] if format else None),
        output=where,
        allow_uneven=allow_uneven,
        texts="bundled" if texts is None else texts,
    )


@app.command()
def trace(
    model: Annotated[str, typer.Option(help="Name in the table's column model.")],
    method: Annotated[str, typer.Option(help="Name in the table's column method.")],
    benchmark: Annotated[str, typer.Option(help="Name in the table's column benchmark.")],
    metric: Annotated[str, typer.Option(help="Name in the table's column metric.")],
    limit: Annotated[int, typer.Option(help="Most per-prompt records shown.")] = 10,
) -> None:
    """Follow one number of the table back to its runs and per-prompt records."""
    importlib.import_module("drirl.compare.trace").trace(
        _params(), model=model, method=method, benchmark=benchmark, metric=metric, limit=limit
    )


@app.command()
def summary() -> None:
    """Print the headline table and where everything is."""
    from drirl.compare.summary import headline

    typer.echo(headline(_params()))


@app.command()
def methods() -> None:
    """List the methods in baselines/, each with one line and its paper."""
    from drirl.check import describe_methods
    from drirl.config import project_root

    for name, line, paper in describe_methods(project_root() / "baselines"):
        typer.echo(f"{name:<18} {line}\n{'':<18} {paper}")


@app.command()
def validate(
    profile: Annotated[str | None, typer.Option(help="Check this profile instead of params.yaml.")] = None,
) -> None:
    """Check params.yaml, every method's section, and that the files it names exist."""
    from drirl.check import check_project
    from drirl.config import project_root

    root = project_root()
    for line in check_project(root, profile):
        typer.echo(line)


@app.command()
def route(
    source: Source = "-",
    output: Target = "-",
    rewards: Annotated[
        str | None,
        typer.Option(help="Model name or folder: also score each line's completion with its rewards."),
    ] = None,
    mode: Routing = "hard",
    floor: Floor = 0.0,
    router: RouterFolder = None,
    batch: Batch = 32,
    keep_going: KeepGoing = False,
) -> None:
    """Find the harm category of prompts that have no label; JSON lines in and out."""
    where = _stream(source, output, batch, keep_going)
    folder = router.resolve() if router else None
    rewards = _folder(rewards)
    params = _params()
    commands = importlib.import_module("drirl.serve.commands")
    _streamed(
        commands.route(
            params, commands.Stream(*where), mode=mode, floor=floor, router=folder, rewards=rewards
        )
    )


@app.command()
def rerank(
    rewards: Annotated[str, typer.Option(help="Model name or folder whose rewards choose.")],
    source: Source = "-",
    output: Target = "-",
    policy: Annotated[
        str | None, typer.Option(help="Folder or hub id that completes; default: the model's base policy.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Completions per prompt.")] = 4,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion; default: evaluate.max_new_tokens.")
    ] = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    mode: Routing = "hard",
    floor: Floor = 0.0,
    router: RouterFolder = None,
    batch: Batch = 8,
    keep_going: KeepGoing = False,
) -> None:
    """Complete prompts N times and keep what their category's reward likes most; JSON lines in and out."""
    where = _stream(source, output, batch, keep_going)
    folder = router.resolve() if router else None
    rewards, policy = _folder(rewards) or rewards, _folder(policy)
    params = _params(hub=policy is not None and not Path(policy).exists())
    commands = importlib.import_module("drirl.serve.commands")
    options = commands.RerankOptions(n, max_new_tokens, temperature, top_p, seed)
    _streamed(
        commands.rerank(
            params,
            commands.Stream(*where),
            options,
            rewards=rewards,
            policy=policy,
            mode=mode,
            floor=floor,
            router=folder,
        )
    )


@profile_app.command("use")
def profile_use(
    name: Annotated[str, typer.Argument(help="Name of a file in profiles/.")],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an edited params.yaml; keeps a .bak.")
    ] = False,
) -> None:
    """Write params.yaml from a profile."""
    from drirl.profiles import use_profile

    path = use_profile(name, _root(), force=force)
    typer.echo(f"{path.name} now holds the profile '{name}'; run 'dvc repro' or 'make reproduce'")


@profile_app.command("list")
def profile_list() -> None:
    """List the profiles; a star marks the one params.yaml holds."""
    from drirl.profiles import describe, identify, known_profiles

    root = _root()
    current = identify(root)
    for name in known_profiles(root):
        typer.echo(f"{'*' if name == current else ' '} {name:<10} {describe(name, root)}")
    if current is None:
        typer.echo("params.yaml was edited: it equals none of them (see 'drirl profile show')")


@profile_app.command("show")
def profile_show(
    name: Annotated[str | None, typer.Argument(help="Default: what params.yaml changes.")] = None,
) -> None:
    """Print a profile as params.yaml text, or how params.yaml differs from its profile."""
    from drirl.profiles import describe_params, render

    root = _root()
    typer.echo(render(name, root) if name else describe_params(root), nl=not name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0 done, 1 a bug, 2 a mistake in the input (one line on stderr), 130 interrupted.
    """
    try:
        status = app(
            args=None if arguments is None else list(arguments), prog_name="drirl", standalone_mode=False
        )
        if status == 130:
            return _fail("interrupted; what was finished is kept, run the same command to go on", 130)
    except typer.TyperException as wrong:
        return _fail(f"{wrong.format_message()} (see 'drirl --help')", 2, wrong)
    except DrirlError as mistake:
        return _fail(str(mistake), 2, mistake)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:
        if not _disk_full(problem):
            raise
        place = (
            getattr(problem, "filename", None) or f"below {os.environ.get('DRIRL_OUT', 'the output folder')}"
        )
        return _fail(f"the disk is full: cannot write {place}; free some space", 2, problem)
    return int(status or 0)


def _fail(text: str, status: int, problem: BaseException | None = None) -> int:
    if problem is not None and os.environ.get("DRIRL_DEBUG"):
        import traceback

        traceback.print_exception(problem)
    print("error: " + " ".join(text.split()), file=sys.stderr)
    return status


def _disk_full(problem: BaseException) -> bool:
    # Compiled writers (safetensors, tokenizers) report the errno in their text only.
    return getattr(problem, "errno", None) == errno.ENOSPC or "No space left on device" in str(problem)


def _root() -> Path:
    """Return the nearest folder at or above this one that holds profiles/ (params.yaml may be missing)."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "profiles").is_dir():
            return folder
    raise DrirlError(f"no folder 'profiles' in {here} or above: run drirl inside a clone of the project")


def _params(*, hub: bool = False) -> Params:
    """Load params.yaml, go to its folder, and set what the libraries read from the environment."""
    from drirl.config import load_params, project_root
    from drirl.environment import set_environment

    root = project_root()
    os.chdir(root)
    params = load_params(root / "params.yaml")
    set_environment(params, offline=not hub and not _needs_hub(params))
    return params


def _needs_hub(params: Params) -> bool:
    paths = [spec.path for name, spec in params.base.models.items() if name in params.run.models]
    return any(path is not None and not Path(path).expanduser().exists() for path in paths)


def _cell(name: str, params: Params, model: str | None, method: str | None) -> dict[str, str]:
    if name not in CELL_STAGES:
        if model or method:
            raise DrirlError(
                f"stage '{name}' runs once for all models and methods: leave out --model and --method"
            )
        return {}
    if model is None or method is None:
        raise DrirlError(f"stage '{name}' runs one cell: give --model and --method")
    if model not in params.run.models:
        raise DrirlError(
            f"params.yaml: unknown model '{model}' in run.models; {nearest(model, params.run.models)}"
        )
    if method not in params.run.methods:
        raise DrirlError(
            f"params.yaml: unknown method '{method}' in run.methods; {nearest(method, params.run.methods)}"
        )
    return {"model": model, "method": method}


def _folder(name: str | None) -> str | None:
    """Return an existing folder as an absolute path (the working directory changes), any other name as is."""
    path = Path(name).expanduser() if name else None
    return str(path.resolve()) if path is not None and path.is_dir() else name


def _stream(source: str, output: str, batch: int, keep_going: bool) -> tuple[str, str, int, bool]:
    """Return the fields of a :class:`drirl.serve.commands.Stream`, paths made absolute."""
    source, output = (name if name == "-" else str(Path(name).resolve()) for name in (source, output))
    return source, output, batch, keep_going


def _streamed(summary: Summary) -> None:
    """Say how many lines were written; left-out lines are a mistake in the input."""
    if summary.bad:
        raise DrirlError(
            f"{len(summary.bad)} of {summary.written + len(summary.bad)} lines were left out; "
            f"the first: {summary.bad[0]}"
        )
    typer.echo(f"{summary.written} lines", err=True)


def _split(values: Sequence[str] | None) -> list[str] | None:
    names = [part.strip() for value in values or [] for part in value.split(",")]
    return [name for name in names if name] or None


if __name__ == "__main__":
    sys.exit(main())
