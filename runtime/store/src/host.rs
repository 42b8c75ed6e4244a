//! The machine that this program runs on.

/// Its name, by which machines that share a folder tell each other apart.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
