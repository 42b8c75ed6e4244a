//! The objective as code of the plugin, and which numbers of verl it reads.
//!
//! The plugin calls the objective once per update, on the numbers of the whole batch (`mopd_verl.py`), so
//! every operation of a graph can be exported. What can't are numbers that verl's processes do not have.

use std::cell::RefCell;

use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::roles::Role;
use mopd_expr::signals::{Axis, Distribution, Live, ModelSignal, Signal, Support};
use mopd_plan::{DataFormula, Dtype, Objective, Trainable};
use serde_json::{Map, Value, json};

use super::super::coverage::Coverage;
use super::super::numbers::{DistributionNumbers, EngineNumber, Summands, live_number, number};
use super::super::stage::{ExportSettings, ExportedTeacher};
use super::super::updates::rate;
use super::super::{live_text, objective_header, torch};

/// Where the teacher's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeacherSource {
    /// The objective reads no teacher.
    None,
    /// verl's teacher servers score the sampled tokens.
    Sampled,
    /// verl's teacher servers return this many of the most probable entries.
    Entries(u32),
    /// The training processes hold the teachers.
    Held,
}

impl TeacherSource {
    pub fn is_served(self) -> bool {
        matches!(self, TeacherSource::Sampled | TeacherSource::Entries(_))
    }
}

/// The objective as code of the plugin, and the settings that follow from it.
pub struct PluginObjective {
    pub code: String,
    pub teacher: TeacherSource,
}

pub fn objective(settings: &ExportSettings, coverage: &mut Coverage) -> Option<PluginObjective> {
    let objective = &settings.train.objective;
    let at = settings.origins.objective;
    let before = coverage.refused().count();
    let sampling = settings.sampling?;
    carried(objective, settings, coverage);
    followers(settings, coverage);
    let teacher = match teacher_source(objective) {
        TeacherSource::None => TeacherSource::None,
        // verl's teacher servers read the student's prompt, and keep their weights.
        _ if settings.teachers.iter().any(|each| each.sees.is_some() || each.copy.is_some()) => {
            TeacherSource::Held
        }
        source => source,
    };
    let names = Names {
        settings,
        teacher,
        rollout: sampling.temperature.constant()?,
        policy: objective.temperature.constant()?,
        summands: Summands::default(),
        distributions: DistributionNumbers::default(),
        columns: RefCell::default(),
        reads: RefCell::default(),
    };
    let mut live: Vec<Value> = Vec::new();
    for primitive in &objective.live {
        let construct = format!("`{}`", live_text(&primitive.primitive));
        let spec = known(&primitive.primitive.roles())
            .and_then(|()| of_this_update(&primitive.primitive.roles(), settings))
            .and_then(|()| live_number(&primitive.primitive, &names.summands));
        match spec {
            Ok(spec) => {
                coverage.exact(construct, primitive.origin);
                live.push(spec);
            }
            Err(why) => coverage.refuse(construct, primitive.origin, why),
        }
    }
    let body = torch::loss(objective, &|signal| names.name(signal));
    match &body {
        Ok(_) => {
            let how = "of the whole batch in each process";
            coverage.exact(format!("objective `{}`, {how}", objective.name), at);
        }
        Err(found) => {
            found.iter().for_each(|line| coverage.refuse(line.construct.clone(), at, line.why.clone()));
        }
    }
    if settings.train.options.mini_batches > 1 && joins_groups(&objective.graph, objective.loss) {
        let why = "verl divides a batch into mini-batches by length, without regard to groups \
                   (`_balance_batch` in verl/trainer/ppo/v1/trainer_base.py)";
        coverage.refuse("numbers of a group with several `mini_batches`", at, why);
    }
    sources(teacher, objective, settings, coverage);
    let rate = rate(settings, coverage);
    let (body, rate) = (body.ok()?, rate?);
    if coverage.refused().count() > before {
        return None;
    }
    let code = names.code(&live, &body, &rate);
    Some(PluginObjective { code, teacher })
}

/// Reports where the other models' numbers come from.
fn sources(
    teacher: TeacherSource,
    objective: &Objective,
    settings: &ExportSettings,
    coverage: &mut Coverage,
) {
    let at = settings.origins.objective;
    if objective.reads(Role::TEACHER) && settings.teachers.is_empty() {
        coverage.refuse("`teacher`", at, "no teacher of the stage can be exported");
        return;
    }
    match teacher {
        TeacherSource::None => {}
        TeacherSource::Sampled => coverage.exact("`teacher.logp`, by verl's teacher servers", at),
        TeacherSource::Entries(k) => {
            coverage.exact(format!("the teacher's {k} most probable entries, by verl's teacher servers"), at);
        }
        TeacherSource::Held => coverage.exact(
            "the teacher's whole distribution, by teachers that the training processes hold together",
            at,
        ),
    }
    if objective.reads(Role::Sampler) && distribution_of_sampler(objective) {
        let how = "the student's distribution before the step; verl records the sampler's log-probability of \
                   the sampled token only";
        coverage.approximate("`sampler`", at, how);
    }
}

