"""What TRL gets: its configuration, and a trainer without the work that cannot change the gradient."""

from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rezero.config import Config
from rezero.policy.hub import read_adapter
from rezero.policy.load import precision


def grpo_config(config: Config, weights: dict[str, float], run_dir: Path, server: str = ""):
    """TRL's configuration, with every hyper-parameter that matters passed explicitly: Unsloth has other defaults."""
    from trl import GRPOConfig

    slices = config.episodes_per_step // (config.micro_batch * PartialState().num_processes)
    return GRPOConfig(
        output_dir=str(run_dir / "checkpoints"),
        seed=config.seed,
        data_seed=config.seed,
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=slices,
        steps_per_generation=slices,
        num_generations=config.num_generations,
        num_iterations=1,
        max_completion_length=config.episode_tokens,
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        loss_type=config.loss_type,
        beta=config.beta,
        use_bias_correction_kl=False,  # k3 as it was published and as the published runs had it
        epsilon=config.epsilon,
        epsilon_high=config.epsilon,
        scale_rewards=config.scale_rewards,
        multi_objective_aggregation=config.aggregation,
        reward_weights=list(weights.values()),
        mask_truncated_completions=False,
        shuffle_dataset=False,  # the order is ours, see draw_questions
        use_vllm=bool(server),
        vllm_mode="server",
        vllm_server_base_url=server or None,
        router_aux_loss_coef=0.0,
        vllm_importance_sampling_correction=False,  # a rollout keeps ids and masks, not vLLM's log-probabilities
        **precision(config),
        logging_steps=1,
        report_to="tensorboard",
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
    )


def trainer_class() -> type:
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):
        """TRL's trainer, without the work that cannot change the gradient, and with a leave-one-out baseline.

        With G episodes a group, r - (mean of the others) = (r - mean) G / (G - 1) (RLOO, Ahmadian et al. 2024): no
        more than a constant factor, which matters with a KL term and for the size of the steps.
        An episode whose advantage is 0 adds nothing to the loss when there is no KL term, and padding adds nothing
        ever: the micro-batches of a step are rebuilt from the other episodes, sorted by length and cut to their
        longest. The loss stays normalised by all sampled tokens of the step ("dapo"), so the gradient is the same.
        Not `lean` under Unsloth, whose own trainer packs.
        """

        leave_one_out, lean = False, True

        def _load_from_checkpoint(self, checkpoint, model=None):
            super()._load_from_checkpoint(checkpoint, model)
            lone = Path(checkpoint, "adapter_config.json").is_file() and not self.is_fsdp_enabled
            if lone:  # beside TRL's "ref", transformers passes it over
                read_adapter(self.model, checkpoint)

        def _prepare_inputs(self, generation_batch):
            before = self._buffered_inputs
            inputs = super()._prepare_inputs(generation_batch)
            if self._buffered_inputs is before:
                return inputs
            if self.leave_one_out:
                for batch in self._buffered_inputs:
                    batch["advantages"] *= self.num_generations / (self.num_generations - 1)
            if self.lean:
                drop = self.loss_type == "dapo" and self.beta == 0
                self._buffered_inputs = lean_batches(self._buffered_inputs, drop)
            return self._buffered_inputs[self._step % self.args.steps_per_generation]

    return Trainer


def lean_batches(batches: list[dict], drop: bool) -> list[dict]:
    """The rows of `batches` in as many batches, sorted by length and trimmed; with `drop`, without zero advantages.

    With several processes each keeps as many rows as the one that needs most: TRL gathers a value a row, and that
    wants one shape. Every batch has a row, so that all processes do the same number of backward passes.
    """
    whole = {k: torch.cat([b[k] for b in batches]) if v.ndim else v for k, v in batches[0].items()}
    order = whole["completion_mask"].sum(1).argsort()
    if drop:
        idle = whole["advantages"][order].abs() < 1e-6
        needed = int((~idle).sum())
        spare = max(gather_object([max(needed, len(batches))])) - needed
        order = torch.cat([order[idle][:spare], order[~idle]])
    rows = [{k: v[part] if v.ndim else v for k, v in whole.items()} for part in order.tensor_split(len(batches))]
    return [_trim(batch) for batch in rows]


def _trim(batch: dict) -> dict:
    """Cut the columns that are padding in every row: prompts are padded on the left, completions on the right."""
    prompt, completion = batch["prompt_mask"].shape[1], batch["completion_mask"].shape[1]
    start = prompt - int(batch["prompt_mask"].sum(1).max())
    end = int(batch["completion_mask"].sum(1).max())
    cut = {k: v for k, v in batch.items()}
    for key, value in batch.items():
        if value.ndim == 2 and value.shape[1] == completion and not key.startswith("prompt"):
            cut[key] = value[:, :end]
        elif key.startswith("prompt"):
            cut[key] = value[:, start:]
    return cut
