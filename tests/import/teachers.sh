#!/usr/bin/env bash
# Written for this test: two teachers, routed by `data_source`, the sampled token as an advantage.
set -x
STUDENT=Qwen/Qwen3-1.7B
python3 -m verl.trainer.main_ppo \
    data.train_files="['gsm8k/train.parquet','code/train.parquet']" \
    data.val_files=gsm8k/test.parquet \
    data.train_batch_size=128 \
    data.max_prompt_length=1024 \
    data.max_response_length=2048 \
    actor_rollout_ref.model.path=Qwen/Qwen3-1.7B \
    actor_rollout_ref.model.use_remove_padding=True \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=128 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 \
    actor_rollout_ref.actor.loss_agg_mode=token-mean \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=4 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.4 \
    distillation.enabled=True \
    distillation.n_gpus_per_node=4 \
    distillation.nnodes=1 \
    +distillation.teacher_models.math.key=openai/gsm8k \
    +distillation.teacher_models.math.model_path=Qwen/Qwen3-8B \
    +distillation.teacher_models.math.num_replicas=2 \
    +distillation.teacher_models.code.key=code \
    +distillation.teacher_models.code.model_path=Qwen/Qwen3-Coder \
    +distillation.teacher_models.code.num_replicas=2 \
    distillation.distillation_loss.loss_mode=k1 \
    distillation.distillation_loss.use_policy_gradient=True \
    distillation.distillation_loss.use_task_rewards=False \
    distillation.distillation_loss.loss_max_clamp=10.0 \
    trainer.logger='["console","wandb"]' \
    trainer.experiment_name=two_teachers \
    trainer.n_gpus_per_node=8 \
    trainer.total_epochs=3 "$@"
