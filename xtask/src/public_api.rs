//! `public-api`: the library's public API beside the listing in the tree.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cargo, tiers};

/// Compares, or writes the listing anew.
pub(crate) fn run(update: bool) -> Result<ExitCode> {
    let mut command = command();
    if update {
        command.arg("--update");
    }
    Ok(tiers::exit_code(command.status().context("starting cargo")?))
}

/// The comparison, which builds what it needs.
pub(crate) fn command() -> Command {
    let mut command = cargo::command();
    command.args(["run", "--quiet", "--package", "vk-public-api", "--"]);
    command
}
