//! The standard library as files that an editor can open.
//!
//! Its modules are compiled into the program. Editors can only open paths; a scheme such as `std:` would need
//! code in every editor. So the texts are written to the user's cache folder, one folder per version,
//! read-only: every editor can open and search them and show their symbols.

use std::fs;
use std::path::{Path, PathBuf};

use mopd_lang::diag::Code;

/// The path of the file of `std:opd.mopd`, which is written on first use. `None` if no folder can be written.
pub fn file(path: &str) -> Option<PathBuf> {
    let name = path.strip_prefix("std:")?;
    let (_, text) = mopd_std::module(name.strip_suffix(".mopd")?)?;
    written(folder()?, name, text)
}

/// The path of the page of a diagnostic, which is written on first use, like modules.
pub fn page(code: Code) -> Option<PathBuf> {
    written(folder()?.join("codes"), &format!("{}.md", code.name()), code.page())
}

fn written(folder: PathBuf, name: &str, text: &str) -> Option<PathBuf> {
    let file = folder.join(name);
    if fs::read_to_string(&file).is_ok_and(|written| written == text) {
        return Some(file);
    }
    fs::create_dir_all(&folder).ok()?;
    // Another server may write the same file: each writes its own temporary file, and the last rename wins.
    let partial = folder.join(format!("{name}.{}", std::process::id()));
    fs::write(&partial, text).ok()?;
    let mut permissions = fs::metadata(&partial).ok()?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&partial, permissions).ok()?;
    fs::rename(&partial, &file).ok()?;
    Some(file)
}

/// `std:opd.mopd`, if the path is that of its file.
pub fn name_of(path: &Path) -> Option<String> {
    let name = path.strip_prefix(folder()?).ok()?.to_str()?;
    mopd_std::module(name.strip_suffix(".mopd")?).map(|(path, _)| path)
}

fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
    let cache = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
    };
    let cache = cache.unwrap_or_else(std::env::temp_dir);
    cache.is_absolute().then(|| cache.join("mopd").join(format!("std-{}", env!("CARGO_PKG_VERSION"))))
}
