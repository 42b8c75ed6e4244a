"""The distillation loss `mopd` for verl 0.9.1: `objective.py` computes a loss per token, and verl averages it.

VERL_USE_EXTERNAL_MODULES names this module, so that each process of verl imports it before reading its configuration.
"""

import mopd_tensors as mt
import objective
import torch
from verl.trainer.distillation.losses import DistillationLossSettings, register_distillation_loss


def padded(values, fill):
    return values.to_padded_tensor(fill) if values.is_nested else values


def supply(model_output, data, respond):
    """The inputs of an objective, one row per completion. `respond` cuts completions out of whole sequences."""
    found = {}
    if objective.TOPK is None:
        found["live logp"] = respond(model_output["log_probs"], data)
        found["student.logp"] = found["live logp"]
        found["teacher.logp"] = respond(data["teacher_logprobs"], data).squeeze(-1)
    else:
        found["live divergence"] = respond(model_output["distillation_losses"], data)
    readers = {
        # The trainer computes them before the first update from a batch.
        "old.logp": lambda: padded(data["old_log_probs"], 0.0),
        "sampler.logp": lambda: padded(data["old_log_probs"], 0.0),
        "reference.logp": lambda: padded(data["ref_log_prob"], 0.0),
        "student.entropy": lambda: respond(model_output["entropy"], data),
        # The reward is stored at the last token.
        "reward": lambda: padded(data["rm_scores"], 0.0).sum(-1),
    }
    for name in objective.READS:
        if name in readers:
            found[name] = readers[name]()
    return found


def per_token(found, mask):
    """The losses of `objective.py` for the completions of a micro-batch, padded."""
    rows = mask.nonzero()[:, 0]
    sequences = torch.arange(len(mask), device=mask.device)
    layout = mt.Layout(rows, sequences, len(mask))
    flat = {name: values[mask] if values.dim() == 2 else values for name, values in found.items()}
    live = [flat[f"live {name}"] for name in objective.LIVE]
    batch = mt.Batch(layout, flat, live, dtype=torch.float32)
    losses = objective.losses(batch).to(torch.float32)
    return torch.zeros(mask.shape, dtype=losses.dtype, device=mask.device).masked_scatter(mask, losses)


@register_distillation_loss(
    DistillationLossSettings(
        names=["mopd"], use_estimator=objective.TOPK is None, use_topk=objective.TOPK is not None
    )
)
def mopd(config, distillation_config, model_output, data):
    from verl.workers.utils.padding import no_padding_2_padding

    mask = padded(data["response_mask"], False).bool()
    losses = per_token(supply(model_output, data, no_padding_2_padding), mask)
    return losses, {"distillation/mean_loss": losses.detach()[mask].mean().item()}
