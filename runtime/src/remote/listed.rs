//! Log-probabilities of some tokens at each position, as engines list them, and checks of them.

use super::ask::ReplyProblem;
use crate::tokenizer::Token;

/// Tolerance for rounding in half precision above a total probability of 1.
const SLACK: f64 = 2e-2;
/// Tolerance for numbers of equal entries.
const TIE: f64 = 1e-3;

/// For each scored token of a sequence, the entries that the server listed, the token's own first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListedTokens {
    pub tokens: Vec<Vec<(Token, f32)>>,
    /// The version of the weights that the answer names.
    pub version: Option<String>,
}

/// Checks ranks: a token of a higher rank is not more probable, and `rank` tokens that are at least as
/// probable leave it a probability of 1 / rank at most.
pub fn ranked(place: usize, mut ranks: Vec<(u64, f64)>) -> Result<(), ReplyProblem> {
    ranks.sort_by(|one, other| one.0.cmp(&other.0).then(other.1.total_cmp(&one.1)));
    let rises = ranks.windows(2).any(|pair| pair[1].1 > pair[0].1 + TIE);
    // Numbers above 0 are no log-probabilities, which is said of the token.
    let above = |(rank, logp): &(u64, f64)| *logp <= SLACK && *logp > SLACK - (*rank as f64).max(1.0).ln();
    if !rises && !ranks.iter().any(above) {
        return Ok(());
    }
    let what = format!("log-probabilities that do not fit the ranks of their tokens at position {place}");
    Err(ReplyProblem::Faulty(format!("returned an unusable response: {what}")))
}

/// Checks the list of one position. `wanted` is the number of entries requested besides the token's own; all
/// of `entries` where absent. Returns the token's own entry first.
pub fn checked(
    place: usize,
    token: Token,
    own: Option<f64>,
    listed: &[(i64, f64)],
    wanted: Option<u32>,
    entries: usize,
) -> Result<Vec<(Token, f32)>, ReplyProblem> {
    let wrong = |what: String| {
        ReplyProblem::Faulty(format!("returned an unusable response: {what} at position {place}"))
    };
    let own = own.ok_or_else(|| wrong(format!("no log-probability of the token {token}")))?;
    let sound = |logp: f64| logp.is_finite() && logp <= SLACK;
    if !sound(own) {
        return Err(wrong(format!("{own} is not a log-probability (of the token {token})")));
    }
    let mut seen = std::collections::HashSet::with_capacity(listed.len());
    let mut mass = 0.0;
    for (id, logp) in listed {
        if !sound(*logp) {
            return Err(wrong(format!("{logp} is not a log-probability (of the token {id})")));
        }
        if *id < 0 || !seen.insert(*id) {
            return Err(wrong(format!("the token {id} is listed twice, or is not a token")));
        }
        if *id == token && (*logp - own).abs() > TIE {
            return Err(wrong(format!("two different log-probabilities of the token {token}")));
        }
        mass += logp.exp();
    }
    if !seen.contains(&token) {
        mass += own.exp();
    }
    if mass > 1.0 + SLACK {
        return Err(wrong(format!("probabilities that add up to {mass:.3}")));
    }
    let others = listed.iter().filter(|(id, _)| *id != token);
    let mut kept = vec![(token, own as f32)];
    match wanted {
        None => {
            let inside = seen.iter().filter(|id| (**id as usize) < entries).count();
            if inside + usize::from(!seen.contains(&token)) < entries || (mass - 1.0).abs() > SLACK {
                let what = format!("{inside} of {entries} tokens, with a total probability of {mass:.3}");
                return Err(wrong(what));
            }
            kept.extend(
                others.filter(|(id, _)| (*id as usize) < entries).map(|(id, logp)| (*id, *logp as f32)),
            );
        }
        Some(0) => {}
        Some(k) => {
            let k = k as usize;
            // The `k` most probable entries, and the token's own where it is not among them.
            let of_top = if listed.len() > k { listed.len() - 1 } else { listed.len() };
            if of_top != k.min(entries) || (listed.len() > k && !seen.contains(&token)) {
                return Err(wrong(format!("{} entries, but {k} were requested", listed.len())));
            }
            let least = listed.iter().filter(|(id, _)| *id != token).map(|(_, logp)| *logp);
            let least = least.fold(f64::INFINITY, f64::min);
            let beside = listed.len() > k || !seen.contains(&token);
            if beside && own > least + TIE {
                let what = format!("the token {token} is more probable than those listed as most probable");
                return Err(wrong(what));
            }
            // The student can't be compared on ids that only the server's vocabulary has.
            if let Some((id, _)) = listed.iter().find(|(id, _)| *id as usize >= entries) {
                return Err(ReplyProblem::lasting(
                    format!("returned the token {id}, which the student's vocabulary does not have"),
                    "take a teacher with the student's vocabulary; if the token is padding of its \
                    embedding, request whole distributions: `answers: dist`",
                ));
            }
            kept.extend(others.map(|(id, logp)| (*id, *logp as f32)));
        }
    }
    Ok(kept)
}
