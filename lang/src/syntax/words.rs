//! The words of the language, for the layout pass and the error messages.

/// Words that begin an item, in the order in which to learn them.
pub const ITEMS: &[&str] = &[
    "experiment",
    "domain",
    "model",
    "teacher",
    "route",
    "objective",
    "compare",
    "let",
    "fn",
    "stage",
    "schedule",
    "reward",
    "template",
    "rollout",
    "divergence",
    "sum",
    "panel",
    "eval",
    "param",
    "sweep",
    "use",
];

/// What other tools call items.
const OTHER_ITEMS: &[(&[&str], &str)] = &[
    (&["dataset", "task", "corpus", "dataloader"], "domain"),
    (&["student", "policy", "network", "llm"], "model"),
    (&["loss", "loss_fn", "criterion"], "objective"),
    (&["evaluate", "evaluation", "table", "results"], "compare"),
    (&["benchmark", "testset"], "eval"),
    (&["router", "routing", "routes"], "route"),
    (&["run", "config", "project", "exp"], "experiment"),
    (&["grid", "search"], "sweep"),
    (&["prompt"], "template"),
    (&["hyperparameter", "arg"], "param"),
];

/// The item that another tool's word stands for, if the text after the word has the form of that item: a name
/// and a block, or a name and a value.
pub fn meant_item(word: &str, rest: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let (_, ours) = OTHER_ITEMS.iter().find(|(theirs, _)| theirs.contains(&word.as_str()))?;
    let after = match rest.strip_prefix('"') {
        Some(title) => title.split_once('"').map_or("", |(_, after)| after).trim_start(),
        None => split_word(rest).1,
    };
    let has_value = matches!(*ours, "model" | "template" | "param");
    let fits = if has_value { after.starts_with(['=', '[', ':']) } else { after.starts_with(['{', '(']) };
    fits.then_some(*ours)
}

/// Functions whose value is a model. A test compares the list with the functions themselves.
pub const MAKES_A_MODEL: &[&str] = &[
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "hf",
    "gguf",
    "checkpoint",
    "sft",
    "grpo",
    "distill",
    "dpo",
    "train",
    "merge",
];

/// Items that may have parameters.
pub const PARAMETRIC: &[&str] =
    &["objective", "fn", "stage", "teacher", "template", "rollout", "divergence", "sum"];

/// Words that can't be names.
pub const RESERVED: &[&str] = &[
    "and", "or", "not", "then", "live", "true", "false", "for", "in", "else", "let", "term", "fn", "use",
    "pub",
];

/// Other languages' words for values. They are read as values everywhere, never as names.
pub const FOREIGN_VALUES: &[&str] = &["True", "False", "None", "null", "nil"];

/// The beginning of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineHead {
    End,
    /// An item that can't be in a block.
    Item,
    /// `let name` or `route {`.
    ItemOrStatement,
    /// `term name`, `state name =`, `trains name =` or `step name {`
    Statement,
    /// `key =`
    Entry,
    /// `where name =` or `|>`: continues the line before.
    Tail,
    /// `{`
    Brace,
    /// `)`, `]` or `}`
    CloseBracket,
    Other,
}

pub fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

pub fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Length of the word at the beginning of `bytes`.
pub fn word_length(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| is_word_byte(**byte)).count()
}

/// The word at the beginning of `text`, possibly empty, and the text after it and its blanks.
pub fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_at(word_length(text.as_bytes()));
    (word, rest.trim_start_matches([' ', '\t']))
}

/// The start of the first line with content at or after `from`, and the kind of its beginning.
pub fn line_head(text: &str, from: usize) -> (usize, LineHead) {
    let mut at = from;
    loop {
        let rest = &text[at..];
        at += rest.len() - rest.trim_start().len();
        let rest = &text[at..];
        if !rest.starts_with("//") {
            return (at, head(rest));
        }
        at += rest.find('\n').unwrap_or(rest.len());
    }
}

fn head(text: &str) -> LineHead {
    let (mut word, mut rest) = split_word(text);
    if word.is_empty() {
        return match text.bytes().next() {
            None => LineHead::End,
            Some(b'{') => LineHead::Brace,
            _ if text.starts_with("|>") => LineHead::Tail,
            Some(b')' | b']' | b'}') => LineHead::CloseBracket,
            Some(_) => LineHead::Other,
        };
    }
    let public = word == "pub";
    if public {
        (word, rest) = split_word(rest);
    }
    let (next, after) = split_word(rest);
    let named = !next.is_empty() && !RESERVED.contains(&next);
    let head = match word {
        "let" if named => LineHead::ItemOrStatement,
        "route" if rest.starts_with('{') => LineHead::ItemOrStatement,
        "term" if named => LineHead::Statement,
        "state" | "trains" if named && assigns(after) => LineHead::Statement,
        "step" if named && after.starts_with('{') => LineHead::Statement,
        "where" if named && assigns(after) => LineHead::Tail,
        "experiment" | "compare" if rest.starts_with('"') => LineHead::Item,
        "sweep" if rest.starts_with('{') => LineHead::Item,
        _ if named && ITEMS.contains(&word) => LineHead::Item,
        _ if assigns(rest) => LineHead::Entry,
        _ => LineHead::Other,
    };
    if public && head == LineHead::ItemOrStatement { LineHead::Item } else { head }
}

