"""Three steps of verl's own FSDP2 engine in two Ray workers on a CPU: `mopd rewards FOLDER -- workers_verl.py FOLDER OUT`.

Completions are drawn greedily here, since verl's rollout needs a GPU. Teachers that verl would serve score them here.
Writes the loss and the gradient norm that verl reports at each step.
"""

import functools
import json
import os
import pathlib
import sys

FOLDER, OUT = (pathlib.Path(name).resolve() for name in sys.argv[1:3])
HERE = pathlib.Path(__file__).resolve().parent


def environment(folder):
    path = os.pathsep.join([str(folder), str(HERE)])
    return {
        "MOPD_EXPORT": str(folder),
        "PYTHONPATH": path,
        "VERL_USE_EXTERNAL_MODULES": "cpu_platform,mopd_verl",
        "VERL_PLATFORM": "cpu",
        "VERL_ENGINE_DEVICE": "cuda",
        "OMP_NUM_THREADS": "1",
    }


def completions(model, tokenizer, rows, samples, limit):
    """The prompt and the greedy completion of each row, as ids."""
    import torch

    found = []
    for row in rows:
        prompt = tokenizer(row["prompt"][0]["content"])["input_ids"]
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(limit):
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1, : len(tokenizer)]
                ids.append(int(logits.argmax()))
                if ids[-1] == tokenizer.eos_token_id:
                    break
        found += [(row, number, prompt, ids[len(prompt) :]) for number in range(samples)]
    return found


def served(models, row, ids, entries):
    """What verl's teacher servers return: the numbers of each token's successor, and a filler at the end."""
    import torch

    with torch.no_grad():
        logs = torch.log_softmax(models[row["teacher"]](input_ids=torch.tensor([ids])).logits[0, :-1].double(), -1)
    if entries is None:
        places = torch.tensor(ids[1:])[:, None]
        values = logs.gather(-1, places)
    else:
        values, places = logs.topk(entries, -1)
    filler = torch.zeros(1, places.shape[-1])
    return torch.cat([places, filler.long()]).int(), torch.cat([values, filler]).float()


