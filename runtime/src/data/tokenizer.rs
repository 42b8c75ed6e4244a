//! The byte tokenizer: a token is a byte of UTF-8, so every text has one encoding and no file is needed to know it.

/// Stands before every prompt.
pub const BEGIN: i64 = 256;
/// Ends a completion.
pub const END: i64 = 257;
/// Fills a batch up to a rectangle; carries no loss and is never attended to.
pub const PADDING: i64 = 258;

/// [`BEGIN`], then the bytes.
pub fn encode_prompt(prompt: &str) -> Vec<i64> {
    std::iter::once(BEGIN).chain(prompt.bytes().map(i64::from)).collect()
}

/// The bytes, then [`END`].
pub fn encode_completion(completion: &str) -> Vec<i64> {
    completion.bytes().map(i64::from).chain([END]).collect()
}

/// The text up to the first [`END`]. [`BEGIN`] and [`PADDING`] are skipped. Bytes that are not UTF-8, which a model may
/// well sample, become U+FFFD.
pub fn decode(tokens: &[i64]) -> String {
    let bytes: Vec<u8> = tokens.iter().take_while(|token| **token != END).filter_map(|token| u8::try_from(*token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_byte() {
        assert_eq!(encode_prompt("aé"), [256, 97, 0xC3, 0xA9]);
        assert_eq!(encode_completion("aé"), [97, 0xC3, 0xA9, 257]);
        assert_eq!(encode_prompt(""), [256]);
    }

    #[test]
    fn decoding_stops_at_the_end_and_survives_any_tokens() {
        assert_eq!(decode(&encode_completion("sort: é\n")), "sort: é\n");
        assert_eq!(decode(&[104, 105, END, 33, PADDING]), "hi");
        assert_eq!(decode(&[BEGIN, 104, PADDING, 105]), "hi");
        assert_eq!(decode(&[0xC3, 104]), "\u{FFFD}h");
        assert_eq!(decode(&[]), "");
    }
}
