//! `... |> rewrite("Confidence: {_}" -> "Confidence: {mean(correct, over: group)}")`: replaces a pattern in
//! completions by a text.

use mopd_plan::View;
use mopd_plan::events::FailureKind;
use mopd_plan::producers::{PatternPiece, Rewrite};
use mopd_plan::views;
use regex::{NoExpand, Regex};

use super::chosen::numbers;
use super::edited::{TextReplacer, text_as_sampled};
use super::sample::{NumberedDraw, judge};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::random::Purpose;
use crate::rollout::Sequence;

pub(super) struct RewriteProducer {
    pattern: Regex,
    /// The replacement.
    text: View,
    texts: TextReplacer,
    of: Box<dyn SequenceProducer>,
    judged: bool,
}

pub(super) fn make(rewrite: &Rewrite, context: &ProducerContext) -> Result<RewriteProducer> {
    let Rewrite { pattern, text, of } = rewrite;
    let text = View { name: "rewrite".to_owned(), pieces: text.clone() };
    let texts = TextReplacer::new("`rewrite`".to_owned(), of, false);
    let [inside, _] = context.inside();
    // The new text is judged, not the one that was drawn.
    let of = super::make(of, &ProducerContext { judged: false, ..inside })?;
    Ok(RewriteProducer { pattern: regex(pattern)?, text, texts, of, judged: context.judged })
}

/// The regular expression of a pattern, whose texts are matched literally.
fn regex(pattern: &[PatternPiece]) -> Result<Regex> {
    let mut written = String::new();
    for (place, piece) in pattern.iter().enumerate() {
        match piece {
            PatternPiece::Text(text) => written.push_str(&regex::escape(text)),
            PatternPiece::Anything if place + 1 == pattern.len() => written.push_str("[^\n]*"),
            PatternPiece::Anything => written.push_str("[^\n]*?"),
        }
    }
    Regex::new(&written).map_err(|error| {
        Error::new(FailureKind::Runtime, format!("cannot search for the pattern of a `rewrite`: {error}"))
    })
}

impl SequenceProducer for RewriteProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let mut groups = self.of.draw(batch, draws, purpose)?;
        let each =
            self.text.numbers().map(|number| numbers(batch, number, "a number of a `rewrite`", &mut groups));
        let each: Vec<Vec<f64>> = each.collect::<Result<_>>()?;
        let members: usize = groups.iter().map(Vec::len).sum();
        assert!(each.iter().all(|of_members| of_members.len() == members), "a number for each");
        let mut members = 0..members;
        for group in &mut groups {
            let edited = std::mem::take(group).into_iter().zip(&mut members).map(|(sequence, member)| {
                let numbers = each.iter().map(|of_members| views::number(of_members[member])).collect();
                self.rewritten(batch, sequence, numbers)
            });
            *group = edited.filter_map(Result::transpose).collect::<Result<_>>()?;
        }
        if self.judged {
            judge(
                batch.stage.texts(),
                groups.iter_mut().flatten().filter(|sequence| sequence.reward.is_none()),
            )?;
        }
        Ok(groups)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }
}

impl RewriteProducer {
    /// The completion with the replacement; `None` where nothing is left of it. Drops the sampler's
    /// log-probabilities even where the pattern is not found: a batch has them for all of its completions or
    /// for none.
    fn rewritten(&self, batch: &Batch, sequence: Sequence, numbers: Vec<String>) -> Result<Option<Sequence>> {
        let stage = batch.stage;
        let sequence = sequence.without_logps();
        let before = text_as_sampled(&stage.start.tokenizer, &sequence)?;
        let moment = batch.now().moment(stage.steps);
        let said = TemplateInputs { numbers, ..TemplateInputs::default() };
        let prompts = stage.sources[sequence.source].prompts;
        let instead = prompts.filled(&self.text, moment, sequence.record, &said)?;
        let after = self.pattern.replace_all(&before, NoExpand(&instead));
        if after == before {
            Ok(Some(sequence))
        } else {
            self.texts.replaced(stage.texts(), sequence, &after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &[PatternPiece], before: &str, instead: &str) -> String {
        regex(pattern).unwrap().replace_all(before, NoExpand(instead)).into_owned()
    }

    #[test]
    fn rewrite_wildcard_matches_the_shortest_text_within_a_line() {
        let text = |text: &str| PatternPiece::Text(text.to_owned());
        let end = [text("Confidence: "), PatternPiece::Anything];
        assert_eq!(
            replaced(&end, "Confidence: 90%\nAnswer: 5", "Confidence: 0.5"),
            "Confidence: 0.5\nAnswer: 5"
        );
        assert_eq!(replaced(&end, "Confidence: ", "Confidence: 1"), "Confidence: 1", "of nothing too");
        assert_eq!(replaced(&end, "none", "Confidence: 1"), "none");
        let between = [text("<c>"), PatternPiece::Anything, text("</c>")];
        let all = replaced(&between, "<c>1</c> a <c>2</c>", "<c>$0</c>");
        assert_eq!(all, "<c>$0</c> a <c>$0</c>", "everywhere, and as it stands");
        assert_eq!(replaced(&between, "<c>1\n</c>", "x"), "<c>1\n</c>");
        assert_eq!(replaced(&[text("a.b")], "a.b axb", "c"), "c axb", "a text stands for itself");
    }
}
