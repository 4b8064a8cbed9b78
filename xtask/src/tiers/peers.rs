//! Independent clients and tools: against the daemon and the in-memory API server, and, where they need more of a
//! cluster than that, against the real control plane.

use anyhow::{Context, Result};

use super::real::inside_plane;
use super::runner::tests;
use super::suites::{Kind, node, targets, test_command};
use crate::control_plane::Tool;
use crate::tally::Tally;
use crate::tools;

/// The targets that need the real control plane: aggregation, controllers, nodes' certificates.
const IN_PLANE: [&str; 3] = ["peers_chart", "peers_metrics", "peers_streaming"];

/// The release that kubectl is built of beside the plane's own: it is there for the `real` tier.
const BUILT_KUBECTL: &str = "1.35";

/// The Python client's release.
const PYTHON_CLIENT: &str = "37.0.2";

pub(crate) fn run(in_ci: bool) -> Result<Tally> {
    let targets = targets(Kind::Peers)?;
    if targets.is_empty() {
        return Ok(Tally::fail("there are no tests named peers_*"));
    }
    let (in_plane, outside): (Vec<String>, Vec<String>) =
        targets.into_iter().partition(|target| IN_PLANE.contains(&target.as_str()));
    let mut tally = outside_plane(in_ci, &outside)?;
    tally.add(with_plane(in_ci, &in_plane).unwrap_or_else(|error| Tally::fail(format!("{error:#}"))));
    Ok(tally)
}

fn outside_plane(in_ci: bool, targets: &[String]) -> Result<Tally> {
    let kubectl = match tools::kubectl() {
        Ok(kubectl) => kubectl,
        Err(error) => return Ok(Tally::cannot(in_ci, "kubectl", &format!("{error:#}"))),
    };
    let Some(node) = node()? else { return Ok(Tally::fail("the daemon does not build")) };
    let mut command = test_command(targets);
    command.env("VK_NODE_BIN", node).env("VK_KUBECTL", kubectl);
    tests("peers", &mut command)
}

fn with_plane(in_ci: bool, targets: &[String]) -> Result<Tally> {
    let tool = Tool::build()?;
    if let Some(obstacle) = tool.obstacle()? {
        return Ok(Tally::cannot(in_ci, "the real control plane", &obstacle));
    }
    if let Err(error) = tools::ensure_command("promtool", "prometheus") {
        return Ok(Tally::cannot(in_ci, "prometheus", &format!("{error:#}")));
    }
    let python = match tools::python_library("kubernetes", PYTHON_CLIENT) {
        Ok(python) => python,
        Err(error) => return Ok(Tally::cannot(in_ci, "the Python client", &format!("{error:#}"))),
    };
    let built = tool.kubernetes(BUILT_KUBECTL)?.join("kubectl");
    let kubectls = [tools::old_kubectl()?, built, tools::kubectl()?];
    let metrics_server = tool.part("metrics-server")?.join("metrics-server");
    let helm = tool.part("helm")?.join("helm");
    let stream_clients = tool.part("stream-clients")?.join("stream-clients");
    let variables = [
        ("VK_METRICS_SERVER", metrics_server),
        ("VK_HELM", helm),
        ("VK_STREAM_CLIENTS", stream_clients),
        ("VK_PYTHON", python),
        ("VK_KUBECTLS", std::env::join_paths(kubectls).context("a path with a colon")?.into()),
    ];
    inside_plane(&tool, &[], targets, &variables)
}
