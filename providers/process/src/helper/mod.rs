//! The child's side: what has to happen between a new process and a container's command.
//!
//! Namespaces, mounts and identities can only be changed by the process that they are for, and not between `fork` and
//! `exec` without unsafe code. So the daemon starts its own program again under another name, which does it:
//!
//! ```text
//!  daemon ─▶ sandbox            network, host name, IPC and volumes of a pod; lives as long as the pod
//!         ─▶ outer ─▶ inner ═▶ COMMAND     joins the sandbox, new mounts and process ids; process 1 of the container
//!         ─▶ exec ─▶ COMMAND               joins a running container
//! ```
//!
//! Each ends when its parent does, so that nothing outlives the daemon.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

mod exec;
mod inner;
mod launch;
mod outer;
mod root;
mod sandbox;

pub(crate) use self::launch::{Bind, Exec, Launch, Process, Sandbox, Scratch};

/// The name under which the daemon's program is the helper.
pub(crate) const NAME: &str = "vk-process-helper";

/// What of the container's command could not be started, as runtimes count it.
pub(crate) const START_ERROR: u8 = 128;

/// A step that failed, for the pod's owner.
type Result<T> = std::result::Result<T, String>;

/// Does a helper's work, if this process was started as one. A program with a process backend calls it before
/// anything else, and ends with what it returns.
#[must_use]
pub fn helper() -> Option<ExitCode> {
    let mut words = env::args_os();
    if words.next()? != NAME {
        return None;
    }
    let (role, file) = (words.next()?, words.next()?);
    let done = match role.to_str()? {
        "sandbox" => read(&file).and_then(|sandbox| sandbox::run(&sandbox)),
        "outer" => outer::run(&file),
        "inner" => read(&file).and_then(|launch| inner::run(&launch)),
        "exec" => read(&file).and_then(|exec| exec::run(&exec)),
        other => Err(format!("{other} is no work of a helper's")),
    };
    Some(done.unwrap_or_else(|error| {
        // Before the command runs, standard error is the container's log; there is no better place.
        eprintln!("{error}");
        ExitCode::from(START_ERROR)
    }))
}

fn read<T: DeserializeOwned>(file: &OsStr) -> Result<T> {
    let text = fs::read(Path::new(file)).map_err(|error| format!("reading what to do: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("reading what to do: {error}"))
}

/// Has the kernel end this process with its parent.
fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("binding to the daemon's life: {error}"))
}

/// A child's end as an exit code: a signal n is 128 + n.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}
