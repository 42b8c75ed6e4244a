//! Finds libtorch: the libraries that `mopd-worker` loads, which are not part of mopd's packages.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use mopd_store::regular;

use crate::problem::Problem;

/// The downloads that `./x` uses. The worker is built for their version.
pub const PINS: &str = include_str!("../tools/setup/libtorch.txt");

/// The variable that the dynamic linker searches before a program's own paths.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// The version in the first pin, `torch==2.11.0`.
pub fn version() -> &'static str {
    let pins = PINS.lines().filter(|line| !line.starts_with('#'));
    pins.filter_map(|line| line.strip_prefix("torch==")?.split(' ').next()).next().unwrap_or("unknown")
}

/// How to install it, for help texts.
pub fn how_to_get() -> String {
    format!(
        "`mopd setup` downloads libtorch {0}, with CUDA where there is a GPU; to use the torch of Python,\n\
         `pip install torch=={0}` where mopd is installed; or set LIBTORCH to its folder",
        version()
    )
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libtorch {
    /// The folder that contains `lib`.
    pub folder: PathBuf,
    pub source: LibtorchSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibtorchSource {
    /// `$LIBTORCH`.
    Variable,
    /// The torch of the Python that installed mopd.
    Python,
    /// `mopd setup`, or `./x`.
    Setup,
}

impl LibtorchSource {
    pub fn text(self) -> &'static str {
        match self {
            LibtorchSource::Variable => "$LIBTORCH",
            LibtorchSource::Python => "the torch of Python",
            LibtorchSource::Setup => "mopd setup",
        }
    }
}

/// The search result. `None` does not mean that there is no libtorch: a worker that was built on this machine
/// has a built-in path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FoundLibtorch {
    pub libtorch: Option<Libtorch>,
    /// A torch beside mopd with another version than the worker's.
    pub ignored: Option<String>,
}

/// Searches in order: `$LIBTORCH`, torch of the Python that installed mopd, download of `mopd setup`.
pub fn find() -> Result<FoundLibtorch, Problem> {
    let named = variable("LIBTORCH").map(PathBuf::from);
    let program = std::env::current_exe().ok();
    let cache = cache(variable("MOPD_CACHE"), variable("XDG_CACHE_HOME"), variable("HOME"));
    find_in(named, program.as_deref().and_then(Path::parent), cache.as_deref())
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same folder as in `tools/setup/libtorch.py`.
fn cache(ours: Option<OsString>, shared: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let shared = || shared.map(PathBuf::from).or_else(|| Some(Path::new(&home?).join(".cache")));
    ours.map(PathBuf::from).or_else(|| Some(shared()?.join("mopd")))
}

fn find_in(
    named: Option<PathBuf>,
    programs: Option<&Path>,
    cache: Option<&Path>,
) -> Result<FoundLibtorch, Problem> {
    let found =
        |folder, source| Ok(FoundLibtorch { libtorch: Some(Libtorch { folder, source }), ignored: None });
    if let Some(folder) = named {
        return match (has_library(&folder), cut_library(&folder)) {
            (true, None) => found(folder, LibtorchSource::Variable),
            (true, Some(cut)) => Err(Problem::usage(
                "no-libtorch",
                format!("$LIBTORCH names {}, of which {cut} is cut: its end is missing", folder.display()),
            )
            .help("copy or unpack it again")),
            (false, _) => Err(Problem::usage(
                "no-libtorch",
                format!("$LIBTORCH names {}, which has no lib/{}", folder.display(), library()),
            )
            .help(format!("name the folder of libtorch {}, which has a folder `lib`", version()))),
        };
    }
    let mut ignored = None;
    if let Some(folder) = programs.and_then(torch_of_python) {
        match version_of(&folder) {
            Some(theirs) if theirs != version() => {
                ignored = Some(format!(
                    "torch {theirs} in {} is not used: mopd needs {}",
                    folder.display(),
                    version()
                ));
            }
            _ => return found(folder, LibtorchSource::Python),
        }
    }
    let fetched = ["cuda/torch", "cpu"]
        .map(|kind| cache.map(|cache| cache.join(format!("libtorch-{}-{kind}", version()))));
    let fetched: Vec<PathBuf> = fetched.into_iter().flatten().filter(|folder| has_library(folder)).collect();
    let cut = fetched.iter().find_map(|folder| Some((folder, cut_library(folder)?)));
    if let Some((folder, library)) = cut {
        let shown = folder.display();
        ignored = Some(format!("{shown} is not used: {library} is cut, its end is missing"));
    }
    let fetched = fetched.iter().find(|folder| cut_library(folder).is_none()).cloned();
    let libtorch = fetched.map(|folder| Libtorch { folder, source: LibtorchSource::Setup });
    Ok(FoundLibtorch { libtorch, ignored })
}

fn library() -> String {
    format!("libtorch_cpu{}", std::env::consts::DLL_SUFFIX)
}

fn has_library(folder: &Path) -> bool {
    folder.join("lib").join(library()).is_file()
}

/// A library of a folder that lacks its end, as after a full disk or a power failure. `whole` of
/// `tools/setup/libtorch.py` does the same.
fn cut_library(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder.join("lib")).ok()?;
    let mut cut: Vec<String> = entries
        .flatten()
        .filter(|entry| is_cut(&entry.path()))
        .map(|entry| format!("lib/{}", entry.file_name().to_string_lossy()))
        .collect();
    cut.sort();
    cut.into_iter().next()
}

