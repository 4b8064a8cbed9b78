//! Independent clients and tools against the daemon and the in-memory API server.

use anyhow::Result;

use super::runner::tests;
use super::suites::{Kind, node, targets, test_command};
use crate::tally::Tally;
use crate::tools;

pub(crate) fn run(in_ci: bool) -> Result<Tally> {
    let targets = targets(Kind::Peers)?;
    if targets.is_empty() {
        return Ok(Tally::fail("there are no tests named peers_*"));
    }
    let kubectl = match tools::kubectl() {
        Ok(kubectl) => kubectl,
        Err(error) => return Ok(Tally::cannot(in_ci, "kubectl", &format!("{error:#}"))),
    };
    let Some(node) = node()? else { return Ok(Tally::fail("the daemon does not build")) };
    let mut command = test_command(&targets);
    command.env("VK_NODE_BIN", node).env("VK_KUBECTL", kubectl);
    tests("peers", &mut command)
}
