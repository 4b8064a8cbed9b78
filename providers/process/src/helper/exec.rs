//! Joins a running container and runs a command in it.

use std::process::{Command, ExitCode};

use nix::unistd::{Gid, Uid, chdir, setgid, setgroups, setsid, setuid};

use super::launch::Exec;
use super::{Result, code_of, die_with_parent, inner, outer};

/// The exit code of what could not be started in a container, as shells have it.
const NOT_STARTED: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs the command; its exit code is the answer.
pub(super) fn run(exec: &Exec) -> Result<ExitCode> {
    die_with_parent()?;
    outer::join(exec.container, &["ipc", "uts", "net", "pid", "mnt"])?;
    // The daemon ends the command by its process group.
    setsid().map_err(|error| format!("opening a session: {error}"))?;
    let process = &exec.process;
    if let Some(terminal) = &exec.terminal {
        inner::take_terminal(terminal, process)?;
    }
    chdir(&process.folder).map_err(|error| format!("changing into {}: {error}", process.folder.display()))?;
    let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(|error| format!("setting the groups: {error}"))?;
    setgid(Gid::from_raw(process.group))
        .map_err(|error| format!("becoming group {}: {error}", process.group))?;
    setuid(Uid::from_raw(process.user))
        .map_err(|error| format!("becoming user {}: {error}", process.user))?;
    let name = process.command.first().ok_or("no command specified")?;
    let program = match inner::find(name, &process.env) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("OCI runtime exec failed: {error}");
            return Ok(ExitCode::from(NOT_FOUND));
        }
    };
    let mut command = Command::new(program);
    command.args(&process.command[1..]).env_clear();
    for (name, value) in &process.env {
        command.env(name, value);
    }
    match command.status() {
        Ok(status) => Ok(code_of(status)),
        Err(error) => {
            eprintln!("OCI runtime exec failed: exec {name}: {error}");
            Ok(ExitCode::from(NOT_STARTED))
        }
    }
}
