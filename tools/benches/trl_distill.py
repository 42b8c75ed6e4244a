#!/usr/bin/env python3
"""Measures steps of on-policy distillation by trl's DistillationTrainer, for `against_trl.py`; written for trl 1.16.

    tools/benches/trl_distill.py STUDENT TEACHER [--batch 8] [--new 64] [--steps 6] [--dtype float32]

The reverse divergence over the whole vocabulary (`beta = 1`), prompts like those of `mopd bench distill`, through the student's chat template, and
completions that can't end early. The last line is JSON: `step_s`, seconds of each step; `parts_s`, the same divided as mopd divides them:
`rollout` is generation, `scoring` both models' forward passes with the loss, `update` the rest; `peak_rss_gib`, memory of the process, and
`peak_gpu_gib`, the most GPU memory that tensors took, if there is a GPU.
"""
import argparse
import json
import os
import random
import resource
import tempfile
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def clocked(owner, name, spent, now):
    """Adds the seconds that a method takes to `spent`, if the owner has the method."""
    method = getattr(owner, name, None)
    if method is None:
        return False

    def timed(*positional, **named):
        started = now()
        try:
            return method(*positional, **named)
        finally:
            spent[name] = spent.get(name, 0.0) + now() - started

    setattr(owner, name, timed)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DistillationConfig, DistillationTrainer

    numbers = random.Random(1)
    draw = lambda: numbers.randrange(100, 1000)
    questions = [f"State the final answer to: {draw()} + {draw()} - {draw()}" for _ in range(arguments.batch * (arguments.steps + 1))]
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": question}]} for question in questions])
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, arguments.dtype))

    on_gpu = torch.cuda.is_available()
    spent, steps, parts = {}, [], {"rollout": [], "scoring": [], "update": []}
    methods = {"rollout": "_generate_and_score_completions", "scoring": "compute_loss"}

    def now():
        """The time, after all work on a GPU is done."""
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            spent.clear()
            self.started = now()

        def on_step_end(self, *_, **__):
            seconds = now() - self.started
            steps.append(seconds)
            known = {part: spent.get(method, 0.0) for part, method in methods.items()}
            for part, value in {**known, "update": seconds - sum(known.values())}.items():
                parts[part].append(value)

    with tempfile.TemporaryDirectory() as folder:
        settings = DistillationConfig(
            output_dir=folder, per_device_train_batch_size=arguments.batch, max_steps=arguments.steps, beta=1.0,
            max_completion_length=arguments.new, generation_kwargs={"min_new_tokens": arguments.new}, learning_rate=1e-6,
            bf16=False, fp16=False, gradient_checkpointing=False, use_cpu=not on_gpu, seed=1,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=1)
        trainer = DistillationTrainer(
            model=load(arguments.student), teacher_model=load(arguments.teacher), args=settings, train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(arguments.student), callbacks=[Clock()])
        divided = all([clocked(trainer, method, spent, now) for method in methods.values()])
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {"step_s": steps, **({"parts_s": parts} if divided else {}), "peak_rss_gib": peak}
    if on_gpu:
        figures["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
