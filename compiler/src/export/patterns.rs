//! Translates patterns of the `regex` crate to the syntax of Python's `re`.

use std::iter::Peekable;
use std::str::Chars;

/// The pattern for Python. The error is the part of it that `re` does not have. `pattern` must be valid for
/// the `regex` crate.
pub fn python_pattern(pattern: &str) -> Result<String, String> {
    let printer = PatternPrinter {
        rest: pattern.chars().peekable(),
        python: String::new(),
        groups: Vec::new(),
        group: OpenGroup::default(),
        last: PatternItem::default(),
    };
    printer.print()
}

/// The flags in effect at a position in a group.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct PatternFlags {
    ignores_case: bool,
    many_lines: bool,
    dot_is_any: bool,
}

/// A group while it is printed.
#[derive(Clone, Default)]
struct OpenGroup {
    /// The offset in the output at which it begins.
    start: usize,
    flags: PatternFlags,
    /// The openings of groups for flags set within this group. Python has flags for whole groups only, so
    /// `a(?i)b|c` becomes `a(?i:b)|(?i:c)`.
    inner: Vec<&'static str>,
}

/// The item that a following repetition applies to.
#[derive(Clone, Copy, Default)]
struct PatternItem {
    start: usize,
    /// Whether Python repeats it only within a group: it is an assertion or a repetition.
    needs_group: bool,
}

struct PatternPrinter<'p> {
    rest: Peekable<Chars<'p>>,
    python: String,
    groups: Vec<OpenGroup>,
    group: OpenGroup,
    last: PatternItem,
}

