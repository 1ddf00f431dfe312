"""Exports: the merged model is the adapter's, a card made of the run's records, and nothing by halves or unasked."""

import json
from copy import deepcopy

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer

from rezero.__main__ import main
from rezero.config import load_config
from rezero.evaluation.evaluate import budget
from rezero.extras import export as module
from rezero.extras.export import export, find_run
from rezero.files import ROOT, write_jsonl, write_text
from rezero.policy import hub as models
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import SMOLLM, add_adapter, load_base
from rezero.policy.load import load_policy
from rezero.rollout import rollout
from rezero.task import load_task
from rezero.training.train import train


def with_a_random_adapter(base, seed=0, std=0.1) -> Policy:
    model, tokenizer = load_base(str(base))
    policy = Policy(add_adapter(model, rank=4), tokenizer)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std, generator=generator)
    return policy


def episodes(policy, engine, questions, config):
    how = dict(k=config.k, budget=budget(config), prompt_style=config.prompt_style)
    return [episode.completion_ids for episode in rollout(policy, engine, questions, **how)]


@pytest.fixture
def run(policy, config, tmp_path, monkeypatch):
    """A run's folder with an adapter for the toy policy, as training leaves it."""
    monkeypatch.setattr(models, "best_dtype", lambda: torch.float32)  # of the machine's hardware, else
    made = tmp_path / "runs" / "toy"
    write_text(made / "config.json", json.dumps(config.to_dict()))
    save_policy(with_a_random_adapter(config.policy), made / "best")
    return made


def test_the_merged_model_is_base_plus_adapter(run, config, engine, questions):
    out = export(run)
    adapter, merged = load_policy(run / "best"), load_policy(out)
    weights = load_file(out / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    sums = deepcopy(adapter.model).merge_and_unload().state_dict()
    base = load_base(config.policy)[0].state_dict()
    for name, weight in weights.items():
        assert torch.equal(weight, sums[name].to(torch.bfloat16)), name
    assert sum(not torch.equal(weight, base[name].to(torch.bfloat16)) for name, weight in weights.items()) == 14
    ours = episodes(adapter, engine, questions, config)
    assert episodes(merged, engine, questions, config) == ours
    assert episodes(load_policy(config.policy), engine, questions, config) != ours  # the adapter matters
    assert episodes(load_policy(out / "adapter"), engine, questions, config) == ours
    assert merged.tokenizer.chat_template == adapter.tokenizer.chat_template
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == merged.end_of_turn


def test_a_byte_level_tokenizer_does_not_pass_for_sentencepiece(policy, tmp_path):
    """As transformers reads it from a GGUF: llama.cpp would write another vocabulary."""
    path = tmp_path / "tokenizer.json"
    policy.tokenizer.save_pretrained(tmp_path)
    right = json.loads(path.read_text())
    claims = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, right["decoder"]]}
    write_text(path, json.dumps(right | {"model": right["model"] | {"byte_fallback": True}, "decoder": claims}))
    before = Tokenizer.from_file(str(path))
    module.say_byte_level(path)
    after, told = Tokenizer.from_file(str(path)), json.loads(path.read_text())
    assert not told["model"]["byte_fallback"] and told["decoder"]["type"] == "ByteLevel"
    text = "Gralrond at 57.5 kg\n <search>é 日本</search>"
    assert after.encode(text).ids == before.encode(text).ids
    assert after.decode(after.encode(text).ids) == before.decode(before.encode(text).ids) == text


def test_a_training_without_an_adapter_is_exported_as_it_is_with_its_card(config, task, tmp_path):
    config = load_config(**config.to_dict() | {"reward_weights": {"correctness": 4.0, "retry": 0.5}})
    run = tmp_path / "run"
    train(config, run, task)
    write_text(run / "summary.txt", "                     after\naccuracy    0.775 [0.719, 0.823]\n")
    starts = (
        "time: then\ngit: old\n\ntorch==1\n",
        "time: now\ngit: abc (with uncommitted changes)\n\nnumpy==1\ntorch==2\n",
    )
    write_text(run / "environment.txt", "\n".join(starts))
    out = export(run, tmp_path / "out" / "mine")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run / "best", out))
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine"]
    assert not {"step.txt", "adapter"} & {path.name for path in out.iterdir()}
    assert json.loads((out / "rezero.json").read_text()) == config.to_dict()
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers" and {"rezero", "grpo"} <= set(card.data.tags)
    assert "base_model" not in card.data.to_dict()  # a folder is no name on the hub
    best = (run / "best" / "step.txt").read_text().strip()
    row = next(r for r in module.read_metrics(run) if r["kind"] == "eval" and str(r["step"]) == best)
    accuracy = f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
    for said in ("correctness 4, retry 0.5", "accuracy    0.775 [0.719, 0.823]", accuracy, "learning_rate: 0.01\n",
                 "time: now\ngit: abc (with uncommitted changes)\ntorch==2\n",
                 f"steps: 4 of 4; best on dev and kept: step {best} "):  # fmt: skip
        assert said in card.text
    assert "git: old" not in card.text and "numpy" not in card.text and "adapter/" not in card.text


