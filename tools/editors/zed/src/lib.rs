//! Starts `mopd lsp` for Zed: the program that Zed's settings name, else the one on the `PATH`.

use zed_extension_api::settings::LspSettings;
use zed_extension_api::{Command, Extension, LanguageServerId, Result, Worktree, register_extension};

struct Mopd;

impl Extension for Mopd {
    fn new() -> Self {
        Mopd
    }

    fn language_server_command(&mut self, server: &LanguageServerId, worktree: &Worktree) -> Result<Command> {
        let settings = LspSettings::for_worktree(server.as_ref(), worktree)?;
        let named = settings.binary.and_then(|binary| binary.path);
        let Some(command) = named.or_else(|| worktree.which("mopd")) else {
            return Err("`mopd` is not on the PATH: install it, or name it in the settings, as in \
                        \"lsp\": { \"mopd\": { \"binary\": { \"path\": \"/path/to/mopd\" } } }"
                .to_owned());
        };
        Ok(Command { command, args: vec!["lsp".to_owned()], env: worktree.shell_env() })
    }
}

register_extension!(Mopd);
