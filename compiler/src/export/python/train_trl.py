"""Trains with TRL 1.16.0 as `stage.json` and `config.json` specify, on the rows of `train.jsonl` in order."""

import json
import os
import pathlib

import datasets
import mopd_trl
import objective
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig

HERE = pathlib.Path(__file__).resolve().parent
os.chdir(HERE)


def loaded(weights):
    return AutoModelForCausalLM.from_pretrained(weights["path"], revision=weights["revision"], dtype=torch.float32)


def optimizer(model, config, steps):
    """AdamW without weight decay for normalisations. The learning rate is that of `objective.py`."""
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value for name, value in trained if ("norm" in name.lower()) == norm], "weight_decay": decay}
        for norm, decay in ((False, config.weight_decay), (True, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.adam_beta1, config.adam_beta2)
    made = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=config.adam_epsilon)
    return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: objective.learning_rate(step, steps))


def main():
    stage = json.loads((HERE / "stage.json").read_text())
    known = {name: value for name, value in json.loads((HERE / "config.json").read_text()).items() if value is not None}
    config = DistillationConfig(**known)
    tokenizer = AutoTokenizer.from_pretrained(stage["tokenizer"] or stage["start"]["path"], padding_side="left")
    model = loaded(stage["start"])
    if stage["adapter"] is not None:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **stage["adapter"]))
    if stage["tokenizer"] is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    rows = datasets.load_dataset("json", data_files=str(HERE / "train.jsonl"), split="train")
    # The samples of a prompt are contiguous.
    rows = rows.select([row for row in range(len(rows)) for _ in range(stage["samples"])])
    trainer = mopd_trl.MopdTrainer(
        model=model,
        teachers={name: loaded(weights) for name, weights in stage["teachers"].items()},
        reference=stage["reference"] and loaded(stage["reference"]),
        domains=stage["domains"],
        rows_at_once=stage["rows_at_once"],
        sampling_temperature=stage["sampling_temperature"],
        end_token=tokenizer.eos_token_id,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        optimizers=optimizer(model, config, config.max_steps),
    )
    trainer.train()
    trainer.save_model(str(HERE / "trained"))
    (HERE / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n")


if __name__ == "__main__":
    main()
