//! Commands for shells: completions, and manual pages.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Write the completions of a shell to standard output
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd completions bash > ~/.local/share/bash-completion/completions/mopd
  mopd completions zsh > ~/.zfunc/_mopd                     with `fpath+=~/.zfunc` before `compinit`
  mopd completions fish > ~/.config/fish/completions/mopd.fish")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Write the manual page of mopd, or of one of its commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd man | man -l -
  mopd man run | man -l -
  mopd man --out ~/.local/share/man/man1                    mopd.1, mopd-run.1, ...")]
pub struct ManArgs {
    /// The page of this command [default: of mopd as a whole]
    #[arg(conflicts_with = "out")]
    pub command: Option<String>,
    /// Write every page to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}
