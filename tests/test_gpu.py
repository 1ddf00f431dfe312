"""Unsloth and vLLM, replaced by stand-ins; whether the profiles fit their cards; and, where Unsloth is, its trainer."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import torch
from conftest import toy_task
from safetensors.torch import load_file, save_file
from tools import gpu_memory

from rezero.config import load_config
from rezero.extras import early, unsloth
from rezero.extras.unsloth import EngineGeneration, ModelGeneration, load_unsloth
from rezero.files import ROOT
from rezero.policy import hub
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import add_adapter, load_base
from rezero.policy.load import load_policy, load_trainable, with_weights
from rezero.protocol import Sampling
from rezero.rollout import rollout
from rezero.task import load_task
from rezero.training import train as training

SAMPLING = Sampling(k=2, max_turns=3, turn_tokens=8, episode_tokens=300, prompt_style="short")
START = [[5, 6, 7], [8]]


@pytest.fixture
def adapted(policy, tmp_path):
    """The toy policy with an adapter that has learned something."""
    model, tokenizer = load_base(str(save_policy(policy, tmp_path / "base")))
    made = Policy(add_adapter(model, rank=2), tokenizer)
    shake(made)
    return made


def shake(policy: Policy) -> None:
    """Give the adapter weights at which it changes what the model says."""
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)


# --- what is missing is said before anything is loaded ---

ALL = dict(backend="unsloth", vllm=True, load_in_4bit=True, optim="paged_adamw_8bit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "unsloth, vllm, vllm_bnb_plugin, bitsandbytes missing"),
        (dict(vllm=False), ": unsloth, bitsandbytes missing"),
        (dict(vllm="auto"), ": unsloth, bitsandbytes missing"),
        (dict(load_in_4bit=False, optim="adamw_torch"), ": unsloth, vllm missing"),
        (dict(load_in_4bit=False, backend="transformers"), "optim='paged_adamw_8bit': bitsandbytes missing"),
        (dict(load_in_4bit=False, backend="transformers", optim="adamw_torch"), None),  # the laptop needs nothing
    ],
)
def test_a_missing_gpu_and_missing_packages_are_named(options, said, monkeypatch):
    monkeypatch.setattr(early, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ImportError, match=said) if said else nullcontext():
        early.check_gpu(**ALL | options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OSError, match=r"needs a GPU: torch .* finds none, or one whose driver"):
        early.check_gpu(**ALL)


# --- loading ---


@pytest.fixture
def fake_unsloth(policy, tmp_path, monkeypatch):
    """A package `unsloth` that loads the toy policy; `room`: tokens that its vLLM has space for, 0: it has no vLLM."""
    made = SimpleNamespace(asked={}, room=2048, error=None, capability=(9, 0))
    folder = str(save_policy(policy, tmp_path / "base"))

    def from_pretrained(**options):
        made.asked |= options
        if made.error:
            raise made.error
        model, tokenizer = load_base(folder)
        if options["fast_inference"] and made.room:
            model.vllm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=made.room))
        return model, tokenizer

    def get_peft_model(model, **options):
        made.asked |= options
        return add_adapter(model, options["r"])

    module = ModuleType("unsloth")
    module.FastLanguageModel = SimpleNamespace(from_pretrained=from_pretrained, get_peft_model=get_peft_model)
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr(unsloth, "check_gpu", lambda **options: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: made.capability)
    for name in ("UNSLOTH_COMPILE_LOCATION", "UNSLOTH_VLLM_NO_FLASHINFER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return made


SMALL = dict(policy="some/instruct", max_context=2048, episode_tokens=300, lora_rank=2)


def test_a_profile_is_loaded_as_it_says(fake_unsloth):
    policy = load_trainable(load_config("single_gpu", **SMALL))
    loaded = dict(model_name="some/instruct", max_seq_length=2048, load_in_4bit=True, fast_inference=True)
    adapter = dict(gpu_memory_utilization=0.5, max_lora_rank=2, r=2, finetune_last_n_layers=None, random_state=0)
    assert (loaded | adapter).items() <= fake_unsloth.asked.items()
    assert policy.model.peft_config["default"].base_model_name_or_path == "some/instruct"
    assert policy.backend.func is EngineGeneration
    assert Path(os.environ["UNSLOTH_COMPILE_LOCATION"]) == ROOT / ".cache" / "unsloth"
    assert "UNSLOTH_VLLM_NO_FLASHINFER" not in os.environ  # only a T4 needs it
    fake_unsloth.capability = (7, 5)
    policy = load_trainable(load_config("colab_t4", **SMALL, vllm=False))
    assert os.environ["UNSLOTH_VLLM_NO_FLASHINFER"] == "1"
    assert fake_unsloth.asked["fast_inference"] is False and policy.backend.func is ModelGeneration


@pytest.mark.parametrize(
    ("installed", "room", "kind"),
    [(True, 2048, EngineGeneration), (True, 0, ModelGeneration), (False, 2048, ModelGeneration)],
)
def test_vllm_auto_takes_vllm_where_it_is(fake_unsloth, monkeypatch, capsys, installed, room, kind):
    """Not where it is missing, nor where Unsloth goes on without it."""
    monkeypatch.setattr(unsloth, "find_spec", lambda name: installed or None)
    fake_unsloth.room = room
    policy = load_trainable(load_config("gpu_small", **SMALL))
    assert fake_unsloth.asked["fast_inference"] is installed and policy.backend.func is kind
    assert ("vLLM generates" in capsys.readouterr().out) is (kind is EngineGeneration)
    assert policy.model.generation_config.max_length is None  # beside max_new_tokens it would warn at each call


@pytest.mark.parametrize("which", ["notebook", "command"])
def test_unsloth_is_imported_before_what_it_patches(tmp_path, which):
    """In a process of its own, with a stand-in that refuses to be late."""
    (tmp_path / "unsloth.py").write_text(
        "import os, sys\nlate = {'transformers', 'trl', 'peft', 'accelerate'} & sys.modules.keys()\n"
        "raise SystemExit(f'late: {late}' if late else os.environ['CUDA_VISIBLE_DEVICES'] + ' first')"
    )
    cells = nbformat.read(ROOT / "notebooks" / "02_train_grpo.ipynb", as_version=4).cells
    notebook = "\n".join(cell.source for cell in cells if cell.cell_type == "code").replace(
        '"laptop"', '"gpu_small"', 1
    )
    command = "from rezero.__main__ import main\nmain(['train', '--profile', 'gpu_small', '--run-dir', 'none'])"
    code = "import torch\ntorch.cuda.is_available = lambda: True\n" + dict(notebook=notebook, command=command)[which]
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "0 first"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(room=1792), "vLLM has room for episodes of 1792 tokens .* lower max_context=2048"),
        (dict(room=0), "of 0 tokens .*Unsloth went on without vLLM and printed why.*vllm=False"),
        (dict(error=torch.cuda.OutOfMemoryError("CUDA out of memory")), r"no room for .* in gpu_share=0\.5 of the GPU"),
        (dict(error=ValueError("unknown architecture")), "^unknown architecture$"),
    ],
)
def test_what_unsloth_cannot_load_is_said_before_training(fake_unsloth, change, said):
    vars(fake_unsloth).update(change)
    options = dict(max_context=2048, rank=2, layers=0, load_in_4bit=True, vllm=True, gpu_share=0.5, seed=0)
    with pytest.raises(ValueError, match=said):
        load_unsloth("some/instruct", **options)


def test_an_adapter_brings_its_base(fake_unsloth, adapted, tmp_path):
    kept = save_policy(adapted, tmp_path / "kept")
    policy = load_trainable(load_config("single_gpu", **SMALL | dict(policy=str(kept), vllm=False)))
    assert fake_unsloth.asked["model_name"] == str(tmp_path / "base")
    assert policy.start(START, 0.0).generate(8) == by_itself(adapted).start(START, 0.0).generate(8)


# --- generation ---


class StandIn:
    """vLLM's `LLM` as far as `EngineGeneration` calls it, with our own generation behind it."""

    def __init__(self, policy: Policy):
        self.policy, self.calls, self.shared_weights = policy, [], True  # Unsloth's patches of TRL look for the last

    def generate(self, prompts, sampling, use_tqdm, lora_request):
        self.calls.append((sampling, lora_request))
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        with torch.random.fork_rng():  # the same draws, whatever a trainer draws in between
            torch.manual_seed(len(self.calls))
            turns = self.policy.start(ids, sampling.temperature).generate(sampling.max_tokens)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=turn)]) for turn in turns]


