//! Where the engines' sources have what a refusal says. Many reasons are those of `stage.rs`, which all
//! engines share.

use super::coverage::{Coverage, EngineSupport};

/// The beginning of a reason, a function of the engine, and its file.
type Place = (&'static str, &'static str, &'static str);

const TRAINER: &str = "verl/trainer/ppo/v1/trainer_base.py";
const LOOP: &str = "verl/trainer/ppo/v1/agent_loop_tq.py";
const ENGINE: &str = "verl/workers/engine/fsdp/transformer_impl.py";
const TEACHERS: &str = "verl/experimental/teacher_loop/teacher_manager.py";
const ROWS: &str = "verl/trainer/ppo/utils.py";

/// The beginnings of reasons, and for each a function of verl and its file.
pub const VERL: &[Place] = &[
    ("the engines' distillation trains only on completions", "_run_prompt", LOOP),
    ("in the engines, each prompt has one teacher", "_resolve_teacher_key", TEACHERS),
    ("in the engines, teacher and student share a vocabulary", "compute_teacher_logprobs_single", TEACHERS),
    ("in the engines, a teacher's weights are constant", "_resolve_teacher_key", TEACHERS),
    ("the engine loads a teacher's weights itself", "_build_module", ENGINE),
    ("an engine's step has one rollout", "_submit_batch_to_rollout", TRAINER),
    ("the engines' models have no such head", "_build_module", ENGINE),
    ("the engines' models have one LM head", "_build_module", ENGINE),
    ("the engines' teachers only score", "compute_teacher_logprobs_single", TEACHERS),
    ("engines have one limit for the whole run", "generate_sequences", LOOP),
    ("engines have one temperature for the whole run", "generate_sequences", LOOP),
    ("engines have one token limit for all rows", "generate_sequences", LOOP),
    ("engines end a completion at the end token", "generate_sequences", LOOP),
    ("engines divide logits by the temperature", "_scale_logits_by_temperature", ENGINE),
    ("engines pass it the prompt of the row", "_run_prompt", LOOP),
    ("engines train on all", "_step_once", TRAINER),
    ("engines sample new completions for each update", "_step_once", TRAINER),
    ("engines keep the order of the file", "create_rl_sampler", ROWS),
    ("engines do not clip per example", "optimizer_step", ENGINE),
    ("engines have no extrapolation of weights", "optimizer_step", ENGINE),
    ("engines save the weights of the last step", "_save_checkpoint", TRAINER),
    ("engines do not compute the loss on validation rows", "_validate", TRAINER),
    ("engines do not check metrics", "fit", TRAINER),
];

const DISTILLATION: &str = "trl/trainer/distillation_trainer.py";
const TRANSFORMERS: &str = "transformers/trainer.py";
/// What makes the rows of a step, and its completions.
const STEP: &str = "_generate_and_score_completions";

/// The same for TRL, and for what it takes from transformers.
pub const TRL: &[Place] = &[
    ("the engines' distillation trains only on completions", STEP, DISTILLATION),
    ("the trainer does not have the distribution", STEP, DISTILLATION),
    ("TRL's trainer does not provide it", STEP, DISTILLATION),
    ("a step of the engine needs a completion", STEP, DISTILLATION),
    ("an engine's step has one rollout", "_prepare_inputs", DISTILLATION),
    ("TRL's distillation samples new completions", "_prepare_inputs", DISTILLATION),
    ("engines sample new completions for each update", "_prepare_inputs", DISTILLATION),
    ("engines train on all", "_prepare_inputs", DISTILLATION),
    ("TRL's settings are constant", "__init__", DISTILLATION),
    ("engines have one limit for the whole run", "__init__", DISTILLATION),
    ("engines have one temperature for the whole run", "__init__", DISTILLATION),
    ("engines have one token limit for all rows", "__init__", DISTILLATION),
    ("engines end a completion at the end token", "_generate_single_turn", DISTILLATION),
    ("engines divide logits by the temperature", "_generate_single_turn", DISTILLATION),
    ("with `top_p` or `top_k`", "_generate_single_turn", DISTILLATION),
    ("the trainer's log-probabilities would differ", "_generate_single_turn", DISTILLATION),
    ("engines pass it the prompt of the row", "_generate", DISTILLATION),
    ("in the engines, each prompt has one teacher", "_compute_loss", DISTILLATION),
    ("in the engines, teacher and student share a vocabulary", "_compute_loss", DISTILLATION),
    ("in the engines, a teacher's weights are constant", "_compute_loss", DISTILLATION),
    ("the engines' teachers only score", "_compute_loss", DISTILLATION),
    ("the engines' models have no such head", "_compute_loss", DISTILLATION),
    ("the engines' models have one LM head", "_compute_loss", DISTILLATION),
    ("the engines' distillation has no loss over pairs", "_compute_loss", DISTILLATION),
    ("the engine loads a teacher's weights itself", "__init__", DISTILLATION),
    ("the engine's checkpoints do not contain it", "_save_checkpoint", DISTILLATION),
    ("engines keep the order of the file", "_get_train_sampler", DISTILLATION),
    ("engines do not compute the loss on validation rows", "prediction_step", DISTILLATION),
    ("engines do not clip per example", "_inner_training_loop", TRANSFORMERS),
    ("engines have no extrapolation of weights", "_inner_training_loop", TRANSFORMERS),
    ("engines do not check metrics", "_inner_training_loop", TRANSFORMERS),
    ("engines compute the gradient of the whole loss", "training_step", TRANSFORMERS),
    ("engines train all weights, or adapters", "create_optimizer", TRANSFORMERS),
    ("engines can't freeze single elements", "create_optimizer", TRANSFORMERS),
    ("engines save the weights of the last step", "save_model", TRANSFORMERS),
];

/// Adds the place in the engine's source to each refusal that has one.
pub fn name(places: &[Place], coverage: &mut Coverage) {
    for line in &mut coverage.lines {
        if let EngineSupport::Refused { why } = &mut line.verdict
            && let Some((_, function, file)) = places.iter().find(|(reason, ..)| why.starts_with(reason))
        {
            *why = format!("{why} (`{function}` in {file})");
        }
    }
}