/// Whether the text begins with the `=` of an assignment.
fn assigns(rest: &str) -> bool {
    rest.starts_with('=') && !rest.starts_with("==")
}

/// Signs of more than one character; longer ones come before their beginnings. Some belong to other
/// languages.
pub const SIGNS: &[&str] = &["..=", "->", "==", "!=", "<=", ">=", "||", "&&", "**", "..", "|>", ":=", "=>"];

/// Length of the number at the beginning of `bytes`. As in the grammar, everything that begins like a number
/// is one token; the parser checks its form.
pub fn number_length(bytes: &[u8]) -> usize {
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = 1;
    while let Some(byte) = bytes.get(end) {
        let sign = matches!(byte, b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E') && digit(end + 1);
        if !(is_word_byte(*byte) || *byte == b'.' && digit(end + 1) || sign) {
            break;
        }
        end += 1;
    }
    end + usize::from(bytes.get(end) == Some(&b'%'))
}

/// The intended characters for a look-alike of another alphabet; none for an invisible one.
pub fn lookalike(character: char) -> Option<&'static str> {
    Some(match character {
        '\u{2212}' | '\u{2013}' | '\u{2014}' | '\u{2010}' | '\u{2011}' | '\u{ff0d}' => "-",
        '\u{d7}' | '\u{b7}' | '\u{2219}' | '\u{22c5}' | '\u{2217}' => "*",
        '\u{f7}' | '\u{2215}' | '\u{2044}' => "/",
        '\u{2016}' | '\u{2225}' => "||",
        '\u{2192}' | '\u{27f6}' | '\u{21d2}' => "->",
        '\u{2264}' => "<=",
        '\u{2265}' => ">=",
        '\u{2260}' => "!=",
        '\u{ff1d}' => "=",
        '\u{ff0c}' | '\u{3001}' => ",",
        '\u{ff1a}' => ":",
        '\u{a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' | '\u{3000}' => " ",
        // These have no width: what stands around them is one word.
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => "",
        _ => return None,
    })
}

/// The names behind `$` or `${`, as a shell writes its variables.
pub fn shell_names(text: &str) -> impl Iterator<Item = &str> {
    let names = text.split('$').skip(1).map(|rest| split_word(rest.trim_start_matches('{')).0);
    names.filter(|name| !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()))
}

/// How a raised digit or a fraction in one character is written.
pub fn written_out(character: char) -> Option<&'static str> {
    Some(match character {
        '\u{b2}' => "^2",
        '\u{b3}' => "^3",
        '\u{bd}' => "1/2",
        '\u{bc}' => "1/4",
        '\u{be}' => "3/4",
        '\u{2153}' => "1/3",
        '\u{2154}' => "2/3",
        '\u{2155}' => "1/5",
        '\u{215b}' => "1/8",
        _ => return None,
    })
}

/// The Latin letter that a Cyrillic or Greek one looks like, and the digit of a full-width one.
pub fn latin(character: char) -> Option<char> {
    const ALIKE: [(&str, &str); 2] = [
        ("\u{430}\u{435}\u{43e}\u{440}\u{441}\u{443}\u{445}\u{456}\u{458}\u{455}\u{501}", "aeopcyxijsd"),
        ("\u{3bf}\u{3bd}\u{3b9}\u{3ba}", "ovik"),
    ];
    let full = u32::from(character).checked_sub(0xfee0).and_then(char::from_u32);
    if let Some(plain) = full.filter(|plain| plain.is_ascii_alphanumeric()) {
        return Some(plain);
    }
    ALIKE.iter().find_map(|(theirs, ours)| {
        let nth = theirs.chars().position(|known| known == character)?;
        ours.chars().nth(nth)
    })
}

/// The name of a Greek letter.
pub fn greek(character: char) -> Option<&'static str> {
    const NAMES: [&str; 25] = [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
        "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "sigma", "tau", "upsilon", "phi", "chi", "psi",
        "omega",
    ];
    let nth = u32::from(character).checked_sub(0x3b1)?;
    NAMES.get(nth as usize).copied()
}
