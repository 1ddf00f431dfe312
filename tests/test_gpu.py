"""Unsloth and vLLM against stand-ins; and, where Unsloth is installed, the trainer that it makes of TRL's, on a CPU."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers.trainer_callback import TrainerCallback

from rezero.config import load_config
from rezero.files import ROOT
from rezero.policy import unsloth as gpu
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import add_adapter, load_base
from rezero.policy.load import load_policy, load_trainable, untrained, with_adapter
from rezero.policy.unsloth import EngineGeneration, ModelGeneration, check_gpu, load_unsloth, with_weights
from rezero.rollout import Budget, rollout
from rezero.training.train import train

PLAY = dict(k=2, budget=Budget(3, 8, 300), prompt_style="short")


@pytest.fixture
def adapted(policy, tmp_path):
    """The toy policy with an adapter that has learned something."""
    model, tokenizer = load_base(str(save_policy(policy, tmp_path / "base")))
    made = Policy(add_adapter(model, rank=2), tokenizer)
    shake(made)
    return made


def shake(policy):
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)


# --- what is missing is said first ---


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_gpu_profiles_are_refused_without_a_gpu(no_gpu, task, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "output_of", lambda *command: "")
    with pytest.raises(OSError, match="profile 'single_gpu' needs a GPU: there is none here"):
        train(load_config("single_gpu"), tmp_path / "run", task)
    monkeypatch.setattr(gpu, "output_of", lambda *command: "Tesla T4, 550.54.15")
    with pytest.raises(OSError, match=r"torch .* cannot use Tesla T4, 550\.54\.15; is its driver too old\?"):
        train(load_config("single_gpu"), tmp_path / "run", task)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "unsloth, vllm, bitsandbytes, vllm_bnb_plugin missing"),
        (dict(vllm=False), ": unsloth, bitsandbytes missing"),
        (dict(load_in_4bit=False, optim="adamw_torch"), ": unsloth, vllm missing"),
        (dict(load_in_4bit=False, backend="transformers"), "optim='paged_adamw_8bit': bitsandbytes missing"),
    ],
)
def test_missing_packages_are_named(options, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=said):
        check_gpu(load_config("single_gpu", **options))


def test_the_laptop_needs_none_of_it(no_gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_gpu(load_config())


# --- loading ---


@pytest.fixture
def unsloth(policy, tmp_path, monkeypatch):
    """A module `unsloth` whose FastLanguageModel has the toy policy; `room`: the tokens that its vLLM has space for."""
    made = SimpleNamespace(asked={}, room=2048, error=None, capability=(9, 0))
    folder = str(save_policy(policy, tmp_path / "base"))

    def from_pretrained(**options):
        made.asked |= options
        if made.error:
            raise made.error
        model, tokenizer = load_base(folder)
        if options["fast_inference"]:
            model.vllm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=made.room))
        return model, tokenizer

    def get_peft_model(model, **options):
        made.asked |= options
        return add_adapter(model, options["r"])

    module = ModuleType("unsloth")
    module.FastLanguageModel = SimpleNamespace(from_pretrained=from_pretrained, get_peft_model=get_peft_model)
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr(gpu, "check_gpu", lambda config: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: made.capability)
    for name in ("UNSLOTH_COMPILE_LOCATION", "UNSLOTH_VLLM_NO_FLASHINFER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return made


SMALL = dict(policy="some/instruct", max_context=2048, episode_tokens=300, lora_rank=2)


def test_a_profile_is_loaded_as_it_says(unsloth):
    policy = load_unsloth(load_config("single_gpu", **SMALL))
    wanted = dict(model_name="some/instruct", max_seq_length=2048, load_in_4bit=True, fast_inference=True,
                  gpu_memory_utilization=0.5, max_lora_rank=2, r=2, use_gradient_checkpointing="unsloth")  # fmt: skip
    assert wanted.items() <= unsloth.asked.items()
    assert policy.model.peft_config["default"].base_model_name_or_path == "some/instruct"
    assert policy.backend.func is EngineGeneration
    assert "UNSLOTH_VLLM_NO_FLASHINFER" not in os.environ  # a T4 alone needs it
    assert Path(os.environ["UNSLOTH_COMPILE_LOCATION"]) == ROOT / ".cache" / "unsloth"


def test_a_t4_gets_no_flashinfer_and_may_do_without_vllm(unsloth):
    unsloth.capability = (7, 5)
    policy = load_unsloth(load_config("colab_t4", **SMALL, vllm=False))
    assert os.environ["UNSLOTH_VLLM_NO_FLASHINFER"] == "1"
    assert unsloth.asked["fast_inference"] is False and policy.backend.func is ModelGeneration


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(room=1792), "vLLM room for 1792 tokens an episode: raise it, or lower max_context=2048"),
        (dict(error=RuntimeError("No available memory for the cache blocks")), "no room for some/instruct and max_"),
        (dict(error=torch.cuda.OutOfMemoryError("CUDA out of memory")), r"in gpu_share=0\.5 of the GPU: raise the one"),
    ],
)
def test_too_little_memory_is_said_before_training(unsloth, change, said):
    vars(unsloth).update(change)
    with pytest.raises(ValueError, match=said):
        load_unsloth(load_config("single_gpu", **SMALL))


def test_a_model_is_found_where_the_rest_finds_it_and_an_adapter_brings_its_base(unsloth, adapted, tmp_path):
    """Without a hub; what is trained further and its untrained state are the adapter's, not its base's."""
    kept = save_policy(adapted, tmp_path / "kept")
    config = load_config("single_gpu", **SMALL | dict(policy=str(kept), vllm=False))
    policy = load_trainable(config)
    assert unsloth.asked["model_name"] == str(tmp_path / "base")
    start = [[5, 6, 7], [8]]
    then = by_itself(adapted).start(start, 0.0).generate(8)
    assert policy.start(start, 0.0).generate(8) == then
    torch.manual_seed(1)
    shake(policy)
    assert policy.start(start, 0.0).generate(8) != then
    assert untrained(policy, config).start(start, 0.0).generate(8) == then


def test_another_error_stays_what_it_is(unsloth):
    unsloth.error = ValueError("unknown architecture")
    with pytest.raises(ValueError, match=r"^unknown architecture$"):
        load_unsloth(load_config("single_gpu", **SMALL))


def test_unsloth_that_went_on_without_vllm_is_found_out(unsloth, monkeypatch):
    bare = sys.modules["unsloth"].FastLanguageModel
    monkeypatch.setattr(bare, "from_pretrained", partial(bare.from_pretrained))
    given = bare.from_pretrained
    bare.from_pretrained = lambda **options: given(**options | {"fast_inference": False})
    with pytest.raises(ValueError, match="Unsloth did without vLLM"):
        load_unsloth(load_config("single_gpu", **SMALL))


# --- generation ---


class StandIn:
    """vLLM's `LLM` as far as `EngineGeneration` calls it, with our own generation behind it."""

    shared_weights = True  # what Unsloth's patches of TRL look for

    def __init__(self, policy):
        self.policy, self.calls, self.shift = policy, [], 0.0

    def generate(self, prompts, sampling, use_tqdm, lora_request):
        self.calls.append((sampling, lora_request))
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        turns = self.policy.start(ids, sampling.temperature).generate(sampling.max_tokens)
        noise = 0.0 if lora_request is None else self.shift
        scores = [None, {1: SimpleNamespace(logprob=-1.0 + noise)}]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=t)], prompt_logprobs=scores) for t in turns]


