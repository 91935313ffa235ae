"""``drirl export``: evaluation records in two forms that others read, made from the records alone.

- ``lm-eval``: the results JSON that ``lm_eval --output_path`` writes, for tools that collect such files.
- ``model-card``: a README.md for each trained policy, with the evaluation in the metadata that the Hugging
  Face Hub shows (``model-index``) and as a table.

What the records do not hold (time, git hash, parameter counts, token ids) is left out or null, so that the
same records give the same bytes. No completion and no prompt is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from drirl.errors import DrirlError, nearest
from drirl.records import RunRecord, atomic_write, read_jsonl, write_json

__all__ = ["FORMATS", "export", "export_records", "lm_eval_results", "model_card", "read_policies"]

FORMATS = ("lm-eval", "model-card")
UNTRAINED = ("base", "external", "served")
"""Methods that this project did not train; they get no model card."""

Names = Annotated[list[str] | None, typer.Option(help="Repeat the option, or give a comma list.")]


def export(
    format: Annotated[str, typer.Option(help=f"Comma list of {', '.join(FORMATS)}.")] = ",".join(FORMATS),
    output: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("exports"),
    models: Names = None,
    methods: Names = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder of 'drirl evaluate', instead of the pipeline's records.")
    ] = None,
) -> None:
    """Write evaluation records as lm-eval results JSON and as model cards."""
    target = output.resolve()
    source = records.resolve() if records is not None else None
    if source is None:
        from drirl.config import load_params, project_root

        root = project_root()
        params = load_params(root / "params.yaml")
        source = root / params.run.out / "evaluate"
    written = export_records(
        source, target, formats=_names([format]), models=_names(models), methods=_names(methods)
    )
    typer.echo(f"{len(written)} files are in {target}")


def export_records(
    source: Path,
    output: Path,
    *,
    formats: Sequence[str],
    models: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> list[Path]:
    """Export every policy whose records lie below ``source``; return the files written.

    Args:
        source: any folder that holds ``runs.jsonl`` at some depth.
        models: keep these only; empty: all. ``methods`` likewise.
    Raises:
        DrirlError: an unknown format, model or method, malformed records or of another schema version, none
            at all, or only model cards asked for and only untrained policies there.
    """
    for name in formats:
        if name not in FORMATS:
            raise DrirlError(f"--format: unknown format '{name}'; {nearest(name, FORMATS)}")
    policies = read_policies(source, models, methods)
    written: list[Path] = []
    for (model, method, seed), runs in policies.items():
        place = Path(model) / method / f"seed{seed}"
        if "lm-eval" in formats:
            name = runs[0].policy_hash or "unknown"
            path = output / "lm-eval" / place / f"results_{name}.json"
            write_json(path, lm_eval_results(runs))
            written.append(path)
        if "model-card" in formats and method not in UNTRAINED:
            path = output / "model-card" / place / "README.md"
            text = model_card(runs)
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
    if not written:
        raise DrirlError(
            f"{source}: no policy there that was trained; a model card describes one (use --format lm-eval)"
        )
    return written


def read_policies(
    source: Path, models: Sequence[str] = (), methods: Sequence[str] = ()
) -> dict[tuple[str, str, int], list[RunRecord]]:
    """Return the run records of each (model, method, seed), sorted.

    Raises:
        DrirlError: no records, malformed ones or of another schema version, an unknown model or method, one
            policy in two folders.
    """
    found: dict[tuple[str, str, int], list[RunRecord]] = {}
    origin: dict[tuple[str, str, int], Path] = {}
    for path in sorted(Path(source).rglob("runs.jsonl")):
        for run in read_jsonl(path, RunRecord):
            key = (run.model, run.method, run.seed)
            if origin.setdefault(key, path) != path:
                raise DrirlError(
                    f"{path}: records of {run.run_id} are also in {origin[key]}; name one of the folders"
                )
            found.setdefault(key, []).append(run)
    if not found:
        raise DrirlError(
            f"{source}: no run records there; run 'dvc repro' or 'drirl evaluate', or name another folder"
        )
    for option, position, wanted in (("models", 0, models), ("methods", 1, methods)):
        known = sorted({str(key[position]) for key in found})
        for name in wanted:
            if name not in known:
                raise DrirlError(f"--{option}: no records of '{name}'; {nearest(name, known)}")
    kept = {
        key: sorted(runs, key=lambda run: (run.benchmark, run.metric))
        for key, runs in sorted(found.items())
        if (not models or key[0] in models) and (not methods or key[1] in methods)
    }
    if not kept:
        raise DrirlError(f"{source}: no policy there is of both the models and the methods asked for")
    return kept


def lm_eval_results(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the records of one policy as lm-eval's results JSON (``lm_eval.result_schema.EvalResults``).

    A missing score is "N/A", as lm-eval writes a standard error that it lacks. ``n-samples.original`` is what
    was scored: the records do not know how large a benchmark is whose subset they hold.
    """
    tasks: dict[str, list[RunRecord]] = {}
    for run in runs:
        tasks.setdefault(run.benchmark, []).append(run)
    first = runs[0]
    results: dict[str, dict[str, Any]] = {}
    for name, group in tasks.items():
        values: dict[str, Any] = {"name": name, "alias": name, "sample_len": max(run.n for run in group)}
        for run in group:
            values[f"{run.metric},none"] = "N/A" if run.value is None else run.value
            values[f"{run.metric}_stderr,none"] = "N/A" if run.stderr is None else run.stderr
        results[name] = values
    counts = {
        name: {"original": r["sample_len"], "effective": r["sample_len"]} for name, r in results.items()
    }
    name = f"{first.model}/{first.method}/seed{first.seed}"
    chat = first.template_hash != "plain"
    evaluate = first.config.get("evaluate", {})
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {name: _config(name, group) for name, group in tasks.items()},
        "versions": {name: _version(group[0].task_version) for name, group in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            name: {run.metric: run.higher_is_better for run in group} for name, group in tasks.items()
        },
        "n-samples": counts,
        "config": {
            "model": "drirl",
            "model_args": {"pretrained": name, "dtype": first.config.get("dtype")},
            "model_num_parameters": None,
            "model_dtype": first.config.get("dtype"),
            "model_revision": first.policy_hash or None,
            "model_sha": first.policy_hash,
            "batch_size": evaluate.get("batch_size"),
            "batch_sizes": [],
            "device": first.device,
            "use_cache": None,
            "limit": evaluate.get("limit"),
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "random_seed": first.seed,
            "numpy_seed": first.seed,
            "torch_seed": first.seed,
            "fewshot_seed": first.seed,
        },
        "git_hash": None,
        "date": None,
        "pretty_env_info": "; ".join(f"{key} {value}" for key, value in sorted(first.versions.items())),
        "transformers_version": first.versions.get("transformers"),
        "lm_eval_version": first.versions.get("lm-eval"),
        "upper_git_hash": None,
        "tokenizer_pad_token": None,
        "tokenizer_eos_token": None,
        "tokenizer_bos_token": None,
        "eot_token_id": None,
        "max_length": None,
        "task_hashes": {},
        "model_source": "drirl",
        "model_name": name,
        "model_name_sanitized": name.replace("/", "__"),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": first.template_hash if chat else None,
        "total_evaluation_time_seconds": None,
    }


