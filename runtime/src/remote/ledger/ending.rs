//! How a completion ended: what the server says, its tokens and the limit must agree.

use crate::tokenizer::Token;

/// A server's reason why a completion is no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At an end token, which some dialects name.
    Stop(Option<Token>),
    /// At the most tokens that were asked for.
    Length,
}

/// Whether a completion of at most `most` tokens is truncated. `stops`: texts may end it, too. The error is
/// written after `returned an unusable response:`.
pub fn truncated(
    ending: Ending,
    tokens: &[Token],
    most: usize,
    ends: &[Token],
    stops: bool,
) -> Result<bool, String> {
    let end = tokens.iter().position(|id| ends.contains(id));
    if let Some(place) = end.filter(|place| place + 1 != tokens.len()) {
        return Err(format!(
            "a completion of {} tokens continues after its end token {} at {place}",
            tokens.len(),
            tokens[place]
        ));
    }
    match ending {
        // Engines that look at the length first say this of an end token in the last place, too.
        Ending::Length if tokens.len() == most => Ok(end.is_none()),
        Ending::Length => {
            Err(format!("a completion that is cut off after {} of {most} tokens", tokens.len()))
        }
        Ending::Stop(Some(token)) if tokens.last() != Some(&token) => {
            Err(format!("a completion that ends with {:?}, though the server names {token}", tokens.last()))
        }
        Ending::Stop(_) if end.is_none() && !stops => {
            Err(format!("a completion that stops after {} tokens without an end token", tokens.len()))
        }
        Ending::Stop(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_tokens_and_limit_agree() {
        let of = |ending, tokens: &[Token], stops| truncated(ending, tokens, 4, &[9], stops);
        assert_eq!(of(Ending::Stop(None), &[1, 9], false), Ok(false));
        assert_eq!(of(Ending::Stop(Some(9)), &[1, 9], false), Ok(false));
        assert_eq!(of(Ending::Length, &[1, 2, 3, 4], false), Ok(true));
        assert_eq!(of(Ending::Length, &[1, 2, 3, 9], false), Ok(false));
        assert_eq!(of(Ending::Stop(None), &[1, 2], true), Ok(false));
        for (ending, tokens, said) in [
            (Ending::Stop(None), &[1, 2][..], "without an end token"),
            (Ending::Stop(None), &[9, 2, 9], "continues after its end token 9 at 0"),
            (Ending::Stop(Some(8)), &[1, 9], "though the server names 8"),
            (Ending::Length, &[1, 9], "cut off after 2 of 4"),
            (Ending::Length, &[1, 2, 3, 4, 5], "cut off after 5 of 4"),
        ] {
            let error = of(ending, tokens, false).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