def stand_in_vllm():
    vllm = ModuleType("vllm")
    vllm.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    vllm.SamplingParams = lambda **options: SimpleNamespace(**options)
    return vllm


@pytest.fixture
def served(policy, monkeypatch):
    """The toy policy, generated with by a stand-in for vLLM."""
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm())
    model = SimpleNamespace(vllm_engine=StandIn(policy), saved=[], requests=[], training=False)
    model.eval, model.train = (lambda: None), (lambda mode: None)
    model.save_lora = lambda folder, **options: model.saved.append((folder, options))
    model.load_lora = lambda folder: model.requests.append(folder) or len(model.requests)
    made = replace(policy, model=model)
    made.backend = partial(EngineGeneration, made, None)
    return made


def test_the_engine_gets_whole_episodes_and_one_adapter_request(policy, served, questions, engine):
    """The same episodes as with our own cache, whatever the turns and the rows that leave."""
    engine_made, ours = (rollout(one, engine, questions, **PLAY) for one in (served, policy))
    assert [e.completion_ids for e in engine_made] == [e.completion_ids for e in ours]
    calls = served.model.vllm_engine.calls
    assert len(calls) > 1
    assert {request for _, request in calls} == {1}  # else the prefix cache would not hold
    assert [options for _, options in served.model.saved] == [{"selected_adapters": ["default"]}]
    sampling = calls[0][0]
    assert sampling.stop == ["</search>", "</answer>"] and sampling.include_stop_str_in_output
    assert sampling.stop_token_ids == [policy.end_of_turn]


