//! The shapes of a plan's models, known without reading their weights.

use std::path::Path;
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::{Architecture, Model, Objective, Plan, Stage, TokenizerSpec};

use super::load;
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

/// The configuration of every model: that of the weights it descends from, without heads that stages add.
/// `None` for models of the hub that are not in its cache, and those that descend from them.
pub fn configs(plan: &Plan, base: &Path) -> Result<Vec<Option<Arc<Config>>>> {
    let mut configs: Vec<Option<Arc<Config>>> = Vec::new();
    for model in &plan.experiment.models {
        configs.push(match &model.stage {
            Stage::Initialise(architecture) => {
                let (config, _) = initialised(model, architecture, base)?;
                Some(Arc::new(config))
            }
            Stage::Load(pretrained) => {
                load::look(&pretrained.source, base).map_err(|error| error.at(model.origin))?.map(Arc::new)
            }
            stage => stage.start().and_then(|from| configs.get(from.0 as usize)?.clone()),
        });
    }
    Ok(configs)
}
