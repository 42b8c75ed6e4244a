"""A trainer for TRL 1.16.0 with the loss of `objective.py` and several models beside the student, each for its own rows.

A step is one batch, which several processes may share: each has some rows, and all compute the objective of the
whole batch. Log-probabilities are computed a few rows at a time, and recomputed in the backward pass, so that memory
does not grow with the batch. On a GPU, one of the other models is there at a time.
"""

import copy
import pathlib
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
REPORTED += objective.BESIDE.values()


class MopdTrainer(DistillationTrainer):
    def __init__(
        self, *, models, copies, domains, steps, rows_at_once, sampling_temperature, entries, absent, **others
    ):
        """`models` are frozen, by their names in the rows; `copies` says how others follow the student.

        `entries` is the number of the tokenizer's ids, and `absent` are those of them without a token."""
        self.domains, self.steps, self.copies = domains, steps, copies
        super().__init__(teacher_model=None, **others)
        if self.args.gradient_accumulation_steps > 1:
            raise ValueError("the loss needs the whole batch of a step: use no gradient accumulation")
        self.frozen = {name: model.eval() for name, model in models.items()}
        student = self.accelerator.unwrap_model(self.model)
        for name, how in copies.items():
            # Before the first step, it has the weights of the start.
            apart = None if how == "current" else copy.deepcopy(student).to("cpu")
            self.frozen[name] = apart if apart is None else apart.requires_grad_(False).eval()
        self.names = list(self.frozen)
        self.on_device, self.followed = None, 0
        self.rows_at_once, self.sampling_temperature = rows_at_once, sampling_temperature
        self.entries, self.absent = entries, absent
        # In single precision, rounding of logits is not to be seen in losses.
        self.precision = torch.float32 if self.args.bf16 else torch.float64

    def _tokenize_prompts(self, prompts):
        """A prompt may be given as tokens."""
        if isinstance(prompts[0], str) or isinstance(prompts[0][0], dict):
            return super()._tokenize_prompts(prompts)
        return [list(prompt) for prompt in prompts], None, {}

    def _generate(self, prompts):
        """Completions that are given are not sampled."""
        if self.given is not None:
            return [list(prompt) for prompt in prompts], self.given, None, None, None
        return super()._generate(prompts)

    def _drawn(self, step):
        """This process's rows of a step that `mopd` draws, with the student's weights of now."""
        if self.is_world_process_zero():
            self.accelerator.unwrap_model(self.model).save_pretrained(mopd_run.HERE / "weights")
        rows = mopd_run.answered("draw", step, {}, self.is_world_process_zero())
        own = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        if len(rows) < self.accelerator.num_processes:
            raise ValueError(f"step {step} has {len(rows)} completions: use fewer processes")
        return own

    def _follow(self, step):
        """Updates the copies of the student after the update before this step."""
        if step == self.followed:
            return
        self.followed = step
        weights = dict(self.accelerator.unwrap_model(self.model).named_parameters())
        for name, how in self.copies.items():
            if how == "current":
                continue
            stays = how["average"]["rate"] if "average" in how else float(step % how["every"]["steps"] != 0)
            if stays == 1.0:
                continue
            with torch.no_grad():
                for part, value in self.frozen[name].named_parameters():
                    value.lerp_(weights[part].to(value.device, value.dtype), 1 - stays)

    def copied_weights(self):
        return {name: self.frozen[name].state_dict() for name, how in self.copies.items() if how != "current"}

    def resume_copies(self, checkpoint):
        """Restores the copies of the student, before the training resumes from a checkpoint."""
        copies = torch.load(pathlib.Path(checkpoint) / "copies.pt", map_location="cpu")
        for name, weights in copies.items():
            self.frozen[name].load_state_dict(weights)
        self.followed = int(pathlib.Path(checkpoint).name.split("-")[1]) - 1

    def _generate_and_score_completions(self, inputs):
        begun = time.perf_counter()
        step = self.state.global_step
        self._follow(step)
        if mopd_run.RUN is not None and mopd_run.RUN["draws"]:
            inputs = self._drawn(step)
        self.given = None if inputs[0].get("completion") is None else [row["completion"] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        device = output["completion_ids"].device
        models = [[row["models"].get(role) for role in objective.ROLES] for row in inputs]
        numbers = [[-1 if name is None else self.names.index(name) for name in row] for row in models]
        output["mopd_models"] = torch.tensor(numbers, device=device).reshape(len(inputs), len(objective.ROLES))
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
        self.columns = {row["number"]: row.get("numbers") or {} for row in inputs}
        # The prompts that models read in place of the rows' own.
        self.shown = {}
        for row in inputs:
            texts = {role: text for role, text in (row.get("shown") or {}).items() if text is not None}
            self.shown[row["number"]] = {role: self._tokenize_prompts([text])[0][0] for role, text in texts.items()}
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

    def _scored(self, student, name, ids, mask, keep):
        """The logits of another model, which takes the place of the one before it on the device."""
        device, model = ids.device, self.frozen[name]
        if model is None:
            was_training = student.training
            logits = self._logits(student.eval(), ids, mask, keep)
            student.train(was_training)
            return logits
        if device.type != "cpu" and self.on_device != name:
            if self.on_device is not None:
                self.frozen[self.on_device].to("cpu")
            model.to(device)
            self.on_device = name
        return self._logits(model, ids, mask, keep)

    def _inputs(self, role, rows, of):
        """The tokens and the mask of some rows as the model of a role reads them."""
        ids, mask = of["prompt_ids"][rows], of["prompt_mask"][rows]
        shown = [self.shown.get(number, {}).get(role) for number in of["mopd_number"][rows].tolist()]
        if any(prompt is not None for prompt in shown):
            own = [row[real].tolist() for row, real in zip(ids, mask.bool())]
            prompts = [theirs if theirs is not None else ours for theirs, ours in zip(shown, own)]
            width = max(len(prompt) for prompt in prompts)
            ids, mask = ids.new_full((len(prompts), width), self._tokenizer.pad_token_id), mask.new_zeros(len(prompts), width)
            for row, prompt in enumerate(prompts):
                ids[row, width - len(prompt) :] = ids.new_tensor(prompt)
                mask[row, width - len(prompt) :] = 1
        return torch.cat([ids, of["completion_ids"][rows]], dim=1), torch.cat([mask, of["completion_mask"][rows]], dim=1)

    def _others(self, student, rows, of, keep):
        """The logits of the other models of some rows, by role."""
        logits = {}
        with torch.no_grad():
            for number, role in enumerate(objective.ROLES):
                names = of["mopd_models"][rows, number]
                for name in names.unique().tolist():
                    chosen = (names == name).nonzero()[:, 0]
                    if name < 0:
                        raise ValueError(f"a row has no model for {role}")
                    made = self._scored(student, self.names[name], *self._inputs(role, rows[chosen], of), keep)
                    if role not in logits:
                        logits[role] = made.new_zeros((len(rows), *made.shape[1:]))
                    logits[role][chosen] = made.to(logits[role].dtype)
        return logits

    def _known(self, whole, of, completions, truncated):
        """The numbers of the step that are not of distributions, and what `mopd` says of turns and prompts."""
        step, signals = self.state.global_step, {"domain": torch.arange(len(self.domains))}
        if mopd_run.RUN is not None:
            asked = {"completions": completions, "truncated": truncated.tolist(), "signals": list(objective.GIVEN.values())}
            answer = mopd_run.answered("known", step, asked, self.is_world_process_zero())
            signals.update(zip(objective.GIVEN, answer["signals"], strict=True))
            self.shown = {}
            for role, prompts in answer["shown"].items():
                for number, prompt in zip(whole.rows.tolist(), prompts, strict=True):
                    self.shown.setdefault(number, {})[role] = prompt
            return signals, answer["turns"]
        signals["truncated"] = truncated.float()
        for name in next(iter(self.columns.values())):
            own = torch.tensor([self.columns[number][name] for number in of["mopd_number"].tolist()], dtype=torch.float64)
            signals[name] = whole.sequences(own)
        if "mopd_record" in of:
            verdicts = self._judged(whole.sequences(of["mopd_record"]).tolist(), completions)
            signals["reward"] = [verdict["reward"] for verdict in verdicts]
            for name in objective.READS:
                if name.startswith("reward."):
                    part = name.removeprefix("reward.")
                    signals[name] = [verdict["parts"][part] for verdict in verdicts]
        return signals, None

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        order = torch.argsort(inputs["mopd_number"])
        of = {name: inputs[name][order] for name in inputs if torch.is_tensor(inputs[name]) and inputs[name].dim()}
        ids, mask = (torch.cat([of[f"prompt_{part}"], of[f"completion_{part}"]], dim=1) for part in ("ids", "mask"))
        completed = of["completion_mask"].bool()
        kept = completed & of["mopd_written"].bool() if "mopd_written" in of else completed
        keep = kept.shape[1]
        whole = WholeBatch(of["mopd_number"], kept.sum(-1), ids.device)
        ended = torch.isin(of["completion_ids"], torch.tensor(self.eos_token_ids, device=ids.device)) & completed
        truncated = whole.sequences(~ended.any(-1))
        completions = whole.lists([row[real].tolist() for row, real in zip(of["completion_ids"], completed)])
        step = self.state.global_step
        known, turns = self._known(whole, of, completions, truncated)
        parts = []
        for rows in torch.arange(len(ids), device=ids.device).split(self.rows_at_once):
            others = self._others(unwrapped_student, rows, of, keep)
            tokens = of["completion_ids"][rows][kept[rows]]
            arguments = (unwrapped_student, ids[rows], mask[rows], keep, kept[rows], tokens, others)
            parts.append(checkpoint(self._rows, *arguments, use_reentrant=False))
        columns = [torch.cat(part) for part in zip(*parts)]
        numbers = [whole.tokens(values) for values in columns]
        live, read = numbers[: len(objective.LIVE)], numbers[len(objective.LIVE) : -len(REPORTED)]
        signals = dict(zip(objective.DISTRIBUTIONS, read, strict=True))
        for name, values in known.items():
            signals[name] = torch.as_tensor(values, dtype=torch.float64, device=ids.device)
        turns = None if turns is None else [torch.tensor(part, device=ids.device) for part in turns]
        groups, domains = whole.sequences(of["mopd_group"]), whole.sequences(of["mopd_domain"])
        groups, group_of_sequence = torch.unique_consecutive(groups, return_inverse=True)
        domain_of_group = group_of_sequence.new_zeros(len(groups)).scatter(0, group_of_sequence, domains)
        lengths = whole.lengths.to(ids.device)
        sequence_of_token = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths)
        layout = mt.Layout(sequence_of_token, group_of_sequence, len(groups), domain_of_group, len(self.domains), turns)
        batch = mt.Batch(layout, signals, live, step, self.steps, dtype=torch.float64)
        loss = objective.loss(batch).squeeze(0)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of step {step} is {loss.item()}")
        specs = [spec.get("signal_of_plan", spec) for spec in objective.DISTRIBUTIONS.values()] + REPORTED
        self.reported = {
            "loss": loss.item(),
            "rows": whole.rows.tolist(),
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
