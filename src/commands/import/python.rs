//! The arguments of a configuration and of its trainer in a Python program. Literals are read, and names that
//! the module gives one literal; what a program computes is not known.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::given::{GivenPairs, GivenValue};
use crate::problem::Problem;

const CLASSES: [&str; 3] = ["DistillationConfig", "AsyncDistillationConfig", "GKDConfig"];

/// The class of the configuration, and what it and its trainer are given.
pub fn arguments(path: &Path, text: &str) -> Result<(String, GivenPairs), Problem> {
    let source = PythonSource::new(text);
    let Some((class, at)) = CLASSES.iter().find_map(|class| Some((*class, source.call(class)?))) else {
        let message = format!("{} makes no configuration that `mopd import` knows", path.display());
        return Err(Problem::usage("unknown-configuration", message)
            .help(format!("it looks for a call of {}", CLASSES.join(", "))));
    };
    let mut settings = GivenPairs::new();
    source.given(at, &["output_dir"], &mut settings);
    let trainer = class.replace("Config", "Trainer");
    if let Some(at) = source.call(&trainer) {
        let order: &[&str] =
            if class.starts_with("Async") { &["model", "args"] } else { &["model", "teacher_model", "args"] };
        let mut of_trainer = GivenPairs::new();
        source.given(at, order, &mut of_trainer);
        for (name, value) in of_trainer {
            let setting = match name.as_str() {
                // The configuration itself.
                "args" => continue,
                "model" => "model_name_or_path",
                "teacher_model" => "teacher_model_name_or_path",
                other => other,
            };
            // A model that is no name stays what it is, an argument of the trainer.
            let named = matches!(&value, GivenValue::Known(Value::String(_)));
            let setting = if named { setting } else { &name };
            if !settings.iter().any(|(key, _)| key == setting) {
                settings.push((setting.to_owned(), value));
            }
        }
    }
    Ok((class.to_owned(), settings))
}

/// A program, and beside every byte what it is: of a comment `#`, inside a string `_`, of code itself.
struct PythonSource<'a> {
    text: &'a str,
    code: Vec<u8>,
    /// Open brackets before every byte.
    depth: Vec<u32>,
}

impl<'a> PythonSource<'a> {
    fn new(text: &'a str) -> PythonSource<'a> {
        let bytes = text.as_bytes();
        let mut code = bytes.to_vec();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'#' => {
                    while at < bytes.len() && bytes[at] != b'\n' {
                        code[at] = b'#';
                        at += 1;
                    }
                }
                quote @ (b'"' | b'\'') => {
                    let width = if bytes[at..].starts_with(&[quote; 3]) { 3 } else { 1 };
                    at += width;
                    while at < bytes.len() && !bytes[at..].starts_with(&[quote; 3][..width]) {
                        if width == 1 && bytes[at] == b'\n' {
                            break;
                        }
                        let escaped = usize::from(bytes[at] == b'\\');
                        for inside in code.iter_mut().skip(at).take(1 + escaped) {
                            *inside = b'_';
                        }
                        at += 1 + escaped;
                    }
                    at = (at + width).min(bytes.len());
                }
                _ => at += 1,
            }
        }
        let mut open: u32 = 0;
        let depth = code.iter().map(|byte| {
            let before = open;
            match byte {
                b'(' | b'[' | b'{' => open += 1,
                b')' | b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            before
        });
        let depth = depth.collect();
        PythonSource { text, code, depth }
    }

    /// Where the arguments of a call begin. A name in a comment or a string is no call.
    fn call(&self, name: &str) -> Option<usize> {
        let whole = format!("{name}(");
        (0..self.code.len()).find_map(|at| {
            let is_start = at == 0 || !is_of_name(self.code[at - 1]);
            (is_start && self.code[at..].starts_with(whole.as_bytes())).then_some(at + whole.len())
        })
    }

