//! Routes, which decide the teacher of each prompt by its domain and data. A route must cover every domain,
//! and every value of the data.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{BinaryOperator, Condition, Expr, ExprKind, ItemKind, Route};
use mopd_experiment::formula::{Formula, Role, Unit};
use mopd_experiment::{DomainId, TeacherChoice, TeacherId, TeacherWeights, Train};

use crate::check::checker::{Checker, ItemEffort, RouteState};
use crate::check::declarations::Declarations;
use crate::check::names::callable::Callable;
use crate::check::names::modules::ModuleId;
use crate::check::read::numbers::has_variables;
use crate::check::read::{expected, turns};
use crate::check::reporter::Reporter;
use crate::check::suggestions::unknown;
use crate::check::teachers::panels;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;
use crate::check::{data, roles};

/// The entry file, which is loaded first. Its route holds for stages of every file.
pub const ENTRY: ModuleId = ModuleId(0);

/// One arm of the route, for one element of its `for`.
struct ExpandedArm<'a> {
    env: Env,
    condition: &'a Condition,
    target: &'a Expr,
    span: Span,
    used: bool,
}

/// Whether a condition holds for the prompts of one domain.
enum ArmCoverage {
    Always,
    Never,
    /// The data of the prompt decides.
    Where(Formula),
}

/// The teachers of a stage that is trained on `domains`, by its own route or the file's. `None` after a
/// diagnostic.
pub fn teachers_for(
    checker: &mut Checker,
    own: Option<&Route>,
    env: &Env,
    domains: &[DomainId],
    stage: Span,
) -> Option<Vec<TeacherChoice>> {
    let chosen = match own {
        Some(route) => evaluate_route(checker, route, env, domains),
        None => match file_route(checker, ENTRY) {
            RouteState::Evaluated(chosen) => Rc::unwrap_or_clone(chosen),
            _ => {
                checker.report(
                    Diagnostic::error(
                        Code::NoTeacher,
                        stage,
                        "this stage reads a teacher, but no route gives one",
                    )
                    .help(
                        "add `route { for d in domains: domain == d -> specialist[d] }` to the file or \
                         to the stage",
                    ),
                );
                return None;
            }
        },
    };
    let routed =
        |domain: &DomainId| chosen.iter().any(|choice| choice.domain == *domain && choice.when.is_none());
    domains
        .iter()
        .all(routed)
        .then(|| chosen.into_iter().filter(|choice| domains.contains(&choice.domain)).collect())
}

/// The file's own route, evaluated when first needed.
pub fn file_route(checker: &mut Checker, entry: ModuleId) -> RouteState {
    if matches!(checker.route, RouteState::Unevaluated) {
        let tree = checker.modules.tree(entry);
        let route = tree.items.iter().find_map(|item| match &item.kind {
            ItemKind::Route(route) => Some(route),
            _ => None,
        });
        checker.route = match route {
            None => RouteState::Absent,
            Some(route) => checker.evaluate_independently(ItemEffort::default(), |checker| {
                let domains: Vec<DomainId> = (0..checker.parts.domains.len() as u32).map(DomainId).collect();
                let chosen = evaluate_route(checker, route, &Env::constant(entry), &domains);
                RouteState::Evaluated(Rc::new(chosen))
            }),
        };
    }
    checker.route.clone()
}

/// For each domain, the arms whose conditions may hold, up to the first that always holds.
fn evaluate_route(
    checker: &mut Checker,
    route: &Route,
    env: &Env,
    domains: &[DomainId],
) -> Vec<TeacherChoice> {
    let mut turns = Vec::new();
    for arm in &route.arms {
        let envs = match &arm.index {
            None => vec![env.clone()],
            Some(index) => {
                let turns = turns::turns(checker, index, env);
                turns::repeats(checker, index, &turns, "arm");
                turns.into_iter().map(|(_, env)| env).collect()
            }
        };
        turns.extend(envs.into_iter().map(|env| ExpandedArm {
            env,
            condition: &arm.condition,
            target: &arm.target,
            span: arm.span,
            used: false,
        }));
    }
    let mut chosen = Vec::new();
    let mut missing = Vec::new();
    let mut faulty = false;
    for &domain in domains {
        let Some((choices, total)) = choices(checker, &mut turns, domain) else {
            faulty = true;
            continue;
        };
        let by_data = !choices.is_empty();
        chosen.extend(choices);
        if total {
            continue;
        }
        faulty = true;
        missing.push((domain, by_data));
    }
    let left_over = left_over(checker, route, missing.len());
    for (domain, by_data) in missing {
        if by_data || !both_at_once(checker, &turns) && !arm_of_another(checker, &turns, domain) {
            report_unrouted(checker, route, domain, by_data, left_over.as_deref());
        }
    }
    if !faulty {
        report_unreached(checker, &turns);
        replaced_members(checker, &turns);
    }
    chosen
}

