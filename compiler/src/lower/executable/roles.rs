//! Finds the models that a stage uses by name: teachers that its objective reads or that write, and the
//! members of composed ones.

use mopd_experiment::formula::{Formula, FormulaKind, Role, WeightedRole};
use mopd_experiment::{
    self as checked, DomainId, PanelId, Pool, Slot, Teacher, TeacherId, TeacherWeights, Template,
    TemplatePiece, Train,
};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::producers::Writer;
use mopd_plan::{self as plan, Feedback, Producer, Rollout, Sampling, Scorer, Scorers, TeacherChoice, View};

use super::{derived, feedback, refused, teacher};
use crate::lower::refusal::{NamedScorer, Origins, StageRoles, SummedTeachers};

/// The scorers of a stage after the reference, each with the domains whose prompts it scores.
pub struct StageScorers {
    pub roles: StageRoles,
    domains: Vec<Vec<DomainId>>,
}

/// A scorer that was found, with prompts that it scores; its members are still to be found.
struct PendingScorer {
    scorer: NamedScorer,
    domains: Vec<DomainId>,
}

/// The search for a stage's scorers.
struct ScorerSearch<'a> {
    teachers: &'a [Teacher],
    /// All domains of the stage.
    all: Vec<DomainId>,
    found: StageScorers,
    pending: Vec<PendingScorer>,
}

/// Finds the scorers of a stage. Those that the objective reads come first, in its order.
pub fn find(train: &Train, experiment: &checked::Experiment) -> StageScorers {
    let teachers = experiment.teachers.as_slice();
    let all: Vec<DomainId> = train.mixture.iter().map(|share| share.domain).collect();
    let roles = StageRoles { domains: all.clone(), ..StageRoles::default() };
    let found = StageScorers { roles, domains: Vec::new() };
    let mut search = ScorerSearch { teachers, all: all.clone(), found, pending: Vec::new() };
    let whole = |teacher| NamedScorer { teacher, bare: false };
    for teacher in train.named_teachers() {
        search.read(whole(teacher), &all);
    }
    for choice in &train.teachers {
        let (scorer, domain) = (whole(choice.teacher), vec![choice.domain]);
        if summed(&teachers[choice.teacher.0 as usize]).is_some() {
            // The objective reads the members for every prompt.
            search.members(scorer, &all);
        } else {
            search.members(scorer, &domain);
        }
    }
    loop {
        while let Some(PendingScorer { scorer, domains }) = search.pending.pop() {
            search.members(scorer, &domains);
        }
        search.panels(experiment);
        search.writers(train);
        if search.pending.is_empty() {
            break;
        }
    }
    let mut found = search.found;
    if let [first, rest @ ..] = train.teachers.as_slice()
        && rest.iter().all(|choice| choice.teacher == first.teacher)
        && let Some(members) = summed(&teachers[first.teacher.0 as usize])
    {
        let name = teachers[first.teacher.0 as usize].name.clone();
        found.roles.sums.push(SummedTeachers { teacher: None, name, members: members.to_vec() });
    }
    let lacks = |teacher: TeacherId| {
        let teacher = &teachers[teacher.0 as usize];
        let written = panel_of(teacher).is_some() || teacher.feedback.is_some();
        written || teacher.sees.as_deref().is_some_and(may_lack)
    };
    let routed = train.teachers.iter().any(|choice| lacks(choice.teacher)).then_some(plan::Role::TEACHER);
    let named = found.roles.named.iter().enumerate().filter(|(_, scorer)| lacks(scorer.teacher));
    found.roles.learned = train.learned(teachers);
    found.roles.partial =
        routed.into_iter().chain(named.map(|(place, _)| plan::Role::named(place))).collect();
    found
}

