//! The number that a text states, as people, models and data sets write one: `18`, `$1,234.50`,
//! `\boxed{\frac{1}{2}}`, `#### 72`, `The answer is 18 apples.` It is for the reward `numeric`; the book has
//! the rule, under "Numbers". What the rule can't read is no number, rather than a part of it.

/// A number as a fraction of two decimals, which have the digits of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numeral {
    pub numerator: String,
    pub denominator: String,
}

/// The number that an answer states: that of its last box, else that of its last line that begins with
/// `####`, else the last number in it. What a model thought before it answered does not count.
pub fn stated(text: &str) -> Option<Numeral> {
    let answer = text.rsplit_once("</think>").map_or(text, |(_, answer)| answer);
    marked(answer).unwrap_or_else(|| last(&items(answer)))
}

/// The number that a text is, with at most a unit or a name around it; the same for what is marked in it.
pub fn whole(text: &str) -> Option<Numeral> {
    marked(text).unwrap_or_else(|| only(&items(text)))
}

/// The number that is marked as the answer, if anything is.
fn marked(text: &str) -> Option<Option<Numeral>> {
    if let Some(inside) = boxed(text) {
        return Some(only(&items(inside)));
    }
    let (_, line) = text.rsplit_once("####")?;
    let line = line.trim_start().lines().next()?;
    // A heading of Markdown begins like an answer of GSM8K.
    let begins = line.starts_with(|first: char| first.is_ascii_digit() || "+-.$\\€£\u{2212}".contains(first));
    only(&items(line)).filter(|_| begins).map(Some)
}

/// The inside of the last `\boxed{...}`.
fn boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let inside = &text[start..];
    let mut depth = 1;
    for (at, character) in inside.char_indices() {
        depth += i32::from(character == '{') - i32::from(character == '}');
        if depth == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

/// What a text is made of, as far as it matters where a number stands in it.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Number(Numeral),
    /// What has digits or stands for a number, and is not read: `\sqrt{2}`, `2\pi`, `1_000`, `3, 4`.
    Unread,
    Word(String),
    /// `=` or `:`, before which a name stands.
    Equals,
    /// An operation, a relation other than equality, or anything else that makes a text more than a number.
    Sign,
}

fn last(items: &[Item]) -> Option<Numeral> {
    let is_number = |item: &Item| matches!(item, Item::Number(_) | Item::Unread);
    let place = items.iter().rposition(is_number)?;
    // `18 or 19` does not say which.
    let hedged = match &items[..place] {
        [.., one, Item::Word(word)] => is_number(one) && word == "or",
        _ => false,
    };
    match &items[place] {
        Item::Number(number) if !hedged => Some(number.clone()),
        _ => None,
    }
}

fn only(items: &[Item]) -> Option<Numeral> {
    let is_word = |item: &Item| matches!(item, Item::Word(_));
    let value = match items.iter().rposition(|item| *item == Item::Equals) {
        Some(place) if items[..place].iter().all(is_word) => &items[place + 1..],
        _ => items,
    };
    match value {
        [Item::Number(number), unit @ ..] if unit.iter().all(is_word) => Some(number.clone()),
        _ => None,
    }
}

/// Single letters that are units where they stand behind a number; another letter is a variable.
const UNITS: &str = "mgshlLWVNJACF";
/// Words behind a number that multiply it.
const MULTIPLES: [&str; 11] =
    ["hundred", "thousand", "million", "billion", "trillion", "dozen", "k", "K", "M", "B", "bn"];
/// Commands of LaTeX that only set their content, or space.
const PLAIN: [&str; 17] = [
    "text",
    "textbf",
    "textit",
    "mathrm",
    "mathbf",
    "mbox",
    "displaystyle",
    "left",
    "right",
    "quad",
    "qquad",
    "approx",
    "therefore",
    "implies",
    "Rightarrow",
    "rightarrow",
    "boxed",
];
/// Commands that stand for a number which is not read.
const VALUES: [&str; 9] = ["sqrt", "pi", "log", "ln", "sin", "cos", "tan", "infty", "binom"];

