//! Scenarios on a real control plane, run inside its network namespace.

use std::path::PathBuf;

use anyhow::Result;

use super::runner::tests;
use super::suites::{Kind, node, targets};
use crate::cargo;
use crate::cargo::Executable;
use crate::control_plane::{Tool, instance};
use crate::tally::Tally;
use crate::tools;

/// A second, older API server, which speaks only SPDY to nodes, and the targets that show something about that.
const OLD: (&str, [&str; 1]) = ("1.35", ["real_streaming"]);

pub(crate) fn run(in_ci: bool) -> Result<Tally> {
    let targets = targets(Kind::Real)?;
    if targets.is_empty() {
        return Ok(Tally::fail("there are no tests named real_*"));
    }
    let tool = Tool::build()?;
    if let Some(obstacle) = tool.obstacle()? {
        return Ok(Tally::cannot(in_ci, "the real control plane", &obstacle));
    }
    // The process provider's containers are made from it.
    if let Err(error) = tools::ensure_command("busybox", "busybox-static") {
        return Ok(Tally::cannot(in_ci, "containers as processes", &format!("{error:#}")));
    }
    // A node of another make, for `real_node_conformance`.
    let kwok = tool.part("kwok")?;
    let mut tally = inside_plane(&tool, &[], &targets, &[("VK_KWOK", kwok)])?;
    let (version, names) = OLD;
    println!("--- the API server of Kubernetes {version}");
    tally.add(inside_plane(&tool, &["--version", version], &names.map(str::to_owned), &[])?);
    Ok(tally)
}

/// Runs test targets, one after the other, inside a fresh control plane.
pub(super) fn inside_plane(
    tool: &Tool,
    options: &[&str],
    targets: &[String],
    variables: &[(&str, PathBuf)],
) -> Result<Tally> {
    let mut arguments = vec!["test", "--workspace", "--no-run"];
    for target in targets {
        arguments.extend(["--test", target]);
    }
    let Some(built) = cargo::build(&arguments)? else {
        return Ok(Tally::fail("the tests for the real control plane do not build"));
    };
    let built: Vec<Executable> = built.into_iter().filter(|found| targets.contains(&found.name)).collect();
    let Some(node) = node()? else { return Ok(Tally::fail("the daemon does not build")) };
    let plane = instance("test");
    tool.fresh(&plane, options)?;
    let mut tally = Tally::default();
    for executable in &built {
        let mut command = tool.inside(&plane, &executable.path);
        command
            .arg("--test-threads=1")
            .current_dir(&executable.package)
            .env("CARGO_MANIFEST_DIR", &executable.package)
            .env("VK_CONTROL_PLANE", "real")
            .env("VK_NODE_BIN", &node)
            .envs(variables.iter().map(|(name, value)| (name, value)));
        // One target that can't be run must not leave the plane up, nor keep the others from running.
        tally.add(
            tests(&executable.name, &mut command).unwrap_or_else(|error| Tally::fail(format!("{error:#}"))),
        );
    }
    tool.down(&plane)?;
    Ok(tally)
}
