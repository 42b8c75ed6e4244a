//! Where the files of an experiment lie, relative to it: an experiment that is moved, or checked out again in
//! another folder, is the same experiment.

use std::path::{Path, PathBuf};

/// Stands for the experiment's folder in a command. No command can contain it.
const HERE: &str = "\0";

/// The experiment's folder, and the folders above it that belong to the same checkout.
pub struct Checkout {
    /// Absolute paths, innermost first, each with the number of levels above the experiment's folder.
    folders: Vec<(PathBuf, usize)>,
}

impl Checkout {
    /// `base` is the experiment's folder. The checkout is the folder above it with `.git`, if there is one:
    /// what is outside does not move with the experiment.
    pub fn new(base: &Path) -> Checkout {
        let written = std::path::absolute(base).ok();
        let real = base.canonicalize().ok().filter(|real| Some(real) != written.as_ref());
        let mut folders = Vec::new();
        for base in written.into_iter().chain(real) {
            let root = base.ancestors().position(|folder| folder.join(".git").exists()).unwrap_or(0);
            let within = base.ancestors().take(root + 1).enumerate();
            // Every absolute path is below the outermost folder.
            let within = within.filter(|(_, folder)| folder.parent().is_some());
            folders.extend(within.map(|(levels, folder)| (folder.to_owned(), levels)));
        }
        folders.sort_by_key(|(_, levels)| *levels);
        Checkout { folders }
    }

    /// The path of a file relative to the experiment's folder, with `/` on every system; `None` for a file
    /// outside the checkout.
    pub fn relative(&self, path: &Path) -> Option<String> {
        let path = std::path::absolute(path).ok()?;
        let (rest, levels) = self
            .folders
            .iter()
            .find_map(|(folder, levels)| Some((path.strip_prefix(folder).ok()?, levels)))?;
        let names = rest.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        Some(std::iter::repeat_n("..".to_owned(), *levels).chain(names).collect::<Vec<_>>().join("/"))
    }

    /// The name of a file that a command or a list names: an absolute path of the checkout is written
    /// relative to the experiment's folder.
    pub fn name(&self, written: &str) -> String {
        let path = Path::new(written);
        let relative = path.is_absolute().then(|| self.relative(path)).flatten();
        relative.unwrap_or_else(|| written.to_owned())
    }

    /// A command in which absolute paths of the checkout are relative to the experiment's folder.
    pub fn located(&self, command: &str) -> String {
        let (mut text, mut rest, mut before) = (String::with_capacity(command.len()), command, None);
        while let Some(c) = rest.chars().next() {
            let found = (c == '/' && before.is_none_or(separates)).then(|| self.prefix(rest)).flatten();
            let length = match found {
                Some((length, levels)) => {
                    text.push_str(HERE);
                    text.push_str(&"/..".repeat(levels));
                    length
                }
                None => {
                    text.push(c);
                    c.len_utf8()
                }
            };
            before = rest[..length].chars().next_back();
            rest = &rest[length..];
        }
        text
    }

    /// The length of the folder that a text begins with, and its levels above the experiment's folder.
    fn prefix(&self, text: &str) -> Option<(usize, usize)> {
        self.folders.iter().find_map(|(folder, levels)| {
            let folder = folder.to_str()?;
            let next = text.strip_prefix(folder)?.chars().next();
            next.is_none_or(|c| c == '/' || separates(c)).then_some((folder.len(), *levels))
        })
    }
}

/// Whether a path in a command may begin after this character and end before it.
fn separates(c: char) -> bool {
    c.is_whitespace() || "\"'`=:;,&|()<>".contains(c)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_checkout_is_the_same_wherever_it_lies() {
        let of = |is_repository: bool, folders: &str| {
            let place = tempfile::tempdir().unwrap();
            let root = place.path().join(folders);
            fs::create_dir_all(root.join("exp one")).unwrap();
            if is_repository {
                fs::create_dir(root.join(".git")).unwrap();
            }
            let (checkout, shown) = (Checkout::new(&root.join("exp one")), root.display().to_string());
            let command = format!(
                "cd {shown} && PATH={shown}/bin:/bin '{shown}/exp one/a.py' {shown}/exp/b {shown}2/c /d{shown}"
            );
            let relative =
                ["exp one/a.py", "exp one", "exp/b"].map(|path| checkout.relative(&root.join(path)));
            assert_eq!(checkout.relative(Path::new("/bin/sh")), None);
            (
                checkout.located(&command).replace(&shown, "ROOT"),
                relative.map(|path| path.unwrap_or_default()),
            )
        };
        let repository = of(true, "a");
        assert_eq!(repository.0, "cd \0/.. && PATH=\0/../bin:/bin '\0/a.py' \0/../exp/b ROOT2/c /dROOT");
        assert_eq!(repository.1, ["a.py", "", "../exp/b"]);
        assert_eq!(of(true, "other/place"), repository);
        // Without a repository, only the experiment's own folder moves with it.
        let (command, relative) = of(false, "a");
        assert_eq!(command, "cd ROOT && PATH=ROOT/bin:/bin '\0/a.py' ROOT/exp/b ROOT2/c /dROOT");
        assert_eq!(relative, ["a.py", "", ""]);
    }

    #[test]
    fn a_link_to_the_folder_is_the_folder() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", place.path().join("link")).unwrap();
        let checkout = Checkout::new(&place.path().join("link"));
        for name in ["real", "link"] {
            let file = place.path().join(name).join("a.py");
            assert_eq!(checkout.relative(&file).as_deref(), Some("a.py"));
            assert_eq!(checkout.located(&file.display().to_string()), "\0/a.py");
        }
    }
}
