//! `debate`: panels discuss the prompts of a step before their members score its completions
//! (arXiv:2605.01347). All completions of a prompt share one debate, and the members have not seen any of
//! them when they speak.

use std::rc::Rc;

use mopd_plan::events::FailureKind;
use mopd_plan::views::Slot;
use mopd_plan::{ModelSignal, Objective, Panel, Role, Signal, Train, View};

use super::Batch;
use super::words::{TextRequest, TextWriter, prompts, scorer};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::quote::quote;
use crate::random::Purpose;
use crate::rollout::{Debate, TurnSummary, confidence};
use crate::train::models::ModelScorer;
use crate::train::sequences::Sequences;
use crate::zip::zip_equal;

/// The panels of a part of a stage.
pub(super) struct Panels {
    /// The panels that the part's objective reads, as indices into the stage's.
    read: Vec<usize>,
    /// The (panel, member) pairs that were already warned about missing confidence.
    told: Vec<(usize, usize)>,
}

/// A member's turn.
#[derive(Clone, Copy)]
struct MemberTurn {
    panel: usize,
    number: u32,
    member: usize,
}

impl Panels {
    pub(super) fn new(train: &Train<Objective>) -> Panels {
        let scored = train.scorers.scored(|role| train.objective.reads(role));
        let signals: Vec<Signal> =
            train.objective.signals().into_iter().chain(train.scorers.signals()).collect();
        let asked = |member: &Role| {
            let of = |signal: &Signal| match signal {
                Signal::Available { role } | Signal::Of { role, part: ModelSignal::StatedConfidence } => {
                    role == member
                }
                _ => false,
            };
            scored.contains(member) || signals.iter().any(of)
        };
        let panels = train.panels.iter().enumerate();
        let read = panels.filter(|(_, panel)| panel.members.iter().any(asked)).map(|(place, _)| place);
        Panels { read: read.collect(), told: Vec::new() }
    }

    /// The debates about the prompts of some sequences, once for each prompt.
    pub(super) fn hold_debates(&mut self, batch: &Batch, sequences: &Sequences) -> Result<Rc<[Debate]>> {
        let prompts = prompts(sequences);
        let mut debates = Vec::new();
        for panel in self.read.clone() {
            debates.extend(self.debate(batch, panel, &prompts)?);
        }
        Ok(debates.into())
    }

    /// The debates of one panel, about the prompts for which all its members have a model.
    fn debate(&mut self, batch: &Batch, place: usize, prompts: &[Draw]) -> Result<Vec<Debate>> {
        let panel = &batch.stage.train.panels[place];
        let speaks = |prompt: &Draw| panel.members.iter().all(|role| scorer(batch, *role, *prompt).is_some());
        let prompts: Vec<Draw> = prompts.iter().copied().filter(speaks).collect();
        let mut transcripts = vec![String::new(); prompts.len()];
        let mut last: Vec<Vec<String>> = vec![Vec::new(); panel.members.len()];
        for number in 0..panel.turns() {
            batch.stage.control.check()?;
            let member = number as usize % panel.members.len();
            let texts = turn(batch, MemberTurn { panel: place, number, member }, &prompts, &transcripts)?;
            for (transcript, text) in zip_equal(&mut transcripts, &texts) {
                let between = if transcript.is_empty() { "" } else { Panel::BETWEEN };
                *transcript += &format!("{between}{}{text}", Panel::label(member));
            }
            last[member] = texts;
        }
        let stance = |text: &String| TurnSummary {
            answered: !text.is_empty(),
            confidence: panel.confidence.and_then(|range| confidence::confidence(range, text)),
        };
        self.warn_missing_confidence(batch, place, &last);
        let debates =
            zip_equal(prompts, transcripts).enumerate().map(|(number, (prompt, transcript))| Debate {
                panel: place as u32,
                prompt,
                transcript,
                stances: last.iter().map(|texts| stance(&texts[number])).collect(),
            });
        Ok(debates.collect())
    }

