//! The network namespace a control plane runs in.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::addresses;
use crate::cache::fingerprint;
use crate::process::Process;

/// Variables that would send the namespace's traffic to a proxy outside it.
pub const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// A network namespace: a named one (as root), or one inside a user namespace that a process holds open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Namespace {
    /// Named under `/run/netns`, as `ip netns add` makes it. Needs root.
    Named(String),
    /// Held open by a process in a user namespace of its own. Needs no privilege.
    Held(Process),
}

impl Namespace {
    /// Whether namespaces can be made here at all, by making one that ends at once.
    pub fn probe() -> Result<()> {
        for tool in ["ip", "nsenter"] {
            run(Command::new(tool).arg("-V"))?;
        }
        run(&mut unshare("true")).context(PRIVILEGE)
    }

    /// Makes a namespace for the instance in `folder`, with its addresses and a default route on `lo`. As root it
    /// is a named one, its name derived from the folder; otherwise one in a user namespace, if the kernel allows
    /// that to ordinary users.
    pub fn create(folder: &Path) -> Result<Self> {
        let namespace = if nix::unistd::geteuid().is_root() {
            let name = name_for(folder);
            if !named(&name).exists() {
                run(Command::new("ip").args(["netns", "add", &name]))?;
            }
            Self::Named(name)
        } else {
            let log = folder.join("namespace.log");
            let process = Process::spawn(unshare("sleep").arg("infinity"), &log)?;
            Self::Held(process)
        };
        if let Err(error) = namespace.configure(folder) {
            // Nobody would find it again: the instance has no record yet. The first error is the one to tell.
            let _ = namespace.remove();
            return Err(error);
        }
        Ok(namespace)
    }

    /// Brings `lo` up, and gives it the addresses and the default route. Done again it changes nothing.
    fn configure(&self, folder: &Path) -> Result<()> {
        let mut script = vec!["set -e".to_owned(), "ip link set lo up".to_owned()];
        for address in [addresses::API_SERVER].into_iter().chain(addresses::nodes()) {
            script.push(format!("ip address replace {address}/32 dev lo"));
        }
        script.push("ip route replace default dev lo".to_owned());
        let script = script.join("\n");
        let limit = std::time::Duration::from_secs(10);
        let mut last = String::new();
        // A holder that was just started may not have made its namespaces yet.
        crate::wait::until("the network namespace", limit, || {
            if let Self::Held(process) = self
                && !process.is_alive()
            {
                let log = fs::read_to_string(folder.join("namespace.log")).unwrap_or_default();
                bail!("{PRIVILEGE} (unshare said: {})", log.trim());
            }
            match run(self.command("sh").args(["-c", &script])) {
                Ok(()) => return Ok(None),
                Err(error) if matches!(self, Self::Named(_)) => return Err(error),
                Err(error) => last = error.to_string(),
            }
            Ok(Some(last.clone()))
        })
    }

    /// Whether it still exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        match self {
            Self::Named(name) => named(name).exists(),
            Self::Held(process) => process.is_alive(),
        }
    }

    /// Whether this very process is inside.
    #[must_use]
    pub fn is_entered(&self) -> bool {
        let theirs = match self {
            Self::Named(name) => named(name),
            Self::Held(process) => PathBuf::from(format!("/proc/{}/ns/net", process.pid)),
        };
        let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let own = identity(Path::new("/proc/self/ns/net"));
        own.is_some() && own == identity(&theirs)
    }

    /// A command that will run inside, without proxy variables.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command =
            if self.is_entered() { Command::new(program) } else { self.nsenter(program.as_ref()) };
        for variable in PROXY_VARIABLES {
            command.env_remove(variable);
        }
        command
    }

    fn nsenter(&self, program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        match self {
            Self::Named(name) => command.arg(format!("--net={}", named(name).display())),
            Self::Held(process) => command.args([
                "--target",
                &process.pid.to_string(),
                "--user",
                "--net",
                "--preserve-credentials",
            ]),
        };
        command.arg("--").arg(program);
        command
    }

    /// Removes it. What still runs inside keeps it alive until it ends.
    pub fn remove(&self) -> Result<()> {
        match self {
            Self::Named(name) if named(name).exists() => {
                run(Command::new("ip").args(["netns", "delete", name]))
            }
            Self::Named(_) => Ok(()),
            Self::Held(process) => process.kill(),
        }
    }
}

const PRIVILEGE: &str = "the control plane needs a network namespace: \
    run as root, or on a kernel that lets ordinary users make user namespaces";

/// A command in a new network namespace; for all but root, in a new user namespace too.
fn unshare(program: &str) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", program]);
    command
}

fn named(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// `vk-` and a hash of the folder: instances in other folders, of other users or clones, get other names.
fn name_for(folder: &Path) -> String {
    format!("vk-{}", fingerprint([folder.as_os_str().as_encoded_bytes()]))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| {
        format!(
            "starting {}: the control plane needs `ip` (iproute2) and `nsenter` (util-linux)",
            program.display()
        )
    })?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_other_folders_have_other_names() {
        let name = name_for(Path::new("/cache/instances/default"));
        assert_eq!(name, name_for(Path::new("/cache/instances/default")));
        assert_ne!(name, name_for(Path::new("/cache/instances/other")));
        assert!(name.len() < 32 && name.starts_with("vk-"), "{name}");
    }

    #[test]
    fn a_process_is_not_inside_a_namespace_that_does_not_exist() {
        assert!(!Namespace::Named("vk-no-such-namespace".to_owned()).is_entered());
        assert!(!Namespace::Named("vk-no-such-namespace".to_owned()).exists());
    }

    #[test]
    fn a_command_inside_keeps_no_proxy_variable() {
        let command = Namespace::Named("x".to_owned()).command("true");
        for variable in PROXY_VARIABLES {
            assert!(
                command.get_envs().any(|(name, value)| name == variable && value.is_none()),
                "{variable}"
            );
        }
    }
}
