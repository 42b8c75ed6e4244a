"""An exported folder read by verl's own loader, dataclasses and validation: `check_verl.py FOLDER`."""

import os
import pathlib
import sys

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
print("teachers", sorted(distillation.teacher_models), "loss", distillation.distillation_loss.loss_mode)
