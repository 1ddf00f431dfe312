"""The vLLM server's client against a stand-in that answers in vLLM's shapes; weights reach it without NCCL."""

import ast
import copy
import json
import subprocess
import sys
import threading
import tomllib
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from rezero.vllm_server import Server
from trl.generation import vllm_client, vllm_generation

from rezero.evaluation.evaluate import budget, evaluate
from rezero.files import ROOT, read_jsonl
from rezero.policy.base import Policy
from rezero.rewards import REWARDS
from rezero.rollout import rollout
from rezero.training.train import train


class StandIn:
    """A server with a model of its own, which `receive` fills."""

    def __init__(self, policy):
        self.policy = Policy(copy.deepcopy(policy.model), policy.tokenizer)
        self.asked, self.received = [], 0
        self.handler = type("Handler", (Handler,), {"stand_in": self})

    def receive(self, client, metadata, named_params):
        tensors = {name: tensor.clone() for name, tensor in named_params}  # an adapter is merged while they pass
        assert [(n, str(t.dtype).removeprefix("torch."), list(t.shape)) for n, t in tensors.items()] == metadata
        missing, unknown = self.policy.model.load_state_dict(tensors, strict=False)
        assert not unknown and missing == ["lm_head.weight"]  # tied to the embeddings, which vLLM knows
        self.received += 1

    def complete(self, asked):
        self.asked.append(asked)
        if "prompt_logprobs" in asked:
            return [{"prompt_logprobs": self.score(ids)} for ids in asked["prompt"]]
        turns = self.policy.start(asked["prompt"], asked["temperature"]).generate(asked["max_tokens"])
        pairs = zip(asked["prompt"], turns, strict=True)
        return [{"prompt_token_ids": ids, "token_ids": turn, "logprobs": None} for ids, turn in pairs]

    @torch.no_grad()
    def score(self, ids):
        scores = self.policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        entry = lambda i: {str(ids[i]): {"logprob": float(scores[i - 1, ids[i]]), "rank": 1}}  # noqa: E731
        return [None, *(entry(i) for i in range(1, len(ids)))]


class Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        self.answer({"choices": self.stand_in.complete(asked)} if self.path == "/v1/completions" else {})

    def log_message(self, *_):
        pass


@pytest.fixture
def server(policy, monkeypatch):
    """(the stand-in, its address); TRL believes that vLLM is installed, and hands tensors over instead of sending."""
    stand_in = StandIn(policy)
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda *_, **__: None)
    receive = lambda client, *tensors: stand_in.receive(client, *tensors)  # noqa: E731
    monkeypatch.setattr(vllm_client.VLLMClient, "update_named_params", receive)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), stand_in.handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield stand_in, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


@pytest.fixture
def config(config, monkeypatch):
    """Rewards that tell the episodes of a random policy apart, so that there is something to learn."""
    monkeypatch.setitem(REWARDS, "length", lambda episode: float(len(episode.completion_ids)))
    return replace(config, reward_weights={"length": 1.0})


class Trainer:
    """As much of a trainer as `Server` touches."""

    def __init__(self):
        self.state = type("State", (), {"global_step": 0})
        self.vllm_generation = self.accelerator = self
        self._last_loaded_step, self.log = -1, []

    def sync_weights(self):
        self.log.append(("sent", self.state.global_step))

    def wait_for_everyone(self):
        self.log.append(("waited", self.state.global_step))


def test_episodes_from_the_server_are_the_policys_own(server, policy, task, config):
    stand_in, url = server
    questions = task.questions["train"]
    options = dict(k=2, budget=budget(config), prompt_style="short")
    wanted = rollout(policy, task.engine, questions, **options)
    there = Policy(policy.model, policy.tokenizer)
    there.backend = Server(url, Trainer(), policy, [{"role": "user", "content": "who"}]).start
    assert rollout(there, task.engine, questions, **options) == wanted
    asked = stand_in.asked[-1]
    assert asked["stop"] == ["</search>", "</answer>"] and asked["include_stop_str_in_output"]
    assert asked["stop_token_ids"] == [policy.end_of_turn] and not asked["skip_special_tokens"]
    assert asked["temperature"] == 0.0 and asked["top_p"] == 1.0 and asked["return_token_ids"]


def test_weights_go_once_a_step_and_all_wait_for_them(server, policy):
    trainer = Trainer()
    here = Server(server[1], trainer, policy, [{"role": "user", "content": "who"}])
    for step, loaded in ((0, -1), (0, 0), (1, 1), (2, 1)):  # at step 1 TRL was faster
        trainer.state.global_step, trainer._last_loaded_step = step, loaded
        here.start([[1]], 0.0)
    assert trainer.log == [("sent", 0), ("waited", 0), ("waited", 1), ("sent", 2), ("waited", 2)]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_training_generates_on_the_server_with_each_steps_weights(server, task, config, tmp_path, lora_rank):
    stand_in, url = server
    config = replace(config, lora_rank=lora_rank, steps=5)  # the adapter is checked after 5
    trained = train(config, tmp_path / "run", task, server=url)
    assert stand_in.received == 6  # before any step, and after each
    row = [row for row in read_jsonl(tmp_path / "run/metrics.jsonl") if row["kind"] == "eval"][-1]
    here = evaluate(trained.last, task.engine, task.questions["dev"], config, "here")
    assert here["policy_tokens"].value == row["policy_tokens"] and row["step"] == 5
    model = trained.last.model
    model = model.merge_and_unload() if lora_rank else model
    for name, value in stand_in.policy.model.state_dict().items():
        ours = model.state_dict()[name]  # merging rounds to the dtype of the frozen weights
        torch.testing.assert_close(value, ours.float(), **dict(rtol=0.02, atol=2e-3) if lora_rank else {})


def test_a_server_that_never_gets_the_adapter_stops_the_run(server, task, config, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_client.VLLMClient, "update_named_params", lambda *_: None)
    with pytest.raises(RuntimeError, match="generates as if it had no adapter"):
        train(replace(config, lora_rank=4, steps=5), tmp_path / "run", task, server=server[1])


def test_a_server_without_vllm_or_beside_unsloth_is_refused(config, task, tmp_path):
    with pytest.raises(ImportError, match="vLLM"):
        train(config, tmp_path / "a", task, server="http://127.0.0.1:9")
    beside = replace(config, backend="unsloth", lora_rank=4, max_context=512)
    with pytest.raises(ValueError, match="backend='unsloth' trains in one process and generates there"):
        train(beside, tmp_path / "b", task, server="http://127.0.0.1:9")


@pytest.mark.slow
def test_what_is_asked_has_a_field_in_the_pinned_vllm(server, policy):
    """Reads vLLM's wheel (346 MB, downloaded where it is missing); nothing of it is imported."""
    gpu = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    (pin,) = [item for item in gpu if item.startswith("vllm==")]
    folder = ROOT / ".cache/wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), pin]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"{pin} is not to be had from here")
    (wheel,) = folder.glob(f"vllm-{pin.split('==')[1]}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read("vllm/entrypoints/openai/completion/protocol.py"))
    (request,) = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "CompletionRequest"]
    fields = {node.target.id for node in request.body if isinstance(node, ast.AnnAssign)}
    stand_in, url = server
    Server(url, Trainer(), policy, [{"role": "user", "content": "who"}]).start([[1, 2]], 1.0).generate(2)
    assert len(stand_in.asked) == 2
    assert {name for asked in stand_in.asked for name in asked} <= fields