/// Whether a file is empty, or shorter than its ELF header says: the table of sections is at its end.
fn is_cut(path: &Path) -> bool {
    const HEADER: usize = 64;
    let Ok(file) = regular::open(path) else { return false };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut header = Vec::new();
    if file.take(HEADER as u64).read_to_end(&mut header).is_err() || !header.starts_with(b"\x7fELF") {
        return length == 0;
    }
    let Ok(header): Result<[u8; HEADER], _> = header.try_into() else { return true };
    let number = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let table = u64::from_le_bytes(std::array::from_fn(|byte| header[40 + byte]));
    table.saturating_add(number(58) * number(60)) > length
}

/// A Python installs programs in `PREFIX/bin` and packages in `PREFIX/lib/python3.N/site-packages` (`lib64`
/// and `dist-packages` on some systems). Its packages are the ones that list mopd.
fn torch_of_python(programs: &Path) -> Option<PathBuf> {
    let prefix = programs.parent()?;
    let listing = format!("mopd-{}.dist-info", env!("CARGO_PKG_VERSION"));
    let mut places: Vec<PathBuf> = ["lib", "lib64"]
        .into_iter()
        .flat_map(|lib| std::fs::read_dir(prefix.join(lib)).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|packages| entry.path().join(packages)))
        .filter(|packages| packages.join(&listing).is_dir())
        .map(|packages| packages.join("torch"))
        .filter(|torch| has_library(torch))
        .collect();
    places.sort();
    places.into_iter().next()
}

/// The version in `torch/version.py`, without the build suffix of `2.11.0+cu130`.
fn version_of(torch: &Path) -> Option<String> {
    let text = std::fs::read_to_string(torch.join("version.py")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim_matches(['\'', '"']).split('+').next()?.to_owned())
}

impl Libtorch {
    /// Whether it includes the CUDA libraries.
    pub fn has_cuda(&self) -> bool {
        self.folder.join("lib").join(format!("libtorch_cuda{}", std::env::consts::DLL_SUFFIX)).is_file()
    }

