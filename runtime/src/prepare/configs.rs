//! The shapes of models that begin with random weights.

use std::path::Path;

use mopd_plan::events::FailureKind;
use mopd_plan::{Architecture, Model, Objective, TokenizerSpec};

use crate::data;
use crate::failure::{Error, Result};
use crate::model::Config;
use crate::tokenizer::{PretrainedTokenizer, Tokenizer};

/// The configuration and the tokenizer of a model that begins with random weights.
pub(super) fn initialised(
    model: &Model<Objective>,
    architecture: &Architecture,
    base: &Path,
) -> Result<(Config, Tokenizer)> {
    let tokenizer = match &architecture.tokenizer {
        TokenizerSpec::Bytes => Tokenizer::Bytes,
        TokenizerSpec::File(path) => {
            let loaded = PretrainedTokenizer::load(&data::path_as_written(base, path));
            Tokenizer::Pretrained(loaded.map_err(|error| Error::from(error).at(model.origin))?)
        }
    };
    let config = Config { vocabulary: tokenizer.vocabulary(), ..Config::new(architecture) };
    config.check().map_err(|problem| {
        Error::new(FailureKind::Runtime, format!("`{}`: {problem}", model.name)).at(model.origin)
    })?;
    Ok((config, tokenizer))
}
