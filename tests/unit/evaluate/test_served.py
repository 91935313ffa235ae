"""A served model: a real server on loopback that generates with the policy that is also scored here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from drirl.align.settings import AlignSettings, Shared
from drirl.config import Params, RunSettings
from drirl.data.settings import DataSettings
from drirl.errors import DrirlError
from drirl.evaluate import served, stage
from drirl.evaluate.served import ServedLM, evaluate_served
from drirl.evaluate.settings import EvaluateSettings
from drirl.records import EvalItem, RunRecord, read_jsonl

ROOT = Path(__file__).resolve().parents[3]
TASKS = ["drirl_tiny_benign", "drirl_tiny_help"]
Serve = Callable[..., None]


def _chat_server(policy: Path) -> Any:
    """The data room's test server, which generates with any transformers folder."""
    spec = importlib.util.spec_from_file_location(
        "data_conftest", Path(__file__).parents[1] / "data" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ChatServer(policy)


@pytest.fixture
def server(restless_policy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = _chat_server(restless_policy)
    yield found
    found.close()


@pytest.fixture
def params(out: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    for module in (stage, served):
        monkeypatch.setattr(module, "project_root", lambda: ROOT)
    return Params.model_construct(
        run=RunSettings(profile="test", models=["toy"], methods=["base"], seeds=[0], out=out),
        data=DataSettings.model_construct(root=""),
        align=AlignSettings.model_construct(shared=Shared.model_construct(updates=3), methods={}),
        evaluate=EvaluateSettings(tasks=TASKS, max_new_tokens=8, batch_size=1, cache=False),
    )


@pytest.fixture
def serve(params: Params, server: Any, tmp_path: Path) -> Serve:
    def run(**values: Any) -> None:
        tasks = values.pop("tasks", TASKS)
        options = {"server": server.url, "model": "small-writer", "concurrency": 2, "retries": 0} | values
        evaluate_served(params, tasks=tasks, output=tmp_path / "served", **options)

    return run


def read(folder: Path) -> tuple[list[EvalItem], list[RunRecord]]:
    return read_jsonl(folder / "items.jsonl", EvalItem), read_jsonl(folder / "runs.jsonl", RunRecord)


def local(params: Params, policy: Path, folder: Path) -> list[EvalItem]:
    list(stage.evaluate_paths(params, models=[str(policy)], tasks=TASKS, output=folder))
    return read(folder)[0]


def test_a_served_model_gets_the_records_of_the_local_one(
    serve: Serve, params: Params, restless_policy: Path, tmp_path: Path
) -> None:
    serve()
    items, runs = read(tmp_path / "served")
    expected = local(params, restless_policy, tmp_path / "local")
    assert [(i.item_id, i.metric) for i in items] == [(i.item_id, i.metric) for i in expected]
    assert [i.response for i in items] == [i.response.strip() for i in expected]
    assert [(i.value, i.finished) for i in items] == [(i.value, i.finished) for i in expected]
    assert {item.finished for item in items} == {True, False}
    assert {(r.model, r.method, r.device, r.template_hash, r.policy_hash) for r in runs} == {
        ("small-writer", "served", "server", "server", "")
    }
    assert "127.0.0.1" not in (tmp_path / "served" / "runs.jsonl").read_text()
    assert not list(tmp_path.glob(".served*"))  # replies are kept while a run is unfinished only


def test_an_interrupted_run_asks_for_the_rest_only(serve: Serve, server: Any, tmp_path: Path) -> None:
    server.dies_after = 3
    with pytest.raises(
        DrirlError, match=r"^--server: \S+ failed 1 times, last: status 503.*run the same com"
    ):
        serve(concurrency=1)
    assert not (tmp_path / "served").exists()
    server.dies_after, server.bodies = None, []
    serve()
    assert len(server.bodies) == 1  # four prompts, three were answered
    assert (tmp_path / "served" / "items.jsonl").is_file()


def test_passing_failures_are_tried_again_and_a_filter_is_flagged(
    serve: Serve, server: Any, tmp_path: Path
) -> None:
    blocked = {"error": {"code": "content_filter", "message": "The prompt was filtered"}}
    server.faults = [(429, {}, {"Retry-After": "0.05"}), "junk", (400, blocked, {})]
    serve(retries=2, concurrency=1)
    items, runs = read(tmp_path / "served")
    flagged = [item for item in items if item.raw.get("blocked")]
    assert {item.response for item in flagged} == {""}
    assert len({item.item_id for item in flagged}) == 1
    assert {item.value for item in flagged} == {None}  # what the model would have said is not known
    for run in runs:
        own = [item for item in items if (item.benchmark, item.metric) == (run.benchmark, run.metric)]
        lost = sum(1 for item in own if item.raw.get("blocked"))
        assert run.n == len(own) - lost
        assert run.config.get("blocked_replies", 0) == lost


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"server": "http://127.0.0.1:9/v1"},
            r"^--server: http://127\.0\.0\.1:9/v1 failed 1 times, last: no c",
        ),
        ({"server": "ftp://x"}, r"^--server: expected http"),
        ({"server": "https://me:secret@host/v1"}, r"^--server carries a user or password"),
        ({"key_env": "NOT_SET_ANYWHERE"}, r"^--key-env: the environment variable it names is not set"),
        ({"model": "other"}, r"status 404 \(no such model\); check --server, --model and --key-env"),
        ({"tasks": ["drirl_tiny_hepl"]}, r"unknown task 'drirl_tiny_hepl'.*did you mean 'drirl_tiny_help'"),
    ],
)
def test_mistakes_are_one_line_in_the_words_of_the_command(
    values: dict[str, Any], match: str, serve: Serve, tmp_path: Path
) -> None:
    with pytest.raises(DrirlError, match=match) as error:
        serve(**values)
    assert "\n" not in str(error.value)
    assert "data.generator" not in str(error.value)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize(
    ("fault", "timeout_s", "reason"),
    [
        (("wait", 60), 0.4, "no answer within 0.4 s"),
        ("junk", 60.0, "the body is no chat completion"),
        ("cut", 60.0, "no conn"),
    ],
)
def test_a_slow_or_senseless_server_is_given_up_in_one_line(
    fault: Any, timeout_s: float, reason: str, serve: Serve, server: Any
) -> None:
    server.faults = [fault] * 8
    with pytest.raises(DrirlError, match=f"failed 1 times, last: {reason}") as error:
        serve(timeout_s=timeout_s)
    assert "\n" not in str(error.value)