fn items(text: &str) -> Vec<Item> {
    let mut scanner = Scanner { text: simplified(text), at: 0, items: Vec::new() };
    while scanner.at < scanner.text.len() {
        scanner.item();
    }
    scanner.items
}

/// The text with one spelling for what has several.
fn simplified(text: &str) -> Vec<char> {
    let full_width = |character: char| match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character),
        '\u{2212}' => '-',
        '×' | '·' | '⋅' => '*',
        '€' | '£' | '¥' | '₹' => '$',
        character => character,
    };
    let mut text: String = text.chars().map(full_width).collect();
    for (written, meant) in [
        ("{,}", ","),
        ("\\!", ""),
        ("\\$", "$"),
        ("\\%", "%"),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("\\times", "*"),
        ("\\cdot", "*"),
        ("^{\\circ}", "°"),
        ("^\\circ", "°"),
        ("\\,", "\u{2009}"),
        ("\u{202f}", "\u{2009}"),
        ("\\;", " "),
        ("\\:", " "),
        ("\\ ", " "),
        ("~", " "),
    ] {
        if text.contains(written) {
            text = text.replace(written, meant);
        }
    }
    let all: Vec<char> = text.chars().collect();
    let digit = |at: usize| all.get(at).is_some_and(char::is_ascii_digit);
    // A thin space between groups of three digits.
    let groups =
        |at: usize| at > 0 && digit(at - 1) && (1..4).all(|behind| digit(at + behind)) && !digit(at + 4);
    let plain = |(at, character): (usize, &char)| match character {
        '\u{2009}' if groups(at) => Some(','),
        '\u{2009}' => Some(' '),
        // `-$18`
        '$' if at > 0 && matches!(all[at - 1], '-' | '+') => None,
        '$' => Some(' '),
        character => Some(*character),
    };
    all.iter().enumerate().filter_map(plain).collect()
}