impl PatternPrinter<'_> {
    fn print(mut self) -> Result<String, String> {
        while let Some(letter) = self.rest.next() {
            match letter {
                '\\' => self.escape()?,
                '[' => {
                    let class = self.class()?;
                    self.item(&class, false);
                }
                '(' => self.open()?,
                ')' => self.close(),
                '|' => {
                    self.end_inner();
                    self.python.push('|');
                    let again = self.group.inner.concat();
                    self.python += &again;
                    self.last = PatternItem { start: self.python.len(), needs_group: false };
                }
                '*' | '+' | '?' => self.repeat(&letter.to_string()),
                '{' => {
                    let counts: String = self.rest.by_ref().take_while(|letter| *letter != '}').collect();
                    let counts: String = counts.chars().filter(|letter| !letter.is_whitespace()).collect();
                    self.repeat(&format!("{{{counts}}}"));
                }
                '.' => self.item(if self.group.flags.dot_is_any { "(?s:.)" } else { "." }, false),
                '^' => self.item(if self.group.flags.many_lines { "(?m:^)" } else { r"\A" }, true),
                // Python's `$` also matches before a line feed at the end.
                '$' => self.item(if self.group.flags.many_lines { "(?m:$)" } else { r"\Z" }, true),
                letter => self.item(&letter.to_string(), false),
            }
        }
        self.end_inner();
        Ok(self.python)
    }

    fn item(&mut self, text: &str, needs_group: bool) {
        self.last = PatternItem { start: self.python.len(), needs_group };
        self.python += text;
    }

    fn repeat(&mut self, counts: &str) {
        if self.last.needs_group {
            self.python.insert_str(self.last.start, "(?:");
            self.python.push(')');
        }
        self.python += counts;
        if self.rest.next_if_eq(&'?').is_some() {
            self.python.push('?');
        }
        self.last.needs_group = true;
    }

    fn escape(&mut self) -> Result<(), String> {
        let letter = self.rest.next().ok_or("a `\\` at the end")?;
        let half = letter == 'b' && self.rest.peek() == Some(&'{');
        match letter {
            'b' if !half => self.item(r"\b", true),
            // Python's `\B` does not match in an empty text.
            'B' => self.item(r"(?!\b)", true),
            'A' => self.item(r"\A", true),
            'z' => self.item(r"\Z", true),
            'b' | '<' | '>' => return Err("the start and end of a word".to_owned()),
            letter => {
                let text = self.escaped(letter)?;
                self.item(&text, false);
            }
        }
        Ok(())
    }

    /// The translation of an escape, in a class or outside.
    fn escaped(&mut self, letter: char) -> Result<String, String> {
        Ok(match letter {
            'p' | 'P' => return Err(format!("`\\{letter}`, a Unicode property")),
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => format!("\\{letter}"),
            'a' => r"\x07".to_owned(),
            'f' => r"\x0c".to_owned(),
            't' => r"\t".to_owned(),
            'n' => r"\n".to_owned(),
            'r' => r"\r".to_owned(),
            'v' => r"\x0b".to_owned(),
            'x' => self.numbered(2)?,
            'u' => self.numbered(4)?,
            'U' => self.numbered(8)?,
            letter if letter.is_ascii_alphanumeric() => return Err(format!("`\\{letter}`")),
            letter => literal(letter),
        })
    }

    /// A character given by its number, in `digits` hexadecimal digits or in braces.
    fn numbered(&mut self, digits: usize) -> Result<String, String> {
        let number: String = if self.rest.next_if_eq(&'{').is_some() {
            self.rest.by_ref().take_while(|letter| *letter != '}').collect()
        } else {
            self.rest.by_ref().take(digits).collect()
        };
        let letter = u32::from_str_radix(&number, 16).ok().and_then(char::from_u32);
        Ok(literal(letter.ok_or_else(|| format!("the character `{number}`"))?))
    }

    fn open(&mut self) -> Result<(), String> {
        let mut inside = self.group.flags;
        let mut begin = "(".to_owned();
        if self.rest.next_if_eq(&'?').is_some() {
            let named = self.rest.next_if_eq(&'P').is_some();
            if named || self.rest.peek() == Some(&'<') {
                self.rest.next();
                let name: String = self.rest.by_ref().take_while(|letter| *letter != '>').collect();
                let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                if !name.chars().all(plain) {
                    return Err(format!("a group named `{name}`"));
                }
                begin = format!("(?P<{name}>");
            } else {
                let all_follow = self.flags(&mut inside)?;
                let outside = self.group.flags.ignores_case;
                begin = case(outside, inside.ignores_case).unwrap_or("(?:").to_owned();
                if !all_follow {
                    // These flags hold for the rest of this group.
                    if let Some(begin) = case(outside, inside.ignores_case) {
                        self.group.inner.push(begin);
                        self.python += begin;
                    }
                    self.group.flags = inside;
                    self.last = PatternItem { start: self.python.len(), needs_group: false };
                    return Ok(());
                }
            }
        }
        let group = OpenGroup { start: self.python.len(), flags: inside, inner: Vec::new() };
        self.groups.push(std::mem::replace(&mut self.group, group));
        self.python += &begin;
        self.last = PatternItem { start: self.python.len(), needs_group: false };
        Ok(())
    }

    /// Reads flags into `flags`. Returns whether they belong to a group that follows.
    fn flags(&mut self, flags: &mut PatternFlags) -> Result<bool, String> {
        let mut value = true;
        loop {
            match self.rest.next().ok_or("an unclosed group")? {
                ':' => return Ok(true),
                ')' => return Ok(false),
                '-' => value = false,
                'i' => flags.ignores_case = value,
                'm' => flags.many_lines = value,
                's' => flags.dot_is_any = value,
                // These values are the defaults of both engines.
                'u' if value => {}
                'x' | 'U' | 'R' if !value => {}
                flag => return Err(format!("the flag `{}{flag}`", if value { "" } else { "-" })),
            }
        }
    }

    fn end_inner(&mut self) {
        self.python.extend(self.group.inner.iter().map(|_| ')'));
    }

    fn close(&mut self) {
        self.end_inner();
        self.python.push(')');
        self.last = PatternItem { start: self.group.start, needs_group: false };
        self.group = self.groups.pop().unwrap_or_default();
    }

    /// Translates a character class, after its `[`.
    fn class(&mut self) -> Result<String, String> {
        let mut class = "[".to_owned();
        if self.rest.next_if_eq(&'^').is_some() {
            class.push('^');
        }
        let mut first = true;
        while self.rest.next_if_eq(&'-').is_some() {
            class += r"\-";
            first = false;
        }
        loop {
            let letter = self.rest.next().ok_or("an unclosed character class")?;
            let next = self.rest.peek().copied();
            match letter {
                ']' if !first => break,
                '&' | '-' | '~' if next == Some(letter) => {
                    return Err(format!("`{letter}{letter}` in a character class"));
                }
                '[' if next == Some(':') => class += self.named_class()?,
                '[' => return Err("a nested character class".to_owned()),
                letter => {
                    class += &self.member(letter)?;
                    let mut ahead = self.rest.clone();
                    let range = ahead.next() == Some('-') && !matches!(ahead.next(), Some(']' | '-') | None);
                    if range {
                        self.rest.next();
                        let last = self.rest.next().ok_or("an unclosed character class")?;
                        class.push('-');
                        class += &self.member(last)?;
                    }
                }
            }
            first = false;
        }
        class.push(']');
        Ok(class)
    }

    fn member(&mut self, letter: char) -> Result<String, String> {
        match letter {
            '\\' => {
                let letter = self.rest.next().ok_or("a `\\` at the end")?;
                self.escaped(letter)
            }
            letter => Ok(literal(letter)),
        }
    }

    /// The members of `[:alpha:]` and the like, after the first `[`.
    fn named_class(&mut self) -> Result<&'static str, String> {
        let name: String = self.rest.by_ref().take_while(|letter| *letter != ']').collect();
        Ok(match name.trim_matches(':') {
            "alnum" => "0-9A-Za-z",
            "alpha" => "A-Za-z",
            "ascii" => r"\x00-\x7f",
            "blank" => r"\t ",
            "cntrl" => r"\x00-\x1f\x7f",
            "digit" => "0-9",
            "graph" => "!-~",
            "lower" => "a-z",
            "print" => " -~",
            "punct" => r"!-/:-@\[-`{-~",
            "space" => r"\t-\r ",
            "upper" => "A-Z",
            "word" => "0-9A-Za-z_",
            "xdigit" => "0-9A-Fa-f",
            _ => return Err(format!("the class `[{name}]`")),
        })
    }
}

/// The opening of a group that changes case sensitivity, where `inside` differs from `outside`.
fn case(outside: bool, inside: bool) -> Option<&'static str> {
    match (outside, inside) {
        (false, true) => Some("(?i:"),
        (true, false) => Some("(?-i:"),
        _ => None,
    }
}

/// The text that matches a character literally, also in a class.
fn literal(letter: char) -> String {
    match letter {
        '\n' => r"\n".to_owned(),
        letter if letter.is_ascii_control() => format!("\\x{:02x}", u32::from(letter)),
        letter if letter.is_ascii_punctuation() => format!("\\{letter}"),
        letter => letter.to_string(),
    }
}
