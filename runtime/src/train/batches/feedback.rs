//! `feedback = from(peer, ...)`: before a step's completions are scored, a model writes about each of them
//! (arXiv:2606.14368). This feedback is shown to a teacher, never to the student.

use std::collections::HashMap;

use mopd_plan::events::FailureKind;
use mopd_plan::views::Slot;
use mopd_plan::{Feedback, View};

use super::Batch;
use super::words::{TextRequest, TextWriter, scorer};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::random::Purpose;
use crate::train::models::ModelScorer;
use crate::train::sequences::Sequences;
use crate::train::views::{VerifierFeedback, WrittenFeedback, missing_feedback, text};
use crate::zip::zip_equal;

/// Sets the written feedback of each sequence; an empty text where the writer wrote nothing or there is no
/// writer.
pub(super) fn write(batch: &Batch, sequences: &mut Sequences) -> Result<()> {
    let train = batch.stage.train;
    for place in train.feedback_for(&train.objective) {
        batch.stage.control.check()?;
        let written = written(batch, place, sequences)?;
        for (sequence, text) in zip_equal(&mut sequences.list, written) {
            let WrittenFeedback(mut texts) = sequence.extra().unwrap_or_default();
            texts.resize(train.feedback.len(), String::new());
            texts[place as usize] = text;
            sequence.set_extra(&WrittenFeedback(texts));
        }
    }
    Ok(())
}

/// The texts by one writer, or by the routed teachers of the prompts; one for each sequence.
fn written(batch: &Batch, place: u32, sequences: &Sequences) -> Result<Vec<String>> {
    let Batch { stage, step, models, climbed, .. } = *batch;
    let Feedback { writer, sees, sampling, .. } = &stage.train.feedback[place as usize];
    let sampling = sampling.at(step, stage.steps, climbed);
    let key = batch.key(Purpose::Feedback).turn(place);
    let of = |member: usize| {
        let sequence = &sequences.list[member];
        scorer(batch, *writer, Draw { source: sequence.source, record: sequence.record })
    };
    let mut samples: HashMap<(usize, usize), u32> = HashMap::new();
    let mut all = Vec::with_capacity(sequences.list.len());
    // The sequences of a section are adjacent.
    let members: Vec<usize> = (0..sequences.list.len()).collect();
    for alike in members.chunk_by(|one, next| of(*one) == of(*next)) {
        let Some(ModelScorer { model_ref, .. }) = of(alike[0]) else {
            all.extend(alike.iter().map(|_| String::new()));
            continue;
        };
        let view = sees.as_ref().or_else(|| of(alike[0]).and_then(|scorer| models.view(scorer)));
        let mut asked = Vec::with_capacity(alike.len());
        for member in alike {
            let sequence = &sequences.list[*member];
            let prompt = Draw { source: sequence.source, record: sequence.record };
            let sample = samples.entry((prompt.source, prompt.record)).or_default();
            let (number, said) = (stage.sources.number(prompt), said(batch, view, sequences, *member)?);
            asked.push(TextRequest { prompt, said, number, sample: *sample });
            *sample += 1;
        }
        let no_room = |prompt, context| no_room(view, prompt, sampling.max_tokens, context);
        let writer = TextWriter { model_ref, view, sampling: &sampling, key };
        all.extend(writer.texts(batch, &asked, no_room)?);
    }
    Ok(all)
}

/// The inputs of a writer's template for a completion: its text as a draft, and the verifier's feedback.
fn said(batch: &Batch, view: Option<&View>, sequences: &Sequences, member: usize) -> Result<TemplateInputs> {
    let sequence = &sequences.list[member];
    let mut said = TemplateInputs::default();
    for slot in view.into_iter().flat_map(View::slots) {
        let text = match slot {
            Slot::Draft => text(batch.stage.texts(), sequence)?,
            Slot::Feedback => {
                let missing_feedback = || {
                    missing_feedback(
                        &batch.stage.sources[sequence.source],
                        &view.expect("it has the slot").name,
                    )
                };
                sequence.extra().map(|VerifierFeedback(text)| text).ok_or_else(missing_feedback)?
            }
            Slot::Prompt | Slot::Data(_) => continue,
            Slot::Group(_) | Slot::Transcript(_) | Slot::WrittenFeedback(_) | Slot::Made(_) => {
                unreachable!("no writer of feedback is shown it")
            }
        };
        said.slots.push((slot.clone(), text));
    }
    Ok(said)
}

fn no_room(view: Option<&View>, prompt: usize, feedback: u32, context: usize) -> Error {
    let name = view.map_or("prompt", |view| view.name.as_str());
    let message = format!(
        "the template `{name}` with a prompt and a completion has {prompt} tokens, and feedback may have \
        {feedback} more: more than the context of {context}"
    );
    let help = "give the model that writes feedback a longer context, or lower `max_tokens` of the \
        feedback";
    Error::new(FailureKind::Context, message).help(help)
}
