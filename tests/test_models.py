"""Real language models: what can be checked without a GPU, and, marked slow, SmolLM2 itself from its package."""

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rezero.config import load_config
from rezero.files import ROOT
from rezero.policy import hub as models
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import SMOLLM, add_adapter, load_base, mend
from rezero.policy.load import check_context, load_policy, out_of_memory, outline
from rezero.protocol import build_prompt, wrap_information
from rezero.task import Task
from rezero.training.callbacks import AdapterCheck
from rezero.training.train import train

DEAF = lambda template: template.replace("in messages %}", "in messages if m.role != 'system' %}")  # noqa: E731


@pytest.fixture
def adapted(policy, tmp_path):
    """The toy policy, read back from a folder, with an adapter that has learned something."""
    model, tokenizer = load_base(str(save_policy(policy, tmp_path / "base")))
    made = Policy(add_adapter(model, rank=2, layers=1), tokenizer)
    for name, weight in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return made


def test_an_adapter_is_saved_alone_and_comes_back_on_its_model(adapted, tmp_path):
    save_policy(adapted, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = load_policy(tmp_path / "adapter")
    start = [[5, 6, 7], [8]]
    assert torch.equal(again.start(start, 0.0).logits, adapted.start(start, 0.0).logits)
    assert again.start(start, 0.0).generate(6) == adapted.start(start, 0.0).generate(6)


def test_only_the_top_layers_carry_it(policy):
    model = add_adapter(deepcopy(policy.model), rank=2, layers=1)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 14 and all(".layers.1." in name for name in trained)  # 7 matrices, A and B, of 2 layers
    with pytest.raises(ValueError, match=r"lora_layers=3: .* has 2"):
        add_adapter(deepcopy(policy.model), rank=2, layers=3)


def test_an_adapter_without_effect_stops_the_run(adapted):
    check = AdapterCheck(adapted, build_prompt("Who?", "short"), load_config(warmup_steps=1))
    check.on_step_end(None, SimpleNamespace(global_step=5), None)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    check.on_step_end(None, SimpleNamespace(global_step=4), None)  # too early to tell
    with pytest.raises(RuntimeError, match="as if it had no adapter"):
        check.on_step_end(None, SimpleNamespace(global_step=5), None)


def test_pad_and_end_are_mended(policy):
    tokenizer = deepcopy(policy.tokenizer)
    tokenizer.add_tokens(["<empty_output>"])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<|im_end|>"  # as SmolLM2's GGUF has it
    mend(tokenizer)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<empty_output>")
    tokenizer = deepcopy(policy.tokenizer)
    mend(tokenizer)
    assert tokenizer.pad_token == policy.tokenizer.pad_token  # good as it is
    tokenizer.pad_token = "<|im_end|>"
    with pytest.raises(ValueError, match="no token to pad with; want one of"):
        mend(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template; use an instruct model"):
        mend(tokenizer)


def test_a_context_that_is_too_small_is_refused(policy, questions):
    tight = load_config(max_context=100, episode_tokens=90)
    with pytest.raises(ValueError, match=r"episode_tokens=90 and a prompt of \d+ tokens .* want episode_tokens <= \d+"):
        check_context(policy, tight, questions)
    check_context(policy, replace(tight, episode_tokens=20), questions)


def test_a_template_that_drops_the_system_message_is_refused(policy, questions):
    tokenizer = deepcopy(policy.tokenizer)
    tokenizer.chat_template = DEAF(tokenizer.chat_template)
    deaf = Policy(policy.model, tokenizer)
    with pytest.raises(ValueError, match="drops the system message that prompt_style='full' has"):
        check_context(deaf, load_config(prompt_style="full", max_context=9000), questions)
    check_context(deaf, load_config(max_context=9000), questions)


def test_what_a_model_cannot_read_is_said_before_weights_are_loaded(policy, task, tmp_path):
    tokenizer = deepcopy(policy.tokenizer)
    folder = save_policy(Policy(policy.model, tokenizer), tmp_path / "start")
    (folder / "model.safetensors").unlink()
    small = dict(policy=str(folder), lora_rank=2, difficulty_samples=0)
    for template, options, said in [
        (tokenizer.chat_template, dict(episode_tokens=2048), "do not fit the 2048 tokens"),
        (DEAF(tokenizer.chat_template), dict(prompt_style="full", episode_tokens=300), "drops the system message"),
        (None, {}, "no chat template; use an instruct model"),
    ]:
        tokenizer.chat_template = template
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match=said):
            train(load_config(**small, **options), tmp_path / "run", task)
    assert not (tmp_path / "run").exists()  # else it would refuse the mended configuration
    tokenizer.chat_template = policy.tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    assert outline(str(folder)).model.config.num_hidden_layers == 2
    with pytest.raises(FileNotFoundError, match=r"no model .*start'"):
        load_base(str(folder))


def test_a_model_that_is_nowhere(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no model 'nobody/nothing'.*hub"):
        load_policy("nobody/nothing")
    monkeypatch.setattr(models, "CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_on_hub", lambda name: False)
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="make smollm"):
        load_policy(SMOLLM)


def test_out_of_memory_names_three_knobs_and_by_how_much():
    said = out_of_memory(load_config("single_gpu"))
    for knob in ("micro_batch=4 to 2", "episode_tokens=8192 to 4096", "gpu_share=0.5 to 0.4"):
        assert knob in said


# SmolLM2 itself: half a minute once it is unpacked (unpacking: two minutes, once)

needs_smollm = pytest.mark.skipif(
    not (ROOT / ".cache/models" / SMOLLM).is_dir() and models.missing(),
    reason="SmolLM2 is not installed: make smollm",
)


@pytest.fixture(scope="module")
def smollm():
    return load_policy(SMOLLM)


@pytest.mark.slow
@needs_smollm
def test_smollm_is_tokenized_turn_by_turn_as_its_template_does(smollm):
    turns = [("<think> look </think><search> a b </search>", "[1] Corvane | it's 1970, at 3:20 a.m.\n[2] X | y"),
             ("<think>no</think>\n<search>c</search>", "No hits."), ("<answer> d </answer>", None)]  # fmt: skip
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
        assert smollm.encode(whole) == ids + smollm.encode(smollm.between)[:2]  # the template's last end and newline
    assert smollm.tokenizer.pad_token_id not in ids
    assert smollm.tokenizer.pad_token_id != smollm.end_of_turn


@pytest.mark.slow
@needs_smollm
def test_smollm_batched_over_turns_is_transformers_generate(smollm):
    """Greedy, four questions of different lengths, two turns: the same tokens as `generate`, one by one."""
    model = deepcopy(smollm.model).float()  # in bfloat16 a batch rounds otherwise, and near ties flip
    policy = Policy(model, smollm.tokenizer)
    asked = ["What is the capital of France?", "Name a colour.", "Who wrote Hamlet, and when did he live?", "2 + 2?"]
    history = [policy.prompt_ids([{"role": "user", "content": text}]) for text in asked]
    generation = policy.start(history, 0.0)
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
    small = dict(steps=1, questions_per_step=2, num_generations=2, micro_batch=2, eval_every=1, episode_tokens=300)
    config = load_config("smollm", **small, turn_tokens=24, warm_start_steps=2, warm_start_episodes=8)
    task = Task(engine, {"train": questions, "dev": questions[:1], "test": questions})
    train(config, tmp_path / "run", task)
    assert (tmp_path / "run" / "best" / "adapter_model.safetensors").is_file()
    load_policy(tmp_path / "run" / "best")
