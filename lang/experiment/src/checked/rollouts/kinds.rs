//! The kinds of sources of completions: the properties of each ([`RolloutSource::facts`]), the arguments that
//! decide what it draws ([`RolloutSource::arguments`]), and its description for people
//! ([`RolloutSource::described`]). Code that would match on all kinds reads these instead. The syntax of
//! each kind is declared in `check/builtins/rollouts.rs`.

use std::rc::Rc;

use super::{EnvironmentProgram, ReplayContents, Rollout, RolloutEngine, Sampling, Temperature};
use crate::checked::formula::{Formula, Role, text};
use crate::checked::{Capability, ModelId, Template};

#[derive(Clone, Debug, PartialEq)]
pub enum RolloutSource {
    /// The student's completions, sampled at every step.
    Sample(Sampling),
    /// The student's completions, sampled at every step by a server with the weights of that step, or with
    /// `every` of less than `every` steps before.
    SampledBy { server: Rc<RolloutEngine>, of: Rc<Rollout>, every: u32 },
    /// A parameter of an objective that has no value yet: any rollout.
    Parameter { name: String, sampling: Sampling },
    /// A teacher's completions; with `sequences`, generated once before the first step.
    From { teacher: Role, sees: Option<Rc<Template>>, sequences: Option<u32>, sampling: Sampling },
    /// A field of the data.
    Data { field: String },
    /// Each sequence from `first` with probability `share`, else from `second`.
    Mix { share: Formula, first: Rc<Rollout>, second: Rc<Rollout> },
    /// Each token from alpha * teacher + (1 - alpha) * student.
    TokenMix { alpha: Formula, of: Rc<Rollout> },
    /// The student proposes; the teacher replaces tokens outside its own top k.
    Interleave { top_k: u32, of: Rc<Rollout> },
    /// A teacher rewrites the student's draft.
    Refine { by: Role, sees: Option<Rc<Template>>, of: Rc<Rollout> },
    /// A model as it is before the run, sampled once.
    Snapshot { model: ModelId, of: Rc<Rollout> },
    /// Part of every batch comes from a buffer.
    Replay(Replay),
    /// The student drafts blocks, the teacher verifies them.
    Speculative { block: u32, of: Rc<Rollout> },
    /// A program answers between the student's turns.
    Turns(Turns),
    /// Blocks are filled over several denoising steps.
    Denoise { steps: u32, block: u32, of: Rc<Rollout> },
    /// Prompts made from a group's completions.
    Derived { template: Rc<Template>, of: Rc<Rollout> },
    /// For each prompt, the first rollout that has a completion.
    FirstOf { choices: Vec<Rc<Rollout>> },
    /// One prompt per turn of a recorded trajectory: the turns before it are given.
    EachTurn { history: Rc<Rollout>, of: Rc<Rollout> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    pub capacity: u32,
    pub share: Formula,
    pub keeps: ReplayContents,
    /// The condition to enter the buffer and stay in it; per group.
    pub condition: Option<Formula>,
    /// Smallest numbers first; oldest first where absent. Per group.
    pub order: Option<Formula>,
    pub of: Rc<Rollout>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Turns {
    pub environment: EnvironmentProgram,
    /// The limit for one reply.
    pub time_limit_seconds: f64,
    /// Files and folders that the program depends on besides its sources.
    pub depends: Vec<String>,
    pub at_most: Formula,
    pub of: Rc<Rollout>,
}

/// Properties that every source has, whatever its kind.
pub struct SourceFacts<'a> {
    /// Its name in the language.
    pub name: &'static str,
    /// The rollouts whose completions it passes on, possibly changed.
    pub inner: Vec<&'a Rollout>,
    /// The author of its tokens.
    pub tokens: TokensOf<'a>,
    /// The rollout from which its prompts are made.
    pub history: Option<&'a Rollout>,
    /// Its sampling settings, where it samples itself.
    pub sampling: Option<&'a Sampling>,
    /// The role, other than the student, that writes some of the tokens.
    pub writer: Option<&'a Role>,
    /// The roles that write parts of the prompts that it makes.
    pub writers_of_prompts: Vec<&'a Role>,
    /// The capability that it needs of the routed teacher, where that teacher affects each token.
    pub asks_teacher: Option<Capability>,
    /// Its number that may change during training.
    pub moving: Option<MovingNumber<'a>>,
    /// The author's program that it starts.
    pub program: Option<AuthorProgram<'a>>,
    /// The model that writes the completions in its state before the run.
    pub earlier_model: Option<ModelId>,
    /// The formulas that select completions.
    pub decides_by: Vec<&'a Formula>,
}

/// A program of the author that a rollout starts.
pub struct AuthorProgram<'a> {
    /// Such as `environment`.
    pub kind: &'static str,
    pub command: &'a str,
    /// The files that its results depend on.
    pub depends: &'a [String],
}

