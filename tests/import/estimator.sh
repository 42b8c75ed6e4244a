#!/usr/bin/env bash
# Written for this test: k3 with its bounds, at a temperature, on several passes; variables and repeated settings.
LR=1e-5
TEACHER=${1:-models/teacher}
python3 -m verl.trainer.main_ppo \
    data.train_batch_size=512 \
    actor_rollout_ref.model.path=models/student \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.optim.lr=${LR} \
    actor_rollout_ref.actor.optim.betas='[0.9,0.95]' \
    actor_rollout_ref.actor.optim.warmup_style=cosine \
    actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.05 \
    actor_rollout_ref.actor.ppo_epochs=2 \
    actor_rollout_ref.actor.entropy_coeff=0.001 \
    actor_rollout_ref.rollout.temperature=0.7 \
    actor_rollout_ref.rollout.top_p=0.95 \
    distillation.enabled=True \
    distillation.teacher_models.teacher_model.model_path=$TEACHER \
    distillation.distillation_loss.loss_mode=k3 \
    distillation.distillation_loss.loss_max_clamp=5.0 \
    distillation.distillation_loss.use_task_rewards=False \
    trainer.total_training_steps=110 # trainer.total_training_steps=200
