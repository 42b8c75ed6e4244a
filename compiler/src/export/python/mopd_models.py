"""The distributions that a pass of `mopd_verl.py` needs: the student's, and those of the other models.

A teacher is served by verl, which passes on its most probable entries, or it is `held`: each training process has a part
of it, as of the student, and it runs for the same micro-batches.
"""

import copy

import mopd_distributions as md
import objective
import torch
import torch.distributed as dist
from verl.utils import tensordict_utils as tu


def predicting_places(data):
    """The places in the packed sequences that predict the completions' tokens."""
    ends = data["input_ids"].offsets()[1:].tolist()
    lengths = data["response_mask"].offsets().diff().tolist()
    places = [torch.arange(end - length - 1, end - 1) for end, length in zip(ends, lengths, strict=True)]
    return torch.cat(places).to(data["input_ids"].device)


def end_tokens(engine):
    """The tokens that end a completion."""
    config = engine.model_config
    ends = config.generation_config.eos_token_id if config.generation_config is not None else None
    ends = ends if isinstance(ends, list) else [ends]
    return sorted({token for token in [*ends, config.tokenizer.eos_token_id] if token is not None})


def whole_logits(logits, places, engine):
    """The logits at some places. verl divided them by the temperature of sampling."""
    if engine.__dict__.get("mopd_ids") is None:
        engine.mopd_ids = md.tokenizer_ids(engine.model_config.tokenizer, logits.shape[-1])
    taken = md.existing(logits[0, places], *engine.mopd_ids)
    if objective.SAMPLING_TEMPERATURE != 1.0:
        taken = taken * objective.SAMPLING_TEMPERATURE
    return taken


def listed(data, places, size):
    """A served teacher's distribution: its most probable entries, with the rest of the mass spread evenly over the
    others. Numbers that depend on the entries and on the mass of the rest are exact."""
    ids = data["teacher_ids"].values()[places].long()
    logs = data["teacher_logprobs"].values()[places].double()
    rest = (1 - logs.exp().sum(-1, keepdim=True)).clamp_min(1e-30) / max(size - ids.shape[-1], 1)
    return rest.log().expand(-1, size).scatter(-1, ids, logs)


def held(engine, role, key):
    """A model with its weights shared between the processes as those of the trained model are. verl keeps those of a
    model that is not trained in the memory of the host."""
    models = engine.__dict__.setdefault("mopd_held", {})
    spec = objective.MODELS[role][key]
    # Models that stay as they are can share their weights.
    name = spec["path"] if spec["copy"] is None else (role, key)
    if name not in models:
        from verl.workers.config import HFModelConfig
        from verl.workers.engine import EngineRegistry

        trained, layout = engine.model_config, copy.deepcopy(engine.engine_config)
        object.__setattr__(layout, "forward_only", True)
        object.__setattr__(layout, "model_dtype", objective.DTYPE)
        model = HFModelConfig(
            path=spec["path"],
            load_tokenizer=False,
            trust_remote_code=trained.trust_remote_code,
            override_config=trained.override_config,
            use_remove_padding=trained.use_remove_padding,
            enable_gradient_checkpointing=False,
        )
        made = EngineRegistry.new(
            model_type="language_model",
            backend=layout.strategy,
            model_config=model,
            engine_config=layout,
            optimizer_config=None,
            checkpoint_config=engine.checkpoint_config,
        )
        made.initialize()
        models[name] = made
    return models[name]


def follow(engine, step):
    """Renews the copies of the student, before the update `step`. All begin with the weights that it starts from."""
    for role, specs in objective.MODELS.items():
        for key, spec in specs.items():
            if spec["copy"] is None:
                continue
            if step > 0 and (role, key) not in engine.__dict__.get("mopd_held", {}):
                raise ValueError("verl's checkpoints have no copies of the student, so that the run can't continue")
            kind = spec["copy"]
            model = held(engine, role, key)
            # The share of the copy's weights that stays.
            if kind == "current":
                stays = 0.0
            elif "average" in kind:
                stays = kind["average"]["rate"]
            else:
                stays = 1.0 if step % kind["every"]["steps"] else 0.0
            if step == 0 or stays == 1.0:
                continue
            ours, theirs = dict(model.module.named_parameters()), dict(engine.module.named_parameters())
            with torch.no_grad():
                for name in ours.keys() | theirs.keys():
                    to, source = part_of(ours[name]), part_of(theirs[name])
                    to.lerp_(source.to(to.device, to.dtype), 1 - stays)


def part_of(value):
    """This process's part of a weight."""
    return value.to_local() if hasattr(value, "to_local") else value


def logits_of(model, data, places, engine):
    """The logits of a held model at some places of a micro-batch."""
    taken = []

    def collect(model_output=None, data=None, dp_group=None, student_logits=None):
        if student_logits is None:
            return torch.zeros((), device=data["input_ids"].device), {}
        taken.append(whole_logits(student_logits, places, engine))
        return {}

    with torch.no_grad(), model.eval_mode():
        model.forward_step(data, collect, forward_only=True)
    return taken[0]


def shown(engine, data):
    """A micro-batch as a teacher with a template reads it: other prompts before the same completions."""
    tokenizer = engine.model_config.tokenizer
    ids = []
    for row, response in zip(tu.get(data, "extra_info"), data["responses"].unbind(), strict=True):
        # A row whose teacher has no template is not read here.
        messages = row["shown"] or [{"role": "user", "content": ""}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        ids.append(torch.cat([torch.tensor(prompt, device=response.device), response]))
    other = data.clone(recurse=False)
    other["input_ids"] = torch.nested.as_nested_tensor(ids, layout=torch.jagged)
    places = [torch.arange(len(row), device=row.device) for row in ids]
    other["position_ids"] = torch.nested.as_nested_tensor(places, layout=torch.jagged)
    return other


def others(engine, data, places, size, first):
    """The distributions of the other models by their role, as far as the numbers of this pass need them."""
    roles = objective.ROLES if first else objective.LIVE_ROLES
    by_role = {}
    for role in roles:
        paths = objective.MODELS.get(role)
        if paths is None:
            by_role[role] = listed(data, places, size)
            continue
        # Of the models of a role, each row has one. All processes run a model together.
        keys = list(paths)
        names = list(tu.get(data, "data_source" if role == "reference" else "teacher"))
        names = names if len(keys) > 1 else keys * len(names)
        lengths = torch.tensor(data["response_mask"].offsets().diff().tolist())
        of_place = torch.repeat_interleave(torch.tensor([keys.index(name) for name in names]), lengths).to(places.device)
        needed = torch.tensor([int(key in names) for key in keys], device=places.device)
        dist.all_reduce(needed, op=dist.ReduceOp.MAX, group=engine.get_data_parallel_group())
        for number, key in enumerate(keys):
            if needed[number]:
                inputs = shown(engine, data) if paths[key]["template"] else data
                logits = logits_of(held(engine, role, key), inputs, predicting_places(inputs), engine)
                chosen = (of_place == number)[:, None]
                by_role[role] = torch.where(chosen, logits, by_role[role]) if role in by_role else logits
    return by_role
