//! The table of the numbers of a training step, which are columns of `metrics.parquet`. To add one, add its
//! row here, where reports show it, then set it: in the worker's metrics of a step, or in a hook of a
//! stage.

/// Gives the table to the macro `make`. A row has the column, the type of its value, what it is a number of
/// with the title and the unit of its curve, and how rows are combined; `guard` if guards can read it.
#[macro_export]
macro_rules! step_metrics {
    ($make:ident) => {
        $make! {
            /// Mean reward of the completions, in [0, 1].
            reward: Option<f64>, Domain("Reward", "mean reward"), Completions, guard(Reward: Real);
            /// Number of completions that `keep` dropped; no other metric includes them.
            dropped: Option<f64>, Domain("Completions dropped by `keep`", "completions"), Sum;
            /// Mean over completion tokens of log p_student - log p_teacher, in nats; signed.
            divergence: Option<f64>, Domain("Divergence from the teacher", "nats per token"), Tokens,
                guard(Divergence: Nats);
            /// The numerical noise in `divergence`: mean over completion tokens of |log p_student - log
            /// p_student|, computed once during sampling and once as for the divergence. Absent unless the
            /// current student sampled the tokens at temperature 1.
            divergence_floor: Option<f64>, Hidden, Tokens;
            /// Mean over completion tokens of the student's entropy, in nats.
            entropy: Option<f64>, Domain("Entropy of the student", "nats per token"), Tokens, guard(Entropy: Nats);
            /// Mean tokens of a completion.
            length: Option<f64>, Domain("Completion length", "tokens"), Completions, guard(Length: Count);
            /// Completion tokens that were trained on.
            tokens: Option<f64>, Hidden, Sum;
            /// Share of completions that were cut off before an end token.
            truncated: Option<f64>, Domain("Truncated completions", "fraction"), Completions,
                guard(Truncated: Fraction);
            /// Mean over completion tokens of |signal|.
            signal_mean: Option<f64>, Domain("Mean absolute signal", "mean per token"), Tokens,
                guard(SignalMean: Number);
            /// Fraction of completion tokens where a `clip` of the objective is at its bound.
            clipped_fraction: Option<f64>, Domain("Clipped tokens", "fraction"), Tokens,
                guard(ClippedFraction: Fraction);
            /// Factor by which `by domain` multiplies the loss of the domain's tokens, or would if it only
            /// observes.
            domain_weight: Option<f64>, Domain("Weight of the domain in the loss", "factor"), Tokens;
            /// For speculative decoding: the accepted share of the verified drafted tokens.
            accepted: Option<f64>, Domain("Acceptance rate of drafted tokens", "fraction"), Tokens;
            /// For speculative decoding: the tokens of a completion per draft.
            accepted_length: Option<f64>, Domain("Tokens per draft", "tokens"), Tokens;
            /// Where a step draws up to two tokens: tokens of the completions per decoding step.
            tokens_per_step: Option<f64>, Domain("Tokens per step of the decoder", "tokens"), Tokens;
            /// Where the objective reads `agreement`: mean similarity of the teachers' continuations to the
            /// row's blocks.
            agreement: Option<f64>,
                Domain("Agreement of teachers' continuations with the student's blocks", "fraction"), Tokens;
            /// Where the objective reads whether other models' completions of the same prompts are correct:
            /// the share that is.
            correct_of_others: Option<f64>, Domain("Accuracy of other models on the prompts", "fraction"), Tokens;
            /// Number of completions for which some teacher had no input, if the objective reads
            /// `available`.
            unavailable: Option<f64>, Domain("Completions without a teacher score", "completions"), Sum;
            /// Number of panel members, over all prompts, that were to state a confidence but did not.
            unstated: Option<f64>, Domain("Missing confidences of panel members", "count"), Sum;
            /// Where prompts are derived from completions: the share of completions of such prompts.
            derived: Option<f64>, Domain("Completions of derived prompts", "fraction"), Completions;
            /// Where rollouts are replayed: the share of completions that come, or whose prompts come, from
            /// a buffer.
            replayed: Option<f64>, Domain("Replayed completions", "fraction"), Completions;
            /// Where a server samples rollouts: the mean age of its weights, in updates.
            staleness: Option<f64>, Domain("Age of the weights that sampled", "updates"), Completions;
            /// Over the tokens that the student's current weights drew, from the whole distribution at the
            /// objective's temperature: mean of |trainer's log p - sampler's log p|.
            sampler_gap: Option<f64>,
                Domain("Gap between the sampler's and the trainer's log-probabilities, mean", "nats"), Tokens;
            /// Over the same tokens: its maximum.
            sampler_gap_max: Option<f64>,
                Domain("Gap between the sampler's and the trainer's log-probabilities, maximum", "nats"), Max;
            /// Over the same tokens: the mean of exp(trainer's - sampler's), which is 1 up to chance.
            sampler_ratio: Option<f64>,
                Domain("Trainer's probability of the drawn tokens / sampler's, mean", "ratio"), Tokens;
            /// Where the stage chooses its prompts: the number chosen from the domain.
            chosen_prompts: Option<f64>, Domain("Chosen prompts", "prompts"), Tokens;
            /// Where the stage chooses its prompts: the mean of their last measured `priority`.
            priority: Option<f64>, Domain("Mean priority of the chosen prompts", "priority"), Tokens;
            /// Fraction of the step's prompts, over all rows of these terms.
            prompt_share: f64, Domain, Share;
            /// Fraction of the step's completion tokens, over all rows of these terms.
            token_share: f64, Domain, Share, guard(TokenShare: Fraction);
            /// Fraction of the step's sum of |signal| over completion tokens, over all rows of these terms.
            signal_share: Option<f64>, Domain, Share, guard(SignalShare: Fraction);
            /// Loss of the whole step, all domains and terms together.
            loss: f64, Step("Training loss", "loss"), Step, guard(Loss: Number);
            /// If it was computed before the step: mean -log p of the tokens of validation rows, in nats.
            validation_loss: Option<f64>, Step("Validation loss", "nats per token"), Step,
                guard(ValidationLoss: Nats);
            /// Global norm of the step's gradient before clipping.
            gradient_norm: f64, Step("Gradient norm before clipping", "norm"), Step, guard(GradientNorm: Real);
            /// Where single elements of the weights train: their share of all elements.
            trained_share: Option<f64>, Step("Elements of the weights that train", "fraction"), Step;
            learning_rate: f64, Step("Learning rate", "learning rate"), Step;
            /// The sampling temperature of the completions, where it changes during training.
            temperature: Option<f64>, Step("Sampling temperature", "temperature"), Step;
            /// The value used in the step, where a setting is `learned`.
            learned: Option<f64>, Step("Learned share (`learned`)", "fraction"), Step;
            /// Where the weights were extrapolated after the step: the factor on the change since the last
            /// time, 1 if no candidate was better.
            extrapolated: Option<f64>, Step("Extrapolation of weights", "changes since the last time"), Step;
            /// Where the weights were extrapolated: the benchmark's score there.
            judged: Option<f64>, Step("Benchmark score for extrapolation", "mean reward"), Step;
            /// Where the student has experts: the entropy of the experts' shares of tokens, divided by its
            /// maximum and averaged over layers.
            expert_entropy: Option<f64>, Step("Normalized entropy of expert load", "fraction of the maximum"), Step;
            /// Where the student has experts: the largest share of an expert.
            expert_largest_share: Option<f64>, Step("Largest expert load", "fraction"), Step;
            /// Wall time of the whole step.
            seconds: f64, Step("Step time", "seconds"), Step;
            /// The part of `seconds` for rollouts and their rewards.
            rollout_seconds: f64, Hidden, Step;
            /// The part of `seconds` for forward passes of all models.
            scoring_seconds: f64, Hidden, Step;
            /// The part of `seconds` for the gradient and the update.
            update_seconds: f64, Hidden, Step;
            /// Time at the end of the step, in seconds since 1970.
            time: Option<f64>, Hidden, Step;
            /// Resident memory of the worker at that time, in bytes; absent where the system does not
            /// report it.
            memory: Option<u64>, Step("Memory of the worker, with all stages at work", "GiB"), Step;
        }
    };
}