/// Whether a template shows another completion of the group, which may be missing.
fn may_lack(template: &Template) -> bool {
    template.pieces.iter().any(|piece| match piece {
        TemplatePiece::Slot(slot) | TemplatePiece::First { slot, .. } | TemplatePiece::Last { slot, .. } => {
            matches!(slot, Slot::Group(_))
        }
        TemplatePiece::Text(_) | TemplatePiece::Number(_) | TemplatePiece::Anything => false,
    })
}

/// The panel that a teacher is a member of.
fn panel_of(teacher: &Teacher) -> Option<PanelId> {
    if let TeacherWeights::Panelist { panel, .. } = teacher.weights { Some(panel) } else { None }
}

/// The members of a `sum`.
fn summed(teacher: &Teacher) -> Option<&[WeightedRole<f64>]> {
    match &teacher.weights {
        TeacherWeights::Pooled { pool: Pool::Sum, members } => Some(members),
        _ => None,
    }
}

impl ScorerSearch<'_> {
    /// Records that a scorer scores the prompts of some domains.
    fn read(&mut self, scorer: NamedScorer, domains: &[DomainId]) {
        let known = &self.teachers[scorer.teacher.0 as usize];
        let StageScorers { roles, domains: recorded } = &mut self.found;
        if let Some(members) = summed(known) {
            let teacher = Some(scorer.teacher);
            if roles.sums.iter().all(|sum| sum.teacher != teacher) {
                let (name, members) = (known.name.clone(), members.to_vec());
                roles.sums.push(SummedTeachers { teacher, name, members });
                self.pending.push(PendingScorer { scorer, domains: domains.to_vec() });
            }
            return;
        }
        let place = roles.place(scorer).unwrap_or_else(|| {
            roles.named.push(scorer);
            recorded.push(Vec::new());
            recorded.len() - 1
        });
        let own = &mut recorded[place];
        let new: Vec<DomainId> = domains.iter().filter(|domain| !own.contains(domain)).copied().collect();
        if !new.is_empty() {
            own.extend(&new);
            self.pending.push(PendingScorer { scorer, domains: new });
        }
    }

    /// Records that the role's teacher, if it has one of its own, scores the prompts of some domains.
    fn read_role(&mut self, role: &Role, domains: &[DomainId]) {
        if let Role::Named { teacher, .. } = role {
            self.read(NamedScorer { teacher: *teacher, bare: false }, domains);
        }
    }

    /// Records the domains whose prompts a scorer scores, also for its members. Numbers that its weights
    /// depend on are needed for all prompts.
    fn members(&mut self, NamedScorer { teacher: id, bare }: NamedScorer, domains: &[DomainId]) {
        let teacher = &self.teachers[id.0 as usize];
        if !bare && teacher.temperature != 1.0 {
            return self.read(NamedScorer { teacher: id, bare: true }, domains);
        }
        let (formulas, members): (Vec<&Formula>, Vec<&Role>) = match &teacher.weights {
            TeacherWeights::Composed { logits, .. } => {
                logits.iter().map(|part| (&part.weight, &part.role)).unzip()
            }
            TeacherWeights::Pooled { members, .. } => {
                (Vec::new(), members.iter().map(|part| &part.role).collect())
            }
            _ => return,
        };
        members.into_iter().for_each(|role| self.read_role(role, domains));
        let all = self.all.clone();
        for part in formulas.into_iter().flat_map(Formula::parts) {
            if let FormulaKind::Signal(signal) = &part.0.kind {
                signal.roles().iter().for_each(|role| self.read_role(role, &all));
            }
        }
    }

    /// Adds all members of a panel for the prompts that any of them scores.
    fn panels(&mut self, experiment: &checked::Experiment) {
        for place in 0..self.found.roles.named.len() {
            let scorer = self.found.roles.named[place];
            let Some(panel) = panel_of(&self.teachers[scorer.teacher.0 as usize]) else {
                continue;
            };
            if !self.found.roles.panels.contains(&panel) {
                self.found.roles.panels.push(panel);
            }
            let domains = self.found.domains[place].clone();
            for member in &experiment.panels[panel.0 as usize].members {
                self.read(NamedScorer { teacher: *member, bare: false }, &domains);
            }
        }
    }

    /// Adds the writers of feedback about the completions that a teacher scores.
    fn writers(&mut self, train: &Train) {
        let routed = train.teachers.iter().map(|choice| (choice.teacher, vec![choice.domain]));
        let named = self.found.roles.named.iter().zip(&self.found.domains);
        let named = named.map(|(scorer, domains)| (scorer.teacher, domains.clone()));
        for (id, domains) in routed.chain(named).collect::<Vec<_>>() {
            let teacher = &self.teachers[id.0 as usize];
            if teacher.feedback.is_some() && !self.found.roles.feedback.contains(&id) {
                self.found.roles.feedback.push(id);
            }
            if let Some(writer) = feedback::writer(teacher) {
                self.read(NamedScorer { teacher: writer, bare: false }, &domains);
            }
        }
    }
}

