"""A trainer for TRL 1.16.0 with the loss of `objective.py` and several teachers, each for its own rows.

A step is one batch on one device. Log-probabilities are computed a few rows at a time, and recomputed in the
backward pass, so that memory does not grow with the batch.
"""

import mopd_distributions as md
import mopd_rewards
import mopd_tensors as mt
import objective
import torch
from torch.utils.checkpoint import checkpoint
from trl import DistillationTrainer


# Of a probability of 0. Finite, since differences of log-probabilities are multiplied by it.
NO_LOGIT = -1e30


class MopdTrainer(DistillationTrainer):
    def __init__(
        self, *, teachers, domains, rows_at_once, sampling_temperature, entries, absent, reference=None, **others
    ):
        """`teachers` are by their name in the column `teacher`; the first one is TRL's `teacher_model`.

        `entries` is the number of the tokenizer's ids, and `absent` are those of them without a token."""
        self.teacher_names, self.domains = list(teachers), domains
        first = teachers[self.teacher_names[0]] if teachers else None
        super().__init__(teacher_model=first, **others)
        if self.accelerator.num_processes > 1 or self.args.gradient_accumulation_steps > 1:
            raise ValueError("the loss needs the whole batch of a step: use one process and no gradient accumulation")
        prepared = {
            name: self.teacher_model if model is first else self.accelerator.prepare_model(model, evaluation_mode=True)
            for name, model in teachers.items()
        }
        self.teachers = prepared
        self.reference = reference and self.accelerator.prepare_model(reference, evaluation_mode=True)
        self.rows_at_once, self.sampling_temperature = rows_at_once, sampling_temperature
        self.entries, self.absent = entries, absent

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        device = output["completion_ids"].device
        if self.teachers:
            numbers = [self.teacher_names.index(row["teacher"]) for row in inputs]
            output["mopd_teacher"] = torch.tensor(numbers, device=device)
        output["mopd_group"] = torch.tensor([row["group"] for row in inputs], device=device)
        output["mopd_domain"] = torch.tensor([self.domains.index(row["domain"]) for row in inputs], device=device)
        if {"reward", "correct"} & set(objective.READS):
            ids = [ids[mask.bool()] for ids, mask in zip(output["completion_ids"], output["completion_mask"])]
            texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
            scores = [
                mopd_rewards.of_row(row["domain"], text, row["row"]) for row, text in zip(inputs, texts, strict=True)
            ]
            output["mopd_reward"] = torch.tensor(scores, device=device)
        return output

    def _logits(self, model, ids, mask, keep):
        some = {"logits_to_keep": keep + 1} if "logits_to_keep" in self.model_kwarg_keys else {}
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **some).logits
        # A distribution is over the tokens that exist: padding rows of an embedding have probability 0.
        logits = logits[:, -keep - 1 : -1, : self.entries]
        if not self.absent:
            return logits
        return logits.index_fill(-1, torch.tensor(self.absent, device=logits.device), NO_LOGIT)

    def _rows(self, student, ids, mask, keep, kept, tokens, others):
        """Values per token of some rows: the live ones, the signals, and the student's entropy."""
        logits = {"student": self._logits(student, ids, mask, keep)[kept]}
        logits.update({name: values[kept] for name, values in others.items()})
        made = md.Distributions(
            logits,
            tokens,
            sorted(set(self.eos_token_ids)),
            objective.TEMPERATURE,
            self.sampling_temperature,
            objective.SUMMANDS,
            self.state.global_step,
            self.args.max_steps,
        )
        live = [made.live(spec) for spec in objective.LIVE]
        read = [made.signal(spec).double() for spec in objective.DISTRIBUTIONS.values()]
        entropy = made.signal({"signal": "entropy", "role": "student"})
        return (*live, *read, entropy)

    def _others(self, ids, mask, keep, teacher):
        """The logits of each row's teacher, and of the reference."""
        found = {}
        with torch.no_grad():
            if "teacher" in objective.ROLES:
                for number, name in enumerate(self.teacher_names):
                    rows = (teacher == number).nonzero()[:, 0]
                    if len(rows):
                        made = self._logits(self.teachers[name].eval(), ids[rows], mask[rows], keep)
                        if "teacher" not in found:
                            found["teacher"] = made.new_zeros((len(ids), *made.shape[1:]))
                        found["teacher"][rows] = made.to(found["teacher"].dtype)
            if "reference" in objective.ROLES:
                found["reference"] = self._logits(self.reference.eval(), ids, mask, keep)
        return found

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        order = torch.argsort(inputs["mopd_group"], stable=True)
        of = {name: inputs[name][order] for name in inputs if torch.is_tensor(inputs[name]) and inputs[name].dim()}
        ids = torch.cat([of["prompt_ids"], of["completion_ids"]], dim=1)
        mask = torch.cat([of["prompt_mask"], of["completion_mask"]], dim=1)
        kept = of["completion_mask"].bool()
        keep = kept.shape[1]
        parts = []
        for rows in torch.arange(len(ids), device=ids.device).split(self.rows_at_once):
            teacher = of["mopd_teacher"][rows] if "mopd_teacher" in of else None
            others = self._others(ids[rows], mask[rows], keep, teacher)
            tokens = of["completion_ids"][rows][kept[rows]]
            arguments = (unwrapped_student, ids[rows], mask[rows], keep, kept[rows], tokens, others)
            parts.append(checkpoint(self._rows, *arguments, use_reentrant=False))
        numbers = [torch.cat(part) for part in zip(*parts)]
        live, read = numbers[: len(objective.LIVE)], numbers[len(objective.LIVE) : -1]
        signals = dict(zip(objective.DISTRIBUTIONS, read, strict=True))
        if "mopd_reward" in of:
            signals["reward"] = of["mopd_reward"]
        if "truncated" in objective.READS:
            ended = torch.isin(of["completion_ids"], torch.tensor(self.eos_token_ids, device=ids.device)) & kept
            signals["truncated"] = (~ended.any(-1)).float()
        groups, group_of_sequence = torch.unique_consecutive(of["mopd_group"], return_inverse=True)
        domain_of_group = group_of_sequence.new_zeros(len(groups)).scatter(0, group_of_sequence, of["mopd_domain"])
        sequence_of_token = kept.nonzero()[:, 0]
        layout = mt.Layout(sequence_of_token, group_of_sequence, len(groups), domain_of_group, len(self.domains))
        step = (self.state.global_step, self.args.max_steps)
        batch = mt.Batch(layout, signals, live, *step, dtype=torch.float64)
        loss = objective.loss(batch).squeeze(0)
        return loss.float(), numbers[-1].sum().detach(), kept.sum()