@pytest.mark.parametrize(("shift", "follows"), [(0.5, True), (0.0, False)])
def test_an_engine_that_ignores_the_adapter_is_found_out(served, shift, follows):
    served.model.vllm_engine.shift = shift
    best = with_adapter(served, Path("best"))
    assert best.start([[5, 6]], 0.0).follows_adapter() is follows
    assert served.model.requests == ["best"] and not served.model.saved


def test_the_engine_knows_the_policy_before_training(served):
    bare = untrained(served, load_config())
    bare.start([[5, 6]], 0.0).generate(3)
    assert [request for _, request in served.model.vllm_engine.calls] == [None]
    assert not served.model.requests and not served.model.saved


def by_itself(policy):
    made = replace(policy)
    made.backend = partial(ModelGeneration, made, None)
    return made


def test_the_model_by_itself_plays_the_episodes_of_our_cache():
    """The shipped policy, which ends its turns by tags."""
    from rezero.task import load_task

    policy, task = load_policy("data/policy"), load_task(load_config())
    questions = task.questions["dev"][:4]
    how = PLAY | dict(budget=Budget(4, 40, 600))
    ours, whole = (rollout(one, task.engine, questions, **how) for one in (policy, by_itself(policy)))
    assert [e.completion_ids for e in whole] == [e.completion_ids for e in ours]
    assert all(e.searches and e.answer for e in ours)


def test_the_model_by_itself_draws_at_a_temperature(policy):
    drawn = [by_itself(policy).start([[5, 6]] * 4, 1.0).generate(8) for _ in range(2)]
    assert drawn[0] != drawn[1] and len({tuple(turn) for turn in drawn[0]}) > 1


def test_the_model_by_itself_with_other_weights(adapted, tmp_path):
    """As it was kept, as it is now, and without its adapter; each leaves the weights as they are."""
    kept = save_policy(adapted, tmp_path / "kept")
    start = [[5, 6, 7], [8]]
    then = adapted.start(start, 0.0).generate(8)
    shake(adapted)
    now = adapted.start(start, 0.0).generate(8)
    with adapted.model.disable_adapter():
        bare = adapted.start(start, 0.0).generate(8)
    assert then != now != bare
    policy = by_itself(adapted)
    for one, turns in [(with_adapter(policy, kept), then), (untrained(policy, load_config()), bare), (policy, now)]:
        assert one.start(start, 0.0).generate(8) == turns
    assert policy.start(start, 0.0).follows_adapter() and with_weights(policy, kept).start(start, 0.0).follows_adapter()
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    assert not policy.start(start, 0.0).follows_adapter()


# --- the trainer that Unsloth makes of TRL's ---


