//! `bench`: builds in release, brings a durable control plane up, and runs the driver beside it.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::control_plane::{Tool, instance};
use crate::{cargo, tiers};

/// Runs `tests/bench` with these arguments inside a control plane of its own, which is taken down at the end.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let driver = cargo::binary("the benchmark's driver", "vk-bench", "vk-bench", &["--release"])?;
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        let status =
            std::process::Command::new(&driver).arg("--help").status().context("starting the driver")?;
        return Ok(tiers::exit_code(status));
    }
    // Without the quickstart, whose API server would be compiled for nothing.
    let lean = ["--release", "--no-default-features", "--features", "mock"];
    let node = cargo::binary("the daemon", "vk-node", "vk-node", &lean)?;
    let tool = Tool::build()?;
    if let Some(obstacle) = tool.obstacle()? {
        bail!("the benchmark needs the real control plane, which can't run on this machine: {obstacle}");
    }
    let kwok = tool.part("kwok")?;
    let plane = instance("bench");
    tool.fresh(&plane, &["--durable"])?;
    let run = tool
        .inside(&plane, &driver)
        .args(arguments)
        .env("VK_NODE_BIN", &node)
        .env("VK_KWOK", &kwok)
        .status()
        .context("starting the driver");
    // Also after a failed run: the next one starts from nothing.
    tool.down(&plane)?;
    Ok(tiers::exit_code(run?))
}
