//! How much longer a tokenizer makes a text before it splits it. Its file is a list of rules of others, and
//! few of them are enough to make a gigabyte of a word: replace `a` by `aa`, thirty times.

use base64::Engine;
use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer};

/// Bytes of a normalised text; the library keeps 17 for each.
const LONGEST: usize = 64 << 20;
/// However long a text is, it may become this many times as long.
const TIMES: usize = 8;
/// Of what a token is written as, over its spelling.
const DECODED: usize = 1 << 12;

/// One rule.
struct GrowthStep {
    rule: NormalizerWrapper,
    /// At most so many bytes for each, and so many more.
    times: usize,
    more: usize,
}

impl GrowthStep {
    fn bound(&self, length: usize) -> usize {
        length.saturating_mul(self.times).saturating_add(self.more)
    }
}

pub struct Growth(Vec<GrowthStep>);

impl Growth {
    pub fn of(tokenizer: &tokenizers::Tokenizer) -> Growth {
        let mut steps = Vec::new();
        if let Some(rule) = tokenizer.get_normalizer() {
            flatten(rule, &mut steps);
        }
        Growth(steps)
    }

    /// Whether a text stays of a length that can be handled.
    pub fn check(&self, text: &str) -> tokenizers::Result<()> {
        let longest = LONGEST.max(text.len().saturating_mul(TIMES));
        if self.0.iter().fold(text.len(), |length, step| step.bound(length)) <= longest {
            return Ok(());
        }
        // That was the worst case: now as it is, rule by rule.
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
        // Decomposed, in lower case, spaces around it.
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

/// What replacing a pattern by `content` bytes does to a length.
fn replacing(pattern: &Value, content: usize) -> (usize, usize) {
    match pattern["String"].as_str() {
        Some(pattern) if !pattern.is_empty() => (content.div_ceil(pattern.len()).max(1), 0),
        // It may match before every character, and at the end.
        _ => (content.saturating_add(1), content),
    }
}

/// Of a table of SentencePiece: a trie with its length before it, then texts with a zero behind each. One
/// stands in for a character.
fn longest_entry(table: &str) -> usize {
    let Ok(table) = base64::engine::general_purpose::STANDARD.decode(table) else { return usize::MAX };
    let texts = table.first_chunk().and_then(|length| table.get(4 + u32::from_le_bytes(*length) as usize..));
    let longest = texts.map(|texts| texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0));
    longest.map_or(usize::MAX, |longest| longest.max(1))
}

/// Whether what tokens are written as stays of a length that can be handled, as the `decoder` of a
/// `tokenizer.json` has it.
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
