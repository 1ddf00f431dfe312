"""Adapters and models as others make them: whatever their shape, they are continued, saved and exported as they are."""

import json
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import LENGTH
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rezero.__main__ import main
from rezero.config import load_config
from rezero.extras.export import export, write_model
from rezero.extras.unsloth import ModelGeneration, load_unsloth
from rezero.files import resolve, write_text
from rezero.policy import hub
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import adapted_share, add_adapter, linear_layers, load_base, read_adapter
from rezero.policy.load import load_policy, load_trainable
from rezero.training.train import train

START = [[5, 6, 7, 9], [8, 10]]
KINDS = {  # of adapters: arguments of LoraConfig beside the rank
    "another alpha": dict(lora_alpha=16),
    "rsLoRA": dict(lora_alpha=16, use_rslora=True),
    "DoRA": dict(lora_alpha=4, use_dora=True),
    "fewer targets": dict(target_modules=["q_proj"]),
    "targets by a pattern": dict(target_modules=r".*\.(down|o)_proj", lora_alpha=2),
    "embedding": dict(target_modules=["q_proj", "embed_tokens"]),
    "output layer": dict(target_modules=["q_proj", "lm_head"]),
    "ranks by layer": dict(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 9}),
    "output layer trained": dict(modules_to_save=["lm_head"]),
    "embedding trained": dict(modules_to_save=["embed_tokens"]),
    "biases": dict(bias="lora_only"),
    "dropout": dict(lora_dropout=0.5),
}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(hub, "best_dtype", lambda: torch.float32)  # whatever the hardware


@pytest.fixture(params=KINDS)
def kind(request, config) -> Policy:
    """The toy with an adapter of some kind, every weight of which has learned something."""
    model, tokenizer = load_base(config.policy)
    options = dict(r=4, lora_alpha=4, target_modules=linear_layers(model), task_type="CAUSAL_LM")
    made = Policy(get_peft_model(model, LoraConfig(**options | KINDS[request.param])).eval(), tokenizer)
    torch.manual_seed(1)
    for weight in made.model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    return made


def logits(policy: Policy) -> torch.Tensor:
    return policy.start(START, 0.0).logits.float()


same = partial(torch.testing.assert_close, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_an_adapter_of_any_kind_is_asked_continued_and_exported_as_it_is(kind, config, tmp_path):
    held, base = logits(kind), logits(load_policy(config.policy))
    assert (held - base).abs().max() > 0.01
    folder = save_policy(kind, tmp_path / "adapter")
    same(logits(load_policy(folder)), held)
    further = load_trainable(replace(config, policy=str(folder), lora_rank=4))
    same(logits(further), held)
    trained = [
        {name for name, weight in one.model.named_parameters() if weight.requires_grad} for one in (kind, further)
    ]
    assert trained[0] == trained[1]
    same(logits(load_policy(save_policy(further, tmp_path / "again"))), held)
    write_model(tmp_path / "again", str(folder), tmp_path / "merged")  # of a run that continued an adapter
    merged = logits(load_policy(tmp_path / "merged"))
    assert (merged - held).abs().max() < 0.05 * held.abs().max()  # rounded to bfloat16
    assert (merged - held).abs().max() < 0.3 * (base - held).abs().max()


def test_a_run_that_continues_an_adapter_is_exported(config, task, tmp_path):
    model, tokenizer = load_base(config.policy)
    shape = LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    )
    start = save_policy(Policy(get_peft_model(model, shape), tokenizer), tmp_path / "adapter")
    further = replace(config, policy=str(start), lora_rank=4, steps=2, reward_weights={LENGTH: 1.0})
    further = replace(further, grpo=config.grpo | {"beta": 0.1})  # TRL adds a second adapter
    train(further, tmp_path / "run", task)
    best, merged = load_policy(tmp_path / "run" / "best"), load_policy(export(tmp_path / "run"))
    assert (logits(merged) - logits(best)).abs().max() < 0.02 * logits(best).abs().max()


def test_weights_of_an_adapter_of_another_shape_are_refused(config, tmp_path):
    for rank, layers in ((4, 1), (4, 0)):
        model, tokenizer = load_base(config.policy)
        save_policy(Policy(add_adapter(model, rank, layers), tokenizer), tmp_path / str(layers))
    for other, base in (("0", "1"), ("1", "0")):
        with pytest.raises(ValueError, match=rf"{other}: its adapter is of another shape .*lora_"):
            read_adapter(load_policy(tmp_path / base).model, tmp_path / other)
    with pytest.raises(ValueError, match=r"lora_rank=0, lora_layers=0; the adapter in .* has rank 4"):
        load_trainable(replace(config, policy=str(tmp_path / "0")))


@pytest.mark.parametrize(("options", "said"), [
    (dict(use_dora=True), "cannot train an adapter with {'use_dora': True}; want backend='transformers'"),
    (dict(modules_to_save=["lm_head"]), r"{'modules_to_save': \['lm_head'\]}"),
])  # fmt: skip
def test_what_unsloth_cannot_continue_is_refused_before_it_is_imported(monkeypatch, options, said):
    monkeypatch.setattr("rezero.extras.unsloth.check_gpu", lambda **_: None)
    sizes = dict(max_context=99, rank=4, layers=0, load_in_4bit=False, vllm=False, gpu_share=0.5, seed=0)
    with pytest.raises(ValueError, match=said):
        load_unsloth("some/model", **sizes, given=LoraConfig(r=4, **options))


SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
SIZES |= dict(num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = {  # transformers' names of architectures -> (arguments of their configuration, linear layers, share adapted)
    "llama": ({}, "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj", 100),
    "phi3": ({}, "down_proj gate_up_proj o_proj qkv_proj", 100),
    "lfm2": ({"layer_types": ["conv", "full_attention"]},
             "in_proj k_proj out_proj q_proj v_proj w1 w2 w3", 100),
    "gpt2": (dict(n_embd=32, n_layer=2, n_head=2), "c_attn c_fc c_proj", None),  # Conv1D; positions are an embedding
    "gpt_neox": ({}, "dense dense_4h_to_h dense_h_to_4h query_key_value", 100),
    "qwen3_moe": (dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=16),
                  "k_proj o_proj q_proj v_proj", None),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_all_linear_layers_are_found_by_structure(name):
    options, layers, share = MODELS[name]
    config = CONFIG_MAPPING[name](**SIZES | options)
    model = AutoModelForCausalLM.from_config(config)
    assert linear_layers(model) == layers.split()
    adapted = add_adapter(model, rank=2)
    said = adapted_share(adapted)
    assert said.endswith(f": {', '.join(layers.split())}")
    percent = int(said.split("%")[0].removeprefix("LoRA adapts "))
    assert percent == share or (share is None and 10 < percent < 100), said
    adapted(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()


def test_the_share_adapted_is_printed(config, capsys):
    load_trainable(replace(config, lora_rank=2, lora_layers=1))
    assert "LoRA adapts 50% of the weights between embedding and output: down_proj, " in capsys.readouterr().out


GENERATION = [
    dict(repetition_penalty=1.7),
    dict(num_beams=3, length_penalty=2.0),
    dict(do_sample=True, min_p=0.4, temperature=0.1, top_k=1, typical_p=0.2, epsilon_cutoff=0.1),
    dict(do_sample=False, temperature=0.6, top_p=0.9),  # invalid: transformers refuses to save it
    dict(no_repeat_ngram_size=1, suppress_tokens=[5, 6, 7], max_length=3, forced_eos_token_id=4),
]


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("settings", GENERATION)
def test_no_setting_of_a_base_changes_sampling_or_stops_saving(config, tmp_path, settings, place):
    path = tmp_path / "start" / place
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    plain = save_policy(load_policy(config.policy), tmp_path / "plain")
    want = load_policy(plain).start(START, 0.0).generate(8)
    model, tokenizer = load_base(config.policy)
    for policy in (load_policy(config.policy), Policy(add_adapter(model, 2), tokenizer)):
        assert policy.start(START, 0.0).generate(8) == want
        assert ModelGeneration(policy, START, 0.0).generate(8) == want
        torch.manual_seed(0)
        drawn = {tuple(turn) for turn in ModelGeneration(policy, [START[0]] * 20, 1.0).generate(4)}
        assert len(drawn) > 10  # the whole distribution
        save_policy(policy, tmp_path / "saved")
    assert GenerationConfig.from_pretrained(plain).to_diff_dict().keys() <= {
        "eos_token_id", "pad_token_id", "transformers_version"
    }  # fmt: skip


# --- what is damaged ---

DAMAGE = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a list": lambda path: path.write_text("[]"),
    "noise": lambda path: path.write_bytes(b"\xff\x00\xfe" * 99),
}
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", [*FILES, "adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_file_of_a_model_is_named_in_one_line(config, tmp_path, file, damage):
    folder, damaged = tmp_path / "start", load_config(policy=config.policy, lora_rank=2)
    if file.startswith("adapter"):
        folder = save_policy(load_trainable(replace(config, lora_rank=2)), tmp_path / "adapter")
        damaged = replace(damaged, policy=str(folder))
    DAMAGE[damage](folder / file)
    ways = [lambda: load_policy(folder), lambda: load_trainable(damaged)]
    for way in ways:
        with pytest.raises(ValueError, match=f"{folder / file}: damaged: ") as caught:
            way()
        assert "\n" not in str(caught.value)


def test_a_damaged_model_is_one_line_of_the_command_line(config, capsys):
    DAMAGE["cut"](resolve(config.policy) / "model.safetensors")
    assert main(["ask", "Who?", "--policy", config.policy]) == 2
    assert capsys.readouterr().err.startswith(f"error: {config.policy}/model.safetensors: damaged: ")


# --- hardware ---


def test_a_model_goes_to_the_gpu_in_its_dtype(config, monkeypatch):
    """With a stand-in for the GPU: a folder is loaded onto it as a model of the hub is, in float32 if it is trained."""
    moved, kept = [], torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(hub, "best_dtype", lambda: torch.bfloat16)
    model, _ = load_base(config.policy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(type(model), "to", lambda self, where: moved.append((where, self.dtype)) or self)
    try:
        load_policy(config.policy)
        load_trainable(config)
        load_base(config.policy)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(kept)
    assert moved == [("cuda", torch.bfloat16), ("cuda", torch.float32), ("cuda", torch.bfloat16)]


def test_apples_gpu_is_said_to_be_left_alone(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    model = load_base("data/policy")[0]
    with pytest.warns(UserWarning, match="MPS"):
        assert hub.to_hardware(model) is model


def test_a_reader_of_the_json_files_may_read_the_weights(config, tmp_path):
    folder = resolve(config.policy)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert write_text(tmp_path / "x", "").stat().st_mode == (folder / "model.safetensors").stat().st_mode
