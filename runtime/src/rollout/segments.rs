//! Tokens after a prompt, in segments: what a model writes is trained on, and what users, tools and
//! environments write between is only read.

use std::ops::{Deref, Range};

use super::Completion;
use crate::tokenizer::Token;

/// The tokens of a completion; as a slice, those of all segments. Segments are not empty, and neighbours are
/// of different kinds: a trained segment is one turn of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentedTokens {
    tokens: Vec<Token>,
    segments: Vec<Segment>,
}

/// Consecutive tokens of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub tokens: Range<usize>,
    pub kind: SegmentKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SegmentKind {
    /// A user, a tool or an environment: the tokens are read, but not trained on.
    Context,
    /// A model or an expert: the tokens are trained on.
    Trained(Sampled),
}

/// What is known about how tokens were sampled, one element for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// Log-probability under the model that sampled it, at the temperature of sampling; `None` where no model
    /// did, or where it is not known.
    pub logps: Option<Vec<f32>>,
    /// Which head predicted it, where a step draws up to two tokens.
    pub heads: Option<Vec<u8>>,
}

impl Deref for SegmentedTokens {
    type Target = [Token];

    fn deref(&self) -> &[Token] {
        &self.tokens
    }
}

/// Tokens that are all trained on, without log-probabilities.
impl From<Vec<Token>> for SegmentedTokens {
    fn from(tokens: Vec<Token>) -> SegmentedTokens {
        let mut all = SegmentedTokens::default();
        all.push_trained(&tokens, Sampled::default());
        all
    }
}

/// What a model sampled.
impl From<Completion> for SegmentedTokens {
    fn from(completion: Completion) -> SegmentedTokens {
        let mut all = SegmentedTokens::default();
        all.push_completion(completion);
        all
    }
}

impl SegmentedTokens {
    /// Tokens of the data, of which those with `true` are trained on.
    ///
    /// # Panics
    /// If the lists have different lengths.
    pub fn masked(tokens: Vec<Token>, trained: &[bool]) -> SegmentedTokens {
        SegmentedTokens::from_lists(tokens, Some(trained), None, None).expect("a mask of the tokens")
    }

    /// From lists over all tokens, each with its length. All tokens are trained on where there is no mask.
    pub fn from_lists(
        tokens: Vec<Token>,
        trained: Option<&[bool]>,
        logps: Option<Vec<f32>>,
        heads: Option<Vec<u8>>,
    ) -> Result<SegmentedTokens, String> {
        let length = tokens.len();
        for (what, other) in [
            ("elements of a mask", trained.map(<[bool]>::len)),
            ("log-probabilities", logps.as_ref().map(Vec::len)),
            ("heads", heads.as_ref().map(Vec::len)),
        ] {
            if let Some(other) = other.filter(|other| *other != length) {
                return Err(format!("a completion of {length} tokens has {other} {what}"));
            }
        }
        let all = vec![true; length];
        let mut segmented = SegmentedTokens::default();
        let mut start = 0;
        for run in trained.unwrap_or(&all).chunk_by(|one, next| one == next) {
            let range = start..start + run.len();
            start = range.end;
            let own = &tokens[range.clone()];
            match run[0] {
                false => segmented.push_context(own),
                true => {
                    let logps = logps.as_ref().map(|logps| logps[range.clone()].to_vec());
                    let heads = heads.as_ref().map(|heads| heads[range].to_vec());
                    segmented.push_trained(own, Sampled { logps, heads });
                }
            }
        }
        Ok(segmented)
    }

    /// Appends tokens that are not trained on.
    pub fn push_context(&mut self, tokens: &[Token]) {
        let range = self.append(tokens);
        match self.segments.last_mut() {
            _ if range.is_empty() => {}
            Some(Segment { tokens, kind: SegmentKind::Context }) => tokens.end = range.end,
            _ => self.segments.push(Segment { tokens: range, kind: SegmentKind::Context }),
        }
    }

    /// Appends what a model sampled.
    pub fn push_completion(&mut self, Completion { tokens, logps, heads, .. }: Completion) {
        let heads = Some(heads).filter(|heads| !heads.is_empty());
        self.push_trained(&tokens, Sampled { logps: Some(logps), heads });
    }

    /// Appends tokens that are trained on.
    ///
    /// # Panics
    /// If a list of `sampled` has another length, or is known on one side of a turn only.
    pub fn push_trained(&mut self, tokens: &[Token], sampled: Sampled) {
        for known in [sampled.logps.as_ref().map(Vec::len), sampled.heads.as_ref().map(Vec::len)] {
            assert!(known.is_none_or(|known| known == tokens.len()), "one number for each token");
        }
        let range = self.append(tokens);
        match self.segments.last_mut() {
            _ if range.is_empty() => {}
            Some(Segment { tokens, kind: SegmentKind::Trained(before) }) => {
                tokens.end = range.end;
                extend(&mut before.logps, sampled.logps);
                extend(&mut before.heads, sampled.heads);
            }
            _ => self.segments.push(Segment { tokens: range, kind: SegmentKind::Trained(sampled) }),
        }
    }

