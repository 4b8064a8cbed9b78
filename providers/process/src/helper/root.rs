//! A container's root folder: the image's files with a writable layer that is gone with the container, and what the
//! kernel and the pod put into it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::Result;
use super::launch::{Bind, Launch};

const NONE: Option<&str> = None;

/// Devices that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Makes the root folder and its mounts, and changes into it for good.
pub(super) fn enter(launch: &Launch) -> Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(|error| format!("taking the container's mounts apart: {error}"))?;
    let root = layered(launch)?;
    kernel(&root)?;
    for each in &launch.binds {
        bind(&root, each)?;
    }
    if launch.read_only {
        remount_read_only(&root)?;
    }
    chdir(&root).map_err(|error| format!("changing into the root folder: {error}"))?;
    // The old root ends on top of the new one, and is let go at once: no folder for it is needed.
    pivot_root(".", ".").map_err(|error| format!("changing the root folder: {error}"))?;
    umount2(".", MntFlags::MNT_DETACH)
        .map_err(|error| format!("letting go of the machine's files: {error}"))?;
    chdir("/").map_err(|error| format!("changing into the root folder: {error}"))
}

/// The image under a layer in memory.
fn layered(launch: &Launch) -> Result<PathBuf> {
    let base = &launch.mount_point;
    mount(Some("tmpfs"), base, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .map_err(|error| format!("mounting memory for the writable layer: {error}"))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| base.join(name));
    for folder in [&upper, &work, &root] {
        make(folder)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        launch.image.display(),
        upper.display(),
        work.display()
    );
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|error| format!("mounting the image: {error}"))?;
    Ok(root)
}

/// `/proc`, `/sys` and `/dev`.
fn kernel(root: &Path) -> Result<()> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let place = |name: &str| -> Result<PathBuf> {
        let path = root.join(name);
        make(&path)?;
        Ok(path)
    };
    let put = |kind: &str, path: &Path, flags: MsFlags, options: Option<&str>| {
        mount(Some(kind), path, Some(kind), flags, options)
            .map_err(|error| format!("mounting {kind} at {}: {error}", path.display()))
    };
    put("proc", &place("proc")?, strict, NONE)?;
    put("sysfs", &place("sys")?, strict | MsFlags::MS_RDONLY, NONE)?;
    let dev = place("dev")?;
    put("tmpfs", &dev, MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, Some("mode=755,size=65536k"))?;
    for device in DEVICES {
        let target = dev.join(device);
        File::create(&target).map_err(|error| format!("making /dev/{device}: {error}"))?;
        let source = Path::new("/dev").join(device);
        mount(Some(&source), &target, NONE, MsFlags::MS_BIND, NONE)
            .map_err(|error| format!("mounting /dev/{device}: {error}"))?;
    }
    for (to, name) in LINKS {
        symlink(to, dev.join(name)).map_err(|error| format!("linking /dev/{name}: {error}"))?;
    }
    let options = "newinstance,ptmxmode=0666,mode=0620";
    put("devpts", &place("dev/pts")?, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some(options))?;
    put("tmpfs", &place("dev/shm")?, strict, Some("mode=1777,size=65536k"))?;
    put("mqueue", &place("dev/mqueue")?, strict, NONE)
}

/// Mounts a file or folder of the host, at a place made for it.
fn bind(root: &Path, bind: &Bind) -> Result<()> {
    let inside = bind.target.strip_prefix("/").unwrap_or(&bind.target);
    let target = root.join(inside);
    let what = || format!("mounting {}", bind.target.display());
    let source = fs::metadata(&bind.source)
        .map_err(|error| format!("{}: {}: {error}", what(), bind.source.display()))?;
    if source.is_dir() {
        make(&target)?;
    } else if !target.exists() {
        target.parent().map_or(Ok(()), make)?;
        File::create(&target).map_err(|error| format!("{}: {error}", what()))?;
    }
    mount(Some(&bind.source), &target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(|error| format!("{}: {error}", what()))?;
    if bind.read_only { remount_read_only(&target) } else { Ok(()) }
}

fn remount_read_only(target: &Path) -> Result<()> {
    // The flag of a bind mount takes a second call.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_RELATIME;
    mount(NONE, target, NONE, flags, NONE)
        .map_err(|error| format!("protecting {}: {error}", target.display()))
}

/// A folder, with those above it, for everybody to read.
fn make(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let what = |error| format!("making {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(what)?;
    fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(what)
}