impl StageScorers {
    /// The feedback of the stage, in the plan's form.
    pub fn feedback(&self, teachers: &[Teacher], origins: Origins) -> Result<Vec<Feedback>, Vec<Diagnostic>> {
        let each = self.roles.feedback.iter().map(|id| {
            let teacher = &teachers[id.0 as usize];
            let rollout = teacher.feedback.as_deref().expect("it is one that is written for");
            feedback::executable(teacher, rollout, origins).map_err(|refusal| vec![*refusal])
        });
        each.collect()
    }

    /// The panels of the stage, in the plan's form.
    pub fn stage_panels(&self, experiment: &checked::Experiment) -> Vec<plan::Panel> {
        let role = |member: &TeacherId| {
            let place = self.roles.place(NamedScorer { teacher: *member, bare: false });
            plan::Role::named(place.expect("all members of a panel are scorers"))
        };
        let panel = |panel: &PanelId| {
            let checked::Panel {
                name,
                members,
                rounds,
                sees: _,
                confidence,
                max_tokens,
                temperature,
                origin: _,
            } = &experiment.panels[panel.0 as usize];
            plan::Panel {
                name: name.clone(),
                members: members.iter().map(role).collect(),
                rounds: *rounds,
                sampling: Sampling::new(1, *temperature, *max_tokens),
                confidence: *confidence,
            }
        };
        self.roles.panels.iter().map(panel).collect()
    }

    /// The scorers of the stage, in the plan's form.
    pub fn scorers(
        &self,
        train: &Train,
        teachers: &[Teacher],
        origins: Origins,
    ) -> Result<Vec<Scorer>, Vec<Diagnostic>> {
        let scorers = self.roles.named.iter().zip(&self.domains).map(|(scorer, domains)| {
            let known = &teachers[scorer.teacher.0 as usize];
            let known_as = teacher::executable(*scorer, teachers, train, origins)?;
            let teacher::ExecutableTeacher { teacher, sees, own_tokens } = known_as;
            let name =
                if scorer.bare { format!("{} at temperature 1", known.name) } else { known.name.clone() };
            let choice = |domain: DomainId| TeacherChoice {
                domain,
                when: None,
                name: name.clone(),
                teacher: teacher.clone(),
                sees: sees.clone(),
                own_tokens,
            };
            // The choices are in the order of the mixture.
            let asked = train.mixture.iter().map(|share| share.domain);
            let choices = asked.filter(|domain| domains.contains(domain)).map(choice).collect();
            Ok(Scorer { name, choices })
        });
        scorers.collect()
    }
}

/// Refuses a `sum` of teachers for some prompts only: it is part of the objective, and scores all or none.
pub fn sums_in_route(train: &Train, teachers: &[Teacher], origins: Origins) -> Option<Diagnostic> {
    let sum = train.teachers.iter().find(|choice| summed(&teachers[choice.teacher.0 as usize]).is_some())?;
    let apart = train.teachers.iter().any(|choice| choice.teacher != sum.teacher);
    let name = &teachers[sum.teacher.0 as usize].name;
    let construct = format!("a route to `{name}`, teachers added up by `sum`, for some prompts only");
    apart.then(|| {
        let help = "route all prompts to it, or pool these teachers by `mixture` or `geometric`";
        (*refused(origins.span(sum.origin), construct)).help(help)
    })
}

