//! Domains, stages and tables. A training stage keeps the checked one in place of its objective, which is lowered on its own.

use mopd_lang::experiment as wide;

use super::Narrowed;
use crate::lower::Origins;
use crate::plan::{
    Architecture, Comparison, Domain, Evaluation, Keep, Model, Normalized, Prefixes, Recipe, Reward, Row, Sampling, Share, Stage,
    TeacherChoice, Tokenizer, Train,
};

/// A training stage as it was checked.
pub type Checked = wide::Train<wide::Objective>;

pub fn domain(domain: &wide::Domain, origins: Origins) -> Narrowed<Domain> {
    let wide::Domain { name, prompts, tests, reward: of, share, origin } = domain;
    let reward = reward(of, *origin, origins)?;
    Ok(Domain { name: name.clone(), prompts: prompts.clone(), tests: tests.clone(), reward, share: *share, origin: *origin })
}

fn reward(reward: &wide::Reward, _origin: wide::Origin, _origins: Origins) -> Narrowed<Reward> {
    Ok(match reward {
        wide::Reward::ExactMatch { field } => Reward::ExactMatch { field: field.clone() },
        wide::Reward::Numeric { field, tolerance } => Reward::Numeric { field: field.clone(), tolerance: *tolerance },
        wide::Reward::Regex { pattern, field } => Reward::Regex { pattern: pattern.clone(), field: field.clone() },
        wide::Reward::Command { command, time_limit_seconds, batch } => {
            Reward::Command { command: command.clone(), time_limit_seconds: *time_limit_seconds, batch: *batch }
        }
    })
}

pub fn model<'a>(model: &'a wide::Model<wide::Objective>, origins: Origins) -> Narrowed<Model<&'a Checked>> {
    let wide::Model { name, stage: of, origin } = model;
    Ok(Model { name: name.clone(), stage: stage(of, *origin, origins)?, origin: *origin })
}

fn stage<'a>(stage: &'a wide::Stage<wide::Objective>, origin: wide::Origin, origins: Origins) -> Narrowed<Stage<&'a Checked>> {
    Ok(match stage {
        wide::Stage::Initialise(of) => Stage::Initialise(architecture(of)),
        wide::Stage::Train(of) => Stage::Train(Box::new(train(of, origin, origins)?)),
        wide::Stage::Merge(merge) => Stage::Merge(merge.clone()),
    })
}

fn architecture(architecture: &wide::Architecture) -> Architecture {
    let wide::Tokenizer::Bytes = architecture.tokenizer;
    Architecture {
        layers: architecture.layers,
        width: architecture.width,
        heads: architecture.heads,
        key_value_heads: architecture.key_value_heads,
        hidden: architecture.hidden,
        context: architecture.context,
        tokenizer: Tokenizer::Bytes,
        tied: architecture.tied,
        rope_theta: architecture.rope_theta,
        norm_epsilon: architecture.norm_epsilon,
        initial_deviation: architecture.initial_deviation,
    }
}

fn train<'a>(train: &'a Checked, origin: wide::Origin, origins: Origins) -> Narrowed<Train<&'a Checked>> {
    let wide::Train { recipe: of, start, mixture, teachers, prefixes: from, objective: _, optimizer, steps, learning_rate } =
        train;
    let share = |share: &wide::Share| Share { domain: share.domain, share: share.share };
    let choice = |choice: &wide::TeacherChoice| TeacherChoice {
        domain: choice.domain,
        name: choice.name.clone(),
        teacher: choice.teacher,
    };
    Ok(Train {
        recipe: recipe(*of),
        start: *start,
        mixture: mixture.iter().map(share).collect(),
        teachers: teachers.iter().map(choice).collect(),
        prefixes: prefixes(from, origin, origins)?,
        objective: train,
        optimizer: optimizer.clone(),
        steps: *steps,
        learning_rate: learning_rate.clone(),
    })
}

fn recipe(recipe: wide::Recipe) -> Recipe {
    match recipe {
        wide::Recipe::Sft => Recipe::Sft,
        wide::Recipe::Grpo => Recipe::Grpo,
        wide::Recipe::Distill => Recipe::Distill,
    }
}

fn prefixes(prefixes: &wide::Prefixes, _origin: wide::Origin, _origins: Origins) -> Narrowed<Prefixes> {
    Ok(match prefixes {
        wide::Prefixes::Data { field, batch } => Prefixes::Data { field: field.clone(), batch: *batch },
        wide::Prefixes::Student { prompts, sampling: of } => Prefixes::Student { prompts: *prompts, sampling: sampling(of) },
        wide::Prefixes::Teacher { sequences, keep, batch, sampling: of } => {
            let keep = match keep {
                wide::Keep::All => Keep::All,
                wide::Keep::Correct => Keep::Correct,
            };
            Prefixes::Teacher { sequences: *sequences, keep, batch: *batch, sampling: sampling(of) }
        }
    })
}

fn sampling(sampling: &wide::Sampling) -> Sampling {
    let wide::Sampling { n, temperature, max_tokens } = *sampling;
    Sampling { n, temperature, max_tokens }
}

pub fn comparison(comparison: &wide::Comparison) -> Narrowed<Comparison> {
    let wide::Comparison { name, rows, domains, normalized, seeds, evaluation, origin } = comparison;
    let row = |row: &wide::Row| Row { label: row.label.clone(), models: row.models.clone() };
    let wide::Evaluation { sampling: of, prompts } = evaluation;
    Ok(Comparison {
        name: name.clone(),
        rows: rows.iter().map(row).collect(),
        domains: domains.clone(),
        normalized: normalized.as_ref().map(|wide::Normalized { zero, one }| Normalized { zero: zero.clone(), one: one.clone() }),
        seeds: *seeds,
        evaluation: Evaluation { sampling: sampling(of), prompts: *prompts },
        origin: *origin,
    })
}
