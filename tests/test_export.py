"""Exports: the merged model is the adapter's, the card is made of the run's records, and nothing is left half done."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders

from rezero.__main__ import main
from rezero.config import load_config
from rezero.extras import export as module
from rezero.extras import smollm
from rezero.extras.export import export, find_run
from rezero.files import ROOT, write_jsonl, write_text
from rezero.policy import hub
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import SMOLLM, add_adapter, load_base
from rezero.policy.load import load_policy
from rezero.rollout import rollout
from rezero.task import load_task


def with_a_random_adapter(base, std=0.1) -> Policy:
    model, tokenizer = load_base(str(base))
    policy = Policy(add_adapter(model, rank=4), tokenizer)
    generator = torch.Generator().manual_seed(0)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std, generator=generator)
    return policy


def greedy(policy, engine, questions, sampling):
    sampling = replace(sampling, temperature=0.0)
    return [episode.completion_ids for episode in rollout(policy, engine, questions, sampling)]


@pytest.fixture
def run(config, tmp_path, monkeypatch):
    """A run's folder with an adapter for the toy policy, as training leaves it."""
    monkeypatch.setattr(hub, "best_dtype", lambda: torch.float32)  # whatever the hardware
    made = tmp_path / "runs" / "toy"
    write_text(made / "config.json", json.dumps(config.to_dict()))
    save_policy(with_a_random_adapter(config.policy), made / "best")
    return made


def test_the_merged_model_is_base_plus_adapter(run, config, engine, questions, sampling):
    card = module.card(run, replace(config, policy=SMOLLM))
    assert ModelCard(card).data.base_model == SMOLLM  # and of a folder none
    assert card.count("not recorded") == 4  # test, dev, the step that was kept, where it ran
    out = export(run)
    adapter, merged = load_policy(run / "best"), load_policy(out)
    weights = load_file(out / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    sums = deepcopy(adapter.model).merge_and_unload().state_dict()
    base = load_base(config.policy)[0].state_dict()
    assert all(torch.equal(weight, sums[name].to(torch.bfloat16)) for name, weight in weights.items())
    assert sum(not torch.equal(weight, base[name].to(torch.bfloat16)) for name, weight in weights.items()) == 14
    ours = greedy(adapter, engine, questions, sampling)
    assert greedy(merged, engine, questions, sampling) == ours
    assert greedy(load_policy(out / "adapter"), engine, questions, sampling) == ours
    assert greedy(load_policy(config.policy), engine, questions, sampling) != ours  # the adapter matters
    assert merged.tokenizer.chat_template == adapter.tokenizer.chat_template
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == merged.end_of_turn


def test_a_byte_level_tokenizer_is_not_taken_for_sentencepiece(policy):
    """transformers makes it one when it read it from a GGUF; llama.cpp would then write another vocabulary."""
    right = Tokenizer.from_str(policy.tokenizer.backend_tokenizer.to_str())
    mended = Tokenizer.from_str(right.to_str())
    mended.model.byte_fallback = True
    mended.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.ByteLevel()])
    module.mend_byte_level(mended)
    assert json.loads(mended.to_str()) == json.loads(right.to_str())


def evaluation(step, accuracy):
    row = {"kind": "eval", "step": step, "accuracy": accuracy, "accuracy_low": 0.25, "accuracy_high": 0.75}
    return row | {f"recovered{end}": float("nan") for end in ("", "_low", "_high")}


