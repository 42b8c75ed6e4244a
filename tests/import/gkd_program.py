"""Written for this test. `GKDConfig(beta=0.25)` in a string is no configuration."""
from peft import LoraConfig
from trl.experimental.gkd import GKDConfig, GKDTrainer

LR = 3e-5
common = dict(lmbda=1.0, weight_decay=0.1)

# args = GKDConfig(learning_rate=1.0, max_steps=10)
args = GKDConfig(
    "out",
    learning_rate=LR,
    beta=1 / 2,
    max_steps=100,
    max_grad_norm=0.0,
    per_device_train_batch_size=BATCH,
    lr_scheduler_type="constant",
    warmup_steps=10,
    **common,
    **from_command_line(),
)
trainer = GKDTrainer(
    model="Qwen/Qwen2-0.5B",
    teacher_model="Qwen/Qwen2-1.5B",
    args=args,
    train_dataset=rows,
    peft_config=LoraConfig(r=8, lora_alpha=16, use_rslora=True, bias="none"),
)
