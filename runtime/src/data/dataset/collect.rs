//! Keeps what was requested of the rows of a dataset.

use std::ops::ControlFlow;
use std::path::PathBuf;

use mopd_data::messages::MessageForms;
use mopd_data::{DataProblem, DataRow, DatasetRequest, ReadRow, RowOutcome, RowPlace, RowReader};
use mopd_plan::PromptFormat;

use super::Dataset;
use crate::data::lists::Builder;
use crate::zip::zip_equal;

/// A dataset that is being read.
pub(super) struct RowCollector<'a> {
    request: DatasetRequest<'a>,
    reader: RowReader<'a>,
    pub(super) places: Vec<RowPlace>,
    /// For each row of the files, the index of its first resulting row.
    trajectories: Vec<usize>,
    prompts: Builder<u8>,
    conversations: Builder<u8>,
    fields: Vec<Builder<u8>>,
    rows: Builder<u8>,
    /// For each route, the arms by row.
    arms: Vec<Vec<u32>>,
    /// For each formula, the values by row.
    numbers: Vec<Vec<f32>>,
}

impl<'a> RowCollector<'a> {
    pub(super) fn new(request: DatasetRequest<'a>) -> RowCollector<'a> {
        let [prompts, conversations, rows] = [Builder::default(), Builder::default(), Builder::default()];
        RowCollector {
            request,
            reader: RowReader::new(request),
            places: Vec::new(),
            trajectories: Vec::new(),
            prompts,
            conversations,
            fields: request.texts().map(|_| Builder::default()).collect(),
            rows,
            arms: request.routes.iter().map(|_| Vec::new()).collect(),
            numbers: request.numbers.iter().map(|_| Vec::new()).collect(),
        }
    }

    /// The same without some rows.
    pub(super) fn without(self, rows: Vec<usize>) -> RowCollector<'a> {
        RowCollector { reader: self.reader.without(rows), ..self }
    }

    /// The columns to read.
    pub(super) fn columns(&self) -> Vec<String> {
        self.reader.columns().to_vec()
    }

    /// The rows for which the filter does not hold.
    pub(super) fn left_out(&self) -> u64 {
        self.reader.left_out()
    }

    /// What the messages of the rows have that is a part of the hash.
    pub(super) fn forms(&self) -> MessageForms {
        self.reader.forms()
    }

    pub(super) fn finish(self) -> std::io::Result<Dataset> {
        let chat = match self.request.format {
            PromptFormat::Text => None,
            PromptFormat::Chat { system } => Some(system.clone()),
        };
        let names = self.request.texts().map(|field| field.name.to_owned());
        let first = self.trajectories.into_iter().chain([self.places.len()]);
        let fields = zip_equal(names.collect::<Vec<_>>(), self.fields);
        let fields = fields.map(|(name, texts)| Ok((name, texts.finish()?)));
        Ok(Dataset {
            path: PathBuf::new(),
            hash: String::new(),
            files: Vec::new(),
            first: Vec::new(),
            trajectories: self.request.trajectory().map(|_| first.collect()),
            places: self.places,
            prompts: self.prompts.finish()?,
            conversations: if chat.is_some() { Some(self.conversations.finish()?) } else { None },
            system: chat.flatten(),
            fields: fields.collect::<std::io::Result<_>>()?,
            rows: if self.request.whole { Some(self.rows.finish()?) } else { None },
            arms: zip_equal(self.request.routes.iter().cloned(), self.arms).collect(),
            numbers: zip_equal(self.request.numbers.iter().cloned(), self.numbers).collect(),
            warnings: self.reader.warnings(),
        })
    }

    pub(super) fn take(&mut self, mut row: DataRow) -> Result<ControlFlow<()>, DataProblem> {
        let read = match self.reader.read(&mut row)? {
            RowOutcome::Read(read) => read,
            RowOutcome::LeftOut => return Ok(ControlFlow::Continue(())),
            RowOutcome::Enough => return Ok(ControlFlow::Break(())),
        };
        let ReadRow { place, prompts, texts, arms, numbers, whole } = read;
        self.trajectories.push(self.places.len());
        for (prompt, conversation) in prompts {
            for (arms, arm) in zip_equal(&mut self.arms, &arms) {
                arms.push(*arm);
            }
            for (numbers, number) in zip_equal(&mut self.numbers, &numbers) {
                numbers.push(*number as f32);
            }
            for (field, text) in zip_equal(&mut self.fields, &texts) {
                keep(field, text)?;
            }
            keep(&mut self.prompts, &prompt)?;
            keep(&mut self.conversations, &conversation)?;
            if let Some(whole) = &whole {
                keep(&mut self.rows, whole)?;
            }
            self.places.push(place);
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn keep(texts: &mut Builder<u8>, text: &str) -> Result<(), DataProblem> {
    texts
        .push(text.as_bytes())
        .map_err(|error| DataProblem::Unreadable { cause: format!("no room to keep its rows: {error}") })
}