/// Checks slots about completions. They can be filled only after completions are sampled and rewarded, for
/// models that read them then. `student` is the student's template.
fn unsupported_slots(
    rollout: &Rollout,
    scorers: &Scorers,
    student: Option<&View>,
    at: Span,
) -> Option<Diagnostic> {
    let producer = &rollout.producer;
    let judged = |view: &&View| view.has_feedback() || view.may_lack() || view.numbers().next().is_some();
    let debated = |view: &&View| view.panel().is_some();
    let choices = || scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    let of_scorers = || choices().filter_map(|choice| choice.sees.as_ref()).filter(judged);
    let student = student.filter(|view| view.of_completions());
    let shown =
        |view: &View| format!("the template `{}`, which shows the outcome of a completion,", view.name);
    let view = student.into_iter().chain(of_scorers()).next();
    if let Some(view) = view.filter(|_| !producer.is_drawn()) {
        let construct = format!("{} for completions of the data or for pairs", shown(view));
        return Some((*refused(at, construct)).help("train on sampled completions: `sample(...)`"));
    }
    if let Some((.., view)) = producer.writer_templates().find(|(.., view)| judged(view)) {
        return Some(*refused(at, format!("{} for a teacher that samples completions", shown(view))));
    }
    let writes = |writer: Writer| match writer {
        Writer::Student => student,
        Writer::Scorer(role) => {
            let views = scorers.choices(role).iter().filter_map(|choice| choice.sees.as_ref());
            views.into_iter().find(|view| judged(view) || debated(view))
        }
        Writer::Editor { .. } | Writer::Guide(_) | Writer::Model(_) => None,
    };
    if let Some(view) = producer.drawn().into_iter().find_map(|(writer, _)| writes(writer)) {
        let construct = format!("{} for the model that samples this completion", shown(view));
        let help = "sample from another model, or give it a template of its own: `from(..., sees: ...)`";
        return Some((*refused(at, construct)).help(help));
    }
    if let Some(view) = student.filter(|_| !producer.is_redrawn()) {
        let construct =
            format!("{} for a student that is trained on a fixed set of completions", shown(view));
        return Some(*refused(at, construct));
    }
    let own_tokens = |choice: &&TeacherChoice| choice.own_tokens;
    if let Some(view) = student.filter(|_| choices().any(|choice| choice.own_tokens)) {
        return Some(*refused(
            at,
            format!("{} together with a teacher that has another tokenizer", shown(view)),
        ));
    }
    let other = choices().filter(own_tokens).filter_map(|choice| choice.sees.as_ref()).find(judged)?;
    Some(*refused(at, format!("{} for a teacher that has another tokenizer", shown(other))))
}

/// Checks `{draft}`, which exists only in rollouts that refine drafts, for the model that refines them.
fn unsupported_draft(rollout: &Rollout, scorers: &Scorers, at: Span) -> Option<Diagnostic> {
    let producer = &rollout.producer;
    let shows = |choice: &TeacherChoice| choice.sees.as_ref().is_some_and(View::has_draft);
    let choices = scorers.iter().flat_map(|(_, scorer)| &scorer.choices).filter(|_| !producer.drafts());
    let of_scorers = choices.filter_map(|choice| choice.sees.as_ref());
    let writes_first = |writer: &Writer| !matches!(writer, Writer::Editor { .. });
    let of_writers =
        producer.writer_templates().filter(|(writer, ..)| writes_first(writer)).map(|(.., view)| view);
    if let Some(view) = of_scorers.chain(of_writers).find(|view| view.has_draft()) {
        let construct = format!(
            "the template `{}` with the slot `{{draft}}` for completions that have no draft",
            view.name
        );
        return Some((*refused(at, construct)).help("train on drafts that a teacher refines: `refine(...)`"));
    }
    let blind = producer.drawn().into_iter().any(|(writer, _)| match writer {
        Writer::Editor { sees: true, .. } => {
            !producer.writer_templates().all(|(writer, _, view)| writes_first(&writer) || view.has_draft())
        }
        Writer::Editor { editor, .. } => !scorers.choices(editor).iter().all(shows),
        Writer::Student | Writer::Scorer(_) | Writer::Guide(_) | Writer::Model(_) => false,
    });
    let help = "give it a template with the slot `{draft}`: `refine(..., sees: draft_shown)`";
    blind.then(|| (*refused(at, "`refine` by a teacher whose template has no slot `{draft}`")).help(help))
}