def take_step(folder: Path, rewritten: bool) -> None:
    """A step of single_gpu on the toy in `folder`/base, by TRL's trainer or by what Unsloth makes of it.

    Writes {name: gradient} of the adapter to ours.json or theirs.json. In a process of its own: Unsloth patches all.
    """
    from conftest import CHUNKS, QUESTIONS

    from rezero.policy import hub as models
    from rezero.search import build_engine
    from rezero.task import Task
    from rezero.training import train as training

    models.best_dtype = lambda: torch.float32
    model, tokenizer = load_base(str(folder / "base"))
    policy = Policy(add_adapter(model, rank=4), tokenizer)
    shake(policy)  # else only one of an adapter's two matrices has a gradient
    if rewritten:
        rewrite_trainer()
    served = StandIn(Policy(policy.model, tokenizer))

    def generate(*args, **options):  # the same draws, whatever the trainers draw themselves
        with torch.random.fork_rng():
            torch.manual_seed(len(served.calls))
            return StandIn.generate(served, *args, **options)

    policy.model.vllm_engine = SimpleNamespace(generate=generate, shared_weights=True)
    policy.model.save_lora, policy.model.load_lora = lambda *a, **o: None, lambda *a, **o: 1
    policy.model.for_training, policy.model.for_inference = lambda **o: policy.model.train(), policy.model.eval
    policy.backend = partial(EngineGeneration, policy, None)
    small = dict(policy=str(folder / "base"), prompt_style="short", max_turns=2, turn_tokens=8, episode_tokens=300, k=2,
                 steps=1, questions_per_step=2, num_generations=2, micro_batch=2, optim="adamw_torch")  # fmt: skip
    training.REWARDS = training.REWARDS | {"correctness": lambda episode: float(sum(episode.completion_ids) % 7)}
    task = Task(build_engine("bm25", CHUNKS), {"train": QUESTIONS, "dev": QUESTIONS})
    config = load_config("single_gpu", **small)
    trainer = training.build_trainer(policy, task, config, {"correctness": 1.0}, QUESTIONS * 4, folder)
    trainer._autocast_enabled, trainer._autocast_dtype = False, None  # Unsloth's, which on a CPU would be bfloat16
    assert ("Unsloth" in str(type(trainer).__mro__)) is rewritten and trainer.use_vllm is rewritten
    sys.modules["vllm"] = stand_in_vllm()
    trainer.add_callback(Gradients(folder / f"{'theirs' if rewritten else 'ours'}.json"))
    trainer.train()


class Gradients(TrainerCallback):
    """Writes {name: gradient} when the optimiser is about to step."""

    def __init__(self, path):
        self.path = path

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        grads = {name: weight.grad.tolist() for name, weight in model.named_parameters() if weight.requires_grad}
        self.path.write_text(json.dumps(grads))


def rewrite_trainer() -> None:
    """Have Unsloth patch TRL without a GPU, as it does with one."""
    import unsloth  # noqa: F401
    from trl.generation import vllm_generation
    from unsloth.models import rl

    rl.patch_trl_disable_gradient_checkpointing()
    rl._patch_trl_rl_trainers("grpo_trainer")
    vllm_generation.is_vllm_available = lambda: True
    rl.patch_trl_vllm_generation()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed: the gpu extra")
def test_unsloth_s_trainer_takes_the_steps_of_trl_s(policy, tmp_path):
    """What Unsloth generates calls our rollout, too, and has its gradient: what the policy reads carries no loss."""
    save_policy(policy, tmp_path / "base")
    gradients = []
    for which in ("ours", "theirs"):
        env = os.environ | {"PYTHONPATH": str(ROOT), "UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_COMPILE_DISABLE": "1",
                            "UNSLOTH_FORCE_FLOAT32": "1", "ACCELERATE_TORCH_DEVICE": "cpu"}  # fmt: skip
        command = [sys.executable, __file__, str(tmp_path), which]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        gradients.append(json.loads((tmp_path / f"{which}.json").read_text()))
    ours, theirs = ({name: torch.tensor(rows) for name, rows in each.items()} for each in gradients)
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max() for gradient in ours.values())
    assert largest > 1e-4
    for name, gradient in ours.items():
        assert (theirs[name] - gradient).abs().max() < 1e-4 * largest, name


if __name__ == "__main__":
    take_step(Path(sys.argv[1]), rewritten=sys.argv[2] == "theirs")
