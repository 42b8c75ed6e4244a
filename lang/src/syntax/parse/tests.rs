//! What the tree looks like, and how the parser carries on after a mistake. Messages are in `tests/suite/syntax/`.

use super::parse;
use crate::diag::{Code, Diagnostic};
use crate::source::FileId;
use crate::syntax::ast::*;
use crate::syntax::words;

fn read(text: &str) -> (Module, Vec<Diagnostic>) {
    parse(FileId(0), text)
}

fn sound(text: &str) -> Module {
    let (module, findings) = read(text);
    assert!(findings.is_empty(), "{text}\n{findings:#?}");
    module
}

/// An expression, fully parenthesised.
fn show(expr: &Expr) -> String {
    let list = |arguments: &[Argument]| {
        let shown = arguments.iter().map(|argument| match &argument.name {
            Some(name) => format!("{}: {}", name.text, show(&argument.value)),
            None => show(&argument.value),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    match &expr.kind {
        ExprKind::Number { value, suffix } => {
            suffix.as_ref().map_or_else(|| value.to_string(), |suffix| format!("{value} {}", suffix.text))
        }
        ExprKind::Text(text) => format!("{text:?}"),
        ExprKind::Bool(value) => value.to_string(),
        ExprKind::Name(name) => name.clone(),
        ExprKind::Field { base, field } => format!("{}.{}", show(base), field.text),
        ExprKind::Index { base, index } => format!("{}[{}]", show(base), show(index)),
        ExprKind::Call { callee, arguments, block } => {
            let block = block.as_ref().map_or(String::new(), |block| format!(" {{{}}}", show_block(block)));
            format!("{}({}){block}", show(callee), list(arguments))
        }
        ExprKind::List(elements) => format!("[{}]", elements.iter().map(show).collect::<Vec<_>>().join(", ")),
        ExprKind::Unary { operator: UnaryOperator::Negate, operand } => format!("(-{})", show(operand)),
        ExprKind::Unary { operator: UnaryOperator::Not, operand } => format!("(not {})", show(operand)),
        ExprKind::Binary { operator, left, right, .. } => format!("({} {} {})", show(left), operator.symbol(), show(right)),
        ExprKind::Live(operand) => format!("(live {})", show(operand)),
        ExprKind::Arrow { from, to } => format!("({} -> {})", show(from), show(to)),
        ExprKind::Versus { left, right } => format!("({} || {})", show(left), show(right)),
        ExprKind::Then { first, second } => format!("({} then {})", show(first), show(second)),
        ExprKind::For { index, carried, body } => {
            let carried =
                carried.as_ref().map_or(String::new(), |carried| format!(", {} = {}", carried.name.text, show(&carried.start)));
            format!("(for {} in {}{carried}: {})", index.name.text, show(&index.over), show(body))
        }
        ExprKind::Error => "?".to_owned(),
    }
}

fn show_block(block: &Block) -> String {
    let shown = block.statements.iter().map(|statement| match statement {
        Statement::Entry(entry) => {
            let marks: String = entry.marks.iter().map(|mark| format!(" @{}", mark.name.text)).collect();
            format!("{} = {}{marks}", entry.key.text, show(&entry.value))
        }
        Statement::Let { name, value } => format!("let {} = {}", name.text, show(value)),
        Statement::Term { name, value, block } => {
            let block = block.as_ref().map_or(String::new(), |block| format!(" {{{}}}", show_block(block)));
            format!("term {} = {}{block}", name.text, show(value))
        }
        Statement::Route(route) => format!("route {{{}}}", show_route(route)),
    });
    shown.collect::<Vec<_>>().join("; ")
}

fn show_route(route: &Route) -> String {
    let shown = route.arms.iter().map(|arm| {
        let index =
            arm.index.as_ref().map_or(String::new(), |index| format!("for {} in {}: ", index.name.text, show(&index.over)));
        let condition = match &arm.condition {
            Condition::When(condition) => show(condition),
            Condition::Else => "else".to_owned(),
        };
        format!("{index}{condition} -> {}", show(&arm.target))
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// The value of `let x = ...`.
fn value(text: &str) -> String {
    let module = sound(&format!("let x = {text}"));
    match module.items.iter().map(|item| &item.kind).collect::<Vec<_>>().as_slice() {
        [ItemKind::Let { value, .. }] => show(value),
        other => panic!("{text}: {other:#?}"),
    }
}

fn block(text: &str) -> String {
    let module = sound(&format!("domain d {text}"));
    match module.items.iter().map(|item| &item.kind).collect::<Vec<_>>().as_slice() {
        [ItemKind::Domain { block, .. }] => show_block(block),
        other => panic!("{text}: {other:#?}"),
    }
}

/// Kind and name of every item, as far as they are known.
fn outline(module: &Module) -> Vec<String> {
    let name = |kind: &str, name: &str| format!("{kind} {name}");
    module
        .items
        .iter()
        .map(|item| match &item.kind {
            ItemKind::Use(import) => {
                name("use", &import.names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>().join(" "))
            }
            ItemKind::Experiment { name: title, .. } => name("experiment", &title.text),
            ItemKind::Param(parameter) => name("param", &parameter.name.text),
            ItemKind::Let { name: it, .. } => name("let", &it.text),
            ItemKind::Fn { name: it, .. } => name("fn", &it.text),
            ItemKind::Domain { name: it, .. } => name("domain", &it.text),
            ItemKind::Reward { name: it, .. } => name("reward", &it.text),
            ItemKind::Schedule { name: it, .. } => name("schedule", &it.text),
            ItemKind::Model(binding) => name("model", &binding.name.text),
            ItemKind::Teacher(binding) => name("teacher", &binding.name.text),
            ItemKind::Stage { name: it, .. } => name("stage", &it.text),
            ItemKind::Route(_) => "route".to_owned(),
            ItemKind::Objective { name: it, .. } => name("objective", &it.text),
            ItemKind::Compare { name: title, .. } => name("compare", &title.text),
            ItemKind::Unsupported { keyword } => name("unsupported", &keyword.text),
        })
        .collect()
}

// ---- Expressions ----

#[test]
fn precedence_from_loose_to_tight() {
    for (text, tree) in [
        ("mean(token) then mean(sequence) then sum(batch)", "((mean(token) then mean(sequence)) then sum(batch))"),
        ("1 + 2 -> 3 * 4", "((1 + 2) -> (3 * 4))"),
        ("a or b and not c == d", "(a or (b and (not (c == d))))"),
        ("not a and b", "((not a) and b)"),
        ("a == not b", "(a == (not b))"),
        ("a - b - c", "((a - b) - c)"),
        ("a / b * c", "((a / b) * c)"),
        ("a + b * c", "(a + (b * c))"),
        ("-a ^ b", "(-(a ^ b))"),
        ("a ^ -b * c", "((a ^ (-b)) * c)"),
        ("a ^ b ^ c", "(a ^ (b ^ c))"),
        ("-a * b", "((-a) * b)"),
        ("2 - -3", "(2 - (-3))"),
        ("a < b or c >= d", "((a < b) or (c >= d))"),
        ("(a < b) == (c < d)", "((a < b) == (c < d))"),
        ("-advantage * live student.logp", "((-advantage) * (live student.logp))"),
        ("(live ratio - 1) ^ 2", "(((live ratio) - 1) ^ 2)"),
        ("live ratio ^ 2", "((live ratio) ^ 2)"),
        (
            "live kl(student || teacher, support: top_k(teacher, 64))",
            "(live kl((student || teacher), support: top_k(teacher, 64)))",
        ),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
}

#[test]
fn literals_and_what_is_applied_to_them() {
    for (text, tree) in [
        ("1_000", "1000"),
        ("3e-6", "0.000003"),
        ("35%", "0.35"),
        ("1/3", "(1 / 3)"),
        ("5 steps", "5 steps"),
        ("1 epoch", "1 epochs"),
        ("4_096 tokens", "4096 tokens"),
        ("true", "true"),
        (r#""tab\t, quote\", backslash\\""#, r#""tab\t, quote\", backslash\\""#),
        ("\"naïve π // not a comment\"", "\"naïve π // not a comment\""),
        ("[a, b,]", "[a, b]"),
        ("[]", "[]"),
        ("f()", "f()"),
        ("f(1, by: 2,)", "f(1, by: 2)"),
        ("expert[d].x(y)", "expert[d].x(y)"),
        ("llama { layers = 3 }", "llama() {layers = 3}"),
        ("grpo(start, on: d) { steps = 1, lr = 2 }", "grpo(start, on: d) {steps = 1; lr = 2}"),
        ("for d in domains, previous = start: f(previous, on: d)", "(for d in domains, previous = start: f(previous, on: d))"),
        ("teacher.reward", "teacher.reward"),
        ("schedule(model, domain)", "schedule(model, domain)"),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
}

#[test]
fn an_expression_runs_on_after_an_operator_and_inside_brackets() {
    assert_eq!(value("a +\n  b *\n\n  // a comment\n  c"), "(a + (b * c))");
    assert_eq!(value("f(\n  a\n  + b,\n  c\n)"), "f((a + b), c)");
    assert_eq!(value("[\n  a,\n  b\n]"), "[a, b]");
    assert_eq!(value("\n  for d in domains:\n    f(d)"), "(for d in domains: f(d))");
    assert_eq!(value("f(g {\n  a = 1\n  b = 2\n}, c)"), "f(g() {a = 1; b = 2}, c)");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let module = sound("\u{feff}let a = 1 +\r\n  2\r\nlet b = 3\r\n");
    assert_eq!(outline(&module), ["let a", "let b"]);
}

// ---- Blocks and items ----

#[test]
fn entries_end_at_a_newline_or_a_comma() {
    assert_eq!(block("{ a = 1, b = 2 }"), "a = 1; b = 2");
    assert_eq!(block("{\n  a = 1\n\n  b = 2,\n  c = 3\n}"), "a = 1; b = 2; c = 3");
    assert_eq!(block("{}"), "");
    assert_eq!(block("{ lr = 1e-6 @unpublished @source(\"x\"), b = 1 }"), "lr = 0.000001 @unpublished @source; b = 1");
}

#[test]
fn words_that_begin_items_are_also_keys_and_names() {
    assert_eq!(
        block("{ reward = exact_match, objective = mopd, rollout = from(teacher) }"),
        "reward = exact_match; objective = mopd; rollout = from(teacher)"
    );
    assert_eq!(
        block("{\n  route { for d in domains: domain == d -> t[d]\n else -> u }\n}"),
        "route {for d in domains: (domain == d) -> t[d]; else -> u}"
    );
}

#[test]
fn a_block_after_a_term_belongs_to_the_term() {
    for (text, shown) in [
        ("term x = -live student.logp { when = correct }", "term x = (-(live student.logp)) {when = correct}"),
        ("term x = a * live kl(p || q) { when = correct }", "term x = (a * (live kl((p || q)))) {when = correct}"),
        ("term x = f(g { a = 1 })", "term x = f(g() {a = 1})"),
    ] {
        assert_eq!(block(&format!("{{ {text} }}")), shown);
    }
}

#[test]
fn documentation_belongs_to_the_item_below_it() {
    let module = sound(
        "//! The file.\n//! Second line.\n\n/// First.\n///   indented\nlet a = 1\n// no doc\nlet b = 2\n/// Third.\npub let c = 3",
    );
    assert_eq!(module.doc, "The file.\nSecond line.");
    let docs: Vec<&str> = module.items.iter().map(|item| item.doc.as_str()).collect();
    assert_eq!(docs, ["First.\n  indented", "", "Third."]);
    assert!(module.items[2].public && !module.items[0].public);
}

#[test]
fn spans_are_offsets_in_the_source() {
    let text = "/// é\nlet a = 1 + bb  // note\nmodel m = f(x)\n";
    let module = sound(text);
    let Item { span, kind: ItemKind::Let { name, value }, .. } = &*module.items[0] else { panic!("{module:#?}") };
    let cut = |span: crate::source::Span| &text[span.start as usize..span.end as usize];
    assert_eq!((cut(*span), cut(name.span), cut(value.span)), ("let a = 1 + bb", "a", "1 + bb"));
    assert_eq!(cut(module.items[1].span), "model m = f(x)");
}

#[test]
fn the_kinds_of_items() {
    let module = sound(concat!(
        "use std.opd.mopd\nuse a.{\n  b,\n  c\n}\nexperiment \"e\" { seed = 1 }\nparam p: count = 3\nlet l = 1\nfn f(a, b: real = 1) = a + b\n",
        "domain d { share = 1 }\nreward r = numeric\nschedule s = linear(0 -> 1)\nmodel m[d in domains] = f(d)\nteacher t[d in [a, b]] = m[d]\n",
        "stage g(from: model) =\n  f(from)\nroute { else -> t }\nobjective o(k: count = 1) {\n  term x = live ratio\n}\nobjective bare { }\n",
        "compare \"c\" { seeds = 1 }\nsweep { beta in [1, 2]\n}\ntemplate x = \"{prompt}\"\n"
    ));
    assert_eq!(
        outline(&module),
        [
            "use mopd",
            "use b c",
            "experiment e",
            "param p",
            "let l",
            "fn f",
            "domain d",
            "reward r",
            "schedule s",
            "model m",
            "teacher t",
            "stage g",
            "route",
            "objective o",
            "objective bare",
            "compare c",
            "unsupported sweep",
            "unsupported template"
        ]
    );
}

#[test]
fn the_word_lists_and_the_grammar_agree() {
    for word in words::RESERVED {
        assert!(!read(&format!("let {word} = 1")).1.is_empty(), "`{word}` is taken as a name");
    }
    for word in words::ITEMS.iter().filter(|word| !words::RESERVED.contains(word)) {
        assert_eq!(block(&format!("{{ {word} = {word} }}")), format!("{word} = {word}"));
    }
    for word in words::UNSUPPORTED_ITEMS {
        assert_eq!(outline(&sound(&format!("{word} x = 1"))), [format!("unsupported {word}")]);
    }
}

// ---- Recovery ----

#[test]
fn a_broken_item_keeps_its_name_and_its_neighbours() {
    let (module, findings) = read("let a = 1\nmodel m[d in domains] = f(,)\nstage s(x: model) = 3 4\nmodle n = f(x)\nlet z = 2");
    assert_eq!(outline(&module), ["let a", "model m", "stage s", "model n", "let z"]);
    assert_eq!(findings.len(), 3, "{findings:#?}");
    assert!(matches!(
        &module.items[1].kind,
        ItemKind::Model(Binding { index: Some(_), value: Expr { kind: ExprKind::Error, .. }, .. })
    ));
}

#[test]
fn a_broken_setting_keeps_its_key_and_its_neighbours() {
    let (module, findings) = read("domain d {\n  prompts \"x\"\n  share = 1/\n  reward = exact_match\n}");
    assert_eq!(findings.len(), 2, "{findings:#?}");
    let ItemKind::Domain { block, .. } = &module.items[0].kind else { panic!("{module:#?}") };
    assert_eq!(module.items.len(), 1);
    assert_eq!(show_block(block), "prompts = ?; share = ?; reward = exact_match");
}

#[test]
fn an_unclosed_block_ends_before_the_next_item() {
    let (module, findings) = read("domain a {\n  share = 1\n\nmodel m = f {\n  x = g(1\n  y = 2\n}\nlet z = [1, 2\nlet y = 3");
    assert_eq!(outline(&module), ["domain a", "model m", "let z", "let y"]);
    let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(messages, ["this `{` is never closed", "this `(` is never closed", "this `[` is never closed"]);
}

#[test]
fn thirty_mistakes_make_thirty_findings() {
    let mistakes = [
        "let a = 1 +",
        "let a = ",
        "let = 3",
        "model m",
        "model m f(x)",
        "lett a = 3",
        "domain d = 3",
        "use std",
        "use .x",
        "objective { }",
        "compare c { }",
        "teacher t = [1, 2",
        "teacher t = f(1",
        "let a = 1 2",
        "fn f(a = a",
        "route { a }",
        "let a = 'x'",
        "let a = \"x",
        "let a = 2 ** 3",
        "def f(x): x",
        "# note",
        "let a = b < c < d",
        "let a = 3x",
        "a = 3",
        "let a = b if c else d",
        "let a: 3",
        "import x",
        "stage s(x) -> 3",
        "let a = (1]",
        "let a = f(x))",
    ];
    let text = mistakes.join("\nlet sound = 1\n");
    let (module, findings) = read(&text);
    let lines: Vec<usize> =
        findings.iter().map(|finding| text[..finding.primary.span.start as usize].matches('\n').count()).collect();
    assert_eq!(lines, (0..30).map(|index| index * 2).collect::<Vec<_>>(), "{findings:#?}");
    assert_eq!(outline(&module).iter().filter(|item| *item == "let sound").count(), 29);
}

#[test]
fn a_statement_of_another_language_is_one_finding_however_many_lines_it_has() {
    let (_, findings) = read("def f(x):\n    y = x\n    return y\n\nlet a = 1");
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].code, Code::ForeignSyntax);
}

// ---- Hostile input ----

#[test]
fn two_hundred_nested_brackets_of_each_kind_parse() {
    for (open, close) in [("(", ")"), ("[", "]"), ("f(", ")"), ("f(x: ", ")"), ("f { a = ", " }"), ("a[", "]")] {
        let text = format!("let x = {}1{}", open.repeat(200), close.repeat(200));
        sound(&text);
    }
}

#[test]
fn what_is_nested_too_deeply_is_reported_once_and_passed_over() {
    for deep in ["(", "[", "f(", "f { a = ", "-", "not ", "live ", "1 + ", "2 ^ ", "a.b.", "for d in domains: "] {
        let text = format!("let x = {}1\nlet z = 1", deep.repeat(5_000));
        let (module, findings) = read(&text);
        assert_eq!(findings.first().map(|finding| finding.code), Some(Code::NestingTooDeep), "{deep}");
        assert_eq!(outline(&module).last().map(String::as_str), Some("let z"), "{deep}");
    }
    let closed = format!("let x = {}1{}\nlet z = 1", "(".repeat(5_000), ")".repeat(5_000));
    let (module, findings) = read(&closed);
    assert_eq!((findings.len(), outline(&module).len()), (1, 2), "{findings:#?}");
    // Siblings do not nest.
    sound(&format!("let x = [{}]", "1 + 2, ".repeat(5_000)));
}

#[test]
fn any_text_can_be_parsed() {
    const SOURCE: &str = include_str!("../../../../examples/quickstart.mopd");
    sound(SOURCE);
    let start = SOURCE.find("model student").expect("the quickstart trains a student");
    let sample = &SOURCE[start - 200..start + 200];
    let check = |text: &str| {
        let (_, findings) = read(text);
        for finding in findings {
            let span = finding.primary.span;
            assert!(text.get(span.start as usize..span.end as usize).is_some(), "{finding:#?}\n{text}");
        }
    };
    for at in 0..sample.len() {
        check(&sample[..at]);
        check(&sample[at..]);
        for inserted in
            ["(", ")", "]", "{", "}", "\"", "'", "\n", ",", "=", "->", "#", "é", "“", "\u{1}", "\\", "/*", "live ", "@", "0x"]
        {
            check(&format!("{}{inserted}{}", &sample[..at], &sample[at..]));
        }
        check(&format!("{}{}", &sample[..at], &sample[at + 1..]));
    }
}
