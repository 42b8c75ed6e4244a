//! New weights from a folder, if the server was started with one that allows it. A path in a request is
//! resolved, links included, and must lie inside the allowed folder.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use mopd_plan::PretrainedSource;
use mopd_plan::events::FailureKind;
use serde_json::{Value, json};

use super::ServedModelInfo;
use super::engine::EngineRequest;
use super::http::Shared;
use super::transport::RequestRefusal;
use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::prepare::load::{LoadedModel, load};

/// The folder that new weights may come from.
pub struct Updates {
    folder: PathBuf,
}

/// A requested replacement of the weights, or only of the name of their version. A name is taken between two
/// requests, as weights are, so that every answer has the name of the weights that it was computed with.
pub struct WeightsUpdate {
    /// `None` where the weights stay.
    folder: Option<PathBuf>,
    version: Option<String>,
}

impl Updates {
    pub fn within(folder: &Path) -> Result<Updates> {
        let found = folder.canonicalize().ok().filter(|folder| folder.is_dir());
        let folder = found.ok_or_else(|| {
            let message = format!("{} is not a folder, so no weights can be read from it", folder.display());
            Error::new(FailureKind::Runtime, message).help(
                "create it, or leave `--allow-updates` \
                out",
            )
        })?;
        Ok(Updates { folder })
    }

    /// Every path outside the folder gets the same error, which does not reveal whether it exists.
    fn find(&self, path: &str, version: Option<String>) -> Result<WeightsUpdate, RequestRefusal> {
        let inside = self.folder.join(path).canonicalize().ok();
        let inside = inside.filter(|path| path.starts_with(&self.folder) && path.is_dir());
        let folder = inside.ok_or_else(|| {
            RequestRefusal::new(
                403,
                "weights must be in the folder \
            of `--allow-updates`",
            )
        })?;
        Ok(WeightsUpdate { folder: Some(folder), version })
    }
}

impl WeightsUpdate {
    pub fn is_name(&self) -> bool {
        self.folder.is_none()
    }

    /// Gives the weights the name of this update.
    pub fn rename(&self, shared: &Shared) {
        if let Some(version) = &self.version {
            shared.about.write().unwrap_or_else(PoisonError::into_inner).version.clone_from(version);
        }
    }

    /// # Errors
    /// If the weights can't be read or are of another model.
    pub fn load(&self, known: &Weights) -> Result<LoadedModel, RequestRefusal> {
        let folder = self.folder.as_deref().and_then(Path::to_str).ok_or_else(|| {
            RequestRefusal::bad(
                "the path is not valid \
            UTF-8",
            )
        })?;
        let named = PretrainedSource::Checkpoint { folder: folder.to_owned() };
        let loaded = load(&named, Path::new("/"), None);
        let loaded =
            loaded.map_err(|error| RequestRefusal::bad(format!("cannot read these weights: {error}")))?;
        if *loaded.weights.config != *known.config
            || loaded.weights.tokenizer.hash() != known.tokenizer.hash()
        {
            return Err(RequestRefusal::bad("these are the weights of another model"));
        }
        Ok(loaded)
    }

    pub fn note(&self, content: String, shared: &Shared) {
        let name = self.folder.as_deref().and_then(Path::file_name);
        let name = name.map(|name| name.to_string_lossy().into_owned());
        let version = self.version.clone().unwrap_or_else(|| content.clone());
        let about = ServedModelInfo { content, version, files: name.unwrap_or_default() };
        *shared.about.write().unwrap_or_else(PoisonError::into_inner) = about;
    }
}

fn allowed(shared: &Shared) -> Result<&Updates, RequestRefusal> {
    let refusal = || RequestRefusal::new(403, "updates are not allowed: start with `--allow-updates FOLDER`");
    shared.updates.as_ref().ok_or_else(refusal)
}

async fn update(shared: &Shared, path: &Value, version: &Value) -> Result<(), RequestRefusal> {
    let updates = allowed(shared)?;
    let path = path.as_str().ok_or_else(|| {
        RequestRefusal::bad(
            "the path of the weights must be a \
        string",
        )
    })?;
    let update = updates.find(path, version.as_str().map(str::to_owned))?;
    shared.ask(|reply| EngineRequest::Update(update, reply)).await
}

/// Handles `/update_weights_from_disk`.
pub async fn of_sglang(shared: &Shared, asked: &Value) -> Result<Value, RequestRefusal> {
    update(shared, &asked["model_path"], &asked["weight_version"]).await?;
    Ok(json!({ "success": true, "message": "the weights were taken", "num_paused_requests": 0 }))
}

/// Handles `/collective_rpc` with `reload_weights`.
pub async fn of_vllm(shared: &Shared, asked: &Value) -> Result<Value, RequestRefusal> {
    if asked["method"] != json!("reload_weights") {
        return Err(RequestRefusal::bad("only `reload_weights` is supported here"));
    }
    update(shared, &asked["kwargs"]["weights_path"], &Value::Null).await?;
    Ok(json!({ "results": [null] }))
}

/// Handles `/update_weight_version`: renames the version of the current weights.
pub async fn version_of_vllm(shared: &Shared, asked: &Value) -> Result<Value, RequestRefusal> {
    allowed(shared)?;
    let version = asked["new_version"].as_str().ok_or_else(|| {
        RequestRefusal::bad(
            "`new_version` must be a \
            string",
        )
    })?;
    let update = WeightsUpdate { folder: None, version: Some(version.to_owned()) };
    shared.ask(|reply| EngineRequest::Update(update, reply)).await?;
    Ok(json!({ "success": true, "new_version": version }))
}
