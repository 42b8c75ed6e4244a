//! Log-probabilities of some entries at each token, as a server lists them. They are used as they are,
//! without another normalisation over the vocabulary. Entries that are not listed are [`ABSENT`]; the
//! compiler ensures that neither they nor their total mass are read.

use tch::{Device, Kind, Tensor};

use crate::machine::transfer::upload;
use crate::model::ABSENT;
use crate::tokenizer::Token;

pub struct Listed {
    /// `[tokens, listed]`; a row with fewer entries repeats its first.
    ids: Tensor,
    /// The same shape, in single precision.
    logps: Tensor,
    /// The number of entries of the vocabulary.
    entries: i64,
}

impl Listed {
    /// # Panics
    /// If a token has no entry: at least its own is listed.
    pub fn new(tokens: &[Vec<(Token, f32)>], entries: i64, device: Device) -> Listed {
        let width = tokens.iter().map(Vec::len).max().unwrap_or(1);
        let (mut ids, mut logps): (Vec<Token>, Vec<f32>) = (Vec::new(), Vec::new());
        for listed in tokens {
            let first = *listed.first().expect("the token's own entry is listed");
            for place in 0..width {
                let (id, logp) = listed.get(place).copied().unwrap_or(first);
                ids.push(id);
                logps.push(logp);
            }
        }
        let shape = [tokens.len() as i64, width as i64];
        Listed { ids: upload(&ids, device).view(shape), logps: upload(&logps, device).view(shape), entries }
    }

    pub fn share(&self) -> Listed {
        self.part(0, self.tokens())
    }

    pub fn tokens(&self) -> i64 {
        self.ids.size()[0]
    }

    pub fn part(&self, first: i64, count: i64) -> Listed {
        let Listed { ids, logps, entries } = self;
        let part = |of: &Tensor| of.narrow(0, first, count);
        Listed { ids: part(ids), logps: part(logps), entries: *entries }
    }

    /// Log-probabilities, `[count, vocabulary]`.
    pub fn rows(&self, first: i64, count: i64) -> Tensor {
        let Listed { ids, logps, .. } = self.part(first, count);
        let nothing = Tensor::full([count, self.entries], f64::from(ABSENT), (Kind::Float, ids.device()));
        nothing.scatter(1, &ids, &logps)
    }
}