/// The teacher that a missing arm is probably meant for: the only teacher, or, where one domain has no
/// arm and one teacher is not routed to, that teacher.
fn left_over(declarations: &Declarations, route: &Route, missing: usize) -> Option<String> {
    let routed =
        |teacher: &str| route.arms.iter().any(|arm| declarations.sources.text(arm.target.span) == teacher);
    let teachers = &declarations.parts.teachers;
    let mut unrouted =
        teachers.iter().filter(|teacher| !teacher.name.contains('[') && !routed(&teacher.name));
    match (unrouted.next(), unrouted.next(), missing, &teachers[..]) {
        (Some(teacher), None, 1, _) | (None, _, _, [teacher]) => Some(teacher.name.clone()),
        _ => None,
    }
}

/// Reports a domain without a teacher. `by_data`: only prompts that no condition covers lack one.
fn report_unrouted(
    declarations: &mut Declarations,
    route: &Route,
    domain: DomainId,
    by_data: bool,
    left_over: Option<&str>,
) {
    let declared = declarations.span(declarations.parts.domain(domain).origin);
    let name = declarations.parts.domain(domain).name.clone();
    if by_data {
        let text =
            format!("no teacher is routed for those prompts of the domain `{name}` where no condition holds");
        declarations.report(
            Diagnostic::error(Code::UnroutedDomain, declared, text)
                .label("its prompts would not be scored")
                .note(route.span, "its arms for this domain all depend on the data, and no `else` follows")
                .help("end the route with `else -> ...`"),
        );
        return;
    }
    let text = format!("no teacher is routed for the domain `{name}`");
    let mut diagnostic = Diagnostic::error(Code::UnroutedDomain, declared, text)
        .label("its prompts would not be scored")
        .note(route.span, "this route has no arm for it")
        .help(format!("add `domain == {name} -> ...` to the route"));
    // A family with a member for the domain shows which arm is missing.
    let teachers = &declarations.parts.teachers;
    let member = teachers.iter().find(|teacher| teacher.name.ends_with(&format!("[{name}]")));
    let teacher = member.map(|member| member.name.as_str()).or(left_over);
    if let (Some(teacher), Some(last)) = (teacher, route.arms.last()) {
        let end = Span { start: last.span.end, ..last.span };
        let arm = format!("domain == {name} -> {teacher}");
        diagnostic = diagnostic.fix(format!("add `{arm}`"), end, format!("\n  {arm}"));
        diagnostic = if member.is_some() { diagnostic } else { diagnostic.possibly() };
    }
    declarations.report(diagnostic);
}

/// Reports arms that no domain reaches. An arm is reached if any element of its loop is.
fn report_unreached(reporter: &mut Reporter, turns: &[ExpandedArm]) {
    let reached = |span: Span| turns.iter().any(|turn| turn.span == span && turn.used);
    for span in turns.iter().map(|turn| turn.span).filter(|span| !reached(*span)) {
        reporter.report(
            Diagnostic::error(Code::DomainRoutedTwice, span, "this arm is never reached")
                .label("every domain it could match is routed before")
                .help("remove it, or move it up: the first arm that holds decides"),
        );
    }
}

/// Marks the teachers that an arm for all elements of a list would choose, where arms above it replace
/// one: they are not forgotten.
fn replaced_members(checker: &mut Checker, turns: &[ExpandedArm]) {
    let replaced = turns
        .iter()
        .filter(|turn| !turn.used && turns.iter().any(|other| other.span == turn.span && other.used));
    for turn in replaced {
        routed_teacher(checker, turn.target, &turn.env);
    }
}

/// Reports `domain == math and domain == code -> ...`.
fn both_at_once(reporter: &mut Reporter, turns: &[ExpandedArm]) -> bool {
    let place = turns.iter().filter(|turn| !turn.used).find_map(|turn| {
        let Condition::When(condition) = turn.condition else { return None };
        let mut names = Vec::new();
        compared(condition, &mut names);
        names.iter().any(|name| *name != names[0]).then_some(condition.span)
    });
    let Some(place) = place else { return false };
    let diagnostic = Diagnostic::error(
        Code::NeverHolds,
        place,
        "this never holds: a prompt is of one domain, not of both",
    );
    reporter.report(diagnostic.help("write `or`, or an arm for each domain"));
    true
}

