"""Gradients that are not finite: the step is skipped and says so; in three steps in a row they end the training."""

import torch

PATIENCE, PATIENCE_FP16 = 3, 20  # steps; in float16 the loss scaler starts too high and halves until gradients fit


class FiniteSteps:
    """A part of a transformers Trainer (named before it among the bases) that takes no step by a broken gradient.

    transformers itself leaves NaN out of the logged loss, and goes on until every weight is NaN.
    """

    broken = 0  # steps in a row
    loss_is_finite = True  # in all micro-batches of the step

    def training_step(self, model, *args, **options):
        loss = super().training_step(model, *args, **options)
        self.loss_is_finite &= bool(torch.isfinite(loss).all())
        if self.accelerator.sync_gradients:  # the step's last micro-batch: before gradients are clipped by their norm
            self._check_gradients(model)
            self.loss_is_finite = True
        return loss

    def _check_gradients(self, model) -> None:
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        if not gradients or torch.isfinite(torch.nn.utils.get_total_norm(gradients.values())):
            self.broken = 0
            return
        self.broken += 1
        bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
        cause = "nor is the loss: look at rewards and weights"
        if self.loss_is_finite:
            cause = "the loss is finite: the backward pass broke them (an attention kernel, low precision)"
        of = f"{len(bad)} of {len(gradients)}" + (f", first {bad[0]}" if bad else ": only their norm overflows")
        why = f"step {self.state.global_step + 1}: gradients are not finite ({of}); {cause}"
        if self.broken == (PATIENCE_FP16 if self.args.fp16 else PATIENCE):
            raise ValueError(f"{why}. Stopped after {self.broken} such steps in a row, none of which changed a weight")
        if not self.args.fp16:  # there the loss scaler skips the step, which must see the gradients
            print(f"{why}. The step is skipped", flush=True)
            for weight in model.parameters():
                weight.grad = None
