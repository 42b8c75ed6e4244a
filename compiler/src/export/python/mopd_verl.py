"""Trains with the objective of `objective.py` in verl 0.9.1, in two passes per update.

The first pass computes the numbers of each token, without gradient. Every process gets those of the whole batch,
computes the loss, and its derivative with respect to each live number (the adjoint). In the second pass, the loss of a
micro-batch is the sum of adjoint times live number over its tokens, so that the result depends neither on the sizes of
micro-batches nor on the number of processes.

VERL_USE_EXTERNAL_MODULES names this module, so that each process of verl imports it before reading its configuration.
"""

import mopd_distributions as md
import mopd_models
import mopd_tensors as mt
import objective
import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint
from verl.trainer.distillation.losses import DistillationLossSettings, register_distillation_loss
from verl.utils import tensordict_utils as tu
from verl.workers.engine.base import BaseEngine
from verl.workers.utils.padding import response_from_nested


@register_distillation_loss(
    DistillationLossSettings(
        names=["mopd"], use_estimator=objective.ENTRIES is None, use_topk=objective.ENTRIES is not None
    )
)
def mopd(config, distillation_config, model_output, data):
    """verl asks for a loss of this name, and gets the teachers' numbers that its settings name."""
    raise RuntimeError("the loss of mopd is computed by `train_batch`")


def column(data, name):
    """A number or a text of each row."""
    values = tu.get(data, name)
    return values.tolist() if torch.is_tensor(values) else list(values)


def of_completions(values, data):
    """One value per completion token that counts, of a number per token of whole sequences."""
    mask = data["response_mask"]
    return response_from_nested(values, mask).values()[mask.values().bool()]


class PassLoss:
    """verl's loss function in one pass. verl calls it with the logits of a micro-batch, and then with what it returned
    for these."""

    def __init__(self, engine, step, adjoints):
        self.engine, self.step, self.adjoints = engine, step, adjoints

    def __call__(self, model_output=None, data=None, dp_group=None, student_logits=None):
        if student_logits is not None:
            return self.numbers(student_logits, data)
        if self.adjoints is None:
            return torch.zeros((), device=data["input_ids"].device), {}
        pulls = [
            of_completions(model_output[f"live {number}"], data) * of_response(data, f"mopd adjoint {number}")
            for number in range(len(objective.LIVE))
        ]
        pull = sum(pulls).sum()
        # The value is this micro-batch's share of the loss of the whole batch, so that verl reports that.
        share = of_response(data, "mopd loss").sum()
        return (pull - pull.detach() + share) * data["dp_size"], {}

    def numbers(self, logits, data):
        """The live numbers, and in the first pass the signals, of each token of the packed sequences."""
        ids, places = data["input_ids"].values(), mopd_models.predicting_places(data)
        if logits.shape[1] < len(ids):
            raise ValueError("mopd needs whole sequences: set ulysses_sequence_parallel_size to 1")
        tokens = ids[places + 1]
        taken = mopd_models.whole_logits(logits, places, self.engine)
        first = self.adjoints is None
        others = mopd_models.others(self.engine, data, places, taken.shape[-1], first)
        specs = list(objective.LIVE), list(objective.DISTRIBUTIONS.values()) if first else []

        def compute(taken):
            made = md.Distributions(
                {"student": taken, **others},
                tokens,
                mopd_models.end_tokens(self.engine),
                objective.TEMPERATURE,
                objective.SAMPLING_TEMPERATURE,
                objective.SUMMANDS,
                self.step,
                objective.STEPS,
            )
            return (*[made.live(spec) for spec in specs[0]], *[made.signal(spec) for spec in specs[1]])

        values = compute(taken) if first else checkpoint(compute, taken, use_reentrant=False)
        names = [f"live {number}" for number in range(len(specs[0]))] + list(objective.DISTRIBUTIONS)[: len(specs[1])]
        zeros = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
        return {name: zeros.index_put((places,), value.double())[None] for name, value in zip(names, values)}


def of_response(data, name):
    """The values of a column that `train_batch` added, for the tokens that count."""
    return data[name].values()[data["response_mask"].values().bool()]


def own_rows(engine, data, numbers):
    """The numbers of this process's completions, one entry for each."""
    mask = data["response_mask"]
    lengths = [int(row.sum()) for row in mask.unbind()]
    per_token = {name: of_completions(values, data).cpu() for name, values in numbers.items()}
    for name, source in objective.COLUMNS.items():
        values = data[source]
        values = of_completions(values, data) if source == "teacher_logprobs" else of_response(data, source)
        per_token[name] = values.reshape(len(values)).cpu().double()
    per_token = {name: values.split(lengths) for name, values in per_token.items()}
    extra, domains = column(data, "extra_info"), column(data, "data_source")
    samples = column(data, "session_id") if "session_id" in data else range(len(lengths))
    per_sequence = {}
    if {"reward", "correct"} & set(objective.READS):
        # The reward is stored at the last token.
        per_sequence["reward"] = [float(row.sum()) for row in data["rm_scores"].unbind()]
    if "truncated" in objective.READS:
        ends = torch.tensor(mopd_models.end_tokens(engine), device=mask.device)
        per_sequence["truncated"] = [float(not torch.isin(row, ends).any()) for row in data["responses"].unbind()]
    for name in objective.OF_DATA:
        per_sequence[name] = [row["numbers"][name] for row in extra]
    return [
        {
            "order": (extra[row]["index"], samples[row]),
            "domain": objective.DOMAINS.index(domains[row]),
            "length": lengths[row],
            "tokens": {name: values[row] for name, values in per_token.items()},
            "sequence": {name: values[row] for name, values in per_sequence.items()},
        }
        for row in range(len(lengths))
        # verl pads a batch with rows that have no token.
        if lengths[row] > 0
    ]