def fake_vllm() -> ModuleType:
    vllm = ModuleType("vllm")
    vllm.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    vllm.SamplingParams = lambda **options: SimpleNamespace(**options)
    return vllm


@pytest.fixture
def served(policy, monkeypatch):
    """The toy policy, for which a stand-in for vLLM generates."""
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm())
    model = SimpleNamespace(
        config=policy.model.config, vllm_engine=StandIn(policy), saved=[], requests=[], training=False
    )
    model.eval, model.train = (lambda: None), (lambda mode: None)
    model.save_lora = lambda folder, **options: model.saved.append(options)
    model.load_lora = lambda folder: model.requests.append(folder) or len(model.requests)
    return replace(policy, model=model, backend=partial(EngineGeneration, weights="now"))


def by_itself(policy: Policy) -> Policy:
    return replace(policy, backend=partial(ModelGeneration, weights="now"))


def test_the_engine_gets_whole_episodes_and_one_adapter_request(policy, served, questions, engine):
    """The episodes are those of our own cache, over several turns and with rows that leave or are repeated."""
    options = dict(sampling=SAMPLING, fork=lambda batch: {0: 2})  # the first of four goes on from the third
    ours, theirs = (rollout(one, engine, questions * 2, **options) for one in (policy, served))
    assert [episode.completion_ids for episode in theirs] == [episode.completion_ids for episode in ours]
    calls = served.model.vllm_engine.calls
    assert len(calls) > 1
    assert {request for _, request in calls} == {1}  # with more requests vLLM would find no prefix in its cache
    assert served.model.saved == [{"selected_adapters": ["default"]}]
    sampling = calls[0][0]
    assert sampling.stop == ["</search>", "</answer>"] and sampling.include_stop_str_in_output
    assert sampling.stop_token_ids == [policy.end_of_turn]


