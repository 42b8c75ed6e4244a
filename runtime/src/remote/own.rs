//! The protocol between `mopd serve` and a run with `served("mopd", ...)`: last hidden states at the scored
//! tokens, and once the LM head. They transfer whole distributions in a fraction of their size, and the run
//! computes logits from them as for a local model: equal to the bit, where both machines have the same
//! arithmetic.
//!
//! Both are safetensors. Their metadata names the weights, and repeats a hash of the request.

use std::collections::HashMap;

use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, serialize};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::ask::{ReplyProblem, ServerRequest};
use super::{ScoredSequence, ServerIdentity};
use crate::tokenizer::Token;

pub const MODEL: &str = "/mopd/model";
pub const HIDDEN: &str = "/mopd/hidden";
pub const LM_HEAD: &str = "/mopd/lm_head";
pub const ROLLOUTS: &str = "/mopd/rollouts";

const WEIGHTS: &str = "weights";
const ASKED: &str = "asked";

/// Sequences that the server computes together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentBatch {
    pub sequences: Vec<SentSequence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentSequence {
    pub prompt: Vec<Token>,
    pub completion: Vec<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<Vec<bool>>,
}

/// A matrix in its transferred form.
#[derive(Clone, Debug, PartialEq)]
pub struct SentTensor {
    shape: [i64; 2],
    kind: Kind,
    bytes: Vec<u8>,
}

impl SentTensor {
    pub fn from_tensor(tensor: &Tensor) -> SentTensor {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        let [rows, width] = tensor.size()[..] else { panic!("a matrix") };
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        SentTensor { shape: [rows, width], kind: tensor.kind(), bytes }
    }

    pub fn tensor(&self) -> Tensor {
        Tensor::from_data_size(&self.bytes, &self.shape, self.kind)
    }

    /// `asked` is the body of the request.
    pub fn write(&self, name: &str, weights: &str, asked: &[u8]) -> Vec<u8> {
        let dtype = if self.kind == Kind::BFloat16 { Dtype::BF16 } else { Dtype::F32 };
        let shape = self.shape.map(|size| size as usize).to_vec();
        let view = TensorView::new(dtype, shape, &self.bytes).expect("as many bytes as the shape says");
        let metadata = [(WEIGHTS, weights.to_owned()), (ASKED, hash(asked))];
        let metadata: HashMap<String, String> =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        serialize([(name, view)], Some(metadata)).expect("a matrix can be written")
    }

    fn read(
        said: &[u8],
        name: &str,
        identity: &ServerIdentity,
        asked: &[u8],
    ) -> Result<SentTensor, ReplyProblem> {
        let wrong = |what: String| ReplyProblem::Faulty(format!("returned an unusable response: {what}"));
        let (_, header) = SafeTensors::read_metadata(said).map_err(|error| wrong(error.to_string()))?;
        let said_of = |name: &str| header.metadata().as_ref().and_then(|known| known.get(name)).cloned();
        if said_of(ASKED) != Some(hash(asked)) {
            return Err(wrong("it belongs to another request".to_owned()));
        }
        let weights = said_of(WEIGHTS);
        if weights != identity.weights {
            return Err(identity.changed(&ServerIdentity { weights, ..identity.clone() }));
        }
        let tensors = SafeTensors::deserialize(said).map_err(|error| wrong(error.to_string()))?;
        let tensor = tensors.tensor(name).map_err(|error| wrong(error.to_string()))?;
        let kind = match tensor.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::BF16 => Kind::BFloat16,
            other => return Err(wrong(format!("numbers of the type {other:?}"))),
        };
        let &[rows, width] = tensor.shape() else { return Err(wrong("not a matrix".to_owned())) };
        let matrix = SentTensor { shape: [rows as i64, width as i64], kind, bytes: tensor.data().to_vec() };
        if matrix.tensor().isfinite().all().int64_value(&[]) == 0 {
            return Err(wrong("numbers that are not finite".to_owned()));
        }
        Ok(matrix)
    }
}

pub fn hash(asked: &[u8]) -> String {
    blake3::hash(asked).to_hex().to_string()
}

pub fn request(batch: &[ScoredSequence], identity: &ServerIdentity) -> ServerRequest<SentTensor> {
    let sequences = batch.iter().cloned().map(|ScoredSequence { prompt, completion, scored }| SentSequence {
        prompt,
        completion,
        scored,
    });
    let body = SentBatch { sequences: sequences.collect() };
    let body = serde_json::to_vec(&body).expect("tokens are plain data");
    let rows: usize = batch.iter().map(|reading| reading.places().count()).sum();
    let (identity, asked) = (identity.clone(), body.clone());
    ServerRequest {
        body: Some(body),
        path: HIDDEN,
        read: Box::new(move |said| {
            let hidden = SentTensor::read(said, "hidden", &identity, &asked)?;
            if hidden.shape[0] == rows as i64 {
                return Ok(hidden);
            }
            let what = format!("returned {} rows of {rows} scored tokens", hidden.shape[0]);
            Err(ReplyProblem::Faulty(what))
        }),
    }
}

pub fn request_lm_head(identity: &ServerIdentity) -> ServerRequest<SentTensor> {
    let identity = identity.clone();
    ServerRequest {
        body: None,
        path: LM_HEAD,
        read: Box::new(move |said| SentTensor::read(said, "lm_head", &identity, &[])),
    }
}
