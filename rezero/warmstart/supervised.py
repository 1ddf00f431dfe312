"""The warm start: supervised fine-tuning on scripted episodes, for a policy that does not know the protocol.

It runs TRL's SFTTrainer on token ids and labels that are built here, laid out exactly as in a rollout. The loss covers
the tokens that the policy would sample, and nothing that it reads (the prompt, the retrieved text, the chat template).
"""

from math import gcd
from pathlib import Path

from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from rezero.config import Config, WarmStart
from rezero.files import append_jsonl, read_jsonl, resolve, write_jsonl
from rezero.policy.base import Policy, save_policy
from rezero.policy.load import load_trainable, naming_knobs, precision
from rezero.protocol import Episode
from rezero.rollout import token_runs
from rezero.task import Task
from rezero.training.checkpoints import last_checkpoint, record_config
from rezero.training.finite import FiniteSteps
from rezero.training.train import check_policy, start_processes
from rezero.warmstart.demonstrations import VERDICTS, scripted_episodes

IGNORED = -100  # the label of tokens that the loss leaves out


def starting_policy(config: Config, task: Task, run_dir: str | Path) -> Policy:
    """The policy that GRPO starts from, once it is sure that it can read the task and that `run_dir` is its run.

    With `config.lora_rank` it carries an adapter: that in `run_dir`/warm, else one that `warm_start` has trained.
    """
    run_dir, state = resolve(run_dir), start_processes(config)
    check_policy(config, task)
    adapter = run_dir / "warm" if (run_dir / "warm").is_dir() else None
    with naming_knobs(config.micro_batch, config.episode_tokens, config.gpu_share):
        policy = load_trainable(config, adapter)
        if state.is_main_process:
            record_config(run_dir, config)
        if config.warm_start.steps and not adapter:
            warm_start(policy, task, config, run_dir)
    return policy


def warm_start(policy: Policy, task: Task, config: Config, run_dir: str | Path) -> None:
    """Fine-tune `policy`'s adapter in place, log to warm.jsonl in `run_dir`, and save it in warm/.

    A run that was killed goes on from its last checkpoint in warm_checkpoints/.
    """
    run_dir, settings, limit = resolve(run_dir), config.warm_start, task.sampling.episode_tokens
    rows = [encode(policy, episode) for episode in scripted_episodes(task, settings, config.seed)]
    rows = [row for row in rows if len(row["labels"]) <= limit]  # no rollout could hold the others
    if not rows:
        raise ValueError(f"no scripted episode fits in episode_tokens={limit}; raise it, or lower k={task.sampling.k}")
    checkpoint, log = last_checkpoint(run_dir / "warm_checkpoints"), run_dir / "warm.jsonl"
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    if log.is_file():  # the steps after the checkpoint are taken again
        write_jsonl(log, [row for row in read_jsonl(log, appended=True) if row["step"] <= step])
    policy.model.train()
    trainer = trainer_class(policy, settings, config.backend)(
        **dict(model=policy.model, processing_class=policy.tokenizer, callbacks=[Log(log)]),
        args=trainer_settings(config, run_dir),
        train_dataset=Dataset.from_list(rows),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    trainer.accelerator.unwrap_model(policy.model.eval(), keep_fp32_wrapper=False)  # undoes mixed precision in place
    save_policy(policy, run_dir / "warm.new").rename(run_dir / "warm")


def encode(policy: Policy, episode: Episode) -> dict[str, list[int]]:
    """An episode as `input_ids` and `labels`, equally long; tokens that the policy only reads have label `IGNORED`."""
    ids, labels = [], []
    for run, turn in token_runs(policy, episode):
        ids += run
        labels += [IGNORED] * len(run) if turn is None else run
    return {"input_ids": ids, "labels": labels}


def trainer_class(policy: Policy, settings: WarmStart, backend: str) -> type:
    """TRL's SFTTrainer, in whose loss verdict tokens weigh `settings.found_weight` or `settings.missed_weight`."""
    from trl import SFTTrainer

    Careful = type("Careful", (FiniteSteps, SFTTrainer), {})
    if backend == "unsloth":  # it replaces TRL's loss by its own, which takes no weights
        return Careful
    found, missed = verdict_tokens(policy)

    class Trainer(Careful):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")[:, 1:]
            # Logits are computed only at positions that have a label in some row of the batch.
            learned = (labels != IGNORED).any(0).nonzero()[:, 0]
            labels = labels[:, learned].flatten()
            logits = model(**inputs, use_cache=False, logits_to_keep=learned).logits.flatten(0, 1).float()
            correct = (logits.argmax(-1) == labels)[labels != IGNORED].float().mean()
            self._metrics["train"]["mean_token_accuracy"].append(correct.item())
            weights = logits.new_ones(logits.shape[-1])
            weights[found], weights[missed] = settings.found_weight, settings.missed_weight
            losses = cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none")
            return losses.sum() / num_items_in_batch

    return Trainer


def verdict_tokens(policy: Policy) -> tuple[int, int]:
    """The tokens at which a thought that says "found" after a quote first differs from one that says "not found"."""
    found, missed = (policy.encode(f"fact: {VERDICTS[verdict]}") for verdict in (True, False))
    return next(pair for pair in zip(found, missed, strict=False) if pair[0] != pair[1])


def trainer_settings(config: Config, run_dir: Path):
    """TRL's SFTConfig. Everything that matters is set here, because Unsloth's defaults differ from TRL's."""
    from trl import SFTConfig

    settings = config.warm_start
    per_pass = gcd(settings.batch, config.micro_batch)  # episodes per forward and backward pass
    return SFTConfig(
        **dict(output_dir=str(run_dir / "warm_checkpoints"), max_steps=settings.steps),
        **dict(per_device_train_batch_size=per_pass, gradient_accumulation_steps=settings.batch // per_pass),
        **dict(train_sampling_strategy="group_by_length", seed=config.seed, data_seed=config.seed),
        **dict(learning_rate=settings.learning_rate, warmup_steps=settings.steps // 20, lr_scheduler_type="linear"),
        **dict(optim=config.grpo["optim"], weight_decay=0.0, max_grad_norm=1.0, loss_type="nll"),
        **dict(max_length=None, packing=False, padding_free=False, dataset_kwargs={"skip_prepare_dataset": True}),
        **dict(logging_steps=1, report_to="none", disable_tqdm=True),
        **dict(save_strategy="steps", save_steps=50, save_total_limit=1),
        **precision(lora=True),
    )


class Log(TrainerCallback):
    """Appends a row per step to warm.jsonl, and prints a line every 10 steps."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" not in (logs or {}):
            return
        accuracy = logs.get("mean_token_accuracy")  # Unsloth's trainer does not measure it
        append_jsonl(self.path, {"step": state.global_step, "loss": logs["loss"], "token_accuracy": accuracy})
        if state.global_step % 10 == 0 or state.global_step == state.max_steps:
            print(f"warm start {state.global_step}/{state.max_steps}  loss {logs['loss']:.3f}", flush=True)