/// Refuses teachers whose prompts or weights the plugin can't make.
fn followers(settings: &ExportSettings, coverage: &mut Coverage) {
    for ExportedTeacher { name, sees, copy, origin, .. } in &settings.teachers {
        if let Some(view) = sees {
            let construct = format!("{name} with the template `{}`", view.name);
            if view.of_completions() {
                let why = "the exporter fills templates before the run, from the rows alone";
                coverage.refuse(construct, *origin, why);
            } else if view.moves() && settings.train.options.updates_per_batch() > 1 {
                let why = "its share of a slot changes with the update, and verl's rows are of a batch";
                coverage.refuse(construct, *origin, why);
            } else {
                coverage.exact(construct, *origin);
            }
        }
        if copy.is_some() {
            let construct = format!("{name}, a copy of the student");
            if matches!(settings.train.trainable, Trainable::Adapter(_)) {
                let why = "the exporter does not support copies of an adapter";
                coverage.refuse(construct, *origin, why);
            } else {
                coverage.exact(construct, *origin);
            }
        }
    }
}

/// Refuses the values of an objective that are carried from step to step.
fn carried(objective: &Objective, settings: &ExportSettings, coverage: &mut Coverage) {
    for state in &objective.states {
        let why = "the engine's checkpoints do not contain it (`FSDPCheckpointManager` in \
                   verl/utils/checkpoint/fsdp_checkpoint_manager.py)";
        coverage.refuse(format!("`state {}`", state.name), state.origin, why);
    }
    if objective.learned.is_some() || !objective.ladders.is_empty() {
        let why = "verl's rollout has constant settings (`generate_sequences` in \
                   verl/trainer/ppo/v1/agent_loop_tq.py)";
        coverage.refuse("settings that adapt during the run", settings.origins.objective, why);
    }
    if objective.chosen.is_some() {
        let why = "the exporter has one block for each completion";
        coverage.refuse("numbers per block", settings.origins.objective, why);
    }
    for scorer in settings.train.scorers.named() {
        let why = "in the engines, each prompt has one teacher";
        coverage.refuse(
            format!("`{}`, a teacher that the objective names", scorer.name),
            settings.origins.objective,
            why,
        );
    }
}

/// The numbers of one objective, by their names in the plugin.
struct Names<'a> {
    settings: &'a ExportSettings<'a>,
    teacher: TeacherSource,
    /// The temperatures of sampling, and of the log-probabilities that the objective reads.
    rollout: f64,
    policy: f64,
    summands: Summands,
    distributions: DistributionNumbers,
    /// What verl has, by the name of its column.
    columns: RefCell<Map<String, Value>>,
    reads: RefCell<Vec<String>>,
}

