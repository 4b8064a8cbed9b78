//! Which daemon stands for a node.
//!
//! A node's lease names the node itself as its holder, as every kubelet's does. Which process renews it is
//! in an annotation of the lease, so that a second daemon of the same name is noticed, and a restarted one
//! recognises its own past.

use std::fmt;
use std::fs;

/// The identity of a daemon, kept on the node's lease while the daemon lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Given by configuration. Whoever has it is the same daemon, before and after a restart.
    Named(String),
    /// A process of a host. Another process of the same host can tell whether it still lives.
    Process { host: u64, pid: u32, start: u64 },
}

/// What an instance knows of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinship {
    /// It is the same one.
    Same,
    /// It was a process of this host, and has ended.
    Dead,
    /// It is a process of this host, and lives.
    Alive,
    /// It is somewhere else.
    Stranger,
}

impl Instance {
    /// An identity that outlives restarts: a pod's UID, or any text that no other daemon uses.
    #[must_use]
    pub fn named(id: impl Into<String>) -> Self {
        Self(Kind::Named(id.into()))
    }

    /// This process on this host. Its successor on the same host and in the same PID namespace sees that it
    /// has ended; others have to wait for its lease to expire. Where `/proc` does not tell (not Linux), a
    /// random name.
    #[must_use]
    pub fn of_this_process() -> Self {
        match (host(), start_of(std::process::id())) {
            (Some(host), Some(start)) => Self(Kind::Process { host, pid: std::process::id(), start }),
            _ => Self::named(format!("{:016x}", fastrand::u64(..))),
        }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Self {
        let process = || {
            let mut parts = text.strip_prefix("process:")?.split(':');
            let host = u64::from_str_radix(parts.next()?, 16).ok()?;
            let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            parts.next().is_none().then_some(Kind::Process { host, pid, start })
        };
        Self(process().unwrap_or_else(|| Kind::Named(text.strip_prefix("name:").unwrap_or(text).to_owned())))
    }

    pub(crate) fn kinship(&self, other: &Self) -> Kinship {
        if self == other {
            return Kinship::Same;
        }
        match (&self.0, &other.0) {
            (Kind::Process { host, .. }, Kind::Process { host: theirs, pid, start }) if host == theirs => {
                if start_of(*pid) == Some(*start) {
                    Kinship::Alive
                } else {
                    Kinship::Dead
                }
            }
            _ => Kinship::Stranger,
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Named(id) => write!(f, "name:{id}"),
            Kind::Process { host, pid, start } => write!(f, "process:{host:016x}:{pid}:{start}"),
        }
    }
}

/// Stands for this boot of this machine, as seen from this PID namespace: a PID means the same process
/// wherever this is the same.
fn host() -> Option<u64> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let name = fs::read("/proc/sys/kernel/hostname").ok()?;
    let parts = [boot.as_slice(), namespace.as_os_str().as_encoded_bytes(), name.as_slice()];
    Some(fnv1a(&parts.join(&0)))
}

/// When a process started, in ticks since boot: field 22 of proc(5)'s `stat`. The second field, the name, may
/// contain anything, so fields are counted from the parenthesis that ends it.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A hash that stays the same from release to release, as the standard library's need not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(host: u64, pid: u32, start: u64) -> Instance {
        Instance(Kind::Process { host, pid, start })
    }

    #[test]
    fn an_identity_survives_being_written_down() {
        for instance in [Instance::named("a/b:c"), Instance::named("process:x"), process(u64::MAX, 7, 12345)]
        {
            assert_eq!(Instance::parse(&instance.to_string()), instance);
        }
        assert_eq!(Instance::parse("what else"), Instance::named("what else"));
    }

    #[test]
    fn a_name_is_the_same_daemon_after_a_restart() {
        assert_eq!(Instance::named("a").kinship(&Instance::named("a")), Kinship::Same);
        assert_eq!(Instance::named("a").kinship(&Instance::named("b")), Kinship::Stranger);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_of_this_host_is_known_to_live_or_to_be_dead() {
        let us = Instance::of_this_process();
        assert_eq!(us.kinship(&Instance::of_this_process()), Kinship::Same);
        let Kind::Process { host, pid, start } = us.0 else { panic!("no process: {us}") };
        assert_eq!(us.kinship(&process(host, pid, start + 1)), Kinship::Dead, "the PID was used again");
        assert_eq!(us.kinship(&process(host, u32::MAX, start)), Kinship::Dead);
        assert_eq!(us.kinship(&process(host ^ 1, pid, start)), Kinship::Stranger);
        assert_eq!(process(host, u32::MAX, 1).kinship(&us), Kinship::Alive);
    }
}
