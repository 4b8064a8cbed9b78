//! Joins a sandbox, and starts process 1 of a container in new namespaces.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns, unshare};

use super::launch::Launch;
use super::{NAME, Result, code_of, die_with_parent, read};

/// Runs the container to its end; its exit code is the answer.
pub(super) fn run(file: &OsStr) -> Result<ExitCode> {
    die_with_parent()?;
    let launch: Launch = read(file)?;
    join(launch.sandbox, &["ipc", "uts", "net", "mnt"])?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .map_err(|error| format!("making the container's namespaces: {error}"))?;
    // A process id namespace is for the children of whoever made it.
    let status = Command::new("/proc/self/exe")
        .arg0(NAME)
        .arg("inner")
        .arg(file)
        .env_clear()
        .status()
        .map_err(|error| format!("starting the container: {error}"))?;
    Ok(code_of(status))
}

/// Enters namespaces of a process. All are opened before the first is entered, which may hide `/proc`.
pub(super) fn join(process: i32, namespaces: &[&str]) -> Result<()> {
    let open = |name: &&str| {
        let path = format!("/proc/{process}/ns/{name}");
        File::open(&path).map_err(|error| format!("opening {path}: {error}"))
    };
    let files = namespaces.iter().map(open).collect::<Result<Vec<_>>>()?;
    for (name, file) in namespaces.iter().zip(files) {
        setns(file, CloneFlags::empty())
            .map_err(|error| format!("entering the {name} namespace: {error}"))?;
    }
    Ok(())
}
