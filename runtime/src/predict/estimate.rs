//! Rough estimates of what a step takes, by arithmetic alone. They decide how large a trial may be.

use mopd_plan::producers::Derived;
use mopd_plan::{ModelId, Panel, Producer, Rollout, Share, Trainable};

use super::cut;
use super::trial::StageTrial;
use crate::model::Weights;

/// Seconds that a sequence takes besides its products: its prompt is drawn, its text is read, it is packed.
/// Without them, a million sequences of a tiny model would seem to take no time.
const EACH_SEQUENCE: f64 = 50e-6;

impl StageTrial<'_> {
    /// About how many multiplications and additions a step of `batch` sequences takes with `layers` layers.
    pub fn work(&self, batch: u32, layers: usize) -> f64 {
        let config = &self.context.shapes.configs[self.model.0 as usize];
        let layer = config.width * (config.intermediate_size * 3 + config.heads * config.head_dim * 4);
        let matrix = config.vocabulary * config.width;
        let own = f64::from(self.train.rollout.group());
        let batch = f64::from(batch) * self.rows_of_draw();
        let rows = |rollout: &Rollout| {
            // If the data determines the number of rows, `batch` counts them already.
            let rows = rollout.producer.kind().rows().unwrap_or(1);
            f64::from(rollout.group()) * f64::from(rows)
        };
        let all: f64 = self.train.rollouts().map(rows).sum();
        let layers = (layer * layers + matrix) as f64;
        let talk = self.panel_tokens(batch) * layers * 2.0;
        let beside = self.other_tokens_of_completions(batch) * layers * 2.0;
        8.0 * batch * (all / own) * self.length() * layers + talk + beside
    }

    /// The most tokens that panels write about the prompts of `batch` sequences.
    fn panel_tokens(&self, batch: f64) -> f64 {
        let each: u32 = self.train.panels.iter().map(Panel::tokens).sum();
        f64::from(each) * batch / f64::from(self.train.rollout.group().max(1))
    }

    /// Mean number of prompts in a draw: a trajectory has several.
    fn rows_of_draw(&self) -> f64 {
        let of = |share: &Share| {
            let rows = self.context.domains[share.domain.0 as usize].rows_of(self.train)?;
            Some(share.share * rows.dataset.len() as f64 / rows.dataset.draws() as f64)
        };
        self.train.mixture.iter().map(of).sum::<Option<f64>>().unwrap_or(1.0)
    }

    /// Tokens that other models read and write for `completions` completions of the student: feedback about
    /// them, attempts, derived prompts and continuations.
    fn other_tokens_of_completions(&self, completions: f64) -> f64 {
        let about = self.train.feedback.iter().map(|feedback| f64::from(feedback.tokens(self.completion)));
        let beside: f64 = about.map(|tokens| tokens + self.length()).sum();
        let attempts = self.train.objective.attempts().len() as f64 * self.length();
        let derived: f64 = self.derived().map(|derived| self.other_tokens_of_derived(derived)).sum();
        let continued = self.train.objectives().flat_map(|(_, objective)| objective.agreements());
        let continued: f64 = continued.map(|of| f64::from(of.blocks) * self.length() + of.written()).sum();
        completions * (beside + attempts + derived + continued)
    }

    fn derived(&self) -> impl Iterator<Item = &Derived> {
        self.train.producers().flat_map(Producer::derives)
    }

    /// Tokens read and written for a completion of a derived prompt: an attempt, answers, and the shortened
    /// texts of its group.
    fn other_tokens_of_derived(&self, derived: &Derived) -> f64 {
        let whole = (1 + derived.answering().len()) as f64 * self.length();
        let shown = |view| f64::from(derived.shown(view, self.completion, 1));
        let short = |(_, view, most): (_, _, u32)| shown(view) + f64::from(most) + self.length();
        let of_group: f64 = derived.shorts().map(short).sum();
        whole + shown(&derived.sees) + of_group / f64::from(self.train.rollout.group().max(1))
    }

    /// About how many seconds a whole step takes: its products at the machine's rate, and reading the weights
    /// once for every token written and a few times for the update.
    pub fn estimated(&self, batch: u32) -> f64 {
        let machine = self.context.machine;
        let config = &self.context.shapes.configs[self.model.0 as usize];
        let parameters = 4.0 * Weights::parameters(config) as f64;
        let written =
            if self.train.producers().any(Producer::is_redrawn) { self.completion * self.turns() } else { 0 };
        // One token of every prompt is written per read of the weights.
        let spoken: u32 = self.train.panels.iter().map(Panel::tokens).sum();
        let about: u32 = self.train.feedback.iter().map(|feedback| feedback.sampling.max_tokens).sum();
        let attempted = self.completion * self.train.objective.attempts().len() as u32;
        let derived = |derived: &Derived| {
            let shorts: u32 = derived.shorts().map(|(.., most)| most).sum();
            self.completion * (1 + derived.answering().len() as u32) + shorts
        };
        let derived: u32 = self.derived().map(derived).sum();
        // All blocks are continued at once.
        let continued = self.train.objectives().flat_map(|(_, objective)| objective.agreements());
        let continued: u32 = continued.map(|of| of.width.min(self.completion)).sum();
        let beside = f64::from(spoken + about + attempted + derived + continued);
        let reads = f64::from(written) + beside + 20.0;
        let sequences = f64::from(batch) * self.rows_of_draw();
        // `work` is an upper bound; about this part of it is done.
        0.6 * self.work(batch, config.layers) / machine.products
            + reads * parameters / machine.bytes
            + EACH_SEQUENCE * sequences
    }

    /// About how many bytes a step of `batch` sequences takes beside weights, gradients and moments: what the
    /// layers keep of the sequences that go through them together, and what is kept of all.
    pub fn activations(&self, batch: u32) -> f64 {
        let config = &self.context.shapes.configs[self.model.0 as usize];
        let together =
            self.train.options.execution.micro_batch.map_or(batch, |size| size.clamp(1, batch.max(1)));
        let layers = (10 * config.width + 4 * config.intermediate_size) * config.layers;
        self.held_until_update(batch) + 4.0 * self.tokens(together) * layers as f64
    }

    /// About how many bytes are kept of each sequence until the update, whatever the micro-batch: the last
    /// hidden state of each token, its copy in the order of the batch, and its gradient.
    pub fn held_until_update(&self, sequences: u32) -> f64 {
        let width = self.context.shapes.configs[self.model.0 as usize].width;
        self.tokens(sequences) * (3 * width * self.kind.elt_size_in_bytes()) as f64
    }

    fn tokens(&self, sequences: u32) -> f64 {
        f64::from(sequences) * self.rows_of_draw() * self.length()
    }

    /// The least bytes that a whole step needs: weights, gradients and moments of the student, and the other
    /// models that are in memory at once.
    pub fn needed(&self) -> f64 {
        let own = match self.train.trainable {
            Trainable::Adapter(_) => 4.0,
            Trainable::Weights { .. } => 12.0 + 4.0 * self.train.optimizer.moments() as f64,
        };
        own * self.parameters(self.model, usize::MAX) + 4.0 * self.other_parameters_at_once(usize::MAX)
    }

    /// Parameters of a model that is cut to `layers` layers.
    fn parameters(&self, id: ModelId, layers: usize) -> f64 {
        Weights::parameters(&cut(&self.context.shapes.configs[id.0 as usize], layers)) as f64
    }

    /// Parameters of the models other than the student that are in memory at once, cut to `layers` layers: of
    /// all of them if all fit, else of the largest.
    fn other_parameters_at_once(&self, layers: usize) -> f64 {
        let layers = if self.streams() { layers.min(1) } else { layers };
        let each = self.other_models().into_iter().map(|id| self.parameters(id, layers));
        if self.models_fit() { each.sum() } else { each.fold(0.0, f64::max) }
    }

    /// Whether the models other than the student only score and don't all fit in memory: then they are
    /// streamed layer by layer.
    fn streams(&self) -> bool {
        !self.models_fit() && self.learners.len() == 1 && self.train.only_student_writes()
    }

    /// Bytes of the models that are in memory while a teacher scores: a student of `own` layers with its
    /// moments, and the largest of the teachers of `others` layers, or all of them if all fit.
    pub fn memory_while_scoring(&self, own: usize, others: usize) -> f64 {
        let computed = self.kind.elt_size_in_bytes() as f64;
        // Also in half precision: the rest of each float32 weight is kept beside its bfloat16 part.
        let all = 4.0 + 4.0 * self.train.optimizer.moments() as f64;
        let each = if self.train.trainable.is_all() { all } else { computed };
        each * self.parameters(self.model, own) + computed * self.other_parameters_at_once(others)
    }

    /// Multiplications and additions of a forward pass over one token.
    pub fn products(&self) -> f64 {
        let config = &self.context.shapes.configs[self.model.0 as usize];
        let layer = config.width * (config.intermediate_size * 3 + config.heads * config.head_dim * 4);
        (layer * config.layers + config.vocabulary * config.width) as f64
    }

    /// Bytes of the student's weights in f32.
    pub fn bytes(&self) -> f64 {
        4.0 * Weights::parameters(&self.context.shapes.configs[self.model.0 as usize]) as f64
    }

    /// The most turns in a completion.
    fn turns(&self) -> u32 {
        self.train.producers().map(|producer| producer.kind().turns()).max().unwrap_or(1)
    }

    /// Mean tokens of a prompt and its completion; each turn but the first one also has the environment's
    /// text before it.
    fn length(&self) -> f64 {
        let tokenizer = &self.context.shapes.tokenizers[self.model.0 as usize];
        let prompt = |share: &Share| {
            // The prompts were tokenised when the plan was checked.
            let tokens =
                self.context.domains[share.domain.0 as usize].rows_of(self.train)?.tokens(tokenizer).ok()?;
            Some(share.share * tokens.lengths().sum::<usize>() as f64 / tokens.len().max(1) as f64)
        };
        let pieces = 2 * self.turns() - 1;
        let length = self.train.mixture.iter().filter_map(prompt).sum::<f64>()
            + f64::from(self.completion) * f64::from(pieces);
        length.min(self.context.shapes.configs[self.model.0 as usize].context as f64)
    }
}
