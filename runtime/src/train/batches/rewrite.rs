//! `... |> rewrite("Confidence: {_}" -> "Confidence: {mean(correct, over: group)}")`: replaces a pattern in
//! completions by a text.

use mopd_compiler::plan::View;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::producers::{PatternPiece, Rewrite};
use mopd_compiler::plan::views;
use regex::{NoExpand, Regex};

use super::chosen::numbers;
use super::edited::{Texts, text};
use super::sample::{Numbered, judge};
use super::{Batch, Draws, Group, Making};
use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::random::Purpose;
use crate::rollout::Sequence;

pub(super) struct Rewritten {
    pattern: Regex,
    /// The replacement.
    text: View,
    texts: Texts,
    of: Box<dyn Draws>,
    judged: bool,
}

pub(super) fn make(rewrite: &Rewrite, making: &Making) -> Result<Rewritten> {
    let Rewrite { pattern, text, of } = rewrite;
    let text = View { name: "rewrite".to_owned(), pieces: text.clone() };
    let texts = Texts::new("`rewrite`".to_owned(), "rewrite", of);
    let [inside, _] = making.inside();
    // The new text is judged, not the one that was drawn.
    let of = super::make(of, &Making { judged: false, ..inside })?;
    Ok(Rewritten { pattern: regex(pattern)?, text, texts, of, judged: making.judged })
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
        Error::new(FailureKind::Runtime, format!("the pattern of a `rewrite` can't be looked for: {error}"))
    })
}

impl Draws for Rewritten {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Group>> {
        let mut groups = self.of.draw(batch, draws, purpose)?;
        let each = self
            .text
            .numbers()
            .map(|number| numbers(batch, (number, "a number of a `rewrite`"), &mut groups));
        let each: Vec<Vec<f64>> = each.collect::<Result<_>>()?;
        let mut member = 0;
        for sequence in groups.iter_mut().flatten() {
            let numbers = each.iter().map(|of_members| views::number(of_members[member])).collect();
            self.rewrite(batch, sequence, numbers)?;
            member += 1;
        }
        assert!(each.iter().all(|of_members| of_members.len() == member), "a number for each");
        if self.judged {
            judge(batch.stage, groups.iter_mut().flatten().filter(|sequence| sequence.reward.is_none()))?;
        }
        Ok(groups)
    }

    fn inside(&self) -> Vec<&dyn Draws> {
        vec![&*self.of]
    }
}

impl Rewritten {
    /// Drops the sampler's log-probabilities even where the pattern is not found: a batch has them for all of
    /// its completions or for none.
    fn rewrite(&self, batch: &Batch, sequence: &mut Sequence, numbers: Vec<String>) -> Result<()> {
        let stage = batch.stage;
        sequence.logps = None;
        let before = text(stage, sequence)?;
        let moment = batch.now().moment(stage);
        let said = TemplateInputs { numbers, ..TemplateInputs::default() };
        let prompts = stage.sources[sequence.source].prompts;
        let instead = prompts.filled(&self.text, moment, sequence.record, &said)?;
        let after = self.pattern.replace_all(&before, NoExpand(&instead));
        if after == before {
            return Ok(());
        }
        let ended = !sequence.truncated;
        *sequence = self.texts.replaced(stage, sequence.clone(), &after)?;
        if !ended {
            // The completion was truncated, so its new text must not end it either.
            let end = stage.start.tokenizer.ends();
            while sequence.completion.last().is_some_and(|token| end.contains(token)) {
                sequence.completion.pop();
            }
            sequence.truncated = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &[PatternPiece], before: &str, instead: &str) -> String {
        regex(pattern).unwrap().replace_all(before, NoExpand(instead)).into_owned()
    }

    #[test]
    fn anything_is_within_a_line_and_as_little_as_fits() {
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
