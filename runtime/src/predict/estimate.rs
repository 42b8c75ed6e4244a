//! What a step takes by arithmetic, roughly, before any is tried: how long a trial may be is decided by it.

use mopd_compiler::plan::producers::Derived;
use mopd_compiler::plan::{ModelId, Panel, Producer, Rollout, Share, Trainable};

use super::cut;
use super::machine::MachineSpeed;
use super::trial::StageTrial;
use crate::model::Weights;

impl StageTrial<'_> {
    /// About how many multiplications and additions a step takes with so many layers.
    pub fn work(&self, batch: u32, layers: usize) -> f64 {
        let config = &self.shapes.configs[self.model.0 as usize];
        let layer = config.width * (config.hidden * 3 + config.heads * config.head_width * 4);
        let matrix = config.vocabulary * config.width;
        let own = f64::from(self.train.rollout.group());
        let batch = f64::from(batch) * self.rows_of_draw();
        let rows = |rollout: &Rollout| {
            // Where the data says how many, `batch` says so too.
            let rows = rollout.producer.kind().rows().unwrap_or(1);
            f64::from(rollout.group()) * f64::from(rows)
        };
        let all: f64 = self.train.rollouts().map(rows).sum();
        let layers = (layer * layers + matrix) as f64;
        let talk = self.spoken(batch) * layers * 2.0;
        let beside = self.beside_completions(batch) * layers * 2.0;
        8.0 * batch * (all / own) * self.length() * layers + talk + beside
    }

    /// Tokens that panels say about the prompts of so many sequences, at most.
    fn spoken(&self, batch: f64) -> f64 {
        let each: u32 = self.train.panels.iter().map(Panel::tokens).sum();
        f64::from(each) * batch / f64::from(self.train.rollout.group().max(1))
    }

    /// Prompts of what is drawn once, on average: a trajectory has several.
    fn rows_of_draw(&self) -> f64 {
        let of = |share: &Share| {
            let rows = self.domains[share.domain.0 as usize].rows_of(self.train)?;
            Some(share.share * rows.dataset.len() as f64 / rows.dataset.draws() as f64)
        };
        self.train.mixture.iter().map(of).sum::<Option<f64>>().unwrap_or(1.0)
    }

    /// Tokens that others read and write for so many completions: what they write about them, and completions
    /// of their own.
    fn beside_completions(&self, completions: f64) -> f64 {
        let about = self.train.feedback.iter().map(|feedback| f64::from(feedback.tokens(self.completion)));
        let beside: f64 = about.map(|tokens| tokens + self.length()).sum();
        let attempts = self.train.objective.attempts().len() as f64 * self.length();
        let derived: f64 = self.derived().map(|derived| self.beside_derived(derived)).sum();
        let continued = self.train.objectives().flat_map(|(_, objective)| objective.agreements());
        let continued: f64 = continued.map(|of| f64::from(of.blocks) * self.length() + of.written()).sum();
        completions * (beside + attempts + derived + continued)
    }

    fn derived(&self) -> impl Iterator<Item = &Derived> {
        self.train.producers().flat_map(Producer::derives)
    }

    /// Tokens that are read and written for a completion of a derived prompt: an attempt, answers, and of
    /// each group what is shortened.
    fn beside_derived(&self, derived: &Derived) -> f64 {
        let whole = (1 + derived.answering().len()) as f64 * self.length();
        let shown = |view| f64::from(derived.shown(view, self.completion, 1));
        let short = |(_, view, most): (_, _, u32)| shown(view) + f64::from(most) + self.length();
        let of_group: f64 = derived.shorts().map(short).sum();
        whole + shown(&derived.sees) + of_group / f64::from(self.train.rollout.group().max(1))
    }

    /// About how many seconds a whole step takes: products at the rate of the machine, and weights that are
    /// read once for every token that is written, and a few times for the update.
    pub fn estimated(&self, batch: u32, machine: &MachineSpeed) -> f64 {
        let config = &self.shapes.configs[self.model.0 as usize];
        let parameters = 4.0 * Weights::parameters(config) as f64;
        let written =
            if self.train.producers().any(Producer::fresh) { self.completion * self.turns() } else { 0 };
        // One token of each prompt at a time.
        let spoken: u32 = self.train.panels.iter().map(Panel::tokens).sum();
        let about: u32 = self.train.feedback.iter().map(|feedback| feedback.sampling.max_tokens).sum();
        let attempted = self.completion * self.train.objective.attempts().len() as u32;
        let derived = |derived: &Derived| {
            let shorts: u32 = derived.shorts().map(|(.., most)| most).sum();
            self.completion * (1 + derived.answering().len() as u32) + shorts
        };
        let derived: u32 = self.derived().map(derived).sum();
        // All blocks at once.
        let continued = self.train.objectives().flat_map(|(_, objective)| objective.agreements());
        let continued: u32 = continued.map(|of| of.width.min(self.completion)).sum();
        let beside = f64::from(spoken + about + attempted + derived + continued);
        let reads = f64::from(written) + beside + 20.0;
        // Of the passes that are counted at most, about this part is made.
        0.6 * self.work(batch, config.layers) / machine.products + reads * parameters / machine.bytes
    }

    /// Bytes that a whole step needs at least: weights, gradients and moments of the student, and one other
    /// model.
    pub fn needed(&self) -> f64 {
        let own = match self.train.trainable {
            Trainable::Adapter(_) => 4.0,
            Trainable::Weights { .. } => 12.0 + 4.0 * self.train.optimizer.moments() as f64,
        };
        own * self.parameters(self.model, usize::MAX) + 4.0 * self.beside_at_once(usize::MAX)
    }

    /// Of a model with so many of its layers.
    fn parameters(&self, id: ModelId, layers: usize) -> f64 {
        Weights::parameters(&cut(&self.shapes.configs[id.0 as usize], layers)) as f64
    }

    /// Parameters of the models beside the student that are in memory at once, which have so many layers at
    /// most: of all models where all stay, else of the largest.
    fn beside_at_once(&self, layers: usize) -> f64 {
        let layers = if self.streams() { layers.min(1) } else { layers };
        let each = self.beside().into_iter().map(|id| self.parameters(id, layers));
        if self.models_fit() { each.sum() } else { each.fold(0.0, f64::max) }
    }

    /// Whether the models beside the student only score and don't stay: then they are in memory a layer at a
    /// time.
    fn streams(&self) -> bool {
        !self.models_fit() && self.learners.len() == 1 && self.train.only_student_writes()
    }

    /// Bytes of the models that are in memory while a teacher scores: a student of `own` layers with its
    /// moments; of teachers of `others` layers the largest, or all where all stay.
    pub fn while_scored(&self, own: usize, others: usize) -> f64 {
        let computed = self.kind.elt_size_in_bytes() as f64;
        // In half precision, with what of each number is not computed with.
        let all = 4.0 + 4.0 * self.train.optimizer.moments() as f64;
        let each = if self.train.trainable.is_all() { all } else { computed };
        each * self.parameters(self.model, own) + computed * self.beside_at_once(others)
    }

    /// Multiplications and additions for a token, forward.
    pub fn products(&self) -> f64 {
        let config = &self.shapes.configs[self.model.0 as usize];
        let layer = config.width * (config.hidden * 3 + config.heads * config.head_width * 4);
        (layer * config.layers + config.vocabulary * config.width) as f64
    }

    /// Of its weights.
    pub fn bytes(&self) -> f64 {
        4.0 * Weights::parameters(&self.shapes.configs[self.model.0 as usize]) as f64
    }

    /// Of a completion, at most.
    fn turns(&self) -> u32 {
        self.train.producers().map(|producer| producer.kind().turns()).max().unwrap_or(1)
    }

    /// Tokens of a prompt and its completion, on average: of each turn but the first one also what is said
    /// before it.
    fn length(&self) -> f64 {
        let tokenizer = &self.shapes.tokenizers[self.model.0 as usize];
        let prompt = |share: &Share| {
            // They are known since the plan was checked.
            let tokens = self.domains[share.domain.0 as usize].rows_of(self.train)?.tokens(tokenizer).ok()?;
            Some(share.share * tokens.lengths().sum::<usize>() as f64 / tokens.len().max(1) as f64)
        };
        let pieces = 2 * self.turns() - 1;
        let length = self.train.mixture.iter().filter_map(prompt).sum::<f64>()
            + f64::from(self.completion) * f64::from(pieces);
        length.min(self.shapes.configs[self.model.0 as usize].context as f64)
    }
}