impl Names<'_> {
    fn name(&self, signal: &Signal) -> Result<String, String> {
        let name = match self.column(signal)? {
            Some((name, column)) => {
                self.columns.borrow_mut().insert(name.clone(), json!(column));
                name
            }
            None => self.computed(signal)?,
        };
        let mut reads = self.reads.borrow_mut();
        if !reads.contains(&name) {
            reads.push(name.clone());
        }
        Ok(name)
    }

    /// The column of verl that has a signal, if one has.
    fn column(&self, signal: &Signal) -> Result<Option<(String, &'static str)>, String> {
        let Signal::Of { role, part: ModelSignal::Logp } = signal else { return Ok(None) };
        let column = match *role {
            Role::TEACHER if self.teacher == TeacherSource::Sampled => "teacher_logprobs",
            Role::Sampler => {
                let plain = self.settings.sampling.is_some_and(mopd_plan::Sampling::is_plain);
                if !plain {
                    let why = "with `top_p` or `top_k`, tokens are sampled from a truncated distribution, not the \
                               scored one";
                    return Err(why.to_owned());
                }
                "rollout_log_probs"
            }
            // With one update per batch, the student before the update is the old one.
            Role::Old if self.settings.train.options.mini_batches > 1 => {
                if (self.policy - self.rollout).abs() > 1e-12 {
                    let why = "verl computes `old_log_probs` at the rollout's temperature (`_compute_old_log_prob` in \
                               verl/trainer/ppo/v1/trainer_base.py)";
                    return Err(why.to_owned());
                }
                "old_log_probs"
            }
            _ => return Ok(None),
        };
        Ok(Some((format!("{}.logp", role.name()), column)))
    }

    fn computed(&self, signal: &Signal) -> Result<String, String> {
        known(&signal.roles())?;
        match number(signal, &self.summands)? {
            Some(EngineNumber::Named(name)) => Ok(name.to_owned()),
            Some(EngineNumber::Distribution(spec)) => {
                of_this_update(&signal.roles(), self.settings)?;
                Ok(self.distributions.name(signal, spec))
            }
            None => self.of_row(signal),
        }
    }

    /// What verl has of the prompt's row.
    fn of_row(&self, signal: &Signal) -> Result<String, String> {
        match signal {
            Signal::DomainPlace => Ok("domain".to_owned()),
            Signal::Data { .. } | Signal::DataIs { .. } => {
                Ok(DataFormula::of_signal(signal).expect("it is one of the data").text())
            }
            Signal::Uniform { .. } => Err("mopd generates its random numbers".to_owned()),
            Signal::RewardPart { .. } => Err("verl's reward is one number (`_compute_score` in \
                                              verl/experimental/agent_loop/agent_loop.py)"
                .to_owned()),
            _ => Err("verl's training processes do not have it (`_agent_loop_postprocess` in \
                      verl/trainer/ppo/v1/agent_loop_tq.py)"
                .to_owned()),
        }
    }

    fn code(&self, live: &[Value], body: &str, rate: &str) -> String {
        let settings = self.settings;
        let objective = &settings.train.objective;
        let models = models(settings, self.teacher);
        let graph_roles = objective.graph.signals(&[objective.loss]).into_iter().flat_map(|signal| {
            if matches!(self.column(&signal), Ok(None)) { signal.roles() } else { Vec::new() }
        });
        let live_roles = objective.live.iter().flat_map(|live| live.primitive.roles());
        let of_others = |roles: Vec<Role>| {
            let mut names: Vec<String> = Vec::new();
            for role in roles.into_iter().filter(|role| matches!(role, Role::Scorer(_))) {
                if !names.contains(&role.name()) {
                    names.push(role.name());
                }
            }
            names
        };
        let in_both: Vec<Role> = live_roles.clone().chain(graph_roles).collect();
        let summands = self.summands.0.borrow();
        let functions: String = summands.iter().map(|code| format!("{code}\n\n")).collect();
        let table: Vec<String> = (0..summands.len()).map(|number| format!("summand{number}")).collect();
        let entries = match self.teacher {
            TeacherSource::Entries(k) => json!(k),
            _ => Value::Null,
        };
        let dtype = match settings.dtype {
            Dtype::Float32 => "fp32",
            Dtype::Bfloat16 => "bf16",
        };
        let domains: Vec<&str> = settings.domains.iter().map(|part| part.domain.name.as_str()).collect();
        let of_data: Vec<String> =
            settings.train.data_signals().iter().map(|(_, formula)| formula.text()).collect();
        let constants = [
            ("ROLES", json!(of_others(in_both))),
            ("LIVE_ROLES", json!(of_others(live_roles.collect()))),
            ("MODELS", models),
            ("ENTRIES", entries),
            ("DTYPE", json!(dtype)),
            ("DOMAINS", json!(domains)),
            ("STEPS", json!(settings.steps)),
            ("UPDATES", json!(settings.train.options.updates_per_batch())),
            ("LIVE", json!(live)),
            ("DISTRIBUTIONS", self.distributions.json()),
            ("COLUMNS", Value::Object(self.columns.borrow().clone())),
            ("OF_DATA", json!(of_data)),
            ("COMPLETIONS", json!(settings.groups.saturating_mul(settings.samples))),
            ("READS", json!(*self.reads.borrow())),
        ];
        let mut text = objective_header("verl 0.9.1", objective);
        for (name, number) in [("TEMPERATURE", self.policy), ("SAMPLING_TEMPERATURE", self.rollout)] {
            text += &format!("\n{name} = {}", torch::number(number));
        }
        for (name, value) in constants {
            text += &format!("\n{name} = {}", torch::literal(&value));
        }
        format!("{text}\n\n\n{functions}SUMMANDS = [{}]\n\n\n{body}\n\n{rate}", table.join(", "))
    }
}

/// The models that the training processes hold: for each role, by the key of the row's teacher, or, of
/// references, by its domain.
fn models(settings: &ExportSettings, teacher: TeacherSource) -> Value {
    let mut models = Map::new();
    if teacher == TeacherSource::Held {
        let each = |each: &ExportedTeacher| {
            let held = json!({
                "path": each.weights.path,
                "copy": each.copy,
                "template": each.sees.is_some(),
            });
            (each.key.clone(), held)
        };
        models.insert(Role::TEACHER.name(), Value::Object(settings.teachers.iter().map(each).collect()));
    }
    let as_it_is = |path: &str| json!({"path": path, "copy": null, "template": false});
    if let Some(reference) = &settings.reference {
        models.insert(Role::REFERENCE.name(), json!({"reference": as_it_is(&reference.path)}));
    } else if !settings.references.is_empty() {
        let paths = settings.references.iter().map(|(domain, each)| (domain.clone(), as_it_is(&each.path)));
        models.insert(Role::REFERENCE.name(), Value::Object(paths.collect()));
    }
    Value::Object(models)
}