def _config(name: str, group: Sequence[RunRecord]) -> dict[str, Any]:
    scored = "multiple_choice" if group[0].decode.get("scored") == "loglikelihood" else "generate_until"
    config: dict[str, Any] = {
        "task": name,
        "output_type": scored,
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [
            {"metric": run.metric, "aggregation": "mean", "higher_is_better": run.higher_is_better}
            for run in group
        ],
        "metadata": {
            "version": _version(group[0].task_version),
            "judges": {run.metric: run.judge for run in group},
        },
    }
    if scored == "generate_until":
        length = group[0].decode.get("max_new_tokens")
        config["generation_kwargs"] = {"until": [], "do_sample": False, "max_gen_toks": length}
    return config


def _version(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def model_card(runs: Sequence[RunRecord]) -> str:
    """Return the model card of one policy: metadata with ``model-index``, the table, and how it was trained.

    Values are plain means over prompts; intervals and comparisons over seeds are made by ``drirl compare``.
    """
    from huggingface_hub import EvalResult, ModelCardData

    first = runs[0]
    name = f"{first.model}-{first.method}-seed{first.seed}"
    split = first.config.get("evaluate", {}).get("split")
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=run.benchmark,
            dataset_name=run.benchmark,
            dataset_split=split if run.benchmark.startswith("drirl_tiny") else None,
            dataset_revision=run.task_version,
            metric_type=run.metric,
            metric_name=f"{run.metric} ({'higher' if run.higher_is_better else 'lower'} is better)",
            metric_value=round(run.value, 6),
            metric_args={"n": run.n, "judge": run.judge},
        )
        for run in runs
        if run.value is not None
    ]
    data = ModelCardData(
        model_name=name,
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["safety", "alignment", "drirl", first.method],
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_card_body(name, runs)}"