/// The author of a source's tokens.
#[derive(Clone, Copy)]
pub enum TokensOf<'a> {
    /// The student of this step.
    Student(&'a Sampling),
    /// Another role.
    By(&'a Role, &'a Sampling),
    /// No model: they are read from data.
    Data,
    /// Unknown: the source is a parameter.
    Open,
    /// A model in its state before the run.
    OfModel,
    /// The authors of the rollouts inside.
    Inside,
    /// As in the rollout inside, partly from earlier steps.
    Earlier,
    /// A mixture of the routed teacher and the student; the share is the teacher's.
    Mixture(&'a Formula),
    /// The student, with some tokens replaced. The text says why the sampler's probability is lost, if it is.
    Changed(Option<&'static str>),
}

/// An argument that determines what a source draws.
pub enum RolloutArgument<'a> {
    Rollout(&'a Rollout),
    Formula(&'a Formula),
    Template(&'a Template),
    Sampling(&'a Sampling),
    Count(u32),
    Word(&'a str),
    /// In quotes.
    Text(&'a str),
}

/// A number that may change during training.
pub struct MovingNumber<'a> {
    pub formula: &'a Formula,
    /// Its description, for people.
    pub what: &'static str,
    pub range: MovingRange,
}

/// The range of a number that may change during training.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MovingRange {
    /// From 0 to 1.
    Share,
    Tokens,
    Turns,
}

fn share<'a>(formula: &'a Formula, what: &'static str) -> Option<MovingNumber<'a>> {
    Some(MovingNumber { formula, what, range: MovingRange::Share })
}

fn longest(sampling: &Sampling) -> Option<MovingNumber<'_>> {
    Some(MovingNumber { formula: &sampling.max_tokens, what: "`max_tokens`", range: MovingRange::Tokens })
}

impl<'a> SourceFacts<'a> {
    fn new(name: &'static str, inner: &[&'a Rollout], tokens: TokensOf<'a>) -> SourceFacts<'a> {
        SourceFacts {
            name,
            inner: inner.to_vec(),
            tokens,
            history: None,
            sampling: None,
            writer: None,
            writers_of_prompts: Vec::new(),
            asks_teacher: None,
            moving: None,
            program: None,
            earlier_model: None,
            decides_by: Vec::new(),
        }
    }
}

impl RolloutSource {
    pub fn facts(&self) -> SourceFacts<'_> {
        use RolloutSource as Source;
        match self {
            Source::Sample(sampling) => SourceFacts {
                sampling: Some(sampling),
                moving: longest(sampling),
                ..SourceFacts::new("sample", &[], TokensOf::Student(sampling))
            },
            Source::SampledBy { of, every, .. } => {
                let tokens = if *every > 1 { TokensOf::Earlier } else { TokensOf::Inside };
                SourceFacts::new("sampled_by", &[of], tokens)
            }
            Source::Parameter { sampling, .. } => {
                SourceFacts { sampling: Some(sampling), ..SourceFacts::new("sample", &[], TokensOf::Open) }
            }
            Source::From { teacher, sampling, .. } => SourceFacts {
                sampling: Some(sampling),
                writer: Some(teacher),
                moving: longest(sampling),
                ..SourceFacts::new("from", &[], TokensOf::By(teacher, sampling))
            },
            Source::Data { .. } => SourceFacts::new("data", &[], TokensOf::Data),
            Source::Mix { share: moves, first, second } => SourceFacts {
                moving: share(moves, "the share of a `mix`"),
                ..SourceFacts::new("mix", &[first, second], TokensOf::Inside)
            },
            Source::TokenMix { alpha, of } => SourceFacts {
                asks_teacher: Some(Capability::Distribution),
                moving: share(alpha, "`alpha` of a `token_mix`"),
                ..SourceFacts::new("token_mix", &[of], TokensOf::Mixture(alpha))
            },
            Source::Interleave { top_k, of } => SourceFacts {
                asks_teacher: Some(Capability::TopK(*top_k)),
                ..SourceFacts::new(
                    "interleave",
                    &[of],
                    TokensOf::Changed(Some("a teacher replaced some of the tokens")),
                )
            },
            Source::Refine { by, of, .. } => SourceFacts {
                writer: Some(by),
                ..SourceFacts::new(
                    "refine",
                    &[of],
                    TokensOf::Changed(Some("a teacher rewrote the student's draft")),
                )
            },
            Source::Snapshot { model, of } => SourceFacts {
                earlier_model: Some(*model),
                ..SourceFacts::new("snapshot", &[of], TokensOf::OfModel)
            },
            Source::Replay(Replay { share: moves, condition, order, of, .. }) => SourceFacts {
                moving: share(moves, "`share` of a `replay`"),
                decides_by: condition.iter().chain(order).collect(),
                ..SourceFacts::new("replay", &[of], TokensOf::Earlier)
            },
            Source::Speculative { of, .. } => SourceFacts {
                asks_teacher: Some(Capability::Distribution),
                ..SourceFacts::new(
                    "speculative",
                    &[of],
                    TokensOf::Changed(Some("the teacher that verifies drafts replaced some of the tokens")),
                )
            },
            Source::Turns(Turns { environment, depends, at_most, of, .. }) => SourceFacts {
                moving: Some(MovingNumber { formula: at_most, what: "`at_most`", range: MovingRange::Turns }),
                program: Some(AuthorProgram { kind: "environment", command: environment.command(), depends }),
                ..SourceFacts::new("turns", &[of], TokensOf::Inside)
            },
            Source::Denoise { of, .. } => SourceFacts::new("denoise", &[of], TokensOf::Changed(None)),
            Source::Derived { template, of } => SourceFacts {
                writers_of_prompts: template.writers(),
                ..SourceFacts::new("derived", &[of], TokensOf::Inside)
            },
            Source::FirstOf { choices } => {
                let choices: Vec<&Rollout> = choices.iter().map(Rc::as_ref).collect();
                SourceFacts::new("first_of", &choices, TokensOf::Inside)
            }
            // The turns before are context and not trained on.
            Source::EachTurn { history, of } => SourceFacts {
                history: Some(history),
                ..SourceFacts::new("each_turn", &[of], TokensOf::Inside)
            },
        }
    }

    /// Its name in the language.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }

    /// The rollouts inside.
    pub fn inner(&self) -> Vec<&Rollout> {
        let SourceFacts { mut inner, history, .. } = self.facts();
        inner.extend(history);
        inner
    }

    /// The arguments that determine what it draws, with their names in normal forms, the first ones without.
    pub fn arguments(&self) -> Vec<(&'static str, RolloutArgument<'_>)> {
        use RolloutArgument as Of;
        use RolloutSource as Source;
        let template = |template| ("sees", Of::Template(template));
        match self {
            Source::Sample(sampling) | Source::Parameter { sampling, .. } => {
                vec![("", Of::Sampling(sampling))]
            }
            Source::SampledBy { server, of, every } => {
                let mut arguments = vec![("", Of::Rollout(of)), ("engine", Of::Text(&server.engine))];
                arguments.extend((*every > 1).then_some(("every", Of::Count(*every))));
                arguments
            }
            Source::From { teacher, sees, sequences, sampling } => {
                let mut arguments = vec![("", Of::Word(teacher.name()))];
                arguments.extend(sees.as_deref().map(template));
                arguments.extend(sequences.map(|sequences| ("sequences", Of::Count(sequences))));
                arguments.push(("", Of::Sampling(sampling)));
                arguments
            }
            Source::Data { field } => vec![("", Of::Word(field))],
            Source::Mix { share, first, second } => {
                vec![("", Of::Rollout(first)), ("", Of::Rollout(second)), ("share", Of::Formula(share))]
            }
            Source::TokenMix { alpha, of } => vec![("", Of::Rollout(of)), ("alpha", Of::Formula(alpha))],
            Source::Interleave { top_k, of } => vec![("", Of::Rollout(of)), ("top_k", Of::Count(*top_k))],
            Source::Refine { by, sees, of } => {
                let mut arguments = vec![("", Of::Rollout(of)), ("by", Of::Word(by.name()))];
                arguments.extend(sees.as_deref().map(template));
                arguments
            }
            Source::Snapshot { model, of } => vec![("", Of::Rollout(of)), ("model", Of::Count(model.0))],
            Source::Replay(Replay { capacity, share, keeps, condition, order, of }) => {
                let keeps = match keeps {
                    ReplayContents::Rollouts => "rollouts",
                    ReplayContents::Prompts => "prompts",
                };
                let mut arguments = vec![
                    ("", Of::Rollout(of)),
                    ("capacity", Of::Count(*capacity)),
                    ("share", Of::Formula(share)),
                    ("keeps", Of::Word(keeps)),
                ];
                arguments.extend(condition.iter().map(|condition| ("where", Of::Formula(condition))));
                arguments.extend(order.iter().map(|order| ("order", Of::Formula(order))));
                arguments
            }
            Source::Speculative { block, of } => vec![("", Of::Rollout(of)), ("block", Of::Count(*block))],
            Source::Turns(Turns { environment, at_most, of, .. }) => {
                let mut arguments = vec![("", Of::Rollout(of)), ("with", Of::Text(environment.command()))];
                if let EnvironmentProgram::Python { class, .. } = environment {
                    arguments.push(("class", Of::Word(class)));
                }
                arguments.push(("at_most", Of::Formula(at_most)));
                arguments
            }
            Source::Denoise { steps, block, of } => {
                vec![("", Of::Rollout(of)), ("steps", Of::Count(*steps)), ("block", Of::Count(*block))]
            }
            Source::Derived { template, of } => {
                vec![("", Of::Template(template)), ("from", Of::Rollout(of))]
            }
            Source::FirstOf { choices } => choices.iter().map(|choice| ("", Of::Rollout(choice))).collect(),
            Source::EachTurn { history, of } => vec![("", Of::Rollout(history)), ("", Of::Rollout(of))],
        }
    }

    /// A description for people; `exact` formats its numbers. Of nested rollouts, only the outermost is
    /// described, with the sampling of the innermost.
    pub fn described(&self, exact: &dyn Fn(&Formula) -> String) -> String {
        let sampling =
            || self.facts().sampling.or_else(|| self.inner().into_iter().find_map(Rollout::sampling));
        let drawn = || sampling().map(|sampling| format!(" ({})", shape(sampling))).unwrap_or_default();
        match self {
            RolloutSource::Data { field } => format!("data (field `{field}`)"),
            RolloutSource::Parameter { name, .. } => format!("the rollout `{name}`"),
            RolloutSource::Sample(sampling) => {
                format!("student rollouts ({} per prompt, {})", sampling.n, shape(sampling))
            }
            RolloutSource::SampledBy { server, of, every } => {
                let (of, RolloutEngine { engine, model, .. }) = (of.source.described(exact), &**server);
                let weights = match every {
                    0 | 1 => "the weights of each step".to_owned(),
                    2 => "weights at most 1 update old".to_owned(),
                    every => format!("weights at most {} updates old", every - 1),
                };
                format!("{of}, sampled by the server of {model:?} ({engine}) with {weights}")
            }
            RolloutSource::From { teacher, sequences, sampling, .. } => {
                let fresh = if sequences.is_some() { "made once" } else { "fresh every step" };
                format!("{} rollouts ({fresh}, {})", teacher.name(), shape(sampling))
            }
            RolloutSource::Mix { share, first, second } => {
                format!(
                    "{} in a share of {}, else {}",
                    first.source.name(),
                    exact(share),
                    second.source.name()
                )
            }
            RolloutSource::TokenMix { alpha, .. } => {
                format!("tokens from {} * teacher + the rest of student{}", exact(alpha), drawn())
            }
            RolloutSource::Interleave { top_k, .. } => {
                format!("student rollouts{}, tokens outside the teacher's top {top_k} replaced", drawn())
            }
            RolloutSource::Refine { by, .. } => {
                format!("student rollouts{}, rewritten by {}", drawn(), by.name())
            }
            RolloutSource::Snapshot { .. } => format!("rollouts of an earlier model{}, made once", drawn()),
            RolloutSource::Replay(Replay { share, of, .. }) => {
                format!("{}, replayed in a share of {}", of.source.described(exact), exact(share))
            }
            RolloutSource::Speculative { block, .. } => {
                format!("student drafts of {block} tokens{}, verified by teacher", drawn())
            }
            RolloutSource::Turns(Turns { environment, at_most, .. }) => {
                format!("at most {} student turns{} with `{environment}` in between", exact(at_most), drawn())
            }
            RolloutSource::Denoise { steps, block, .. } => {
                format!("student blocks of {block} tokens{}, denoised in {steps} steps", drawn())
            }
            RolloutSource::FirstOf { choices } => {
                let choices: Vec<&str> = choices.iter().map(|choice| choice.source.name()).collect();
                format!("the first with completions of {}", choices.join(", "))
            }
            RolloutSource::EachTurn { history, .. } => {
                let n = sampling().map_or(1, |sampling| sampling.n);
                let turns = history.source.described(exact);
                format!("student turns ({n} for each of the assistant's in {turns}){}", drawn())
            }
            RolloutSource::Derived { template, .. } => {
                format!("prompts made by `{}` from student rollouts{}", template.name, drawn())
            }
        }
    }
}

/// The sampling settings as text, as far as they change the model's distribution.
fn shape(sampling: &Sampling) -> String {
    let penalty = sampling.repetition_penalty.filter(|penalty| *penalty != 1.0);
    let temperature = match sampling.temperature() {
        Temperature::Constant(0.0) => "greedy".to_owned(),
        temperature => format!("temperature {temperature}"),
    };
    let shape = [
        temperature,
        sampling.top_k.map(|k| format!(", top_k {k}")).unwrap_or_default(),
        sampling
            .top_p
            .filter(|p| *p < 1.0)
            .map(|p| format!(", top_p {}", text::number(p)))
            .unwrap_or_default(),
        penalty.map(|penalty| format!(", repetition penalty {}", text::number(penalty))).unwrap_or_default(),
    ];
    shape.concat()
}
