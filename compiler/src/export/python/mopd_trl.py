"""A trainer for TRL 1.16.0 with the loss of `objective.py` and several teachers, each for its own rows.

A step is one batch, which several processes may share: each has some rows, and all compute the objective of the
whole batch. Log-probabilities are computed a few rows at a time, and recomputed in the backward pass, so that memory
does not grow with the batch. On a GPU, one teacher is there at a time.
"""

import time

import mopd_distributions as md
import mopd_rewards
import mopd_run
import mopd_tensors as mt
import objective
import torch
from mopd_whole import WholeBatch, gathered
from torch.utils.checkpoint import checkpoint
from trl import DistillationTrainer

# What a report has besides the numbers that the objective reads.
REPORTED = [{"signal": "logp", "role": "student"}, {"signal": "entropy", "role": "student"}]
if "teacher" in objective.ROLES:
    REPORTED.append({"signal": "logp", "role": "teacher"})


class MopdTrainer(DistillationTrainer):
    def __init__(
        self, *, teachers, domains, steps, rows_at_once, sampling_temperature, entries, absent, reference=None, **others
    ):
        """`teachers` are by their name in the column `teacher`.

        `entries` is the number of the tokenizer's ids, and `absent` are those of them without a token."""
        self.teacher_names, self.domains, self.steps = list(teachers), domains, steps
        super().__init__(teacher_model=None, **others)
        if self.args.gradient_accumulation_steps > 1:
            raise ValueError("the loss needs the whole batch of a step: use no gradient accumulation")
        self.frozen = {("teacher", name): model.eval() for name, model in teachers.items()}
        if reference is not None:
            self.frozen["reference"] = reference.eval()
        self.on_device = None
        self.rows_at_once, self.sampling_temperature = rows_at_once, sampling_temperature
        self.entries, self.absent = entries, absent
        # In single precision, rounding of logits is not to be seen in losses.
        self.precision = torch.float32 if self.args.bf16 else torch.float64

    def _tokenize_prompts(self, prompts):
        """A prompt may be given as tokens."""
        if isinstance(prompts[0], str) or isinstance(prompts[0][0], dict):
            return super()._tokenize_prompts(prompts)
        return [list(prompt) for prompt in prompts], None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        """Completions that are given are not sampled."""
        if self.given is not None:
            return self.given
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, has_tool_images)

    def _generate_and_score_completions(self, inputs):
        begun = time.perf_counter()
        self.given = None if inputs[0].get("completion") is None else [row["completion"] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        device = output["completion_ids"].device
        if self.teacher_names:
            numbers = [self.teacher_names.index(row["teacher"]) for row in inputs]
            output["mopd_teacher"] = torch.tensor(numbers, device=device)
        for name in ("number", "group"):
            output[f"mopd_{name}"] = torch.tensor([row[name] for row in inputs], device=device)
        output["mopd_domain"] = torch.tensor([self.domains.index(row["domain"]) for row in inputs], device=device)
        written = [row.get("written") for row in inputs]
        if any(mask is not None for mask in written):
            mask = torch.zeros_like(output["completion_mask"])
            for row, (by_student, given) in enumerate(zip(written, self.given, strict=True)):
                mask[row, : len(given)] = torch.tensor(by_student or [1] * len(given))
            output["mopd_written"] = mask
        if "record" in inputs[0]:
            output["mopd_record"] = torch.tensor([row["record"] for row in inputs], device=device)
        self.rollout_seconds = time.perf_counter() - begun
        self.scoring_begun = time.perf_counter()
        return output

    def _judged(self, records, completions):
        """The rewards of the step's completions. The first process asks for all, so that lists are those of a run."""
        verdicts = None
        if self.is_world_process_zero():
            texts = self.processing_class.batch_decode(completions, skip_special_tokens=True)
            verdicts = mopd_rewards.judged(records, texts)
        return gathered(verdicts)[0]

    def _logits(self, model, ids, mask, keep):
        some = {"logits_to_keep": keep + 1} if "logits_to_keep" in self.model_kwarg_keys else {}
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **some).logits
        return md.existing(logits[:, -keep - 1 : -1], self.entries, self.absent)

    def _rows(self, student, ids, mask, keep, kept, tokens, others):
        """Values per token of some rows: the live ones, the signals, and those of the report."""
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
            self.steps,
            self.precision,
        )
        live = [made.live(spec) for spec in objective.LIVE]
        read = [made.signal(spec).double() for spec in objective.DISTRIBUTIONS.values()]
        return (*live, *read, *(made.signal(spec) for spec in REPORTED))

    def _scored(self, which, ids, mask, keep):
        """The logits of a frozen model, which takes the place of the one before it on the device."""
        device, model = ids.device, self.frozen[which]
        if device.type != "cpu" and self.on_device != which:
            if self.on_device is not None:
                self.frozen[self.on_device].to("cpu")
            model.to(device)
            self.on_device = which
        return self._logits(model, ids, mask, keep)

    def _others(self, ids, mask, keep, teacher):
        """The logits of each row's teacher, and of the reference."""
        logits = {}
        with torch.no_grad():
            if "teacher" in objective.ROLES:
                for number, name in enumerate(self.teacher_names):
                    rows = (teacher == number).nonzero()[:, 0]
                    if len(rows):
                        made = self._scored(("teacher", name), ids[rows], mask[rows], keep)
                        if "teacher" not in logits:
                            logits["teacher"] = made.new_zeros((len(ids), *made.shape[1:]))
                        logits["teacher"][rows] = made.to(logits["teacher"].dtype)
            if "reference" in objective.ROLES:
                logits["reference"] = self._scored("reference", ids, mask, keep)
        return logits

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        order = torch.argsort(inputs["mopd_number"])
        of = {name: inputs[name][order] for name in inputs if torch.is_tensor(inputs[name]) and inputs[name].dim()}
        ids = torch.cat([of["prompt_ids"], of["completion_ids"]], dim=1)
        mask = torch.cat([of["prompt_mask"], of["completion_mask"]], dim=1)
        completed = of["completion_mask"].bool()
        kept = completed & of["mopd_written"].bool() if "mopd_written" in of else completed
        keep = kept.shape[1]
        parts = []
        for rows in torch.arange(len(ids), device=ids.device).split(self.rows_at_once):
            teacher = of["mopd_teacher"][rows] if "mopd_teacher" in of else None
            others = self._others(ids[rows], mask[rows], keep, teacher)
            tokens = of["completion_ids"][rows][kept[rows]]
            arguments = (unwrapped_student, ids[rows], mask[rows], keep, kept[rows], tokens, others)
            parts.append(checkpoint(self._rows, *arguments, use_reentrant=False))
        columns = [torch.cat(part) for part in zip(*parts)]
        whole = WholeBatch(of["mopd_number"], kept.sum(-1), ids.device)
        numbers = [whole.tokens(values) for values in columns]
        live, read = numbers[: len(objective.LIVE)], numbers[len(objective.LIVE) : -len(REPORTED)]
        signals = dict(zip(objective.DISTRIBUTIONS, read, strict=True))
        ended = torch.isin(of["completion_ids"], torch.tensor(self.eos_token_ids, device=ids.device)) & completed
        truncated = whole.sequences(~ended.any(-1))
        if "truncated" in objective.READS:
            signals["truncated"] = truncated.float()
        completions = whole.lists([row[real].tolist() for row, real in zip(of["completion_ids"], completed)])
        step = self.state.global_step
        verdicts = None
        if mopd_run.RUN is not None and mopd_run.RUN["judges"]:
            verdicts = mopd_run.judged(step, completions, self.is_world_process_zero())
        elif "mopd_record" in of:
            verdicts = self._judged(whole.sequences(of["mopd_record"]).tolist(), completions)
        if verdicts is not None:
            rewards = {"reward": [verdict["reward"] for verdict in verdicts]}
            for name in objective.READS:
                if name.startswith("reward."):
                    part = name.removeprefix("reward.")
                    rewards[name] = [verdict["parts"][part] for verdict in verdicts]
            for name, values in rewards.items():
                signals[name] = torch.tensor(values, dtype=torch.float64, device=ids.device)
        groups, domains = whole.sequences(of["mopd_group"]), whole.sequences(of["mopd_domain"])
        groups, group_of_sequence = torch.unique_consecutive(groups, return_inverse=True)
        domain_of_group = group_of_sequence.new_zeros(len(groups)).scatter(0, group_of_sequence, domains)
        lengths = whole.lengths.to(ids.device)
        sequence_of_token = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths)
        layout = mt.Layout(sequence_of_token, group_of_sequence, len(groups), domain_of_group, len(self.domains))
        batch = mt.Batch(layout, signals, live, step, self.steps, dtype=torch.float64)
        loss = objective.loss(batch).squeeze(0)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of step {step} is {loss.item()}")
        specs = [spec.get("signal_of_plan", spec) for spec in objective.DISTRIBUTIONS.values()] + REPORTED
        self.reported = {
            "loss": loss.item(),
            "rows": whole.rows.tolist(),
            "completions": completions,
            "truncated": truncated.tolist(),
            "live": [mopd_run.numbers(values) for values in live],
            "signals": [[spec, mopd_run.numbers(values)] for spec, values in zip(specs, numbers[len(live) :])],
        }
        # The gradients of all processes are averaged, and each has only the gradient of its own tokens.
        loss = loss.detach() + (loss - loss.detach()) * self.accelerator.num_processes
        return loss.float(), columns[-len(REPORTED) + 1].sum().detach(), kept.sum()

    def log(self, logs, start_time=None):
        if mopd_run.RUN is not None and "grad_norm" in logs and self.is_world_process_zero():
            seconds = [self.rollout_seconds, time.perf_counter() - self.scoring_begun]
            mopd_run.report(
                self.state.global_step - 1,
                gradient_norm=logs["grad_norm"],
                learning_rate=self.rate,
                seconds=seconds,
                **self.reported,
            )
        super().log(logs, start_time)

    def training_step(self, model, inputs, num_items_in_batch):
        # The one of this step: the scheduler has moved on when the step is logged.
        self.rate = self.optimizer.param_groups[0]["lr"]
        return super().training_step(model, inputs, num_items_in_batch)