def test_the_engine_serves_other_weights(served, adapted, tmp_path):
    kept = save_policy(adapted, tmp_path / "kept")
    for weights in (kept, "data/policy"):
        with_weights(served, weights).start(START, 0.0).generate(3)
    assert [request for _, request in served.model.vllm_engine.calls] == [1, None]
    assert served.model.requests == [str(kept)] and not served.model.saved


def test_the_model_by_itself_plays_the_episodes_of_our_cache(policy):
    """The shipped policy, whose turns end by tags; and, at a temperature, the toy draws."""
    shipped, task = load_policy("data/policy"), load_task(load_config())
    sampling = replace(task.sampling, max_turns=4, episode_tokens=600, temperature=0.0)
    questions = task.questions["dev"][:4]
    ours, theirs = (rollout(one, task.engine, questions, sampling) for one in (shipped, by_itself(shipped)))
    assert [episode.completion_ids for episode in theirs] == [episode.completion_ids for episode in ours]
    assert all(episode.searches and episode.answer for episode in ours)
    drawn = [by_itself(policy).start([[5, 6]] * 4, 1.0).generate(8) for _ in range(2)]
    assert drawn[0] != drawn[1] and len({tuple(turn) for turn in drawn[0]}) > 1


def test_the_model_by_itself_with_other_weights(adapted, tmp_path):
    """As it was saved, without its adapter, and as it is now; each leaves the weights as they are."""
    kept = save_policy(adapted, tmp_path / "kept")
    then = adapted.start(START, 0.0).generate(8)
    shake(adapted)
    now = adapted.start(START, 0.0).generate(8)
    with adapted.model.disable_adapter():
        bare = adapted.start(START, 0.0).generate(8)
    assert then != now != bare
    policy = by_itself(adapted)
    for one, turns in [(with_weights(policy, kept), then), (with_weights(policy, "data/policy"), bare), (policy, now)]:
        assert one.start(START, 0.0).generate(8) == turns


