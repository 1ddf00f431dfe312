"""Warm start: supervised fine-tuning on scripted episodes, for a policy that does not know the protocol.

TRL's SFTTrainer on ids and labels that we build, in the very layout a rollout produces: the loss falls on the tokens
that the policy would sample, and on nothing that it reads (the prompt, the retrieved text, the template's words).
"""

from math import gcd
from pathlib import Path

from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from rezero.config import Config
from rezero.files import append_jsonl
from rezero.policy.base import Policy, save_policy
from rezero.policy.load import precision
from rezero.protocol import Episode
from rezero.rollout import pieces
from rezero.scripted import HIT, MISSED
from rezero.task import Task
from rezero.warmstart.demonstrations import scripted_episodes

IGNORED = -100  # the label that carries no loss


def warm_start(policy: Policy, task: Task, config: Config, run_dir: Path) -> None:
    """Fine-tune `policy`'s adapter in place, log to warm.jsonl, and keep it in `run_dir`/warm.

    A run that was killed goes on from the last checkpoint in `run_dir`/warm_checkpoints.

    Raises:
        ValueError: no scripted episode fits the budget.
    """
    rows = [encode(policy, episode) for episode in scripted_episodes(task, config)]
    rows = [row for row in rows if len(row["labels"]) <= config.episode_tokens]  # others no rollout could hold
    if not rows:
        raise ValueError(f"no scripted episode fits episode_tokens={config.episode_tokens}: raise it, or lower k")
    policy.model.train()
    trainer = sft_trainer(policy, config)(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=sft_config(config, run_dir),
        train_dataset=Dataset.from_list(rows),
        callbacks=[Log(run_dir / "warm.jsonl", config.warm_start_steps)],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoints = run_dir / "warm_checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    trainer.accelerator.unwrap_model(policy.model.eval(), keep_fp32_wrapper=False)  # undoes mixed precision in place
    save_policy(policy, run_dir / "warm.new").rename(run_dir / "warm")


def encode(policy: Policy, episode: Episode) -> dict[str, list[int]]:
    """An episode as `input_ids` and `labels`, equally long; what the environment writes is labelled `IGNORED`."""
    ids, labels = [], []
    for new, turn in pieces(policy, episode):
        ids += new
        labels += [IGNORED] * len(new) if turn is None else new
    return {"input_ids": ids, "labels": labels}


def sft_trainer(policy: Policy, config: Config) -> type:
    """TRL's trainer with the weights of verdicts, and the vocabulary's scores only where a label asks for them.

    Unsloth has a loss of its own, which takes no weights: there it is TRL's as it is.
    """
    from trl import SFTTrainer

    if config.backend == "unsloth":
        return SFTTrainer
    weight_of = dict(zip(verdicts(policy), (config.found_weight, config.missed_weight), strict=True))

    class Trainer(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")[:, 1:]
            said = (labels != IGNORED).any(0).nonzero()[:, 0]
            labels = labels[:, said].flatten()
            scores = model(**inputs, use_cache=False, logits_to_keep=said).logits.flatten(0, 1).float()
            weights = sum((labels == word) * (weight - 1) for word, weight in weight_of.items()) + 1
            right = (scores.argmax(-1) == labels)[labels != IGNORED].float().mean()
            self._metrics["train"]["mean_token_accuracy"].append(right.item())
            each = cross_entropy(scores, labels, ignore_index=IGNORED, reduction="none")
            return (each * weights).sum() / num_items_in_batch

    return Trainer


def verdicts(policy: Policy) -> tuple[int, int]:
    """The tokens by which a thought that found something first differs from one that did not."""
    found, missed = (policy.encode(f"fact: {word}") for word in (HIT, MISSED))
    return next(pair for pair in zip(found, missed, strict=False) if pair[0] != pair[1])


def sft_config(config: Config, run_dir: Path):
    """TRL's configuration, with every hyper-parameter that matters passed explicitly: Unsloth has other defaults."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(run_dir / "warm_checkpoints"),
        seed=config.seed,
        data_seed=config.seed,
        max_steps=config.warm_start_steps,
        per_device_train_batch_size=gcd(config.warm_start_batch, config.micro_batch),
        gradient_accumulation_steps=config.warm_start_batch // gcd(config.warm_start_batch, config.micro_batch),
        train_sampling_strategy="group_by_length",
        learning_rate=config.warm_start_lr,
        lr_scheduler_type="linear",
        warmup_steps=config.warm_start_steps // 20,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=config.optim,
        loss_type="nll",
        max_length=None,
        packing=False,
        padding_free=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        **precision(config),
        logging_steps=1,
        report_to="none",
        save_strategy="steps",
        save_steps=50,
        save_total_limit=1,
        disable_tqdm=True,
    )


class Log(TrainerCallback):
    """A row of warm.jsonl a step, and a line every tenth."""

    def __init__(self, path: Path, steps: int):
        self.path, self.steps = path, steps

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" not in (logs or {}):
            return
        accuracy = logs.get("mean_token_accuracy")  # Unsloth's trainer does not measure it
        row = {"step": state.global_step, "loss": logs["loss"], "token_accuracy": accuracy}
        append_jsonl(self.path, row)
        if state.global_step % 10 == 0 or state.global_step == self.steps:
            print(f"warm start {state.global_step}/{self.steps}  loss {row['loss']:.3f}", flush=True)
