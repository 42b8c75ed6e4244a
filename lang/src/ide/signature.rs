//! The parameters of the call that is being written.

use super::complete::named_items;
use super::context::CompletionContext;
use super::describe;
use crate::check::Analysis;
use crate::check::builtins;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `mopd(clip_at: nats = 5)`
    pub label: String,
    /// Byte ranges of the parameters in `label`.
    pub parameters: Vec<(usize, usize)>,
    /// The parameter at the cursor. `None` where the cursor is past the last, or after an unknown name.
    pub active: Option<usize>,
    pub doc: String,
}

pub fn signature_help(source: &str, offset: u32, analysis: &Analysis) -> Option<Signature> {
    let context = CompletionContext::new(source, offset as usize);
    let (callee, open) = context.call()?;
    let name = context.text(callee);
    let (listed, doc): (Vec<(String, String)>, String) = match builtins::find(name) {
        Some(builtin) => {
            let listed = builtin.parameters.iter().map(|parameter| {
                let optional = if parameter.required { "" } else { "?" };
                (parameter.name.to_owned(), format!("{}{optional}", parameter.shown()))
            });
            (listed.collect(), builtin.usage.to_owned())
        }
        None => {
            let id = *named_items(analysis)
                .get(name)
                .filter(|id| analysis.index.symbol(**id).kind.is_callable())?;
            (describe::written_parameters(analysis, id), analysis.index.symbol(id).doc.clone())
        }
    };
    let mut label = format!("{name}(");
    let mut parameters = Vec::new();
    for (_, written) in &listed {
        if !parameters.is_empty() {
            label += ", ";
        }
        parameters.push((label.len(), label.len() + written.len()));
        label += written;
    }
    label.push(')');
    let active = match context.label(open) {
        Some(given) => listed.iter().position(|(name, _)| name == given),
        None => Some(context.commas(open, context.cut)).filter(|at| *at < listed.len()),
    };
    Some(Signature { label, parameters, active, doc })
}
