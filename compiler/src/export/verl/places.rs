//! Where verl's source has what a refusal says. The reasons are those of `stage.rs`, which all engines share.

use super::super::coverage::{Coverage, EngineSupport};

const TRAINER: &str = "verl/trainer/ppo/v1/trainer_base.py";
const LOOP: &str = "verl/trainer/ppo/v1/agent_loop_tq.py";
const ENGINE: &str = "verl/workers/engine/fsdp/transformer_impl.py";
const TEACHERS: &str = "verl/experimental/teacher_loop/teacher_manager.py";
const ROWS: &str = "verl/trainer/ppo/utils.py";

/// The beginnings of reasons, and for each a function of verl and its file.
const PLACES: [(&str, &str, &str); 23] = [
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

/// Adds the place in verl's source to each refusal that has one.
pub fn name(coverage: &mut Coverage) {
    for line in &mut coverage.lines {
        if let EngineSupport::Refused { why } = &mut line.verdict
            && let Some((_, function, file)) = PLACES.iter().find(|(reason, ..)| why.starts_with(reason))
        {
            *why = format!("{why} (`{function}` in {file})");
        }
    }
}
