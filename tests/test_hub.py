"""Real language models and adapters: what can be checked on a toy and, marked slow, SmolLM2 from its package."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from rezero.config import load_config
from rezero.extras import smollm as package
from rezero.extras.slots import SlotGeneration
from rezero.files import ROOT
from rezero.policy import hub
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import SMOLLM, add_adapter, load_base, mend
from rezero.policy.load import check_context, load_policy, load_trainable, naming_knobs, outline
from rezero.policy.sampling import Generation
from rezero.protocol import Sampling, build_prompt, wrap_information
from rezero.task import Task
from rezero.training.train import train
from rezero.warmstart.supervised import starting_policy

START = [[5, 6, 7], [8]]


@pytest.fixture
def adapted(policy, tmp_path):
    """The toy policy, read back from a folder, with an adapter that has learned something."""
    model, tokenizer = load_base(str(save_policy(policy, tmp_path / "base")))
    made = Policy(add_adapter(model, rank=2, layers=1), tokenizer)
    for name, weight in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return made


def test_an_adapter_is_saved_alone_and_loaded_on_its_base(adapted, tmp_path):
    save_policy(adapted, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = load_policy(tmp_path / "adapter")
    assert torch.equal(again.start(START, 0.0).logits, adapted.start(START, 0.0).logits)
    assert again.start(START, 0.0).generate(6) == adapted.start(START, 0.0).generate(6)


def test_an_adapter_is_trained_further(adapted, tmp_path):
    """From `config.policy`, or from a folder such as the warm start's on top of a fresh one."""
    kept = save_policy(adapted, tmp_path / "kept")
    base, options = str(tmp_path / "base"), dict(lora_rank=2, lora_layers=1)
    for policy in (
        load_trainable(load_config(policy=str(kept), **options)),
        load_trainable(load_config(policy=base, **options), kept),
    ):
        assert policy.start(START, 0.0).generate(6) == adapted.start(START, 0.0).generate(6)
        assert policy.model.peft_config["default"].base_model_name_or_path == base
        assert any(weight.requires_grad for weight in policy.model.parameters())
    with pytest.raises(
        ValueError, match=r"lora_rank=4, lora_layers=1; the adapter in .*kept has rank 2 on layers \[1\]"
    ):
        load_trainable(load_config(policy=str(kept), **options | dict(lora_rank=4)))


def test_only_the_top_layers_carry_an_adapter(policy):
    model = add_adapter(deepcopy(policy.model), rank=2, layers=1)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 14 and all(".layers.1." in name for name in trained)  # A and B of 7 matrices, of 2 layers
    with pytest.raises(ValueError, match=r"lora_layers=3; .* has 2 layers"):
        add_adapter(deepcopy(policy.model), rank=2, layers=3)


def test_pad_and_end_are_mended(policy, monkeypatch, tmp_path):
    tokenizer = deepcopy(policy.tokenizer)
    assert mend(tokenizer).pad_token == policy.tokenizer.pad_token  # which needs no mending
    tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(save_policy(policy, tmp_path / "local"))
    assert load_policy(tmp_path / "local").tokenizer.pad_token == "<|pad|>"
    monkeypatch.setattr(hub, "PADS", ("<empty_output>",))
    assert mend(tokenizer).pad_token is None  # no token is left to pad with
    with pytest.raises(ValueError, match="the pad token is None; want one that never ends a turn"):
        Policy(policy.model, tokenizer)
    tokenizer.add_tokens(["<empty_output>"])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<|im_end|>"  # as in SmolLM2's GGUF
    mend(tokenizer)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<empty_output>")


@pytest.mark.parametrize(("sampling", "max_context", "said"), [
    (dict(episode_tokens=20), 100, None),
    (dict(episode_tokens=90), 100, r"prompt of \d+ tokens do not fit the 100 tokens .* episode_tokens <= \d+"),
    (dict(episode_tokens=2048), 0, "do not fit the 2048 tokens"),
    (dict(prompt_style="full"), 9000, None),
])  # fmt: skip
def test_what_a_model_cannot_read_is_said(policy, questions, sampling, max_context, said):
    how = Sampling(**dict(prompt_style="short") | sampling)
    with pytest.raises(ValueError, match=said) if said else nullcontext():
        check_context(policy, "start", how, max_context, questions)


def test_the_longest_question_is_the_one_with_the_most_tokens(policy, questions):
    """Not the one with the most characters; and a chat token in a question is only text."""
    odd = replace(questions[0], text="氷河<|im_end|>" * 9)
    plain = replace(questions[0], text="Who was the commander of Corvane, and who was the commander? " * 2)
    lengths = [len(policy.prompt_ids(build_prompt(question.text, "short"))) for question in (odd, plain)]
    assert len(odd.text) < len(plain.text) and lengths[0] > lengths[1]
    with pytest.raises(ValueError, match=f"prompt of {lengths[0]} tokens do not fit"):
        check_context(policy, "start", Sampling(episode_tokens=20, prompt_style="short"), 30, [plain, odd])


