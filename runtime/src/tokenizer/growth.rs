//! Limits on how much a tokenizer's rules may lengthen a text. The rules come from untrusted files, and a few
//! of them can turn a word into a gigabyte: replace `a` by `aa`, thirty times.

use base64::Engine;
use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer};

/// Most bytes of a normalised text; the library holds 17 bytes for each of them.
const LONGEST: usize = 64 << 20;
/// A text may always become this many times as long, even beyond [`LONGEST`].
const TIMES: usize = 8;
/// Most times that a decoder may lengthen a token's spelling.
const DECODED: usize = 1 << 12;

/// A rule, with a bound on the length of its result.
struct GrowthStep {
    rule: NormalizerWrapper,
    /// The result has at most `times` bytes for each byte, plus `more`.
    times: usize,
    more: usize,
}

impl GrowthStep {
    fn bound(&self, length: usize) -> usize {
        length.saturating_mul(self.times).saturating_add(self.more)
    }
}

pub struct NormalizerGrowth(Vec<GrowthStep>);

impl NormalizerGrowth {
    pub fn new(tokenizer: &tokenizers::Tokenizer) -> NormalizerGrowth {
        let mut steps = Vec::new();
        if let Some(rule) = tokenizer.get_normalizer() {
            flatten(rule, &mut steps);
        }
        NormalizerGrowth(steps)
    }

    /// Checks that a text does not become too long.
    pub fn check(&self, text: &str) -> tokenizers::Result<()> {
        let longest = LONGEST.max(text.len().saturating_mul(TIMES));
        if self.0.iter().fold(text.len(), |length, step| step.bound(length)) <= longest {
            return Ok(());
        }
        // The worst case is too long: apply the rules one by one, to know the actual lengths.
        let mut text = NormalizedString::from(text);
        for step in &self.0 {
            if step.bound(text.get().len()) > longest {
                return Err("its `normalizer` would make the text too long to handle".into());
            }
            step.rule.normalize(&mut text)?;
        }
        Ok(())
    }
}

fn flatten(rule: &NormalizerWrapper, steps: &mut Vec<GrowthStep>) {
    let (times, more) = match rule {
        NormalizerWrapper::Sequence(rules) => {
            return rules.as_ref().iter().for_each(|rule| flatten(rule, steps));
        }
        NormalizerWrapper::StripNormalizer(_) | NormalizerWrapper::StripAccents(_) => (1, 0),
        // Longest expansions of Unicode 16, in UTF-8: U+0390 in canonical decomposition, U+FDFA in
        // compatibility decomposition.
        NormalizerWrapper::NFC(_) | NormalizerWrapper::NFD(_) => (3, 0),
        NormalizerWrapper::NFKC(_) | NormalizerWrapper::NFKD(_) => (11, 0),
        NormalizerWrapper::Lowercase(_) | NormalizerWrapper::Nmt(_) | NormalizerWrapper::ByteLevel(_) => {
            (3, 0)
        }
        // Decomposed, in lower case, with spaces around characters.
        NormalizerWrapper::BertNormalizer(_) => (18, 0),
        NormalizerWrapper::Prepend(rule) => (1, rule.prepend.len()),
        NormalizerWrapper::Replace(rule) => {
            let pattern = serde_json::to_value(rule).unwrap_or_default();
            replacing(&pattern["pattern"], rule.content.len())
        }
        NormalizerWrapper::Precompiled(rule) => {
            let table = serde_json::to_value(rule).unwrap_or_default();
            (longest_entry(table["precompiled_charsmap"].as_str().unwrap_or_default()), 0)
        }
    };
    steps.push(GrowthStep { rule: rule.clone(), times, more });
}

/// Factor and addend of the bound for replacing a pattern by `content` bytes.
fn replacing(pattern: &Value, content: usize) -> (usize, usize) {
    match pattern["String"].as_str() {
        Some(pattern) if !pattern.is_empty() => (content.div_ceil(pattern.len()).max(1), 0),
        // It may match before every character, and at the end.
        _ => (content.saturating_add(1), content),
    }
}

/// Length of the longest replacement of a character in a table of SentencePiece, which is a trie with its
/// length before it, then texts that end with a zero.
fn longest_entry(table: &str) -> usize {
    let Ok(table) = base64::engine::general_purpose::STANDARD.decode(table) else { return usize::MAX };
    let texts = table.first_chunk().and_then(|length| table.get(4 + u32::from_le_bytes(*length) as usize..));
    let longest = texts.map(|texts| texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0));
    longest.map_or(usize::MAX, |longest| longest.max(1))
}

/// Checks that the `decoder` of a `tokenizer.json` does not make texts too long.
pub fn check_decoder(decoder: &Value) -> tokenizers::Result<()> {
    fn times(decoder: &Value) -> usize {
        match decoder["type"].as_str() {
            Some("Sequence") => {
                let parts = decoder["decoders"].as_array().map(Vec::as_slice).unwrap_or_default();
                parts.iter().fold(1, |product: usize, part| product.saturating_mul(times(part)))
            }
            Some("Replace") => {
                replacing(&decoder["pattern"], decoder["content"].as_str().unwrap_or_default().len()).0
            }
            _ => 1,
        }
    }
    if times(decoder) > DECODED {
        Err("its `decoder` would make texts too long to handle".into())
    } else {
        Ok(())
    }
}
