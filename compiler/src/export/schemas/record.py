"""Records what released engines accept: names, types and defaults of their settings, with version and file.

    python3 record.py verl      in an environment with verl 0.9.1 (without dependencies), hydra-core, omegaconf, torch
    python3 record.py trl       in an environment with trl 1.16.0, transformers, torch

Facts only: nothing of the packages' text is kept.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent


def described(cls):
    """The fields of a dataclass, those of its bases included."""
    fields = {}
    for field in dataclasses.fields(cls):
        if field.name.startswith("_") or not field.init:
            continue
        kind = field.type if isinstance(field.type, str) else str(field.type).removeprefix("<class '").removesuffix("'>")
        entry = {"type": kind}
        if field.default is not dataclasses.MISSING:
            entry["default"] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            factory = field.default_factory
            entry["default"] = None if dataclasses.is_dataclass(factory) else plain(factory())
        fields[field.name] = entry
    path = inspect.getfile(cls)
    package = cls.__module__.split(".")[0]
    return {"file": package + path.split("/" + package, 1)[1] if "/" + package in path else path, "fields": fields}


def plain(value):
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return getattr(value, "value", None) if hasattr(value, "value") else str(value)


def verl():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    package = importlib.util.find_spec("verl").submodule_search_locations[0]
    with initialize_config_dir(config_dir=f"{package}/trainer/config", version_base=None):
        config = compose(config_name="ppo_trainer")
    defaults = OmegaConf.to_container(config, resolve=False)
    targets = set()

    def visit(value):
        if isinstance(value, dict):
            if isinstance(value.get("_target_"), str):
                targets.add(value["_target_"])
            for item in value.values():
                visit(item)

    visit(defaults)
    classes = {}
    for target in sorted(targets):
        module, name = target.rsplit(".", 1)
        try:
            cls = getattr(importlib.import_module(module), name)
        except ImportError as error:
            print(f"left out {target}: {error}", file=sys.stderr)
            continue
        if dataclasses.is_dataclass(cls):
            classes[target] = described(cls)
    return {"file": "verl/trainer/config/ppo_trainer.yaml", "defaults": defaults, "classes": classes}


def own_settings():
    """Of TRL's other trainers, by the name of the class: the settings that `DistillationConfig` and the scripts lack."""
    import trl
    from transformers import TrainingArguments

    package = pathlib.Path(trl.__file__).parent
    files = [*package.glob("trainer/*_config.py"), *package.glob("experimental/*/*_config.py")]
    known = [trl.DistillationConfig, trl.ModelConfig, trl.ScriptArguments]
    known = {field.name for cls in known for field in dataclasses.fields(cls)}
    recorded = [target.rsplit(".", 1)[1] for target in TRL]
    found = {}
    for path in [*files, package / "scripts/grpo.py", package / "scripts/rloo.py"]:
        module = importlib.import_module(".".join(("trl", *path.relative_to(package).with_suffix("").parts)))
        for name, cls in vars(module).items():
            own = isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
            if not own or name in recorded or not (issubclass(cls, TrainingArguments) or "scripts" in path.parts):
                continue
            names = {field.name for field in dataclasses.fields(cls) if field.init and not field.name.startswith("_")}
            if names - known:
                found[name] = sorted(names - known)
    return found


TRL = [
    "trl.trainer.distillation_config.DistillationConfig",
    "trl.experimental.async_distillation.async_distillation_config.AsyncDistillationConfig",
    "trl.experimental.gkd.gkd_config.GKDConfig",
]


def trl():
    classes = {}
    for target in TRL:
        module, name = target.rsplit(".", 1)
        classes[target] = described(getattr(importlib.import_module(module), name))
    return {"classes": classes, "other_trainers": own_settings()}


if __name__ == "__main__":
    engine = sys.argv[1]
    version = importlib.metadata.version(engine)
    recorded = {"package": engine, "version": version, **{"verl": verl, "trl": trl}[engine]()}
    path = HERE / f"{engine}-{version}.json"
    path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    print(path, path.stat().st_size)
