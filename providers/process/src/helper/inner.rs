//! Process 1 of a container, until it becomes the container's command.

use std::ffi::{CString, NulError};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{Gid, Uid, chdir, execve, setgid, setgroups, setsid, setuid};

use super::launch::{Launch, Process};
use super::{Result, START_ERROR, die_with_parent, root};

/// Prepares everything, reports `ready`, waits for the word to go, and becomes the command.
///
/// What fails after the report is told over the same connection, which otherwise closes when the command runs.
pub(super) fn run(launch: &Launch) -> Result<ExitCode> {
    let stream = UnixStream::connect(&launch.socket).map_err(|error| format!("reporting: {error}"))?;
    let Err(error) = start(launch, &stream);
    // The daemon tells the pod's owner; if it is gone nobody is left to be told.
    let _ = (&stream).write_all(error.as_bytes());
    Ok(ExitCode::from(START_ERROR))
}

fn start(launch: &Launch, mut stream: &UnixStream) -> Result<std::convert::Infallible> {
    root::enter(launch)?;
    stream.write_all(b"ready\n").map_err(|error| format!("reporting: {error}"))?;
    let mut word = String::new();
    BufReader::new(stream).read_line(&mut word).map_err(|error| format!("waiting for the word: {error}"))?;
    let terminal = word.trim_end().strip_prefix("go").ok_or("the daemon went away")?.trim_start();
    setsid().map_err(|error| format!("opening a session: {error}"))?;
    if !terminal.is_empty() {
        take_terminal(Path::new(terminal), &launch.process)?;
    }
    fs::create_dir_all(&launch.process.folder)
        .map_err(|error| format!("making {}: {error}", launch.process.folder.display()))?;
    become_command(&launch.process)
}

/// Makes a terminal the session's, and standard input and outputs.
pub(super) fn take_terminal(path: &Path, process: &Process) -> Result<()> {
    let what = |error: &dyn std::fmt::Display| format!("opening the terminal {}: {error}", path.display());
    let terminal = File::options().read(true).write(true).open(path).map_err(|error| what(&error))?;
    std::os::unix::fs::fchown(&terminal, Some(process.user), None).map_err(|error| what(&error))?;
    rustix::process::ioctl_tiocsctty(&terminal).map_err(|error| what(&error))?;
    rustix::stdio::dup2_stdin(&terminal).map_err(|error| what(&error))?;
    rustix::stdio::dup2_stdout(&terminal).map_err(|error| what(&error))?;
    rustix::stdio::dup2_stderr(&terminal).map_err(|error| what(&error))
}

/// Takes on the command's folder, identity and environment, and becomes it.
pub(super) fn become_command(process: &Process) -> Result<std::convert::Infallible> {
    chdir(&process.folder).map_err(|error| format!("changing into {}: {error}", process.folder.display()))?;
    let name = process.command.first().ok_or("no command specified")?;
    let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(|error| format!("setting the groups: {error}"))?;
    setgid(Gid::from_raw(process.group))
        .map_err(|error| format!("becoming group {}: {error}", process.group))?;
    setuid(Uid::from_raw(process.user))
        .map_err(|error| format!("becoming user {}: {error}", process.user))?;
    // After the change of identity, which clears it.
    die_with_parent()?;
    let program = find(name, &process.env)?;
    let text = |text: &str| CString::new(text).map_err(|_: NulError| "a zero byte in the command".to_owned());
    let program_text = text(&program.to_string_lossy())?;
    let command = process.command.iter().map(|word| text(word)).collect::<Result<Vec<_>>>()?;
    let variable = |(name, value): &(String, String)| text(&format!("{name}={value}"));
    let env = process.env.iter().map(variable).collect::<Result<Vec<_>>>()?;
    match execve(&program_text, &command, &env) {
        Ok(never) => match never {},
        Err(error) => Err(format!("exec {}: {}", program.display(), error.desc())),
    }
}

/// The program of a name: itself if there is a slash in it, else the first in the environment's `PATH`.
pub(super) fn find(name: &str, env: &[(String, String)]) -> Result<PathBuf> {
    let is_program = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match fs::metadata(&path) {
            Ok(_) if is_program(&path) => Ok(path),
            Ok(_) => Err(format!("exec: \"{name}\": permission denied")),
            Err(_) => Err(format!("exec: \"{name}\": stat {name}: no such file or directory")),
        };
    }
    let path = env.iter().rfind(|(variable, _)| variable == "PATH").map_or("", |(_, value)| value.as_str());
    path.split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name))
        .find(|path| is_program(path))
        .ok_or_else(|| format!("exec: \"{name}\": executable file not found in $PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_runtimes_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("run");
        fs::write(&program, "").unwrap();
        let env = [("PATH".to_owned(), format!("/no/such:{}", folder.path().display()))];
        let not_found = "exec: \"run\": executable file not found in $PATH";
        assert_eq!(find("run", &env), Err(not_found.to_owned()), "not executable");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("run", &env), Ok(program.clone()));
        assert_eq!(find("run", &[]), Err(not_found.to_owned()));
        assert!(find("/no/such", &env).unwrap_err().contains("no such file or directory"));
        assert_eq!(find(&program.to_string_lossy(), &[]), Ok(program));
    }
}