    fn append(&mut self, tokens: &[Token]) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend(tokens);
        start..self.tokens.len()
    }

    fn trained_segments(&self) -> impl Iterator<Item = (Range<usize>, &Sampled)> {
        self.segments.iter().filter_map(|segment| match &segment.kind {
            SegmentKind::Trained(sampled) => Some((segment.tokens.clone(), sampled)),
            SegmentKind::Context => None,
        })
    }

    /// The model's turns, as ranges of tokens.
    pub fn turns(&self) -> impl Iterator<Item = Range<usize>> {
        self.trained_segments().map(|(tokens, _)| tokens)
    }

    /// The indices of the tokens that are trained on.
    pub fn trained_indices(&self) -> impl Iterator<Item = usize> {
        self.turns().flatten()
    }

    /// The tokens that are trained on.
    pub fn trained_tokens(&self) -> impl Iterator<Item = Token> {
        self.trained_indices().map(|index| self.tokens[index])
    }

    /// Number of tokens that are trained on.
    pub fn trained(&self) -> usize {
        self.turns().map(|turn| turn.len()).sum()
    }

    /// Whether all tokens are trained on.
    pub fn is_whole(&self) -> bool {
        self.trained() == self.len()
    }

    /// For each token, whether it is trained on; `None` where all are.
    pub fn mask(&self) -> Option<Vec<bool>> {
        let trained = vec![true; self.trained()];
        (!self.is_whole()).then(|| self.over_all(&trained))
    }

    /// Log-probabilities of the trained tokens at sampling; `None` where some are not known.
    pub fn logps(&self) -> Option<Vec<f32>> {
        self.known(|sampled| sampled.logps.as_deref())
    }

    /// Which head predicted each trained token; `None` where one head predicted all.
    pub fn heads(&self) -> Option<Vec<u8>> {
        self.known(|sampled| sampled.heads.as_deref())
    }

    fn known<T: Copy>(&self, list: impl Fn(&Sampled) -> Option<&[T]>) -> Option<Vec<T>> {
        let mut all = Vec::with_capacity(self.trained());
        for (_, sampled) in self.trained_segments() {
            all.extend_from_slice(list(sampled)?);
        }
        assert_eq!(all.len(), self.trained(), "one element for each trained token");
        Some(all)
    }

    /// A list over all tokens, from one over the trained tokens; the others have the default value.
    pub fn over_all<T: Copy + Default>(&self, of_trained: &[T]) -> Vec<T> {
        assert_eq!(of_trained.len(), self.trained(), "one element for each trained token");
        let mut all = vec![T::default(); self.len()];
        let mut rest = of_trained;
        for turn in self.turns() {
            let own = rest.split_off(..turn.len()).expect("they are as many as all turns have");
            all[turn].copy_from_slice(own);
        }
        all
    }

    /// The same, where nobody knows the log-probabilities of the tokens.
    pub fn without_logps(mut self) -> SegmentedTokens {
        for segment in &mut self.segments {
            if let SegmentKind::Trained(sampled) = &mut segment.kind {
                sampled.logps = None;
            }
        }
        self
    }

    /// Cuts it off after the model's first `turns` turns.
    pub fn cut_after_turns(&mut self, turns: usize) {
        let Some(last) = self.turns().nth(turns.saturating_sub(1)) else { return };
        self.tokens.truncate(last.end);
        self.segments.retain(|segment| segment.tokens.end <= last.end);
    }
}

fn extend<T>(list: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    match (list, more) {
        (Some(list), Some(more)) => list.extend(more),
        (None, None) => {}
        _ => panic!("known for a whole turn or for no token of it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(logps: &[f32]) -> Sampled {
        Sampled { logps: Some(logps.to_vec()), heads: None }
    }

    #[test]
    fn turns_are_what_the_model_wrote_without_interruption() {
        let mut tokens = SegmentedTokens::default();
        tokens.push_trained(&[1, 2], sampled(&[-0.1, -0.2]));
        tokens.push_trained(&[3], sampled(&[-0.3]));
        tokens.push_context(&[]);
        tokens.push_context(&[7]);
        tokens.push_context(&[8]);
        tokens.push_trained(&[4], sampled(&[-0.4]));
        assert_eq!(&*tokens, [1, 2, 3, 7, 8, 4]);
        assert!(tokens.turns().eq([0..3, 5..6]));
        assert_eq!(tokens.mask().unwrap(), [true, true, true, false, false, true]);
        assert_eq!(tokens.logps().unwrap(), [-0.1, -0.2, -0.3, -0.4]);
        assert_eq!(tokens.heads(), None);
        assert!(tokens.trained_tokens().eq([1, 2, 3, 4]));
        assert_eq!(tokens.over_all(&[1, 2, 3, 4]), [1, 2, 3, 0, 0, 4]);
        let again =
            SegmentedTokens::from_lists(tokens.to_vec(), tokens.mask().as_deref(), None, None).unwrap();
        assert_eq!(again, tokens.clone().without_logps());
        tokens.cut_after_turns(1);
        assert_eq!((&*tokens, tokens.mask()), (&[1, 2, 3][..], None));
        tokens.cut_after_turns(5);
        assert_eq!(tokens.len(), 3);
    }

    #[test]
    #[should_panic(expected = "one number for each token")]
    fn a_number_is_missing() {
        SegmentedTokens::default().push_trained(&[1, 2], sampled(&[-0.1]));
    }

    #[test]
    #[should_panic(expected = "known for a whole turn")]
    fn half_a_turn_has_numbers() {
        let mut tokens = SegmentedTokens::from(vec![1]);
        tokens.push_trained(&[2], sampled(&[-0.1]));
    }
}