@pytest.mark.parametrize(("profile", "card"), gpu_memory.CARDS.items())
def test_a_profile_fits_its_card(profile, card):
    config = load_config(profile)
    left = card * (1 - config.gpu_share)
    assert sum(gpu_memory.training(config).values()) < 0.8 * left  # a fifth for fragments and what is not estimated
    assert gpu_memory.kv_tokens(config, card) > config.max_context  # otherwise vLLM refuses to start
    assert gpu_memory.longest(config) <= config.max_context
    if config.vllm == "auto":
        assert sum(gpu_memory.training(config).values()) + sum(gpu_memory.alone(config).values()) < 0.8 * card
    # The estimate can also say no: with a small share of the smallest card vLLM would refuse.
    assert gpu_memory.kv_tokens(replace(config, gpu_share=0.1), gpu_memory.CARDS["gpu_small"]) < config.max_context


# --- the trainer that Unsloth makes of TRL's, on a CPU beside TRL's own ---


def big(episode) -> float:
    """A reward that differs between episodes."""
    return float(sum(episode.completion_ids) % 7)


def take_step(folder: Path, which: str) -> None:
    """Train the toy in `folder`/base for one step, with TRL's trainer ("ours") or with Unsloth's ("theirs").

    With SGD and learning rate 1 the gradient is what each weight lost: it is written to {which}.safetensors. In a
    process of its own, because Unsloth patches TRL for good.
    """
    hub.best_dtype = lambda: torch.float32
    early.check_gpu = lambda **options: None
    model, tokenizer = load_base(str(folder / "base"))
    policy = Policy(add_adapter(model, rank=4), tokenizer, backend=partial(EngineGeneration, weights="now"))
    shake(policy)  # otherwise only one of an adapter's two matrices has a gradient
    if which == "theirs":
        rewrite_trainer()
    from trl import GRPOTrainer  # noqa: F401  before the stand-in for vLLM, whose version it would ask for

    sys.modules["vllm"] = fake_vllm()
    model = policy.model
    model.vllm_engine = StandIn(replace(policy, backend=None))
    model.save_lora, model.load_lora = lambda *args, **options: None, lambda *args, **options: 1
    model.for_training, model.for_inference = lambda **options: model.train(), model.eval
    config = load_config(
        "single_gpu",
        policy=str(folder / "base"),
        **dict(steps=1, questions_per_step=2, num_generations=2, micro_batch=2, curriculum={"samples": 0}),
        grpo=dict(optim="sgd", learning_rate=1.0, warmup_steps=0, weight_decay=0.0, max_grad_norm=1e9),
        reward_weights={"test_gpu:big": 1.0},
    )
    before = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    training.train(config, folder / which, toy_task(), policy)
    lost = {name: (weight - model.get_parameter(name)).detach() for name, weight in before.items()}
    save_file(lost, folder / f"{which}.safetensors")


def rewrite_trainer() -> None:
    """Have Unsloth patch TRL without a GPU, as it does with one."""
    import trl
    import unsloth  # noqa: F401
    from trl.generation import vllm_generation
    from unsloth.models import rl

    rl.patch_trl_disable_gradient_checkpointing()
    rl._patch_trl_rl_trainers("grpo_trainer")
    vllm_generation.is_vllm_available = lambda: True
    rl.patch_trl_vllm_generation()
    assert "Unsloth" in str(trl.GRPOTrainer.__mro__)
    trl.GRPOTrainer._autocast_enabled, trl.GRPOTrainer._autocast_dtype = False, None  # on a CPU it would be bfloat16


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed: the gpu extra")
def test_the_gradient_of_unsloths_trainer_is_that_of_trls(policy, tmp_path):
    """It, too, calls our rollout, and has the same gradient: what the policy reads carries no loss."""
    save_policy(policy, tmp_path / "base")
    options = dict(UNSLOTH_ALLOW_CPU="1", UNSLOTH_COMPILE_DISABLE="1", UNSLOTH_FORCE_FLOAT32="1")
    env = os.environ | options | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "ACCELERATE_TORCH_DEVICE": "cpu"}
    for which in ("ours", "theirs"):
        command = [sys.executable, __file__, str(tmp_path), which]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    ours, theirs = (load_file(tmp_path / f"{which}.safetensors") for which in ("ours", "theirs"))
    largest = max(gradient.abs().max() for gradient in ours.values())
    assert largest > 1e-4
    for name, gradient in ours.items():
        assert (theirs[name] - gradient).abs().max() < 1e-4 * largest, name


if __name__ == "__main__":
    take_step(Path(sys.argv[1]), sys.argv[2])
