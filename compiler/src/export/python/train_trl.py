"""Trains with TRL 1.16.0 as `stage.json` and `config.json` specify, on the rows of `train.jsonl` in order."""

import json
import os
import pathlib

import datasets
import mopd_distributions
import mopd_run
import mopd_trl
import objective
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DistillationConfig

HERE = pathlib.Path(__file__).resolve().parent
os.chdir(HERE)


def read_rows(path):
    """Texts stay texts: the reader of `load_dataset` makes times of texts that all look like one."""
    # Not `splitlines`, which also splits at U+2028 inside of texts.
    lines = path.read_text(encoding="utf-8").split("\n")
    return datasets.Dataset.from_list([json.loads(line) for line in lines if line], on_mixed_types="use_json")


def padded_alike(model, rows, entries):
    """The model with `rows` rows of the embedding, as many as the student has. Those from `entries` are padding."""
    theirs = model.get_input_embeddings().weight.shape[0]
    if theirs < entries:
        raise ValueError(f"{model.name_or_path} has {theirs} rows of the embedding, and the tokenizer has {entries} ids: use a teacher with the student's tokenizer")
    if theirs != rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def adapted(model, adapter, initial):
    """The model with an adapter at each target of each layer. In layers with experts, PEFT adapts other matrices.

    `initial` is a folder with the weights that training begins with; PEFT draws them where it is None.
    """
    import peft

    count = model.config.get_text_config().num_hidden_layers
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **adapter))
    parts = [name for name, part in model.named_modules() if isinstance(part, peft.tuners.lora.LoraLayer)]
    paths = [name.split(".") for name in parts if "expert" not in name]
    chosen = adapter["layers_to_transform"]
    for layer in range(count) if chosen is None else chosen:
        of_layer = [path[-1] for path in paths if str(layer) in path]
        for target in adapter["target_modules"]:
            if of_layer.count(target) != 1:
                raise ValueError(
                    f"layer {layer} has {of_layer.count(target)} adapters of `{target}`, and mopd trains one: "
                    "leave out this target (in layers with experts, PEFT adapts other matrices)"
                )
    if initial is not None:
        values = safetensors.torch.load_file(os.path.join(initial, "adapter_model.safetensors"))
        if values.keys() != peft.get_peft_model_state_dict(model).keys():
            raise ValueError(f"{initial} has the weights of another adapter")
        peft.set_peft_model_state_dict(model, values)
    return model


def loaded(weights, dtype=torch.float32):
    if os.path.isabs(weights["path"]) and not os.path.isdir(weights["path"]):
        raise ValueError(f"{weights['path']} is not there: `mopd run` writes it")
    if os.path.exists(os.path.join(weights["path"], "adapter_config.json")):
        import peft

        # Merged before it is rounded, as in a run.
        return peft.AutoPeftModelForCausalLM.from_pretrained(weights["path"]).merge_and_unload().to(dtype)
    return AutoModelForCausalLM.from_pretrained(weights["path"], revision=weights["revision"], dtype=dtype)


def optimizer(model, config, steps):
    """AdamW with weight decay for matrices. The learning rate is that of `objective.py`."""

    def is_matrix(name, value):
        vector = "norm" in name.lower() or "lora_magnitude_vector" in name
        return value.ndim >= 2 and not vector

    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value for name, value in trained if is_matrix(name, value) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, config.weight_decay), (False, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.adam_beta1, config.adam_beta2)
    made = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=config.adam_epsilon)
    return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: objective.learning_rate(step, steps))


def settings():
    """The settings of the stage, and TRL's configuration for this process."""
    stage = json.loads((HERE / "stage.json").read_text())
    config = json.loads((HERE / "config.json").read_text())
    config["use_cpu"] = mopd_run.device() == "cpu"
    share, left = divmod(config["per_device_train_batch_size"], mopd_run.world())
    if left:
        raise ValueError(
            f"{mopd_run.world()} processes can't share {config['per_device_train_batch_size']} completions evenly"
        )
    config["per_device_train_batch_size"] = share
    return stage, DistillationConfig(**{name: value for name, value in config.items() if value is not None})


def main():
    stage, config = settings()
    # Before an adapter is made.
    set_seed(config.seed)
    start = stage["start"]
    source = start if stage["tokenizer"] is None else {"path": stage["tokenizer"], "revision": None}
    tokenizer = AutoTokenizer.from_pretrained(source["path"], revision=source["revision"], padding_side="left")
    model = loaded(start)
    # An embedding has no gradient for a token that pads, but a sequence of several turns may have it.
    model.get_input_embeddings().padding_idx = None
    # Schedules count the steps of the stage, also where epochs end within its last one.
    steps = stage["steps"] or config.max_steps
    embedded = model.get_input_embeddings().weight.shape[0]
    entries, absent = mopd_distributions.tokenizer_ids(tokenizer, embedded)

    def scorer(weights):
        # Frozen, so that nothing is lost by the experiment's precision.
        return padded_alike(loaded(weights, getattr(torch, stage["dtype"])), embedded, entries)

    if stage["adapter"] is not None:
        model = adapted(model, stage["adapter"], stage["initial_adapter"])
    if stage["tokenizer"] is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    never = [*absent, *range(entries, embedded)]
    if never:
        config.generation_kwargs = {**(config.generation_kwargs or {}), "suppress_tokens": never}
    rows = read_rows(HERE / "train.jsonl")
    if mopd_run.RUN is None:
        # The samples of a prompt are contiguous.
        rows = rows.select([row for row in range(len(rows)) for _ in range(stage["samples"])])
    rows = rows.add_column("number", list(range(len(rows))))
    copies = {name: weights["copy"] for name, weights in stage["models"].items() if weights["copy"] is not None}
    # Names with equal weights share a model, and those that no role reads are not loaded.
    frozen = {name: json.dumps(weights) for name, weights in stage["models"].items() if name not in copies}
    loaded_once = {weights: scorer(json.loads(weights)) for weights in frozen.values()} if objective.ROLES else {}
    checkpoints = mopd_run.Checkpoints(stage["checkpoint_seconds"])
    trainer = mopd_trl.MopdTrainer(
        model=model,
        models={name: loaded_once[weights] for name, weights in frozen.items() if weights in loaded_once},
        copies=copies,
        domains=stage["domains"],
        steps=steps,
        rows_at_once=min(stage["rows_at_once"], config.per_device_train_batch_size),
        sampling_temperature=stage["sampling_temperature"],
        entries=entries,
        absent=absent,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        optimizers=optimizer(model, config, steps),
        callbacks=[checkpoints],
    )
    checkpoints.trainer = trainer
    checkpoint = mopd_run.last_checkpoint()
    if checkpoint is not None:
        trainer.resume_copies(checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    if checkpoints.stopped and trainer.state.global_step < trainer.state.max_steps:
        return
    if stage["adapter"] is None:
        trainer.save_model(str(HERE / "trained"))
    elif trainer.is_world_process_zero():
        model.save_pretrained(HERE / "trained" / "adapter")
        # A run merges it itself.
        if mopd_run.RUN is None:
            model.merge_and_unload().save_pretrained(HERE / "trained")
    if trainer.is_world_process_zero():
        (HERE / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n")


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        # Without this, gloo's threads abort a process that ends before the others.
        torch.distributed.barrier()
        # They may still do so. Nothing is lost then: all that a run reads is written.
        if torch.distributed.get_rank() == 0:
            (HERE / "finished").touch()
        torch.distributed.destroy_process_group()