    /// `$LD_LIBRARY_PATH` with this libtorch first. `None` if the path contains a separator.
    pub fn library_path(&self, before: Option<&OsStr>) -> Option<OsString> {
        let own = self.folder.join("lib");
        let others = before.filter(|value| !value.is_empty()).map(std::env::split_paths);
        std::env::join_paths(std::iter::once(own).chain(others.into_iter().flatten())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A libtorch in each place that is searched.
    fn machine() -> tempfile::TempDir {
        let machine = tempfile::tempdir().unwrap();
        let packages = "env/lib/python3.12/site-packages";
        for folder in ["own", &format!("{packages}/torch"), &format!("cache/libtorch-{}-cpu", version())] {
            write(machine.path(), &format!("{folder}/lib/{}", library()), "a library");
        }
        let listing = format!("{packages}/mopd-{}.dist-info/METADATA", env!("CARGO_PKG_VERSION"));
        write(machine.path(), &listing, "");
        write(machine.path(), &format!("{packages}/torch/version.py"), "__version__ = '2.11.0+cu130'\n");
        machine
    }

    fn found(machine: &Path, named: Option<&str>) -> Result<FoundLibtorch, Problem> {
        let (programs, cache) = (machine.join("env/bin"), machine.join("cache"));
        find_in(named.map(|name| machine.join(name)), Some(&programs), Some(&cache))
    }

    fn source(machine: &Path, named: Option<&str>) -> Option<LibtorchSource> {
        found(machine, named).unwrap().libtorch.map(|libtorch| libtorch.source)
    }

    #[test]
    fn the_variable_then_python_then_the_setup() {
        let machine = machine();
        let machine = machine.path();
        assert_eq!(version(), "2.11.0");
        assert_eq!(source(machine, Some("own")), Some(LibtorchSource::Variable));
        assert_eq!(source(machine, None), Some(LibtorchSource::Python));
        std::fs::remove_dir_all(machine.join("env")).unwrap();
        assert_eq!(source(machine, None), Some(LibtorchSource::Setup));
        // A version with CUDA comes before one without.
        let cuda = format!("cache/libtorch-{}-cuda/torch", version());
        write(machine, &format!("{cuda}/lib/{}", library()), "a library");
        let libtorch = found(machine, None).unwrap().libtorch.unwrap();
        assert_eq!((&libtorch.folder, libtorch.has_cuda()), (&machine.join(&cuda), false));
        std::fs::remove_dir_all(machine.join("cache")).unwrap();
        assert_eq!(found(machine, None), Ok(FoundLibtorch::default()));
    }

    #[test]
    fn a_variable_that_names_nothing_is_refused() {
        let problem = found(machine().path(), Some("nothing")).unwrap_err();
        assert_eq!(problem.name(), "no-libtorch");
        assert!(problem.message().contains("nothing, which has no lib/libtorch_cpu"), "{problem:?}");
    }

    #[test]
    fn another_version_of_torch_is_not_used() {
        let machine = machine();
        let torch = "env/lib/python3.12/site-packages/torch/version.py";
        write(machine.path(), torch, "__version__ = '2.15.0'\n");
        let found = found(machine.path(), None).unwrap();
        assert_eq!(found.libtorch.unwrap().source, LibtorchSource::Setup);
        assert!(found.ignored.unwrap().contains("torch 2.15.0 in "));
    }

    #[test]
    fn a_library_without_its_end_is_not_used() {
        let machine = tempfile::tempdir().unwrap();
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let folder = machine.path().join(format!("cache/libtorch-{}-cpu", version()));
        std::fs::create_dir_all(folder.join("lib")).unwrap();
        for (length, whole) in [
            (program.len(), true),
            (program.len() - 1, false),
            (program.len() / 2, false),
            (64, false),
            (10, false),
            (0, false),
        ] {
            std::fs::write(folder.join("lib").join(library()), &program[..length]).unwrap();
            let found = found(machine.path(), None).unwrap();
            assert_eq!((found.libtorch.is_some(), found.ignored.is_none()), (whole, whole), "{length}");
            let named = find_in(Some(folder.clone()), None, None);
            assert_eq!(named.is_ok(), whole, "{length}");
            assert!(named.err().is_none_or(|problem| problem.message().contains("is cut")));
        }
        // Any library that the worker loads.
        std::fs::write(folder.join("lib").join(library()), &program).unwrap();
        std::fs::write(folder.join("lib/libc10.so"), &program[..1000]).unwrap();
        let ignored = found(machine.path(), None).unwrap().ignored.unwrap();
        assert!(ignored.contains("lib/libc10.so is cut"), "{ignored}");
    }

    /// A Python that did not install mopd may share its folder of programs, such as `/usr/local`.
    #[test]
    fn only_the_python_that_installed_mopd_counts() {
        let machine = machine();
        let packages = machine.path().join("env/lib/python3.12/site-packages");
        std::fs::remove_dir_all(packages.join(format!("mopd-{}.dist-info", env!("CARGO_PKG_VERSION"))))
            .unwrap();
        assert_eq!(source(machine.path(), None), Some(LibtorchSource::Setup));
    }

    #[test]
    fn cache_folder_follows_environment_variables() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(cache(some("/a"), some("/b"), some("/c")), Some("/a".into()));
        assert_eq!(cache(None, some("/b"), some("/c")), Some("/b/mopd".into()));
        assert_eq!(cache(None, None, some("/c")), Some("/c/.cache/mopd".into()));
        assert_eq!(cache(None, None, None), None);
    }

    #[test]
    fn libtorch_comes_first() {
        let libtorch = Libtorch { folder: "/t".into(), source: LibtorchSource::Setup };
        assert_eq!(libtorch.library_path(None), Some("/t/lib".into()));
        assert_eq!(libtorch.library_path(Some(OsStr::new(""))), Some("/t/lib".into()));
        assert_eq!(libtorch.library_path(Some(OsStr::new("/a:/b"))), Some("/t/lib:/a:/b".into()));
    }
}