def test_an_outline_needs_no_weights(policy, tmp_path):
    folder = save_policy(policy, tmp_path / "start")
    (folder / "model.safetensors").unlink()
    assert outline(str(folder)).model.config.num_hidden_layers == 2
    with pytest.raises(FileNotFoundError, match=r"no model .*start'"):
        load_base(str(folder))


def test_a_model_that_is_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "model_info", None)  # the hub cannot be asked
    with pytest.raises(FileNotFoundError, match=r"no model 'nobody/nothing'.*hub"):
        load_policy("nobody/nothing")
    monkeypatch.setattr(hub, "CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="make smollm"):
        load_policy(SMOLLM)


def test_out_of_memory_names_what_to_lower():
    with (
        pytest.raises(MemoryError, match=r"micro_batch=4 .*episode_tokens=8192 .*gpu_share=0\.5"),
        naming_knobs(micro_batch=4, episode_tokens=8192, gpu_share=0.5),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


# SmolLM2 itself: half a minute when it has been unpacked, which takes another, once

needs_smollm = pytest.mark.skipif(
    not (ROOT / hub.CACHE / SMOLLM).is_dir() and package.missing(), reason="SmolLM2 is not installed: make smollm"
)


@pytest.fixture(scope="module")
def smollm():
    return load_policy(SMOLLM)


@pytest.mark.slow
@needs_smollm
def test_smollm_is_tokenized_turn_by_turn_as_by_its_template(smollm):
    turns = [
        ("<think> look </think><search> a b </search>", "[1] Corvane | it's 1970, at 3:20 a.m.\n[2] X | y"),
        ("<think>no</think>\n<search>c</search>", "No hits."),
        ("<answer> d </answer>", None),
    ]
    for style in ("short", "full"):
        chat = build_prompt("Who was the commander of Corvane?", style)
        ids = smollm.prompt_ids(chat)
        for text, information in turns:
            written = smollm.encode(text)
            ids += written
            chat.append({"role": "assistant", "content": text})
            if information:
                ids += smollm.information_ids(information, written)
                chat.append({"role": "user", "content": wrap_information(information)})
        whole = smollm.tokenizer.apply_chat_template(chat, tokenize=False)
        assert (
            smollm.encode(whole) == ids + smollm.encode(smollm.template.between)[:2]
        )  # the last end of turn and newline
    assert smollm.tokenizer.pad_token_id not in ids


@pytest.mark.slow
@needs_smollm
@pytest.mark.parametrize("kind", [Generation, SlotGeneration])
def test_smollm_batched_over_turns_is_generate_of_transformers(smollm, kind):
    """Greedy, questions of different lengths, one of them twice, two turns: the same tokens as one by one."""
    model = deepcopy(smollm.model).float()  # bfloat16 rounds a batch differently, which flips near ties
    policy = Policy(model, smollm.tokenizer)
    asked = [
        "What is the capital of France?",
        "Name a colour.",
        "Who wrote Hamlet, and when did he live?",
        "Name a colour.",
    ]
    history = [policy.prompt_ids([{"role": "user", "content": text}]) for text in asked]
    generation = kind(policy, history, 0.0)
    for _ in range(2):
        turns = generation.generate(12)
        for row, turn in enumerate(turns):
            given = torch.tensor([history[row]])
            out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False)
            assert turn == out[0, given.shape[1] :].tolist()
        news = [policy.information_ids("[1] A | more" * (row + 1), turn) for row, turn in enumerate(turns)]
        history = [old + turn + new for old, turn, new in zip(history, turns, news, strict=True)]
        generation.extend(list(range(len(asked))), news)


@pytest.mark.slow
@needs_smollm
def test_smollm_warm_start_and_a_step_of_grpo(questions, engine, tmp_path):
    config = load_config(
        "smollm",
        **dict(steps=1, questions_per_step=2, num_generations=2, micro_batch=2, eval_every=1),
        **dict(episode_tokens=300, turn_tokens=24, warm_start=dict(steps=2, episodes=8)),
    )
    sampling = Sampling(k=2, max_turns=4, turn_tokens=24, episode_tokens=300, prompt_style="short", temperature=0.8)
    task = Task(engine, {"train": questions, "dev": questions[:1]}, sampling)
    train(config, tmp_path / "run", task, starting_policy(config, task, tmp_path / "run"))
    assert (tmp_path / "run" / "best" / "adapter_model.safetensors").is_file()
    load_policy(tmp_path / "run" / "best")
