//! The suites that need nothing but cargo, and finding the test targets of each tier.
//!
//! Which tier an integration test belongs to shows in its name and place: targets named `real_*` and `peers_*`, in
//! whichever crate, are those tiers'; the others in `tests/scenarios` are scenarios on the in-memory server, and
//! all the rest is unit.
//!
//! Every call selects the whole workspace and picks targets by name: another selection of packages would have
//! cargo unify features differently and compile much of the graph again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::runner::tests;
use crate::cargo;
use crate::tally::Tally;

/// The member whose tests are scenarios.
const SCENARIOS: &str = "tests/scenarios";

/// Each crate's own tests.
pub(crate) fn unit() -> Result<Tally> {
    let mut command = test_command(&targets(Kind::Unit)?);
    command.args(["--lib", "--bins", "--examples"]);
    tests("unit tests", &mut command)
}

/// Scenarios on the in-memory API server.
pub(crate) fn scenarios() -> Result<Tally> {
    let targets = targets(Kind::InMemory)?;
    if targets.is_empty() {
        return Ok(Tally::fail(format!("there are no tests in {SCENARIOS}")));
    }
    let Some(node) = node()? else { return Ok(Tally::fail("the daemon does not build")) };
    let mut command = test_command(&targets);
    command.env("VK_NODE_BIN", node);
    tests("scenarios", &mut command)
}

/// Builds the daemon as the workspace's tests do; its path, or `None` when something doesn't build.
pub(crate) fn node() -> Result<Option<std::path::PathBuf>> {
    let built = cargo::build(&["build", "--workspace", "--bins"])?;
    Ok(built
        .into_iter()
        .flatten()
        .find(|found| found.kind == "bin" && found.name == "vk-node")
        .map(|node| node.path))
}

/// Which tier's integration tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unit,
    InMemory,
    Real,
    Peers,
}

/// The names of a tier's test targets.
pub(crate) fn targets(kind: Kind) -> Result<Vec<String>> {
    let root = cargo::root();
    let mut targets = Vec::new();
    for member in members(&root)? {
        let names = names(&root.join(&member).join("tests"))?;
        targets.extend(names.into_iter().filter(|name| kind_of(&member, name) == kind));
    }
    Ok(targets)
}

fn kind_of(member: &str, target: &str) -> Kind {
    if target.starts_with("real_") {
        Kind::Real
    } else if target.starts_with("peers_") {
        Kind::Peers
    } else if member == SCENARIOS {
        Kind::InMemory
    } else {
        Kind::Unit
    }
}

/// `cargo test` of these targets, and no other.
pub(crate) fn test_command(targets: &[String]) -> Command {
    let mut command = cargo::command();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for target in targets {
        command.args(["--test", target]);
    }
    command
}

/// Names of the integration tests in a `tests` folder, as cargo finds them; none if there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if !folder.is_dir() {
        return Ok(names);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        let is_target = if path.is_dir() {
            path.join("main.rs").is_file()
        } else {
            path.extension().is_some_and(|extension| extension == "rs")
        };
        if is_target && let Some(stem) = path.file_stem() {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The workspace's members, read from the root's manifest: a list of quoted paths.
fn members(root: &Path) -> Result<Vec<String>> {
    let path = root.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let members = parse_members(&text);
    if members.is_empty() {
        bail!("{} lists no members", path.display());
    }
    Ok(members)
}

fn parse_members(manifest: &str) -> Vec<String> {
    let Some((_, rest)) = manifest.split_once("\nmembers = [") else { return Vec::new() };
    let list = rest.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_targets_name_and_place_tell_its_tier() {
        assert_eq!(kind_of("tests/control-plane", "real_faults"), Kind::Real);
        assert_eq!(kind_of(SCENARIOS, "real_storm"), Kind::Real);
        assert_eq!(kind_of(SCENARIOS, "peers_kubectl"), Kind::Peers);
        assert_eq!(kind_of(SCENARIOS, "really"), Kind::InMemory);
        assert_eq!(kind_of("vk-core", "storm"), Kind::Unit);
    }

    #[test]
    fn targets_are_files_and_folders_with_a_main() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in ["b.rs", "notes.md"] {
            fs::write(folder.path().join(file), "").expect("a file");
        }
        for sub in ["a", "common"] {
            fs::create_dir(folder.path().join(sub)).expect("a folder");
        }
        fs::write(folder.path().join("a/main.rs"), "").expect("a file");
        fs::write(folder.path().join("common/mod.rs"), "").expect("a file");
        assert_eq!(names(folder.path()).expect("readable"), ["a", "b"]);
        assert_eq!(names(&folder.path().join("none")).expect("no folder"), Vec::<String>::new());
    }

    #[test]
    fn members_are_read_from_this_workspaces_manifest() {
        let members = members(&cargo::root()).expect("a manifest");
        for wanted in ["vk-core", "tests/scenarios", "xtask"] {
            assert!(members.iter().any(|member| member == wanted), "{wanted} in {members:?}");
        }
        assert!(
            members.iter().all(|member| cargo::root().join(member).join("Cargo.toml").is_file()),
            "{members:?}"
        );
    }
}