struct Scanner {
    text: Vec<char>,
    at: usize,
    items: Vec<Item>,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(&belongs) {
            self.at += 1;
        }
        self.text[start..self.at].iter().collect()
    }

    fn skip_spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// Whether the text goes on like this behind spaces, which are skipped with it.
    fn takes(&mut self, wanted: &str) -> bool {
        let before = self.at;
        self.skip_spaces();
        let same = wanted.chars().enumerate().all(|(ahead, character)| self.peek(ahead) == Some(character));
        self.at = if same { self.at + wanted.chars().count() } else { before };
        same
    }

    fn item(&mut self) {
        let Some(next) = self.peek(0) else { return };
        match next {
            '0'..='9' => self.number(),
            '.' if self.peek(1).is_some_and(|digit| digit.is_ascii_digit()) => self.number(),
            'a'..='z' | 'A'..='Z' | '_' => {
                let word = self.take_while(is_of_word);
                self.items.push(Item::Word(word));
            }
            '\\' => self.command(),
            // The power of a unit or of a name.
            '^' => drop(self.exponent()),
            '√' | 'π' | '∞' => self.unread(1),
            // One that belongs to a number is taken with it.
            '-' | '+' if self.is_sign(self.at) => self.at += 1,
            '+' | '-' | '/' | '<' | '>' | '≤' | '≥' | '≠' | '±' | ';' | '|' => self.sign(1),
            '=' | ':' => {
                self.at += 1;
                self.items.push(Item::Equals);
            }
            '*' if self.peek(1) == Some('*') => self.at += 2,
            '*' => self.sign(1),
            // The power of a unit: `cm²`.
            next if next.is_numeric() && !(self.at > 0 && is_of_word(self.text[self.at - 1])) => {
                self.unread(1);
            }
            _ => self.at += 1,
        }
    }

    fn unread(&mut self, length: usize) {
        self.at += length;
        self.items.push(Item::Unread);
    }

    fn sign(&mut self, length: usize) {
        self.at += length;
        self.items.push(Item::Sign);
    }

    /// Whether the `-` or `+` at a place belongs to the number behind it: `x = -3`, not `5-3`.
    fn is_sign(&self, at: usize) -> bool {
        let begins = |next: &char| next.is_ascii_digit() || ".\\".contains(*next);
        let operand = |before: char| is_of_word(before) || ")]}°%+-".contains(before);
        self.text.get(at + 1).is_some_and(begins) && !(at > 0 && operand(self.text[at - 1]))
    }

    /// Whether the number that begins at `start` has a minus.
    fn is_negative(&self, start: usize) -> bool {
        start > 0 && self.text[start - 1] == '-' && self.is_sign(start - 1)
    }

    /// `^3`, `^{-3}`: its text without braces.
    fn exponent(&mut self) -> String {
        self.at += 1;
        let braced = self.peek(0) == Some('{');
        self.at += usize::from(braced);
        let exponent = match braced {
            true => self.take_while(|character| character != '}'),
            false => self.take_while(|character| character.is_ascii_digit() || character == '-'),
        };
        self.at += usize::from(braced && self.peek(0) == Some('}'));
        exponent
    }

    fn command(&mut self) {
        let start = self.at;
        self.at += 1;
        let name = self.take_while(|character| character.is_ascii_alphabetic());
        match name.as_str() {
            // `\(`, `\\`
            "" => self.at += 1,
            "frac" => match (self.argument(), self.argument()) {
                (Some(over), Some(under)) => self.push(start, over, under),
                _ => self.items.push(Item::Unread),
            },
            name if VALUES.contains(&name) => {
                drop(self.argument());
                // `\log 2`
                self.skip_spaces();
                self.take_while(|character| character.is_ascii_digit());
                self.items.push(Item::Unread);
            }
            name if PLAIN.contains(&name) => {}
            _ => self.items.push(Item::Sign),
        }
    }

    /// The decimal that is the next argument of a command: `{12}`, or a digit.
    fn argument(&mut self) -> Option<String> {
        if self.peek(0).is_some_and(|next| next.is_ascii_digit()) {
            self.at += 1;
            return Some(self.text[self.at - 1].to_string());
        }
        if self.peek(0) != Some('{') {
            return None;
        }
        self.at += 1;
        let inside = self.take_while(|character| character != '}');
        self.at += 1;
        decimal(inside.trim())
    }

    fn number(&mut self) {
        let start = self.at;
        let digits = self.take_while(|character| character.is_ascii_digit() || ".,".contains(character));
        let spelled = digits.trim_end_matches(['.', ',']);
        self.at -= digits.len() - spelled.len();
        let mut value = decimal(spelled);
        if let (Some(value), Some('e' | 'E')) = (&mut value, self.peek(0)) {
            let signed = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.peek(1 + signed).is_some_and(|digit| digit.is_ascii_digit()) {
                let from = self.at;
                self.at += 1 + signed;
                self.take_while(|character| character.is_ascii_digit());
                value.extend(&self.text[from..self.at]);
            }
        }
        let mut under = "1".to_owned();
        if self.peek(0) == Some('^') {
            // A power of ten is a number in another notation; of others, the value is not computed.
            let ten = value.as_deref() == Some("10");
            value = Some(format!("1e{}", self.exponent())).filter(|_| ten);
        } else if self.takes("*10^") || self.takes("* 10^") {
            self.at -= 1;
            let exponent = self.exponent();
            value = value.map(|value| format!("{value}e{exponent}"));
        } else if self.divides() {
            let digits = self.take_while(|character| character.is_ascii_digit() || character == '.');
            let spelled = digits.trim_end_matches('.');
            self.at -= digits.len() - spelled.len();
            // Of a date and the like no part is read.
            let more = self.peek(0) == Some('/');
            match decimal(spelled).filter(|_| !more) {
                Some(number) => under = number,
                None => value = None,
            }
        }
        let fits = self.ends_here();
        match value.filter(|_| fits && !self.continues(start)) {
            Some(over) => self.push(start, over, under),
            None => self.items.push(Item::Unread),
        }
    }

    /// Whether a `/` and a denominator are next; the `/` is skipped.
    fn divides(&mut self) -> bool {
        let before = self.at;
        let divides = self.takes("/") && {
            self.skip_spaces();
            self.peek(0).is_some_and(|digit| digit.is_ascii_digit())
        };
        if !divides {
            self.at = before;
        }
        divides
    }

    /// Whether what stands directly behind a number leaves it one: a unit, which is skipped, or nothing.
    fn ends_here(&mut self) -> bool {
        let attached = self.take_while(is_of_word);
        let unit = match attached.as_str() {
            "" => true,
            word if MULTIPLES.contains(&word) => false,
            word if word.len() == 1 => UNITS.contains(word),
            word => word.bytes().all(|byte| byte.is_ascii_alphabetic()),
        };
        let opaque = match self.peek(0) {
            Some('\\') => {
                let name: String =
                    self.text[self.at + 1..].iter().take_while(|next| next.is_ascii_alphabetic()).collect();
                !(name.is_empty() || name == "frac" || PLAIN.contains(&name.as_str()))
            }
            // `x²` is a unit's or a name's, `10²` is none.
            Some(next) => attached.is_empty() && next.is_numeric() || "√π(".contains(next),
            None => false,
        };
        let before = self.at;
        self.skip_spaces();
        let next = self.take_while(is_of_word);
        self.at = before;
        unit && !opaque && !MULTIPLES.contains(&next.as_str())
    }

    /// Whether the number that began at `start` is an operand of the one before: `3 + 15`.
    fn continues(&self, start: usize) -> bool {
        let before = self.text[..start].iter().rposition(|character| !character.is_whitespace());
        let Some(operator) = before.filter(|before| "+-*/".contains(self.text[*before])) else {
            return false;
        };
        if operator + 1 == start && self.is_sign(operator) {
            return false;
        }
        let operand = self.text[..operator].iter().rev().find(|character| !character.is_whitespace());
        operand.is_some_and(|before| before.is_ascii_digit() || *before == ')')
    }

    /// Adds the number that began at `start`; to a whole number before it, if it is a fraction.
    fn push(&mut self, start: usize, over: String, under: String) {
        let negative = self.is_negative(start);
        let whole = |number: &str| number.parse::<i64>().ok();
        let before = &self.text[..start];
        let spaces = before.iter().rev().take_while(|character| character.is_whitespace()).count();
        let operand = before[..start - spaces].last().copied().filter(|_| !negative && under != "1");
        let directly = spaces == 0 && operand.is_some_and(|before| is_of_word(before) || before == ')');
        if spaces <= 1
            && operand.is_some_and(|before| before.is_ascii_digit())
            && let Some(Item::Number(Numeral { numerator, denominator })) = self.items.last_mut()
            && let (Some(number), Some(over), Some(under)) = (whole(numerator), whole(&over), whole(&under))
            && denominator == "1"
            && over < under
        {
            let magnitude = i128::from(number.unsigned_abs()) * i128::from(under) + i128::from(over);
            let sign = if numerator.starts_with('-') { "-" } else { "" };
            (*numerator, *denominator) = (format!("{sign}{magnitude}"), under.to_string());
            return;
        }
        let finite = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        let divides = finite(&under).is_some_and(|under| under != 0.0);
        self.items.push(match finite(&over).filter(|_| divides && !directly) {
            Some(_) => {
                let sign = if negative { "-" } else { "" };
                Item::Number(Numeral { numerator: format!("{sign}{over}"), denominator: under })
            }
            None => Item::Unread,
        });
    }
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// A decimal without its commas between groups of three digits; `None` where commas or points separate
/// something else.
fn decimal(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let grouped = whole.contains(',');
    let fits = digits(first)
        && (!grouped || (1..=3).contains(&first.len()))
        && groups.all(|group| group.len() == 3 && digits(group))
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty());
    fits.then(|| text.replace(',', ""))
}

#[cfg(test)]
mod tests;