def _card_body(name: str, runs: Sequence[RunRecord]) -> str:
    first = runs[0]
    profile, shared = first.config.get("profile", ""), first.config.get("shared", {})
    lines = [
        f"# {_cell(name)}",
        "",
        f"The policy of base model `{_cell(first.model)}` after safety alignment with the method "
        f"`{_cell(first.method)}`, seed {first.seed}; profile `{_cell(profile)}` of drirl.",
        "",
    ]
    if first.config.get("meaningful") is False:
        lines += ["**A wiring check, not a result: the profile is too small for its scores to mean much.**"]
        lines += [""]
    lines += [
        "## Use and limits",
        "",
        "Made to compare alignment methods under one budget. It is not meant for use with people: a refusal",
        "rate below 1 means that it follows some harmful requests, and scores say nothing of what they leave",
        "out.",
        "",
        "## Evaluation",
        "",
        "Greedy decoding. Each value is the plain mean over `n` prompts of this one policy; intervals, and",
        "differences over seeds, are in the report of `drirl compare`. Two judges are not comparable.",
        "",
        "| benchmark | version | metric | better | value | standard error | n | judge |",
        "|---|---|---|---|---:|---:|---:|---|",
    ]
    for run in runs:
        better = "higher" if run.higher_is_better else "lower"
        cells = [run.benchmark, run.task_version, run.metric, better, _figure(run.value), _figure(run.stderr)]
        lines.append("| " + " | ".join(_cell(c) for c in [*cells, str(run.n), run.judge]) + " |")
    subset = sorted({run.benchmark for run in runs if "item_ids" in run.config})
    if subset:
        lines += ["", f"A fixed subset was scored of: {', '.join(map(_cell, subset))}."]
    lines += ["", "## Training", ""]
    for title, values in (("Shared budget", shared), ("Method", first.config.get("method", {}))):
        lines += [f"{title}:", ""]
        lines += [f"- `{_cell(key)}`: `{_cell(value)}`" for key, value in _flat(values)] or ["- (none)"]
        lines += [""]
    lines += ["## Provenance", "", f"- policy hash: `{_cell(first.policy_hash) or 'unknown'}`"]
    lines += [f"- chat template hash: `{_cell(first.template_hash)}`", f"- device: `{_cell(first.device)}`"]
    lines += [f"- {_cell(package)}: {_cell(version)}" for package, version in sorted(first.versions.items())]
    return "\n".join(lines) + "\n"


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(values, dict):
        return [(prefix, str(values))]
    found: list[tuple[str, str]] = []
    for key, value in sorted(values.items()):
        found += _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _figure(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4f}"


def _cell(text: Any) -> str:
    """Return text that stays in its table cell and code span, and is no HTML."""
    plain = " ".join(str(text).split())
    for character, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'")):
        plain = plain.replace(character, instead)
    return plain


def _names(values: Sequence[str] | None) -> list[str]:
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
