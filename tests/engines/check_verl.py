"""An exported folder read by verl's own loader, dataclasses and validation: `check_verl.py FOLDER`."""

import json
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
# `run_ppo` of verl passes this table to Ray as it is written.
unresolved = OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env, resolve=False)
assert "${" not in json.dumps(unresolved), unresolved
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

# The plugin on given numbers: the loss and the adjoints of a batch whose rows come from several processes.
import mopd_verl  # noqa: E402

cases = json.loads(pathlib.Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else []
worst = 0.0
for case in cases:
    module = types.ModuleType("objective")
    exec(case["code"], module.__dict__)
    mopd_verl.objective = module
    module.STEPS = 10
    lengths = case["lengths"]

    def rows_of(values):
        return torch.tensor(values, dtype=torch.float64).split(lengths)

    tokens = {f"live {number}": rows_of(values) for number, values in enumerate(case["live"])}
    given = {json.dumps(json.loads(name), sort_keys=True): values for name, values in case["tokens"].items()}
    for name, spec in module.DISTRIBUTIONS.items():
        tokens[name] = rows_of(given[json.dumps(spec, sort_keys=True)])
    for name in module.COLUMNS:
        role = name.removesuffix(".logp")
        tokens[name] = rows_of(given[json.dumps({"role": role, "signal": "logp"}, sort_keys=True)])
    rows = [
        {
            "order": (row // 2, row % 2),
            "domain": case["domains"][row // 2],
            "length": length,
            "tokens": {name: values[row] for name, values in tokens.items()},
            "sequence": {name: values[row] for name, values in case["sequences"].items()},
        }
        for row, length in enumerate(lengths)
    ]
    loss, found = mopd_verl.adjoints(rows, step=3)
    pairs = [(loss, torch.tensor(case["loss"]))]
    pairs += [(torch.cat(of_live), torch.tensor(wanted)) for of_live, wanted in zip(found, case["adjoints"], strict=True)]
    for value, wanted in pairs:
        apart = float(((value - wanted).abs() / wanted.abs().clamp_min(1.0)).max())
        worst = max(worst, apart)
        assert apart < 1e-5, (case["name"], value, wanted)
    for step, rate in enumerate(case["rates"]):
        value = module.learning_rate(step, len(case["rates"]))
        assert abs(value - rate) <= 1e-9 * rate, (case["name"], step, value, rate)
if cases:
    print(f"{len(cases)} losses with their adjoints, within {worst:.3g}; learning rates")
