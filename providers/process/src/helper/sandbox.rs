//! The process that holds a pod's sandbox open: its namespaces live as long as it does.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;

use super::launch::Sandbox;
use super::{Result, die_with_parent};

/// Makes the namespaces, says `ready`, and waits until standard input is closed.
pub(super) fn run(sandbox: &Sandbox) -> Result<ExitCode> {
    die_with_parent()?;
    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    if sandbox.hostname.is_some() {
        namespaces |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    unshare(namespaces).map_err(|error| format!("making the sandbox's namespaces: {error}"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|error| format!("taking the sandbox's mounts apart from the machine's: {error}"))?;
    if let Some(name) = &sandbox.hostname {
        sethostname(name).map_err(|error| format!("naming the sandbox {name}: {error}"))?;
    }
    for memory in &sandbox.memory {
        let size = memory.size.map(|size| format!("size={size},")).unwrap_or_default();
        let put = |options: &str| {
            mount(Some("tmpfs"), &memory.path, Some("tmpfs"), MsFlags::MS_RELATIME, Some(options))
        };
        // What may be secret is kept off the disk, where the kernel can do that (6.4).
        put(&format!("{size}noswap"))
            .or_else(|_| put(size.trim_end_matches(',')))
            .map_err(|error| format!("mounting memory at {}: {error}", memory.path.display()))?;
    }
    let mut out = io::stdout();
    out.write_all(b"ready\n").and_then(|()| out.flush()).map_err(|error| format!("reporting: {error}"))?;
    // Ends with the daemon, or when it lets go of the other end.
    let _ = io::stdin().read(&mut [0]);
    Ok(ExitCode::SUCCESS)
}