    /// Cut at commas of the bracket that was opened before `start`, up to its end.
    fn parts(&self, start: usize) -> Vec<Range<usize>> {
        let Some(&inside) = self.depth.get(start) else { return Vec::new() };
        let mut parts = Vec::new();
        let mut from = start;
        for at in start..self.code.len() {
            if self.depth[at] != inside {
                continue;
            }
            match self.code[at] {
                b')' | b']' | b'}' => {
                    parts.push(from..at);
                    break;
                }
                b',' => {
                    parts.push(from..at);
                    from = at + 1;
                }
                _ => {}
            }
        }
        parts.into_iter().map(|part| self.trimmed(part)).filter(|part| !part.is_empty()).collect()
    }

    /// Whether the bracket that was opened before `start` closes with the last byte of a range: that of
    /// `[1] + [2]` does not.
    fn is_closed_by(&self, start: usize, range: &Range<usize>) -> bool {
        let inside = self.depth.get(start);
        let close =
            (start..range.end).find(|at| self.depth.get(*at) == inside && b")]}".contains(&self.code[*at]));
        close.is_some_and(|close| close + 1 == range.end)
    }

    /// Without white space and comments at its ends.
    fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        let (mut start, mut end) = (range.start, range.end);
        let is_blank = |at: usize| self.code[at] == b'#' || self.code[at].is_ascii_whitespace();
        while start < end && is_blank(start) {
            start += 1;
        }
        while start < end && is_blank(end - 1) {
            end -= 1;
        }
        start..end
    }

    fn of_code(&self, range: &Range<usize>) -> &[u8] {
        &self.code[range.clone()]
    }

    /// On one line, without comments.
    fn shown(&self, range: &Range<usize>) -> String {
        let letters = self.text[range.clone()].char_indices();
        let kept = letters.filter(|(at, _)| self.code[range.start + at] != b'#').map(|(_, letter)| letter);
        kept.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What a call is given; `order` names its first arguments.
    fn given(&self, start: usize, order: &[&str], settings: &mut GivenPairs) {
        for (number, part) in self.parts(start).into_iter().enumerate() {
            let code = self.of_code(&part);
            if code.starts_with(b"**") {
                let inner = self.resolved(self.trimmed(part.start + 2..part.end));
                if !self.fields("", &inner, settings) {
                    let shown = self.shown(&part);
                    settings.push((shown.clone(), GivenValue::Expression(shown)));
                }
                continue;
            }
            let length = code.iter().take_while(|byte| is_of_name(**byte)).count();
            let blank = code[length..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let sign = length + blank;
            let is_named = length > 0 && code.get(sign) == Some(&b'=') && code.get(sign + 1) != Some(&b'=');
            let (name, value) = if is_named {
                let name = self.text[part.start..part.start + length].to_owned();
                (name, self.trimmed(part.start + sign + 1..part.end))
            } else {
                let name = order.get(number).map(|name| (*name).to_owned());
                (name.unwrap_or_else(|| format!("argument {}", number + 1)), part)
            };
            self.setting(&name, value, settings);
        }
    }

    /// One setting, or those of a dictionary or of peft's configuration below it.
    fn setting(&self, name: &str, written: Range<usize>, settings: &mut GivenPairs) {
        let range = self.resolved(written.clone());
        if self.fields(name, &range, settings) {
            return;
        }
        let value = match self.literal(&range) {
            Some(value) => GivenValue::Known(value),
            None => GivenValue::Expression(self.shown(&written)),
        };
        settings.push((name.to_owned(), value));
    }

    /// The fields of `{"a": 1}`, of `dict(a=1)` and of `LoraConfig(r=8)`; whether it is one of them.
    fn fields(&self, name: &str, range: &Range<usize>, settings: &mut GivenPairs) -> bool {
        let code = self.of_code(range);
        let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        if let Some(call) = [&b"dict("[..], b"LoraConfig(", b"peft.LoraConfig("]
            .into_iter()
            .find(|call| code.starts_with(call) && self.is_closed_by(range.start + call.len(), range))
        {
            let mut inner = GivenPairs::new();
            self.given(range.start + call.len(), &[], &mut inner);
            if call != b"dict(" {
                settings.push((below("kind"), GivenValue::Known(Value::from("lora"))));
            }
            settings.extend(inner.into_iter().map(|(key, value)| (below(&key), value)));
            return true;
        }
        if !(code.starts_with(b"{") && self.is_closed_by(range.start + 1, range)) {
            return false;
        }
        let mut found = Vec::new();
        for part in self.parts(range.start + 1) {
            let colon =
                part.clone().find(|at| self.code[*at] == b':' && self.depth[*at] == self.depth[part.start]);
            let key = colon.and_then(|colon| self.literal(&self.trimmed(part.start..colon)));
            let (Some(colon), Some(Value::String(key))) = (colon, key) else { return false };
            found.push((key, self.trimmed(colon + 1..part.end)));
        }
        if found.is_empty() {
            return false;
        }
        for (key, value) in found {
            self.setting(&below(&key), value, settings);
        }
        true
    }

    /// What a name stands for, if the module says it once.
    fn resolved(&self, range: Range<usize>) -> Range<usize> {
        let mut range = range;
        // A chain of names ends, or is a circle.
        for _ in 0..8 {
            let code = self.of_code(&range);
            let is_name = code.first().is_some_and(|first| !first.is_ascii_digit())
                && code.iter().all(|byte| is_of_name(*byte));
            match is_name.then(|| self.constant(code)).flatten() {
                Some(next) => range = next,
                None => break,
            }
        }
        range
    }

    /// The value of `NAME = ...` at the module's own level. A name that is set twice, or within a function or
    /// a loop, has no value that the text shows.
    fn constant(&self, name: &[u8]) -> Option<Range<usize>> {
        let mut found = None;
        let mut start = 0;
        for line in self.code.split_inclusive(|byte| *byte == b'\n') {
            let (at, end) = (start, start + line.len());
            start = end;
            let indent = line.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if self.depth[at] != 0 || !line[indent..].starts_with(name) {
                // Within brackets a name with `=` is an argument.
                continue;
            }
            let rest = &line[indent + name.len()..];
            let Some(sign) = rest.iter().position(|byte| *byte == b'=') else { continue };
            let before = &rest[..sign];
            let is_plain =
                before.iter().all(u8::is_ascii_whitespace) || before.trim_ascii_start().starts_with(b":");
            let is_update = before.trim_ascii().iter().all(|byte| b"+-*/%|&^@".contains(byte));
            if rest.get(sign + 1) == Some(&b'=') || !(is_plain || is_update) {
                continue;
            }
            if found.is_some() || indent > 0 || !is_plain {
                return None;
            }
            let value = at + name.len() + sign + 1;
            let stop = (value..self.code.len())
                .find(|at| b"\n;".contains(&self.code[*at]) && self.depth[*at] == 0)
                .unwrap_or(self.code.len());
            found = Some(self.trimmed(value..stop));
        }
        found.filter(|range| !range.is_empty())
    }

    fn literal(&self, range: &Range<usize>) -> Option<Value> {
        let range = self.resolved(range.clone());
        let code = self.of_code(&range);
        match code {
            b"True" => return Some(Value::Bool(true)),
            b"False" => return Some(Value::Bool(false)),
            b"None" => return Some(Value::Null),
            _ => {}
        }
        match code.first()? {
            quote @ (b'"' | b'\'') => self.string(&range, *quote).map(Value::String),
            b'[' | b'(' if self.is_closed_by(range.start + 1, &range) => {
                let parts = self.parts(range.start + 1);
                match (code[0], parts.as_slice()) {
                    (b'(', [only]) => self.literal(only),
                    _ => parts.iter().map(|part| self.literal(part)).collect(),
                }
            }
            b'0'..=b'9' | b'.' | b'-' | b'+' => self.number(&range),
            _ => None,
        }
    }

    /// One string between its quotes, not several beside each other.
    fn string(&self, range: &Range<usize>, quote: u8) -> Option<String> {
        let code = self.of_code(range);
        let width = if code.len() >= 6 && code.starts_with(&[quote; 3]) { 3 } else { 1 };
        let inside = code.get(width..code.len().checked_sub(width)?)?;
        if !code.ends_with(&[quote; 3][..width]) || !inside.iter().all(|byte| *byte == b'_') {
            return None;
        }
        let text = &self.text[range.start + width..range.end - width];
        Some(text.replace("\\\"", "\"").replace("\\'", "'"))
    }

    /// A number, or one divided by or multiplied with another: `1/2`.
    fn number(&self, range: &Range<usize>) -> Option<Value> {
        let text = self.shown(range).replace('_', "");
        if let Ok(whole) = text.parse::<i64>() {
            return Some(Value::from(whole));
        }
        let real = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let both = |sign: char| {
            let (left, right) = text.split_once(sign)?;
            Some((real(left)?, real(right)?))
        };
        let quotient = || both('/').map(|(left, right)| left / right);
        let product = || both('*').map(|(left, right)| left * right);
        let value = real(&text).or_else(quotient).or_else(product).filter(|number| number.is_finite())?;
        let is_whole = value.fract() == 0.0 && value.abs() < 1e15 && text.contains('*');
        Some(if is_whole { Value::from(value as i64) } else { Value::from(value) })
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let (class, pairs) = arguments(Path::new("a.py"), text).expect("a configuration");
        let shown = |(path, value)| match value {
            GivenValue::Known(value) => format!("{path} = {value}"),
            GivenValue::Expression(text) => format!("{path} ? {text}"),
        };
        std::iter::once(class).chain(pairs.into_iter().map(shown)).collect()
    }

    #[test]
    fn comments_and_strings_are_no_calls() {
        let text = "\"\"\"Run DistillationConfig(beta=0.25) like so.\"\"\"\n\
                    # args = DistillationConfig(beta=0.5)\n\
                    text = 'DistillationConfig(beta=0.75)'  # GKDConfig(lmbda=1)\n\
                    args = trl.DistillationConfig(beta=1.0,  # not 0.5, (or so)\n    seed=3)\n";
        assert_eq!(of(text), ["DistillationConfig", "beta = 1.0", "seed = 3"]);
    }

    #[test]
    fn a_name_is_known_if_the_module_says_it_once() {
        let text = "LR = 3e-5  # of the paper\nSAME: float = LR\nBS = 1\nBS = 2\nN = 4\nN *= 2\n\
                    def f():\n    HIDDEN = 3\n\
                    learning_rate = SAME\n\
                    args = GKDConfig(\n    learning_rate=learning_rate, beta=1/2, max_steps=BS,\n\
                    \x20   seed=N, top=HIDDEN,\n\
                    \x20   a=2 * 64, b=(0.9, 0.95), c=\"x\" \"y\", d=f(1, 2), e=None, f=-inf)\n";
        let known = [
            "GKDConfig",
            "learning_rate = 0.00003",
            "beta = 0.5",
            "max_steps ? BS",
            "seed ? N",
            "top ? HIDDEN",
            "a = 128",
            "b = [0.9,0.95]",
            "c ? \"x\" \"y\"",
            "d ? f(1, 2)",
            "e = null",
            "f ? -inf",
        ];
        assert_eq!(of(text), known);
    }

    #[test]
    fn what_is_unpacked_and_given_by_place_is_not_lost() {
        let text = "kw = dict(beta=0.0, model_init_kwargs={'revision': 'v1', 'dtype': torch.bfloat16})\n\
                    lora = LoraConfig(r=8, target_modules=['q_proj'])\n\
                    args = DistillationConfig('out', seed=1, **kw, **more())\n\
                    DistillationTrainer('a', teacher, args, train_dataset=load('x'), peft_config=lora)\n";
        let known = [
            "DistillationConfig",
            "output_dir = \"out\"",
            "seed = 1",
            "beta = 0.0",
            "model_init_kwargs.revision = \"v1\"",
            "model_init_kwargs.dtype ? torch.bfloat16",
            "**more() ? **more()",
            "model_name_or_path = \"a\"",
            "teacher_model ? teacher",
            "train_dataset ? load('x')",
            "peft_config.kind = \"lora\"",
            "peft_config.r = 8",
            "peft_config.target_modules = [\"q_proj\"]",
        ];
        assert_eq!(of(text), known);
    }
}
