//! What the daemon tells its helpers.

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

/// A command and who runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
