//! One background process, found again by what was written down about it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::wait::until;

/// A process that leads its own process group. The start time tells it from a later process of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, and id of its group.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub started: u64,
}

/// What `/proc` tells about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    started: u64,
}

impl Stat {
    /// Whether nothing of it runs any more. A zombie is only its first thread: while there are others, what the
    /// process had open is still open, its port among it.
    fn is_over(self) -> bool {
        self.state == 'X' || (self.state == 'Z' && self.threads <= 1)
    }
}

impl Process {
    /// Starts a command in its own process group with its output appended to `log`, and does not wait for it.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let err = out.try_clone().with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).context("a process id past 2^31")?;
        // A child that died at once is a zombie until waited for, so it still has a start time.
        let started = stat(pid).with_context(|| format!("reading /proc/{pid}/stat"))?.started;
        Ok(Self { pid, started })
    }

    /// Whether it runs. A zombie does not, once the last of its threads has ended.
    #[must_use]
    pub fn is_alive(self) -> bool {
        self.reap();
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_over())
    }

    /// Whether it was stopped by SIGSTOP.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state == 'T')
    }

    /// Sends a signal to its whole group. A process that is gone is no error.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match killpg(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("sending {signal} to process group {}", self.pid))
            }
        }
    }

    /// Ends it: SIGTERM (and SIGCONT, should it be stopped), SIGKILL after `grace`. Returns once it is gone.
    pub fn terminate(self, grace: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        self.signal(Signal::SIGCONT)?;
        if self.wait_gone(grace).is_err() {
            self.kill()?;
        }
        Ok(())
    }

    /// Ends it by SIGKILL. Returns once it is gone.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_gone(Duration::from_secs(10))
    }

    fn wait_gone(self, limit: Duration) -> Result<()> {
        until(&format!("the end of process {}", self.pid), limit, || {
            Ok(self.is_alive().then(|| "it still runs".to_owned()))
        })
    }

    /// Resident memory in bytes, if it runs.
    #[must_use]
    pub fn resident(self) -> Option<u64> {
        if !self.is_alive() {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Takes the exit status if it was our own child, so that it doesn't stay a zombie. Someone else's child
    /// (ECHILD) is its parent's business.
    fn reap(self) {
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3, 20 and 22 of a line of `/proc/PID/stat`. The name in field 2 may hold spaces and parentheses.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, threads, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        Process::spawn(Command::new("sleep").arg("600"), log).expect("sleep starts")
    }

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let line = "17 (a) b (c)) S 1 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4242 9 10";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', threads: 3, started: 4242 }));
        assert_eq!(parse_stat("17 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_zombie_is_over_when_it_is_the_last_thread() {
        for (state, threads, over) in
            [('S', 9, false), ('Z', 9, false), ('Z', 1, true), ('Z', 0, true), ('X', 1, true)]
        {
            assert_eq!(Stat { state, threads, started: 1 }.is_over(), over, "{state} with {threads} threads");
        }
    }

    #[test]
    fn a_killed_process_is_gone_and_can_be_killed_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = sleeper(&folder.path().join("log"));
        assert!(process.is_alive());
        assert!(process.resident().is_some_and(|bytes| bytes > 0));
        process.kill().expect("it ends");
        assert!(!process.is_alive());
        process.kill().expect("killing what is gone is no error");
    }

    #[test]
    fn a_stopped_process_lives_and_terminates() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = sleeper(&folder.path().join("log"));
        process.signal(Signal::SIGSTOP).expect("it can be stopped");
        until("the stop", Duration::from_secs(5), || {
            Ok((!process.is_stopped()).then(|| "it still runs".to_owned()))
        })
        .expect("it stops");
        assert!(process.is_alive());
        process.terminate(Duration::from_secs(5)).expect("it ends");
        assert!(!process.is_alive());
    }

    #[test]
    fn a_later_process_of_the_same_id_is_not_taken_for_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = sleeper(&folder.path().join("log"));
        let earlier = Process { pid: process.pid, started: process.started - 1 };
        assert!(!earlier.is_alive());
        earlier.kill().expect("nothing to kill");
        assert!(process.is_alive(), "the process of the same id was left alone");
        process.kill().expect("it ends");
    }

    #[test]
    fn output_goes_to_the_log() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("log");
        let process =
            Process::spawn(Command::new("sh").args(["-c", "echo out; echo err >&2"]), &log).expect("sh");
        process.wait_gone(Duration::from_secs(5)).expect("it ends");
        assert_eq!(fs::read_to_string(&log).expect("the log"), "out\nerr\n");
    }
}
