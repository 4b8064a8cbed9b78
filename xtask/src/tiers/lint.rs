//! Format, clippy, dependencies.

use std::process::Command;

use anyhow::Result;

use super::runner::check;
use crate::tally::Tally;
use crate::{cargo, tools};

pub(crate) fn run(in_ci: bool) -> Result<Tally> {
    let mut tally = check("cargo fmt --check", cargo::command().args(["fmt", "--all", "--check"]))?;
    let mut clippy = cargo::command();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    tally.add(check("cargo clippy", &mut clippy)?);
    tally.add(match tools::cargo_deny() {
        Ok(deny) => {
            let mut command = Command::new(deny);
            command.args(["check", "bans", "licenses", "sources"]).current_dir(cargo::root());
            check("cargo deny check bans licenses sources", &mut command)?
        }
        Err(error) => Tally::cannot(in_ci, "cargo deny", &format!("{error:#}")),
    });
    Ok(tally)
}