def batch(config, rows, drawn, models, objective, step, log_probabilities):
    """A batch as verl's trainer hands it to the workers."""
    import mopd_rewards
    import torch
    from verl.utils import tensordict_utils as tu

    def nested(values):
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    columns = {"prompts": [], "responses": [], "input_ids": [], "position_ids": [], "response_mask": []}
    columns.update({"rm_scores": [], "old_log_probs": [], "rollout_log_probs": []})
    teacher_ids, teacher_logprobs = [], []
    tokenizer = models["tokenizer"]
    for row, _, prompt, response in drawn:
        ids = prompt + response
        columns["prompts"].append(torch.tensor(prompt))
        columns["responses"].append(torch.tensor(response))
        columns["input_ids"].append(torch.tensor(ids))
        columns["position_ids"].append(torch.arange(len(ids)))
        columns["response_mask"].append(torch.ones(len(response), dtype=torch.long))
        text = tokenizer.decode([token for token in response if token < 256], skip_special_tokens=True)
        score = mopd_rewards.compute_score(row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"])
        columns["rm_scores"].append(torch.tensor([0.0] * (len(response) - 1) + [score]))
        logs = log_probabilities(ids)[len(prompt) - 1 :]
        columns["old_log_probs"].append(logs)
        columns["rollout_log_probs"].append(logs)
        if config.distillation.enabled:
            found = served(models, row, ids, objective.ENTRIES)
            teacher_ids.append(found[0])
            teacher_logprobs.append(found[1])
    tensors = {name: nested(values) for name, values in columns.items()}
    tensors["loss_mask"] = tensors["response_mask"]
    if teacher_ids:
        tensors["teacher_ids"], tensors["teacher_logprobs"] = nested(teacher_ids), nested(teacher_logprobs)
    for name in ("extra_info", "data_source", "teacher"):
        tensors[name] = [row[name] for row, *_ in drawn]
    tensors["session_id"] = [number for _, number, *_ in drawn]
    tensors["global_steps"] = [step + 1] * len(drawn)
    data = tu.get_tensordict(tensors)
    size = len(drawn)
    tu.assign_non_tensor(
        data,
        calculate_entropy=False,
        distillation_use_topk=False,
        distillation_only=False,
        global_batch_size=size,
        mini_batch_size=size,
        epochs=1,
        seed=1,
        dataloader_kwargs={"shuffle": False},
        temperature=config.actor_rollout_ref.rollout.temperature,
    )
    return data


def train(folder, steps=3):
    import importlib

    import ray
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
    from verl.trainer.distillation.losses import distillation_ppo_loss
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig

    with initialize_config_dir(config_dir=str(folder), version_base=None):
        overrides = [
            "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
            "actor_rollout_ref.model.use_remove_padding=false",
            "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false",
            "actor_rollout_ref.actor.use_torch_compile=false",
        ]
        config = compose(config_name="config", overrides=overrides)
    OmegaConf.resolve(config)
    objective = importlib.import_module("objective")
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    worker = TrainingWorkerConfig(
        model_type="language_model",
        model_config=model,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    worker.engine_config.use_dynamic_bsz = False
    worker.engine_config.micro_batch_size_per_gpu = worker.engine_config.infer_micro_batch_size_per_gpu = 4
    worker.engine_config.use_remove_padding = False
    pool = RayResourcePool(process_on_nodes=[2])
    group = RayWorkerGroup(
        pool, RayClassWithInitArgs(cls=ray.remote(TrainingWorker), config=worker), device_name="cpu"
    )
    group.reset()
    distillation = omega_conf_to_dataclass(config.distillation)
    group.set_loss_fn(functools.partial(distillation_ppo_loss, config=actor, distillation_config=distillation))

    def loaded(path):
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    models = {"tokenizer": AutoTokenizer.from_pretrained(model.tokenizer_path)}
    if config.distillation.enabled:
        teachers = config.distillation.teacher_models
        models.update({entry.key: loaded(entry.model_path) for name, entry in teachers.items() if entry.model_path})
    lines = (folder / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    prompts, samples = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    found = []
    for step in range(steps):
        student = loaded(model.path)
        if step:
            # The weights of the workers, as verl saves them.
            at = folder / "checkpoints" / f"step{step}"
            group.save_checkpoint(str(at), global_step=step)
            parts = [torch.load(path, weights_only=False) for path in sorted(at.glob("model_world_size_2_rank_*.pt"))]
            state = {}
            for name in parts[0]:
                pieces = [part[name] for part in parts]
                local = [piece.to_local() if hasattr(piece, "to_local") else piece for piece in pieces]
                whole = torch.cat(local) if hasattr(pieces[0], "to_local") else local[0]
                state[name] = whole
            student.load_state_dict(state)

        def log_probabilities(ids):
            with torch.no_grad():
                logits = student(input_ids=torch.tensor([ids])).logits[0, :-1] / config.actor_rollout_ref.rollout.temperature
            return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]

        part = rows[step * prompts : (step + 1) * prompts]
        drawn = completions(student, models["tokenizer"], part, samples, config.data.max_response_length)
        # verl deals rows to processes by their lengths, not by groups.
        drawn.sort(key=lambda row: len(row[3]))
        data = batch(config, part, drawn, models, objective, step, log_probabilities)
        output = group.train_mini_batch(data)
        output = output.get() if hasattr(output, "get") and not hasattr(output, "batch_size") else output
        metrics = output["metrics"]
        metrics = metrics.data if hasattr(metrics, "data") else metrics
        number = lambda name: float(metrics[name][0] if isinstance(metrics[name], list) else metrics[name])
        lines = {"loss": number("loss"), "grad_norm": number("grad_norm"), "lr": number("lr")}
        print(folder.name, step, lines, flush=True)
        found.append(lines)
    return found


def main():
    os.environ.update(environment(FOLDER))
    sys.path[:0] = [str(FOLDER), str(HERE)]
    import ray

    ray.init(num_cpus=24, num_gpus=2, include_dashboard=False, runtime_env={"env_vars": environment(FOLDER)})
    OUT.write_text(json.dumps(train(FOLDER), indent=1) + "\n")


if __name__ == "__main__":
    main()
