//! Whether sequences fit a server's context. Engines keep a part of it free.

use mopd_plan::events::FailureKind;
use mopd_plan::{Engine, Served};

use super::address::Address;
use super::identity::ServerIdentity;
use crate::failure::{Error, Result};

/// What an engine keeps free of its context, beside the tokens that it reads.
pub struct Reserve {
    pub tokens: usize,
    pub reason: &'static str,
    /// The option that starts it with another context, and the variable that lets it exceed the model's own.
    option: &'static str,
    variable: &'static str,
}

/// The reserve for sequences that are scored.
fn scoring_reserve(engine: Engine) -> Option<&'static Reserve> {
    match engine {
        // It generates one token after those that it scores.
        Engine::Vllm => Some(&Reserve {
            tokens: 1,
            reason: "vLLM needs one token more than it scores",
            option: "--max-model-len",
            variable: "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
        }),
        // 0.5.23 takes prompts shorter than `max_req_input_len`, the context less 6 (`tp_worker.py`).
        Engine::Sglang => Some(&Reserve {
            tokens: 7,
            reason: "SGLang needs seven tokens more than it reads",
            option: "--context-length",
            variable: "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN",
        }),
        Engine::Mopd => None,
    }
}

/// The reserve for prompts and their completions.
pub fn completion_reserve(engine: Engine) -> Option<&'static Reserve> {
    scoring_reserve(engine).filter(|_| engine == Engine::Sglang)
}

/// The longest sequence that a server scores.
pub fn longest_scored(served: &Served, identity: &ServerIdentity) -> Option<usize> {
    let reserve = scoring_reserve(served.engine).map_or(0, |reserve| reserve.tokens);
    identity.context.map(|context| context.saturating_sub(reserve))
}

/// Checks that the longest sequence of a stage fits the context of its teacher's server, and the reserve.
pub fn check_longest(
    served: &Served,
    address: &Address,
    identity: &ServerIdentity,
    longest: usize,
) -> Result<()> {
    let reserve = scoring_reserve(served.engine);
    let needed = longest.saturating_add(reserve.map_or(0, |reserve| reserve.tokens));
    let Some(context) = identity.context.filter(|context| *context < needed) else { return Ok(()) };
    let message = format!(
        "the teacher `{}` on {} has a context of {context} tokens, but needs {needed}: the longest sequence of \
         the stage has {longest}{}",
        served.model,
        address.shown(),
        reserve.map_or_else(String::new, |reserve| format!(", and {}", reserve.reason))
    );
    Err(Error::new(FailureKind::Context, message)
        .help("start it with a longer context, lower `max_tokens`, or leave the longest prompts out"))
}

/// Checks that a sequence can be scored.
pub fn check_sequence(
    served: &Served,
    address: &Address,
    identity: &ServerIdentity,
    tokens: usize,
) -> Result<()> {
    let Some(reserve) = scoring_reserve(served.engine) else { return Ok(()) };
    let needed = tokens + reserve.tokens;
    let Some(context) = identity.context.filter(|context| *context < needed) else { return Ok(()) };
    let message = format!(
        "a sequence of {tokens} tokens can't be scored by the teacher `{}` on {}: its context is {context} \
         tokens, and {}",
        served.model,
        address.shown(),
        reserve.reason
    );
    let help = format!(
        "start it with `{} {needed}` (and `{}=1` if that is more than its model's own limit), or lower \
         `max_tokens`",
        reserve.option, reserve.variable
    );
    Err(Error::new(FailureKind::Context, message).help(help))
}