/// The domains that a condition compares the prompt's with, all of which must hold.
fn compared<'e>(condition: &'e Expr, found: &mut Vec<&'e str>) {
    let ExprKind::Binary { operator, left, right, .. } = &condition.kind else { return };
    match (operator, &left.kind, &right.kind) {
        (BinaryOperator::And, ..) => {
            compared(left, found);
            compared(right, found);
        }
        (BinaryOperator::Equal, ExprKind::Name(left), ExprKind::Name(right)) if left == "domain" => {
            found.push(right);
        }
        _ => {}
    }
}

/// Reports `domain == math -> specialist[code]` after the arm of `math`: the teacher shows which domain
/// was meant.
fn arm_of_another(declarations: &mut Declarations, turns: &[ExpandedArm], domain: DomainId) -> bool {
    let name = declarations.parts.domain(domain).name.clone();
    let meant = turns.iter().filter(|turn| !turn.used).find_map(|turn| {
        let Condition::When(condition) = turn.condition else { return None };
        let ExprKind::Binary { operator: BinaryOperator::Equal, right, .. } = &condition.kind else {
            return None;
        };
        let member = declarations.sources.text(turn.target.span).ends_with(&format!("[{name}]"));
        (member && matches!(right.kind, ExprKind::Name(_))).then_some((turn.span, right.span))
    });
    let Some((arm, written)) = meant else { return false };
    let diagnostic = Diagnostic::error(Code::DomainRoutedTwice, arm, "this arm is never reached")
        .label("its domain is routed before")
        .note(declarations.span(declarations.parts.domain(domain).origin), "no arm is left for this domain")
        .help(format!("did you mean `domain == {name}`?"))
        .fix(format!("write `{name}`"), written, name)
        .possibly();
    declarations.report(diagnostic);
    true
}

/// The arms for one domain, and whether the last of them always holds; `None` where one is faulty.
fn choices(
    checker: &mut Checker,
    turns: &mut [ExpandedArm],
    domain: DomainId,
) -> Option<(Vec<TeacherChoice>, bool)> {
    let mut choices = Vec::new();
    for turn in turns {
        let mut env = turn.env.clone();
        env.bind("domain", Value::Domain(domain));
        let when = match holds(checker, turn.condition, &env)? {
            ArmCoverage::Never => continue,
            ArmCoverage::Always => None,
            ArmCoverage::Where(condition) => Some(condition),
        };
        turn.used = true;
        let teacher = routed_teacher(checker, turn.target, &env)?;
        let total = when.is_none();
        let origin = checker.origin(turn.target.span);
        choices.push(TeacherChoice { domain, when, teacher, origin });
        if total {
            return Some((choices, true));
        }
    }
    Some((choices, false))
}

/// Reports a domain in the place of a condition.
fn arm_of_domain(reporter: &mut Reporter, span: Span, label: &str, domain: &str) -> Option<ArmCoverage> {
    let ours = format!("domain == {domain}");
    let diagnostic = Diagnostic::error(Code::TypeMismatch, span, "an arm begins with a condition");
    reporter.report(diagnostic.label(label).replace_with(format!("write `{ours}`"), ours));
    None
}

fn holds(checker: &mut Checker, condition: &Condition, env: &Env) -> Option<ArmCoverage> {
    const WANTED: &str = "the condition of an arm must be decided by the domain or by the prompt's \
                          data, such as `domain == math` or `data.level > 3`";
    let Condition::When(condition) = condition else { return Some(ArmCoverage::Always) };
    let formula = match checker.evaluate(condition, &env.with_context(EvaluationContext::Objective)) {
        Value::Formula(formula) if formula.unit() == Unit::Bool => formula.decided(),
        // `math -> specialist[math]`
        Value::Domain(_) => {
            let domain = checker.sources.text(condition.span).to_owned();
            return arm_of_domain(checker, condition.span, "this is a domain", &domain);
        }
        Value::Text(text)
            if unknown::unquoted(checker, condition.span, &text, |name| {
                unknown::is_declared(&checker.modules, condition.span.file, name)
            })
            .is_some() =>
        {
            return arm_of_domain(checker, condition.span, "this is a text", &text);
        }
        other => {
            expected::wrong_kind(checker, condition.span, WANTED, &other);
            return None;
        }
    };
    if let Some(truth) = formula.constant() {
        return Some(if truth == 1.0 { ArmCoverage::Always } else { ArmCoverage::Never });
    }
    if has_variables(&formula) {
        return Some(ArmCoverage::Where(formula));
    }
    if !data::decided_by_data(&formula) {
        checker.report(
            Diagnostic::error(Code::TypeMismatch, condition.span, WANTED)
                .label("this is known only after a completion has been sampled"),
        );
        return None;
    }
    Some(ArmCoverage::Where(formula))
}

