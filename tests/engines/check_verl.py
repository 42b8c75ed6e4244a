"""An exported folder read by verl's own loader, dataclasses and validation: `check_verl.py FOLDER`."""

import os
import pathlib
import sys
import types

import torch

folder = str(pathlib.Path(sys.argv[1]).resolve())
os.environ["MOPD_EXPORT"] = folder
os.environ["PYTHONPATH"] = folder
os.environ["VERL_USE_EXTERNAL_MODULES"] = "mopd_verl"
sys.path.insert(0, folder)

from hydra import compose, initialize_config_dir  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from verl.trainer.distillation.losses import get_distillation_loss_settings  # noqa: E402
from verl.utils.config import omega_conf_to_dataclass, validate_config  # noqa: E402

with initialize_config_dir(config_dir=folder, version_base=None):
    config = compose(config_name="config")
OmegaConf.resolve(config)
validate_config(config, use_reference_policy=config.actor_rollout_ref.actor.use_kl_loss, use_critic=False)
distillation = omega_conf_to_dataclass(config.distillation)
settings = get_distillation_loss_settings("mopd")
assert distillation.distillation_loss.loss_settings is settings
assert distillation.distillation_loss.loss_max_clamp is None
# `reward` and `actor_rollout_ref.ref` are left out: verl 0.9.1 reads them without their classes, which refuse its own defaults.
sections = ["actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm"]
for section in sections:
    omega_conf_to_dataclass(OmegaConf.select(config, section))

# The format in which verl's own engine wraps the trained weights and the reference for FSDP.
import verl.workers.engine.fsdp.transformer_impl as engine  # noqa: E402
from verl.utils.torch_dtypes import PrecisionType  # noqa: E402


class Wrapped(Exception):
    """In place of the FSDP module, which needs several processes."""


def wrap(module, **settings):
    raise Wrapped(settings["mixed_precision"])


engine.FSDP = wrap
engine.get_fsdp_wrap_policy = engine.get_sharding_strategy = lambda *given, **settings: None
engine.get_device_id = lambda: 0
for part in ("actor", "ref"):
    own = omega_conf_to_dataclass(OmegaConf.select(config, f"actor_rollout_ref.{part}.fsdp_config"))
    model = types.SimpleNamespace(lora_rank=0)
    fsdp = types.SimpleNamespace(engine_config=own, model_config=model, device_mesh=None)
    try:
        engine.FSDPEngine._build_fsdp_module(fsdp, torch.nn.Linear(2, 2))
    except Wrapped as wrapped:
        formats = wrapped.args[0]
    wanted = PrecisionType.to_dtype(own.dtype)
    assert (formats.param_dtype, fsdp._autocast_dtype) == (wanted, wanted), (part, own.dtype, formats)
    print(part, "trains in", wanted)

print("teachers", sorted(distillation.teacher_models), "loss", distillation.distillation_loss.loss_mode)

# The plugin on given numbers, two micro-batches at a time, averaged by verl: the loss of the whole batch.
import json  # noqa: E402

import mopd_verl  # noqa: E402
from verl.trainer.ppo.core_algos import agg_loss  # noqa: E402

cases = json.loads(pathlib.Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else []
worst = 0.0
for case in cases:
    module = types.ModuleType("objective")
    exec(case["code"], module.__dict__)
    mopd_verl.objective = module
    lengths = case["lengths"]
    rows, width = len(lengths), max(lengths)
    mask = torch.tensor([[column < length for column in range(width)] for length in lengths])

    def padded(values):
        values = torch.tensor(values)
        if len(values) != sum(lengths):
            return values
        return torch.zeros(mask.shape).masked_scatter(mask, values)

    found = {name: padded(values) for name, values in case["numbers"].items()}
    loss = 0.0
    for part in (slice(0, rows // 2), slice(rows // 2, rows)):
        if len(mask[part]) == 0:
            continue
        losses = mopd_verl.per_token({name: values[part] for name, values in found.items()}, mask[part])
        loss += agg_loss(
            losses,
            mask[part],
            case["aggregation"],
            dp_size=1,
            batch_num_tokens=sum(lengths),
            global_batch_size=rows,
        ).item()
    apart = abs(loss - case["loss"]) / max(1.0, abs(case["loss"]))
    worst = max(worst, apart)
    assert apart < 1e-5, (case["name"], loss, case["loss"])
if cases:
    print(f"{len(cases)} losses by verl's own averages, within {worst:.3g}")

# Learning rates over a run, by verl's own schedules as `_build_lr_scheduler` of its FSDP engine calls them.
from verl.utils.torch_functional import (  # noqa: E402
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
)


def schedule(optim, optimizer, total):
    warmup = optim.lr_warmup_steps
    if warmup <= 0:
        warmup = int(optim.lr_warmup_steps_ratio * total)
    if optim.lr_scheduler_type == "constant":
        return get_constant_schedule_with_warmup(optimizer=optimizer, num_warmup_steps=warmup)
    assert optim.lr_scheduler_type == "cosine", optim.lr_scheduler_type
    return get_cosine_schedule_with_warmup(
        optimizer=optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total,
        min_lr_ratio=optim.min_lr_ratio,
        num_cycles=optim.num_cycles,
        zero_indexed_step=optim.zero_indexed_step,
    )


for case in cases:
    optim = OmegaConf.create(case["configuration"]).actor_rollout_ref.actor.optim
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr)
    scheduler = schedule(optim, optimizer, len(case["rates"]))
    for step, rate in enumerate(case["rates"]):
        found = optimizer.param_groups[0]["lr"]
        assert abs(found - rate) <= 1e-9 * rate, (case["name"], step, found, rate)
        optimizer.step()
        scheduler.step()
if cases:
    print(f"{len(cases)} learning rates by verl's own schedules")