def adjoints(rows, step):
    """The loss of the whole batch, and for each live number its derivative per row. `rows` are in order."""
    names = list(rows[0]["tokens"])
    tokens = {name: torch.cat([row["tokens"][name] for row in rows]) for name in names}
    lives = [tokens.pop(f"live {number}").requires_grad_() for number in range(len(objective.LIVE))]
    signals = {**tokens, "domain": torch.arange(len(objective.DOMAINS), dtype=torch.float64)}
    for name in rows[0]["sequence"]:
        signals[name] = torch.tensor([row["sequence"][name] for row in rows], dtype=torch.float64)
    lengths = [row["length"] for row in rows]
    index = torch.tensor([row["order"][0] for row in rows])
    groups, group_of_row = torch.unique_consecutive(index, return_inverse=True)
    domain_of_group = torch.zeros(len(groups), dtype=torch.long)
    domain_of_group = domain_of_group.scatter(0, group_of_row, torch.tensor([row["domain"] for row in rows]))
    row_of_token = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))
    layout = mt.Layout(row_of_token, group_of_row, len(groups), domain_of_group, len(objective.DOMAINS))
    with torch.enable_grad():
        loss = objective.loss(mt.Batch(layout, signals, lives, step, objective.STEPS, dtype=torch.float64)).squeeze(0)
        gradients = torch.autograd.grad(loss, lives, allow_unused=True) if loss.requires_grad else [None] * len(lives)
    zeros = torch.zeros(sum(lengths), dtype=torch.float64)
    return loss.detach(), [(zeros if of_live is None else of_live).split(lengths) for of_live in gradients]


def update_number(engine, data):
    """The number of updates before this one. verl's steps are batches, which several updates can share."""
    batch = max(column(data, "global_steps")) - 1
    before = getattr(engine, "mopd_update", (None, 0))
    part = before[1] + 1 if before[0] == batch else 0
    engine.mopd_update = (batch, part)
    return batch * objective.UPDATES + part


def complete(engine, step, count):
    """Stops where a batch lacks completions. verl trains on the others if a reward or a rollout fails."""
    part = step % objective.UPDATES
    engine.mopd_completions = count + (engine.mopd_completions if part else 0)
    if part == objective.UPDATES - 1 and engine.mopd_completions != objective.COMPLETIONS:
        message = f"a batch has {engine.mopd_completions} completions in place of {objective.COMPLETIONS}"
        raise RuntimeError(f"{message}: the agent loop's log, above, has the error of those that are missing")


class Rates:
    """In place of verl's schedule: the learning rate is set before each update."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        pass

    def get_last_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]


verls_train_batch = BaseEngine.train_batch


def train_batch(engine, data, loss_function):
    step = update_number(engine, data)
    # verl calls the loss function with the logits, and computes nothing else from them.
    tu.assign_non_tensor(data, distillation_use_topk=True, distillation_only=True, calculate_entropy=False)
    mopd_models.follow(engine, step)
    first = engine.infer_batch(data, PassLoss(engine, step, None))
    rows = own_rows(engine, data, first["model_output"])
    everyone = [None] * engine.get_data_parallel_size()
    dist.all_gather_object(everyone, rows, group=engine.get_data_parallel_group())
    rank = engine.get_data_parallel_rank()
    whole = [(row["order"], owner, number, row) for owner, part in enumerate(everyone) for number, row in enumerate(part)]
    whole.sort(key=lambda entry: entry[:3])
    complete(engine, step, len(whole))
    loss, of_batch = adjoints([row for *_, row in whole], step)
    places = sorted((number, place) for place, (_, owner, number, _) in enumerate(whole) if owner == rank)
    mask = data["response_mask"]
    kept = mask.values().bool()
    columns = {f"mopd adjoint {number}": [of_live[place] for _, place in places] for number, of_live in enumerate(of_batch)}
    share = loss / sum(row["length"] for *_, row in whole)
    columns["mopd loss"] = [share.expand(whole[place][3]["length"]) for _, place in places]
    for name, parts in columns.items():
        values = torch.zeros(len(kept), dtype=torch.float64, device=kept.device)
        if parts:
            values[kept] = torch.cat(parts).to(kept.device)
        data[name] = torch.nested.nested_tensor_from_jagged(values, mask.offsets())
    if not isinstance(engine.lr_scheduler, Rates):
        engine.lr_scheduler = Rates(engine.optimizer)
    for group in engine.optimizer.param_groups:
        group["lr"] = objective.learning_rate(step, objective.STEPS)
    return verls_train_batch(engine, data, PassLoss(engine, step, adjoints=of_batch))


BaseEngine.train_batch = train_batch
