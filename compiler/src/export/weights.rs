//! The locations of models' weights, for engines that read folders.

use mopd_plan::{ModelId, Objective, Plan, PretrainedSource, Stage, TokenizerSpec, Train, Trainable};

use super::coverage::Coverage;
use super::stage::ExportRequest;

/// The location of a model's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsSource {
    /// A folder, or a name on the hub.
    pub path: String,
    pub revision: Option<String>,
    /// Whether the tokenizer is that of bytes, which has no file.
    pub bytes: bool,
    /// Whether its architecture is that of a published model, which may have experts.
    pub published: bool,
    /// Whether a run writes an adapter there, without the model that it changes.
    pub adapter: bool,
}

impl WeightsSource {
    /// The folder for an engine that reads whole models only, and the command that writes it from an adapter.
    pub fn whole(&self) -> (String, Option<String>) {
        if !self.adapter {
            return (self.path.clone(), None);
        }
        let whole = format!("{}-whole", self.path);
        let command = format!("mopd export --merged {} --out {whole}", self.path);
        (whole, Some(command))
    }
}

pub fn weights(
    request: ExportRequest,
    id: ModelId,
    what: &str,
    coverage: &mut Coverage,
) -> Option<WeightsSource> {
    let model = request.plan.experiment.model(id);
    let bytes = bytes(request.plan, id);
    let published = published(request.plan, id);
    let name = &model.name;
    let construct = format!("{what}: the weights of `{name}`");
    match &model.stage {
        Stage::Load(pretrained) => {
            let revision = match &pretrained.source {
                PretrainedSource::HuggingFace { revision, .. } => revision.clone(),
                PretrainedSource::Checkpoint { .. } => None,
                PretrainedSource::Gguf { .. } => {
                    let why =
                        "the engines read folders of safetensors; `transformers` can convert a GGUF file";
                    coverage.refuse(construct, model.origin, why);
                    return None;
                }
            };
            if !pretrained.end_tokens.is_empty() {
                let why = "the engines read end tokens from generation_config.json: add these to it";
                coverage.refuse(format!("`end_tokens` of `{name}`"), model.origin, why);
                return None;
            }
            let of_template = [
                ("chat_template", pretrained.chat_template.is_some()),
                ("enable_thinking", pretrained.enable_thinking.is_some()),
            ];
            if let Some((setting, _)) = of_template.iter().find(|(_, is_set)| *is_set) {
                let why = "the engines read the template from the model's folder: put it there";
                coverage.refuse(format!("`{setting}` of `{name}`"), model.origin, why);
                return None;
            }
            coverage.exact(construct, model.origin);
            let path = (request.located)(pretrained);
            Some(WeightsSource { path, revision, bytes, published, adapter: false })
        }
        // The folder in which a run leaves the model, in the layout of `save_pretrained`.
        Stage::Initialise(_)
        | Stage::Train(_)
        | Stage::Merge(_)
        | Stage::Joint(_)
        | Stage::Learner { .. } => {
            let (folder, exists) = (request.folder)(name);
            let when = if exists { "has written" } else { "has yet to write" };
            coverage.exact(format!("{construct}, which `mopd run` {when} to {folder}"), model.origin);
            let adapted = |train: &Train<Objective>| matches!(train.trainable, Trainable::Adapter(_));
            let adapter = model
                .stage
                .trains()
                .first()
                .is_some_and(|train| adapted(train) && train.options.ema.is_none());
            Some(WeightsSource { path: folder, revision: None, bytes, published, adapter })
        }
    }
}

/// Whether a model descends from published weights.
fn published(plan: &Plan, id: ModelId) -> bool {
    match &plan.experiment.model(id).stage {
        Stage::Load(_) => true,
        stage => stage.start().is_some_and(|start| published(plan, start)),
    }
}

/// Whether a model descends from a model with the tokenizer of bytes.
fn bytes(plan: &Plan, id: ModelId) -> bool {
    match &plan.experiment.model(id).stage {
        Stage::Initialise(architecture) => architecture.tokenizer == TokenizerSpec::Bytes,
        stage => stage.start().is_some_and(|start| bytes(plan, start)),
    }
}
