//! The grammar for readers: every rule of `grammar.pest`, without those that only serve recovery and error
//! messages.

use std::fmt::Write as _;
use std::fs;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Name(String),
    Text(String),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    /// `*`, `+` or `?`
    Repeat(Box<Node>, char),
    /// `&x`: lookahead, consumes nothing.
    Ahead,
    /// `!x`: must not follow.
    Not(Box<Node>),
    /// The first but not the second: the readable form of `!second ~ first`.
    Except(Box<Node>, Box<Node>),
}

struct Rule {
    section: String,
    name: String,
    body: Node,
}

/// The sections of the file that are shown, and their headings here.
const SECTIONS: &[(&str, &str)] = &[
    ("Entry points", "File"),
    ("Items", "Items"),
    ("Blocks", "Blocks"),
    ("Expressions", "Expressions"),
    ("Tokens", "Words and numbers"),
];

/// Rules for the parser's own use: for skipping, for error messages, or for reparsing a slice.
const MACHINERY: &[&str] = &[
    "WHITESPACE",
    "item_end",
    "statement_end",
    "boundary",
    "balanced",
    "binding_head",
    "parameters_head",
    "kw_lambda",
    "lambda",
    "rest_of_lambda",
    "SOI",
    "EOI",
];

/// Syntax of other languages that the parser accepts to suggest the right one: rule and alternative.
const HABITS: &[(&str, &str)] = &[("not_operator", "!"), ("power", "**"), ("label", "equals")];

/// Rules for tokens that the grammar accepts in any form and the builder of the tree then checks: each as the
/// builder has it.
const JUDGED: &str = r#"
digits = { ASCII_DIGIT+ ~ ("_" ~ ASCII_DIGIT+)* }
number = { digits ~ ("." ~ digits)? ~ (("e" | "E") ~ ("+" | "-")? ~ digits)? ~ "%"? }
"#;