fn routed_teacher(checker: &mut Checker, target: &Expr, env: &Env) -> Option<TeacherId> {
    let value = match checker.evaluate(target, env) {
        Value::Model(_) => {
            checker.report(
                Diagnostic::error(
                    Code::TypeMismatch,
                    target.span,
                    "an arm leads to a teacher, and this is a model",
                )
                .help("declare the role first: `teacher name = model`"),
            );
            return None;
        }
        value @ (Value::Teacher(_)
        | Value::Student(_)
        | Value::Error
        | Value::Item { kind: Callable::Teacher, .. }) => value,
        Value::Role(role @ Role::Named { .. }) => Value::Role(role),
        other => {
            expected::wrong_kind(checker, target.span, "an arm leads to a teacher", &other);
            return None;
        }
    };
    match roles::teacher_role(checker, value, target.span, env, "an arm leads to a teacher")? {
        Role::Named { teacher, .. } => Some(teacher),
        _ => None,
    }
}

/// Checks the file's route even if no stage uses it, and that every teacher is used.
pub fn check_routes(checker: &mut Checker, entry: ModuleId) {
    let tree = checker.modules.tree(entry);
    let mut routes = tree.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Route(route) => Some(route.span),
        _ => None,
    });
    if let (Some(first), Some(second)) = (routes.next(), routes.next()) {
        checker.report(
            Diagnostic::error(Code::DuplicateName, second, "a file has one route")
                .note(first, "declared here")
                .help("put all arms in one block"),
        );
    }
    file_route(checker, entry);
    if checker.diagnostics.has_errors() {
        return; // A teacher may be unused because of another mistake.
    }
    // In a library, declarations are for other files.
    if checker.has_experiment {
        check_use_of_teachers(checker);
        panels::check_use_of_panels(checker);
    }
}

fn check_use_of_teachers(declarations: &mut Declarations) {
    let mut used = declarations.parts.used_teachers.clone();
    for train in declarations.parts.trains() {
        let routed = train.teachers.iter().map(|choice| choice.teacher);
        for teacher in routed.chain(train.named_teachers()) {
            used[teacher.0 as usize] = true;
        }
    }
    let asked_for_themselves = |weights: &TeacherWeights| {
        matches!(
            weights,
            TeacherWeights::Parameter | TeacherWeights::Trained { .. } | TeacherWeights::Panelist { .. }
        )
    };
    for (index, used) in used.iter().enumerate() {
        let teacher = declarations.parts.teacher(TeacherId(index as u32));
        if *used || asked_for_themselves(&teacher.weights) {
            continue;
        }
        let text = format!("no route ever chooses the teacher `{}`", teacher.name);
        let span = declarations.span(teacher.origin);
        declarations.report(
            Diagnostic::warning(Code::UnusedTeacher, span, text).help(
                "route some domain to it, or remove it: an unused teacher is usually a typo in a route",
            ),
        );
    }
}

/// Warns of domains that nothing uses. `judged`: whether the file has a table.
pub fn check_use_of_domains(declarations: &mut Declarations, judged: bool) {
    if declarations.diagnostics.has_errors() || declarations.parts.models.is_empty() {
        return;
    }
    // An experiment may only judge models, without training: then the tables use the domains.
    if judged && declarations.parts.trains().is_empty() {
        return;
    }
    for index in 0..declarations.parts.domains.len() as u32 {
        let id = DomainId(index);
        if !declarations.parts.is_trained_on(id) {
            let (name, span) = (
                declarations.parts.domain(id).name.clone(),
                declarations.span(declarations.parts.domain(id).origin),
            );
            declarations.report(
                Diagnostic::warning(
                    Code::UnusedDomain,
                    span,
                    format!("no model is trained on the domain `{name}`"),
                )
                .help("train on it, or remove it: its share of the prompts would not be used"),
            );
        }
        check_use_of_validation(declarations, id);
    }
}

/// Checks that some stage reads the validation rows of a domain.
fn check_use_of_validation(declarations: &mut Declarations, id: DomainId) {
    let domain = declarations.parts.domain(id);
    let Some(rows) = domain.validation.clone() else { return };
    let reads = |train: &&Train| {
        train.options.validation.is_some() && train.mixture.iter().any(|share| share.domain == id)
    };
    if declarations.parts.trains().iter().any(reads) {
        return;
    }
    let (name, span) = (domain.name.clone(), declarations.span(rows.origin));
    declarations.report(
        Diagnostic::warning(Code::UnusedSetting, span, format!("no stage validates on the rows of `{name}`"))
            .help("add `validate = validate(target: answer, every: 10 steps)` to a stage, or remove them"),
    );
}
