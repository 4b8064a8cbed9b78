//! `oracle`: runs a kubelet's recorded cases inside a control plane of its own.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::control_plane::{Tool, instance};
use crate::{cargo, tiers, tools};

/// Runs `tests/oracle-run` with these arguments. The plane is taken down at the end.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let oracle = cargo::binary("the cases' runner", "vk-oracle-run", "oracle", &[])?;
    let is_help = |argument: &OsString| argument == "--help" || argument == "-h";
    if arguments.is_empty() || arguments.iter().any(is_help) {
        let status = Command::new(&oracle).arg("--help").status().context("starting the runner")?;
        return Ok(tiers::exit_code(status));
    }
    let tool = Tool::build()?;
    if let Some(obstacle) = tool.obstacle()? {
        bail!("the cases need the real control plane, which can't run on this machine: {obstacle}");
    }
    tools::ensure_command("busybox", "busybox-static")?;
    let program = tool.part("oracle-tool")?.join("tool");
    let plane = instance("oracle");
    tool.fresh(&plane, &[])?;
    let run = tool
        .inside(&plane, &oracle)
        .args(arguments)
        .env("VK_ORACLE_TOOL", program)
        .status()
        .context("starting the runner");
    // Also after a failed run: the next one starts from nothing.
    tool.down(&plane)?;
    Ok(tiers::exit_code(run?))
}