fn is_machinery(name: &str) -> bool {
    MACHINERY.contains(&name)
        || ["lone_", "foreign_", "bad_", "stray_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The grammar, section by section, in fences.
pub fn render() -> String {
    let mut rules =
        read(&fs::read_to_string(mopd_tests::root().join("lang/grammar.pest")).expect("the grammar"));
    rules.retain(|rule| !is_machinery(&rule.name));
    for judged in read(JUDGED) {
        let at = rules.iter().position(|rule| rule.name == "number").expect("a token");
        match judged.name.as_str() {
            "number" => rules[at].body = judged.body,
            _ => rules.insert(at, Rule { section: rules[at].section.clone(), ..judged }),
        }
    }
    for rule in &mut rules {
        rule.body = simplify(&rule.name, &rule.body).expect("a rule takes something");
    }
    inline(&mut rules);
    let mut text = String::new();
    for (section, heading) in SECTIONS {
        let shown: Vec<&Rule> = rules.iter().filter(|rule| rule.section == *section).collect();
        let width = shown.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
        let _ = write!(text, "### {heading}\n\n```text\n");
        for rule in shown {
            let head = format!("{:width$} = ", rule.name);
            text += &wrapped(&head, &written(&rule.body, 0));
        }
        text += "```\n\n";
    }
    text.trim_end().to_owned()
}

/// Every rule that stands for an item or a statement.
pub fn forms() -> Vec<String> {
    let rules = read(&fs::read_to_string(mopd_tests::root().join("lang/grammar.pest")).expect("the grammar"));
    let ending = |name: &str| name.ends_with("_item") || name.ends_with("_statement");
    rules.into_iter().map(|rule| rule.name).filter(|name| ending(name) && !is_machinery(name)).collect()
}

fn simplify(rule: &str, node: &Node) -> Option<Node> {
    let one = |mut parts: Vec<Node>, many: fn(Vec<Node>) -> Node| match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(many(parts)),
    };
    let habit = |name: &str| HABITS.contains(&(rule, name));
    match node {
        Node::Name(name) if is_machinery(name) || habit(name) => None,
        Node::Text(text) if habit(text) => None,
        Node::Ahead | Node::Not(_) => None,
        Node::Name(_) | Node::Text(_) | Node::Except(..) => Some(node.clone()),
        Node::Repeat(inner, sign) => Some(Node::Repeat(Box::new(simplify(rule, inner)?), *sign)),
        Node::Choice(parts) => {
            one(parts.iter().filter_map(|part| simplify(rule, part)).collect(), Node::Choice)
        }
        Node::Sequence(parts) => {
            let mut kept: Vec<Node> = Vec::new();
            let mut except = None;
            for part in parts {
                if let Node::Not(refused) = part {
                    except = simplify(rule, refused);
                } else if let Some(part) = simplify(rule, part) {
                    kept.push(match except.take() {
                        Some(refused) => Node::Except(Box::new(part), Box::new(refused)),
                        None => part,
                    });
                }
            }
            one(kept, Node::Sequence)
        }
    }
}

/// Inlines rules that are one sign or another rule's name; of two equal rules, only the first is kept.
fn inline(rules: &mut Vec<Rule>) {
    while let Some(at) = rules.iter().position(|rule| {
        let same = |other: &&Rule| other.body == rule.body;
        rule.name != "newline"
            && (matches!(rule.body, Node::Name(_) | Node::Text(_)) || rules.iter().filter(same).count() > 1)
    }) {
        let body = rules[at].body.clone();
        let same = rules.iter().rposition(|rule| rule.body == body).expect("itself at least");
        let (gone, by) = match &body {
            Node::Name(_) | Node::Text(_) => (rules.remove(at), body),
            _ => (rules.remove(same), Node::Name(rules[at].name.clone())),
        };
        for rule in rules.iter_mut() {
            replace(&mut rule.body, &gone.name, &by);
        }
    }
}

fn replace(node: &mut Node, name: &str, by: &Node) {
    match node {
        Node::Name(written) if written == name => *node = by.clone(),
        Node::Sequence(parts) | Node::Choice(parts) => {
            parts.iter_mut().for_each(|part| replace(part, name, by))
        }
        Node::Repeat(inner, _) | Node::Not(inner) => replace(inner, name, by),
        Node::Except(first, second) => {
            replace(first, name, by);
            replace(second, name, by);
        }
        Node::Name(_) | Node::Text(_) | Node::Ahead => {}
    }
}

/// Prints a node. `level`: 0 alone, 1 inside a choice, 2 inside a sequence, 3 before a repetition sign.
fn written(node: &Node, level: u8) -> String {
    let within = |least: u8, text: String| if level > least { format!("({text})") } else { text };
    let all = |parts: &[Node], level: u8, between: &str| {
        parts.iter().map(|part| written(part, level)).collect::<Vec<_>>().join(between)
    };
    match node {
        Node::Name(name) => match name.as_str() {
            "ASCII_ALPHA" => "letter".to_owned(),
            "ASCII_DIGIT" => "digit".to_owned(),
            "ASCII_ALPHANUMERIC" => within(1, "letter | digit".to_owned()),
            "ANY" => "character".to_owned(),
            other => other.to_owned(),
        },
        Node::Text(text) => match text.as_str() {
            "\n" => "end of line".to_owned(),
            text if text.contains('\'') => format!("\"{text}\""),
            text => format!("'{text}'"),
        },
        Node::Sequence(parts) => within(2, all(parts, 3, " ")),
        Node::Choice(parts) => within(1, all(parts, 1, " | ")),
        Node::Repeat(inner, sign) => format!("{}{sign}", written(inner, 4)),
        Node::Except(first, second) => within(2, format!("{} - {}", written(first, 3), written(second, 3))),
        Node::Ahead | Node::Not(_) => unreachable!("simplified away"),
    }
}

/// Wraps a long rule; further lines are indented to its beginning.
fn wrapped(head: &str, body: &str) -> String {
    let mut text = head.to_owned();
    let mut column = head.len();
    for (index, word) in body.split(' ').enumerate() {
        if index > 0 && column + word.len() > 108 {
            let _ = write!(text, "\n{:width$}", "", width = head.len());
            column = head.len();
        } else if index > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += word.len();
    }
    text + "\n"
}

// ---- Reading: as much of pest's notation as the grammar uses ----

fn read(text: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut section = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("// ---- ") {
            section = heading.split([':', '-']).next().unwrap_or_default().trim().to_owned();
        }
        let Some((name, rest)) = line.split_once('=').filter(|_| !line.starts_with([' ', '/', '}'])) else {
            continue;
        };
        let mut body = rest.to_owned();
        // Braces in quotes are signs of the language, not of the notation.
        while open_braces(&body) > 0 {
            body += "\n";
            body += lines.next().expect("a rule ends");
        }
        let start = body.find('{').expect("a body") + 1;
        let inner = &body[start..body.rfind('}').expect("a body")];
        let tokens = tokens(inner);
        let mut at = 0;
        let body = choice(&tokens, &mut at);
        assert_eq!(at, tokens.len(), "`{name}` is not understood: {tokens:?}");
        rules.push(Rule { section: section.clone(), name: name.trim().to_owned(), body });
    }
    assert!(!rules.is_empty(), "no rule was read");
    rules
}

