//! What the daemon tells its helpers.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod's sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    /// Host name; `None` leaves the machine's, and its network.
    pub hostname: Option<String>,
    /// Memory file systems to mount, before any container sees them.
    pub memory: Vec<Scratch>,
}

/// A memory file system.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scratch {
    /// Where.
    pub path: PathBuf,
    /// Its size in bytes; `None` is the kernel's default, half the memory.
    pub size: Option<u64>,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The process that holds the pod's sandbox.
    pub sandbox: i32,
    /// Where the daemon waits for the child to report.
    pub socket: PathBuf,
    /// The image's files.
    pub image: PathBuf,
    /// Whether the root folder may not be written to.
    pub read_only: bool,
    /// An empty folder to mount the root at.
    pub mount_point: PathBuf,
    /// Files and folders of the host in the container, in the order in which to mount them.
    pub binds: Vec<Bind>,
    /// What to run.
    pub process: Process,
}

/// A file or folder of the host in the container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the container, absolute.
    pub target: PathBuf,
    /// Whether it may not be written to.
    pub read_only: bool,
}

/// A command in a running container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    /// Process 1 of the container, by the daemon's count.
    pub container: i32,
    /// The terminal, in the container.
    pub terminal: Option<PathBuf>,
    /// What to run.
    pub process: Process,
}

/// A command and who runs it. `Debug` shows neither the command nor values of variables: Secrets are among them.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// Its folder.
    pub folder: PathBuf,
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Further group ids.
    pub groups: Vec<u32>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Process")
            .field("env", &env)
            .field("folder", &self.folder)
            .field("user", &self.user)
            .field("group", &self.group)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_value() {
        let process = Process {
            command: vec!["login".to_owned(), "hunter2".to_owned()],
            env: vec![("PASSWORD".to_owned(), "hunter2".to_owned())],
            folder: PathBuf::from("/"),
            user: 0,
            group: 0,
            groups: Vec::new(),
        };
        let shown = format!("{process:?} {process:#?}");
        assert!(shown.contains("PASSWORD") && !shown.contains("hunter2"), "{shown}");
    }
}
