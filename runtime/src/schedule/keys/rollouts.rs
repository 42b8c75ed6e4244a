//! The key of rollouts that frozen models write before the first step.

use mopd_plan::producers::{PrecomputedRollouts, Writer};
use mopd_plan::views::Piece;
use mopd_plan::{
    DataFormula, Domain, Keep, Length, ModelId, Objective, PromptFormat, RewardMeaning, Sampling, Train,
    without_absolute_paths,
};
use serde::Serialize;

use super::{ComputeKey, DataKey, KeyInputs, StageKey};
use crate::prepare::ModelSpec;

#[derive(Serialize)]
pub(super) struct RolloutsKey<'a> {
    computed: ComputeKey<'a>,
    /// Stream of random numbers.
    stream: u64,
    #[serde(flatten)]
    written: WrittenKey,
    /// The text that the model sees instead of the prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    sees: Option<&'a [Piece]>,
    sampling: &'a Sampling,
    /// The programs that edit the rollouts; then their hashes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edits: Vec<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    programs: &'a [String],
    tokenizer: String,
    shares: Vec<ShareKey<'a>>,
    data: &'a [DataKey<'a>],
}

/// The number of rollouts.
#[derive(Serialize)]
#[serde(untagged)]
enum WrittenKey {
    Sequences {
        sequences: u32,
        keep: Keep,
    },
    /// For the prompts that a stage draws: these numbers, the shares and the data decide which.
    Prompts {
        groups: u32,
        passes: u32,
        /// `None` where a batch is not divided.
        #[serde(skip_serializing_if = "Option::is_none")]
        mini_batches: Option<u32>,
        length: Length,
    },
}

#[derive(Serialize)]
struct ShareKey<'a> {
    share: f64,
    reward: RewardMeaning,
    format: &'a PromptFormat,
    limit: Option<u32>,
    writers: Vec<WriterKey<'a>>,
}

#[derive(Serialize)]
struct WriterKey<'a> {
    when: Option<&'a DataFormula>,
    model: &'a str,
    /// The text that this model sees instead of the prompts, if it differs from the student's.
    #[serde(skip_serializing_if = "Option::is_none")]
    sees: Option<&'a [Piece]>,
}

impl<'a> KeyInputs<'a> {
    pub(super) fn rollouts<'k>(
        &'k self,
        train: &'k Train<Objective>,
        spec: &ModelSpec,
        stage: &'k StageKey<'k>,
        stream: u64,
        result_of: &impl Fn(ModelId) -> &'k str,
    ) -> Option<RolloutsKey<'k>> {
        let producer = train.rollout.producer.unedited();
        let written = match producer.once() {
            Some(PrecomputedRollouts { sequences, keep }) => WrittenKey::Sequences { sequences, keep },
            None if producer.kind().cached_per_prompt() => WrittenKey::Prompts {
                groups: train.rollout.groups,
                passes: train.options.passes,
                mini_batches: (train.options.mini_batches > 1).then_some(train.options.mini_batches),
                length: train.length,
            },
            None => return None,
        };
        let (writer, sampling) = producer.kind().drawn()?;
        let edits = train.rollout.producer.programs();
        let shares = train.mixture.iter().map(|share| {
            let Domain { reward, format, limit, .. } = self.plan.experiment.domain(share.domain);
            let writers = match writer {
                Writer::Scorer(role) | Writer::Guide(role) | Writer::Editor { editor: role, .. } => {
                    let arms = train.scorers.choices(role).iter();
                    let arms = arms.filter(|arm| arm.domain == share.domain).map(|arm| {
                        // Before the first step, the student is the stage's start model.
                        let model = arm.teacher.model().unwrap_or(train.start);
                        let sees = producer.kind().view().or(arm.sees.as_ref());
                        let sees = sees.map(|view| view.pieces.as_slice());
                        WriterKey { when: arm.when.as_ref(), model: result_of(model), sees }
                    });
                    arms.collect()
                }
                Writer::Model(id) => vec![WriterKey { when: None, model: result_of(id), sees: None }],
                Writer::Student => Vec::new(),
            };
            ShareKey {
                share: share.share,
                reward: reward.without_paths().meaning(),
                format,
                limit: *limit,
                writers,
            }
        });
        Some(RolloutsKey {
            computed: stage.computed.of_frozen_models(),
            stream,
            written,
            sees: train.sees.as_ref().map(|view| view.pieces.as_slice()),
            sampling,
            edits: edits.iter().map(|program| without_absolute_paths(program.command)).collect(),
            programs: if edits.is_empty() { &[] } else { stage.environments },
            tokenizer: spec.tokenizer.hash(),
            shares: shares.collect(),
            data: &stage.data,
        })
    }
}