    /// Warns of members that state no confidence at all: their template probably does not ask for it.
    fn warn_missing_confidence(&mut self, batch: &Batch, place: usize, last: &[Vec<String>]) {
        let Batch { stage, step, models, .. } = *batch;
        let panel = &stage.train.panels[place];
        let Some(range) = panel.confidence else { return };
        for (member, texts) in last.iter().enumerate() {
            let silent =
                !texts.is_empty() && texts.iter().all(|text| confidence::confidence(range, text).is_none());
            if !silent || self.told.contains(&(place, member)) {
                continue;
            }
            self.told.push((place, member));
            let scorers = models.of_role(panel.members[member]).iter().flatten();
            let view = scorers.filter_map(|scored| models.view(scored.model()?)).next();
            let template =
                view.map_or("a template".to_owned(), |view| format!("the template `{}`", view.name));
            let said = texts.iter().max_by_key(|text| text.len()).map_or("", String::as_str);
            stage.control.warn(format!(
                "`{}`: `{}` stated no confidence for any prompt of step {step}, so `missing` sets the \
                weights of the members of the panel `{}`. For example, it wrote {}. A confidence is the \
                number after the word: let {template} ask for \"Confidence: N\", from {} to {}. This \
                warning is given once: `unstated` in `metrics.parquet` counts these cases",
                stage.name,
                stage.train.scorers.name(panel.members[member]),
                panel.name,
                quote(said),
                range.0,
                range.1,
            ));
        }
    }
}

/// The texts of a member about some prompts, each after the transcript so far.
fn turn(batch: &Batch, turn: MemberTurn, prompts: &[Draw], transcripts: &[String]) -> Result<Vec<String>> {
    let role = batch.stage.train.panels[turn.panel].members[turn.member];
    let of = |prompt: &Draw| scorer(batch, role, *prompt).expect("it speaks about these prompts");
    let mut texts = Vec::with_capacity(prompts.len());
    for alike in prompts.chunk_by(|one, next| of(one) == of(next)) {
        let first = texts.len();
        let before = &transcripts[first..first + alike.len()];
        texts.extend(of_scorer(batch, turn, of(&alike[0]), alike, before)?);
    }
    Ok(texts)
}

fn of_scorer(
    batch: &Batch,
    MemberTurn { panel: place, number, .. }: MemberTurn,
    scorer: ModelScorer,
    prompts: &[Draw],
    transcripts: &[String],
) -> Result<Vec<String>> {
    let sampling = &batch.stage.train.panels[place].sampling;
    let view = batch.models.view(scorer);
    let asked = zip_equal(prompts, transcripts).map(|(prompt, transcript)| {
        let slots = vec![(Slot::Transcript(place as u32), transcript.clone())];
        let said = TemplateInputs { slots, ..TemplateInputs::default() };
        // Random numbers differ by turn.
        let sample = (place as u32) << 16 | number;
        TextRequest { prompt: *prompt, said, number: batch.stage.sources.number(*prompt), sample }
    });
    let asked: Vec<TextRequest> = asked.collect();
    let no_room = |prompt, context| no_room(view, prompt, sampling.max_tokens, context);
    let key = batch.key(Purpose::Debate);
    TextWriter { model_ref: scorer.model_ref, view, sampling, key }.texts(batch, &asked, no_room)
}

fn no_room(view: Option<&View>, prompt: usize, turn: u32, context: usize) -> Error {
    let name = view.map_or("prompt", |view| view.name.as_str());
    let message = format!(
        "the template `{name}` with a prompt and a panel's discussion has {prompt} tokens, and a turn may \
        have {turn} more: more than the context of {context}"
    );
    let help =
        "give the panel's teachers a longer context, or the panel a smaller `max_tokens` or fewer `rounds`";
    Error::new(FailureKind::Context, message).help(help)
}