def test_a_card_says_what_was_not_recorded_and_names_the_base(run):
    settings = json.loads((run / "config.json").read_text()) | {"policy": SMOLLM}
    card = module.card(run, load_config(**settings), "me/mine")
    assert ModelCard(card).data.base_model == SMOLLM
    assert card.count("not recorded") == 4  # test, dev, the step that was kept, where it ran
    row = {"kind": "eval", "step": 7} | {f"accuracy{end}": 0.5 for end in ("", "_low", "_high")}
    row |= {f"found_after_retry{end}": float("nan") for end in ("", "_low", "_high")}
    write_jsonl(run / "metrics.jsonl", [row | {"step": 0}, row])
    write_text(run / "best" / "step.txt", "7\n")
    card = module.card(run, load_config(**settings), "me/mine")
    assert card.count("0.500 [0.500, 0.500]") == 1 and "nan" not in card


def test_a_run_is_found_below_its_parent(run, tmp_path):
    assert find_run(run) == find_run(tmp_path / "runs") == run
    other = tmp_path / "runs" / "other"
    (other / "best").mkdir(parents=True)
    assert find_run(tmp_path) == run  # without a config.json it is no run
    (other / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"it holds 2: .*runs/other, .*runs/toy$"):
        find_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"want a run's folder, with config.json and best/.*; it holds none"):
        find_run(tmp_path / "nowhere")


def test_an_existing_target_is_left_alone(run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert f"error: {out} exists" in capsys.readouterr().err and not list(out.iterdir())


CONVERTER = """
import sys
folder, _, target, _, kind = sys.argv[1:]
assert open(f"{folder}/config.json").read() and open(f"{folder}/model.safetensors", "rb").read(), "no model"
if WORKS:
    open(target, "w").write(kind)
else:
    sys.exit("first\\nlast words")
"""


@pytest.mark.parametrize("where", ["a clone", "its path", "on PATH"])
def test_gguf_by_the_converter_of_llama_cpp(run, tmp_path, monkeypatch, where):
    path = write_text(tmp_path / "llama.cpp" / module.CONVERTER, CONVERTER.replace("WORKS", "True"))
    path.chmod(0o755)
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    if where == "on PATH":
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    else:
        monkeypatch.setenv("LLAMA_CPP", str(path.parent if where == "a clone" else path))
    assert (export(run, gguf=True) / "toy-bf16.gguf").read_text() == "bf16"


def test_gguf_that_fails_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAMA_CPP", str(write_text(tmp_path / "c.py", CONVERTER.replace("WORKS", "False"))))
    assert main(["export", str(run), "--gguf"]) == 2
    assert capsys.readouterr().err.endswith("c.py failed with exit status 1: last words\n")
    assert sorted(path.name for path in run.iterdir()) == ["best", "config.json"]
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "gone"))
    assert main(["export", str(run), "--gguf"]) == 2
    assert "neither its path nor a clone of llama.cpp" in capsys.readouterr().err
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", "")
    assert main(["export", str(run), "--gguf"]) == 2
    assert "it is not on PATH" in capsys.readouterr().err


class Hub:
    """What `HfApi` is asked to do."""

    calls: list = []

    def __init__(self, token):
        self.calls.append(("token", token))

    def create_repo(self, name, private, exist_ok):
        self.calls.append(("create", name, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        if repo_id == "me/denied":
            raise RuntimeError("403 Forbidden\nmore")
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(module, "HfApi", Hub)
    return Hub


def test_nothing_is_pushed_unless_asked_and_allowed(run, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["export", str(run), "--push", "me/mine"]) == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "secret")
    for name in ("mine", "me/", "me/a b", "me/mine/too"):
        assert main(["export", str(run), "--push", name]) == 2
        assert name in capsys.readouterr().err
    assert not (run / "export").exists()
    assert main(["export", str(run)]) == 0
    assert not hub.calls


def test_a_push_goes_to_a_private_repository(run, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert main(["export", str(run), "--push", "me/mine"]) == 0
    token, create, (upload, name, files) = hub.calls
    assert (token, create) == (("token", "secret"), ("create", "me/mine", True, True))
    assert (upload, name) == ("upload", "me/mine") and {"README.md", "model.safetensors", "adapter"} <= set(files)
    assert "# me/mine" in (run / "export" / "README.md").read_text()
    out = tmp_path / "again"
    assert main(["export", str(run), "--push", "me/denied", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{out} is written, but not uploaded: 403 Forbidden; again: hf upload me/denied {out}\n" in said
    assert "secret" not in said and (out / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".cache/models" / SMOLLM).is_dir() and models.missing(), reason="SmolLM2 is not installed: make smollm"
)
def test_smollm_merged_writes_the_same_greedy_episodes(engine, tmp_path):
    """Both reckon in float32, yet the weights were rounded: a near tie may flip (see `write_model`)."""
    config = load_config("smollm", turn_tokens=16, max_turns=2)
    questions = load_task(config).questions["dev"][:12]
    run = tmp_path / "run"
    write_text(run / "config.json", json.dumps(config.to_dict()))
    adapter = with_a_random_adapter(SMOLLM, std=0.02)
    save_policy(adapter, run / "best")
    adapter.model.float()
    ours = episodes(adapter, engine, questions, config)
    with adapter.model.disable_adapter():
        assert episodes(adapter, engine, questions, config) != ours
    theirs = episodes(load_policy(export(run)), engine, questions, config)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 11
