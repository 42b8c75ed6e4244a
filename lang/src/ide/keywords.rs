//! Hovers of the language's keywords.

use super::{ENTRY, Hover};
use crate::check::Analysis;
use crate::source::Span;
use crate::syntax::tokens::{TokenKind, lex};

/// The hover of the keyword at an offset of the entry file. `None` in comments and texts.
pub(super) fn keyword(analysis: &Analysis, offset: u32) -> Option<Hover> {
    let source = &analysis.sources.file(ENTRY).text;
    let offset = offset as usize;
    let token = lex(source)
        .into_iter()
        .find(|token| token.kind == TokenKind::Word && token.start <= offset && offset <= token.end)?;
    let word = token.text(source);
    let text = text(word)?;
    let span = Span::new(ENTRY, token.start, token.end);
    Some(Hover { span, markdown: format!("```mopd\n{word}\n```\n\n{text}") })
}

/// The description of a keyword, one paragraph.
fn text(word: &str) -> Option<&'static str> {
    Some(match word {
        "experiment" => "The run as a whole: its name, its `seed`, the folder of its results.",
        "domain" => "A source of prompts, with the reward that judges completions of them.",
        "model" => {
            "A model: one from a checkpoint, one with random weights, or the result of a stage of training."
        }
        "teacher" => {
            "A model whose probabilities a student is trained towards, under a name that routes and \
                      objectives use."
        }
        "route" => {
            "Which teacher scores which prompts: an arm for each domain, or for rows of the data. The first \
                    arm whose condition holds counts."
        }
        "objective" => {
            "What a stage minimises: `term`s that are added up, and how numbers of tokens become one \
                        (`reduce`)."
        }
        "term" => {
            "A summand of an objective: a number per token, of which the factor behind `live` is \
                   differentiated."
        }
        "live" => {
            "Marks what gradient flows through. Everything else in a term is a constant for the gradient, as \
                   behind `detach()` or `stop_gradient` elsewhere; so `w * live student.logp` is a policy gradient \
                   with the weight `w`."
        }
        "compare" => "A table: models by domains, with 95% intervals.",
        "let" => "A name for a value.",
        "fn" => "A function of the language: its body stands in for each call.",
        "stage" => "A stage of training with parameters, to be used for several models.",
        "schedule" => "A number that changes over the steps of a stage.",
        "reward" => "How a completion is judged: a rule, a program, a function of Python, or a server.",
        "template" => "A prompt made of the data's fields and of what the run produced.",
        "rollout" => "Where the sequences of a stage come from, and what is done with them before training.",
        "divergence" => "A divergence between two distributions, declared by what one vocabulary entry adds.",
        "sum" => {
            "A number of one distribution, such as an entropy, declared by what one vocabulary entry adds. As a \
             function: the sum along an axis."
        }
        "panel" => "Several models that talk about a prompt before the student is trained.",
        "eval" => "A benchmark: held-out prompts with a reward of their own, a column of tables.",
        "param" => "A value that `--set name=value` and a `sweep` may change.",
        "sweep" => "The runs that one file stands for: one for each combination of values.",
        "use" => "Names of another module: of the library (`use std.opd.mopd`) or of a file beside this one.",
        "pub" => "Lets other files import what follows.",
        "state" => "A number that is carried from step to step: `state name = first then next`.",
        "then" => {
            "What comes after: the next value of a state, the next mean of `reduce`, the next part of a \
                   schedule."
        }
        "with" => {
            "The same model, teacher, domain or `eval`, with some settings changed: `student with { lr = 1e-4 }`."
        }
        "when" => "The tokens, sequences or prompts that a term or an arm is for.",
        "match" => "The value of the first arm whose condition holds.",
        "for" => "One of these for each member of a family: `for d in domains`.",
        "else" => "What no arm before it is for.",
        "in" => "The members that a name stands for, one after the other.",
        "and" | "or" | "not" => "Joins conditions.",
        _ => return None,
    })
}