fn open_braces(body: &str) -> i32 {
    tokens(body).iter().map(|token| i32::from(token == "{") - i32::from(token == "}")).sum()
}

/// Splits a rule into names, quoted texts with their quotes, and signs.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let mut escaped = false;
                let closes = |(_, character): &(usize, char)| {
                    let closes = *character == '"' && !escaped;
                    escaped = *character == '\\' && !escaped;
                    closes
                };
                rest.char_indices().skip(1).find(closes).expect("a quote closes").0 + 1
            }
            _ if first.is_ascii_alphanumeric() || first == '_' => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        found.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    found
}

fn choice(tokens: &[String], at: &mut usize) -> Node {
    // A leading `|` is layout.
    if tokens.get(*at).is_some_and(|token| token == "|") {
        *at += 1;
    }
    let mut parts = vec![sequence(tokens, at)];
    while tokens.get(*at).is_some_and(|token| token == "|") {
        *at += 1;
        parts.push(sequence(tokens, at));
    }
    if parts.len() == 1 { parts.remove(0) } else { Node::Choice(parts) }
}

fn sequence(tokens: &[String], at: &mut usize) -> Node {
    let mut parts = vec![repeated(tokens, at)];
    while tokens.get(*at).is_some_and(|token| token == "~") {
        *at += 1;
        parts.push(repeated(tokens, at));
    }
    if parts.len() == 1 { parts.remove(0) } else { Node::Sequence(parts) }
}

fn repeated(tokens: &[String], at: &mut usize) -> Node {
    let token = tokens[*at].as_str();
    *at += 1;
    let mut node = match token {
        "!" => return Node::Not(Box::new(repeated(tokens, at))),
        "&" => {
            repeated(tokens, at);
            return Node::Ahead;
        }
        "(" => {
            let inner = choice(tokens, at);
            *at += 1;
            inner
        }
        _ if token.starts_with('"') => Node::Text(unquoted(token)),
        name => Node::Name(name.to_owned()),
    };
    while let Some(sign) = tokens.get(*at).filter(|token| ["*", "+", "?"].contains(&token.as_str())) {
        node = Node::Repeat(Box::new(node), sign.chars().next().expect("a sign"));
        *at += 1;
    }
    node
}

fn unquoted(token: &str) -> String {
    token[1..token.len() - 1]
        .replace("\\n", "\n")
        .replace("\\\"", "\"")
        .replace("\\t", "\t")
        .replace("\\\\", "\\")
}

#[test]
fn every_name_in_the_grammar_shown_is_shown_or_a_kind_of_character() {
    let text = render();
    let rules: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with([' ', '#', '`']))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim())
        .collect();
    assert!(rules.len() > 60, "only {} rules", rules.len());
    // Removes quoted signs.
    let bare: String = text
        .lines()
        .filter(|line| !line.starts_with(['#', '`']))
        .flat_map(|line| line.split('\'').step_by(2))
        .collect::<Vec<_>>()
        .join(" ");
    for name in bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|name| !name.is_empty()) {
        let known =
            rules.contains(&name) || ["letter", "digit", "character", "end", "of", "line"].contains(&name);
        assert!(known, "`{name}` is used and never said:\n{text}");
    }
}

#[test]
fn the_keywords_of_every_form_are_in_the_grammar_shown() {
    let text = render();
    for form in forms() {
        let keyword = form.trim_end_matches("_item").trim_end_matches("_statement");
        assert!(text.contains(&format!("'{keyword}'")), "`{keyword}` is missing:\n{text}");
    }
}

/// The checker accepts numbers that match the rule that is shown, and refuses others.
#[test]
fn a_number_is_what_the_grammar_shown_says() {
    let wholes = ["0", "12", "1_000"];
    let ends = ["", ".5", ".00_1", "e3", "E-6", "e+1_0", "%", ".25%", "1.5e2%"];
    let taken = wholes.iter().flat_map(|whole| ends.iter().map(move |end| format!("{whole}{end}")));
    let refused = [".5", ".00001", "1._5", "1__0", "1_", "1e", "1e-", "0x1F", "1.2.3", "1e2e3", "5f"]
        .map(str::to_owned);
    let check = |number: &str| mopd_tests::check("number.mopd", &format!("let number = {number}\n"));
    for number in taken.filter(|number| number.matches('.').count() < 2) {
        assert!(!check(&number).has_errors(), "{number}");
    }
    for number in refused {
        assert!(check(&number).has_errors(), "{number}");
    }
    assert!(
        render().contains("number         = digits ('.' digits)? (('e' | 'E') ('+' | '-')? digits)? '%'?"),
        "{}",
        render()
    );
}