def test_log_likelihoods_cannot_be_had_and_the_tasks_are_named(
    serve: Serve, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project" / "benchmarks" / "toy"
    folder.mkdir(parents=True)
    (folder / "utils.py").write_text(
        "from drirl.evaluate.tasks import as_dataset, row\n\n\ndef load(**_):\n"
        "    return as_dataset([row('a', 'What?', kind='task') | {'choices': ['x', 'y'], 'gold': 0}])\n"
    )
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(
            f"task: toy_{name}\ncustom_dataset: !function utils.load\ntest_split: test\n"
            "output_type: multiple_choice\ndoc_to_text: text\ndoc_to_target: gold\ndoc_to_choice: choices\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
            "metadata: {version: 1.0}\n"
        )
    monkeypatch.setattr(served, "project_root", lambda: tmp_path / "project")
    with pytest.raises(
        DrirlError, match=r"^--server: toy_one, toy_two compare log-likelihoods, which a chat"
    ):
        serve(tasks=["toy_two", "toy_one"])
    assert server.bodies == []


def test_only_one_user_message_is_sent(tmp_path: Path) -> None:
    from drirl.data.generator_settings import GeneratorSettings

    lm = ServedLM(GeneratorSettings(kind="server", model="m"), tmp_path / "replies.sqlite")
    user = {"role": "user", "content": "Hello?"}
    assert lm.apply_chat_template([user]) == "Hello?"
    with pytest.raises(DrirlError, match="one user message"):
        lm.apply_chat_template([{"role": "system", "content": "Be kind."}, user])


@pytest.mark.slow
def test_transformers_serve(
    params: Params,
    restless_policy: Path,
    tmp_path: Path,
    transformers_serve: Callable[[Path], AbstractContextManager[str]],
) -> None:
    model = str(restless_policy)
    with transformers_serve(restless_policy) as url:
        evaluate_served(params, server=url, model=model, tasks=TASKS, output=tmp_path / "served", retries=2)
    items, _ = read(tmp_path / "served")
    expected = local(params, restless_policy, tmp_path / "local")
    same = [a.response == b.response.strip() for a, b in zip(items, expected, strict=True)]
    assert sum(same) > len(same) / 2
    for ours, theirs in zip(expected, items, strict=True):
        if ours.finished != theirs.finished:  # it calls an end token that is the last allowed one "length"
            assert ours.finished