/// Refuses roles that verl does not have.
fn known(roles: &[Role]) -> Result<(), String> {
    let known = |role: &Role| {
        matches!(*role, Role::Student | Role::Old | Role::Sampler | Role::TEACHER | Role::REFERENCE)
    };
    match roles.iter().all(known) {
        true => Ok(()),
        false => Err("in the engines, each prompt has one teacher".to_owned()),
    }
}

/// With one update per batch, `old` and the sampler have the student's weights before the update.
fn of_this_update(roles: &[Role], settings: &ExportSettings) -> Result<(), String> {
    if settings.train.options.mini_batches > 1
        && roles.iter().any(|role| matches!(role, Role::Old | Role::Sampler))
    {
        let why = "of the student before the first update from a batch, verl has the sampled tokens' \
                   log-probabilities (`_compute_old_log_prob` in verl/trainer/ppo/v1/trainer_base.py)";
        return Err(why.to_owned());
    }
    Ok(())
}

/// Where a teacher's numbers can come from, from the numbers that the objective reads.
fn teacher_source(objective: &Objective) -> TeacherSource {
    let signals = objective.graph.signals(&[objective.loss]);
    let lives = objective.live.iter().map(|live| &live.primitive);
    let of_teacher = |roles: &[Role]| roles.contains(&Role::TEACHER);
    if !objective.reads(Role::TEACHER) {
        return TeacherSource::None;
    }
    let read: Vec<&Signal> = signals.iter().filter(|signal| of_teacher(&signal.roles())).collect();
    let live: Vec<&Live> = lives.filter(|live| of_teacher(&live.roles())).collect();
    let at_one = objective.temperature.constant() == Some(1.0);
    let sampled = |signal: &&Signal| matches!(signal, Signal::Of { part: ModelSignal::Logp, .. }) && at_one;
    if live.is_empty() && read.iter().all(sampled) {
        return TeacherSource::Sampled;
    }
    let of_signals = read.iter().map(|signal| match signal {
        Signal::Of { role: Role::TEACHER, part: ModelSignal::Top1 } => Some(1),
        Signal::Mass { support, .. } => listed(support),
        Signal::Divergence(divergence) => listed_divergence(divergence),
        _ => None,
    });
    let of_live = live.iter().map(|live| match live {
        Live::Divergence(divergence) => listed_divergence(divergence),
        Live::Likelihood { of: Role::TEACHER } => Some(1),
        _ => None,
    });
    let entries: Option<Vec<u32>> = of_signals.chain(of_live).collect();
    entries.and_then(|entries| entries.into_iter().max()).map_or(TeacherSource::Held, TeacherSource::Entries)
}

/// The number of the teacher's entries that a divergence needs, if these are enough.
fn listed_divergence(divergence: &mopd_plan::Divergence) -> Option<u32> {
    let sampler = divergence.roles().contains(&Role::Sampler);
    let plain = |side: &Distribution| !matches!(side, Distribution::Blend(_));
    // The list is at temperature 1.
    let same = divergence.temperature.constant() == Some(1.0) && !sampler;
    if same && plain(&divergence.left) && plain(&divergence.right) {
        listed(&divergence.support)
    } else {
        None
    }
}

fn listed(support: &Support) -> Option<u32> {
    match support {
        Support::TopK { role: Role::TEACHER, k } => Some(*k),
        _ => None,
    }
}

/// Whether the objective reads more of the sampler than the sampled token's log-probability.
fn distribution_of_sampler(objective: &Objective) -> bool {
    let signals = objective.graph.signals(&[objective.loss]);
    let read = |signal: &Signal| {
        signal.roles().contains(&Role::Sampler)
            && !matches!(signal, Signal::Of { role: Role::Sampler, part: ModelSignal::Logp })
    };
    signals.iter().any(read)
        || objective.live.iter().any(|live| live.primitive.roles().contains(&Role::Sampler))
}

/// Whether some number depends on several completions of a group.
fn joins_groups(graph: &Graph, loss: NodeId) -> bool {
    let needed = graph.reachable(&[loss]);
    graph.nodes().filter(|(id, _)| needed[id.0 as usize]).any(|(_, node)| match &node.operation {
        Operation::Reduce { .. } => node.axis == Axis::Group,
        Operation::Statistic { over, .. } | Operation::Scan { over, .. } => *over == Axis::Group,
        _ => false,
    })
}
