//! Commands of author programs as texts: where the absolute paths in them are.

/// Characters that separate a path from the rest of a command.
fn separates(c: char) -> bool {
    c.is_whitespace() || "\"'`=:;,&|()<>".contains(c)
}

/// A command with `/` in place of each absolute path in it. Where a program lies is no part of its meaning:
/// at run time, the content of its files and their places relative to the experiment are added.
pub fn without_absolute_paths(command: &str) -> String {
    let (mut text, mut rest, mut before) = (String::with_capacity(command.len()), command, None);
    while let Some(c) = rest.chars().next() {
        // The slashes of `https://` begin no path.
        let starts = c == '/' && before.is_none_or(separates) && !rest.starts_with("//");
        let length = if starts { rest.find(separates).unwrap_or(rest.len()) } else { c.len_utf8() };
        text.push_str(if starts { "/" } else { &rest[..length] });
        before = rest[..length].chars().next_back();
        rest = &rest[length..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_are_left_out() {
        for (command, expected) in [
            ("python3 /home/a/verify.py --strict", "python3 / --strict"),
            ("/usr/bin/judge --rules=/a/b.json,/c", "/ --rules=/,/"),
            ("PYTHONPATH=/a:/b python3 -m judge", "PYTHONPATH=/:/ python3 -m judge"),
            ("cd '/a/b' && ./judge < /dev/null;", "cd '/' && ./judge < /;"),
        ] {
            assert_eq!(without_absolute_paths(command), expected);
        }
        for command in
            ["python3 a/verify.py", "./judge ../x", "$HOME/judge ~/y", "judge http://host:80/x //y", ""]
        {
            assert_eq!(without_absolute_paths(command), command);
        }
    }
}
