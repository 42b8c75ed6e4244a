from datasets import load_dataset
from trl import DistillationConfig, DistillationTrainer

# Written for this test, in the form that TRL 1.16.0 documents.
args = DistillationConfig(
    output_dir="out",
    beta=0.5,
    temperature=0.9,
    max_completion_length=256,
    learning_rate=2e-6,
    lr_scheduler_type="cosine",
    warmup_steps=20,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=8,
    max_steps=500,
    gradient_checkpointing=True,
    use_vllm=True,
    vllm_gpu_memory_utilization=0.4,
    report_to=["wandb"],
    num_completions_to_print=4,  # a comment, with (brackets)
    seed=7,
)

trainer = DistillationTrainer(
    model="Qwen/Qwen2.5-0.5B-Instruct",
    teacher_model="Qwen/Qwen2.5-1.5B-Instruct",
    args=args,
    train_dataset=load_dataset("trl-lib/tldr", split="train"),
)
trainer.train()