/// Checks the models that write. Completions are sampled token by token, which a composed model can't do. A
/// model that affects the student's tokens must read the student's prompt.
pub fn unsupported_writer(
    rollout: &Rollout,
    scorers: &Scorers,
    student: Option<&View>,
    at: Span,
) -> Option<Diagnostic> {
    // The length of an episode depends on what the student reads.
    let choices = || scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    if !rollout.producer.environments().is_empty() {
        if choices().any(|choice| choice.sees.is_some()) {
            return Some(*refused(at, "`turns` where a teacher reads another prompt than its student"));
        }
        if choices().any(|choice| choice.own_tokens) {
            return Some(*refused(at, "`turns` with a teacher that has another tokenizer"));
        }
    }
    if matches!(rollout.producer, Producer::Speculative(_)) {
        if choices().any(|choice| choice.own_tokens) {
            return Some(*refused(at, "`speculative` with a teacher that has another tokenizer"));
        }
        let views = choices().filter_map(|choice| choice.sees.as_ref()).chain(student);
        if let Some(view) = views.into_iter().find(|view| view.of_completions()) {
            let construct = format!(
                "the template `{}`, which shows the outcome of a completion, with the rollout \
                `speculative`",
                view.name
            );
            return Some(*refused(at, construct));
        }
    }
    let refusal = unsupported_draft(rollout, scorers, at)
        .or_else(|| unsupported_slots(rollout, scorers, student, at))
        .or_else(|| derived::refusal(rollout, scorers, student, at));
    if refusal.is_some() {
        return refusal;
    }
    let producer = &rollout.producer;
    let (mut writers, mut guides): (Vec<&TeacherChoice>, Vec<&TeacherChoice>) = Default::default();
    for (writer, _) in producer.drawn() {
        match writer {
            Writer::Scorer(role) | Writer::Editor { editor: role, .. } => {
                writers.extend(scorers.choices(role));
            }
            Writer::Guide(role) => guides.extend(scorers.choices(role)),
            Writer::Student | Writer::Model(_) => {}
        }
    }
    if guides.iter().any(|choice| choice.sees.is_some()) {
        let construct = "a teacher that takes part in sampling each token and reads another prompt than \
            the student";
        return Some(*refused(at, construct));
    }
    let own = || writers.iter().filter_map(|choice| choice.sees.as_ref());
    let read = || producer.writer_templates().map(|(.., view)| view).chain(own());
    if producer.once().is_some() && read().any(|view| !view.is_fixed()) {
        let construct = "sampling a fixed set of rollouts with a template that changes during the run";
        return Some(*refused(at, construct));
    }
    if writers.iter().chain(&guides).any(|choice| choice.own_tokens) {
        return Some(*refused(at, "rollouts of a teacher with another tokenizer"));
    }
    let composed = writers.into_iter().chain(guides).find(|choice| choice.teacher.composition().is_some())?;
    let construct = format!(
        "sampling from `{}`, which has its own temperature or is composed of other \
        teachers",
        composed.name
    );
    let help = "sample from one of the teachers that it is composed of: `from(NAME, ...)`, or route \
        prompts to it";
    Some((*refused(at, construct)).help(help))
}
