//! `quickstart`: the README's first command.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo;

/// Builds the daemon and becomes `vk-node quickstart`.
pub(crate) fn run(check: bool) -> Result<ExitCode> {
    let binary = cargo::binary("the daemon; the first time takes a few minutes", "vk-node", "vk-node", &[])?;
    let mut command = Command::new(&binary);
    command.arg("quickstart");
    if check {
        command.arg("--check");
    }
    Err(command.exec()).with_context(|| format!("starting {}", binary.display()))
}