def test_a_policy_without_an_adapter_is_copied_and_its_card_has_what_was_recorded(config, policy, tmp_path):
    run = tmp_path / "run"
    settings = config.to_dict() | {"reward_weights": {"correctness": 4.0, "retry": 0.5}}
    write_text(run / "config.json", json.dumps(settings))
    save_policy(policy, run / "best")
    write_text(run / "best" / "step.txt", "2\n")
    write_jsonl(run / "metrics.jsonl", [evaluation(0, 0.4), {"kind": "train", "step": 2}, evaluation(2, 0.5)])
    write_text(run / "summary.txt", "                     after\naccuracy    0.775 [0.719, 0.823]\n")
    starts = ("time: then\ngit: old\n\ntorch==1\n", "time: now\ngit: abc\n\nnumpy==1\ntorch==2\n")
    write_text(run / "environment.txt", "\n".join(starts))
    out = export(run, tmp_path / "out" / "mine")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run / "best", out))
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine"]
    assert not {"step.txt", "adapter"} & {path.name for path in out.iterdir()}
    assert json.loads((out / "rezero.json").read_text()) == settings
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers" and {"rezero", "grpo"} <= set(card.data.tags)
    assert "base_model" not in card.data.to_dict()  # a folder is no name on the hub
    said = ["correctness 4, retry 0.5", "accuracy    0.775 [0.719, 0.823]", " 0.500 [0.250, 0.750]\n```"]
    said += ["time: now\ngit: abc\ntorch==2\n", "steps: 2 of 4; best on dev and kept: step 2 ", "learning_rate: 0.01\n"]
    assert [text for text in said if text not in card.text] == []
    assert [text for text in ("git: old", "numpy", "0.400", "nan", "not recorded") if text in card.text] == []


def test_a_run_is_found_below_its_parent(run, tmp_path):
    assert find_run(run) == find_run(tmp_path / "runs") == run
    other = tmp_path / "runs" / "other"
    (other / "best").mkdir(parents=True)
    assert find_run(tmp_path) == run  # without a config.json, `other` is no run
    (other / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"it holds 2: .*runs/other, .*runs/toy$"):
        find_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"want a run's folder, with config.json and best/.*; it holds none"):
        find_run(tmp_path / "nowhere")


def refused(capsys, *args) -> str:
    assert main(["export", *map(str, args)]) == 2
    return capsys.readouterr().err


CONVERTER = """
import sys
folder, _, target, _, kind = sys.argv[1:]
assert open(f"{folder}/config.json").read() and open(f"{folder}/model.safetensors", "rb").read(), "no model"
open(target, "w").write(kind)
"""


@pytest.mark.parametrize("where", ["a clone", "its path", "on PATH"])
def test_gguf_by_the_converter_of_llama_cpp(run, tmp_path, monkeypatch, where):
    path = write_text(tmp_path / "llama.cpp" / module.CONVERTER, CONVERTER)
    path.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP", {"a clone": str(path.parent), "its path": str(path)}.get(where, ""))
    if where == "on PATH":
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    assert (export(run, gguf=True) / "toy-bf16.gguf").read_text() == "bf16"


def test_what_fails_leaves_nothing_and_an_existing_target_is_left_alone(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAMA_CPP", str(write_text(tmp_path / "c.py", "exit('first\\nlast words')")))
    assert refused(capsys, run, "--gguf").endswith("c.py failed with exit status 1: last words\n")
    assert sorted(path.name for path in run.iterdir()) == ["best", "config.json"]
    (tmp_path / "out").mkdir()
    assert f"error: {tmp_path / 'out'} exists" in refused(capsys, run, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LLAMA_CPP", "")
    assert "not on PATH, and LLAMA_CPP='' is neither its path nor a clone" in refused(capsys, run, "--gguf")


SMOLLM_IS_HERE = (ROOT / hub.CACHE / SMOLLM).is_dir() or not smollm.missing()


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM_IS_HERE, reason="SmolLM2 is not installed: make smollm")
def test_smollm_merged_writes_the_same_greedy_episodes(engine, tmp_path):
    """Both compute in float32, yet the merged weights were rounded: a near tie may flip (see `write_model`)."""
    config = load_config("smollm", turn_tokens=16, max_turns=2)
    task = load_task(config)
    questions, run = task.questions["dev"][:12], tmp_path / "run"
    write_text(run / "config.json", json.dumps(config.to_dict()))
    adapter = with_a_random_adapter(SMOLLM, std=0.02)
    save_policy(adapter, run / "best")
    adapter.model.float()
    ours = greedy(adapter, engine, questions, task.sampling)
    with adapter.model.disable_adapter():
        assert greedy(adapter, engine, questions, task.sampling) != ours
    theirs = greedy(load_policy(export(run)), engine, questions, task.sampling)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 11
