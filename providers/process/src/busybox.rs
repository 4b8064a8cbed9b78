//! Images' folders made from busybox.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What every folder has.
const FOLDERS: [&str; 7] = ["bin", "etc", "tmp", "proc", "sys", "dev", "data"];

/// Makes an image's folder from a busybox binary, with a link for each of its commands, and further programs beside it
/// in `/bin`. It has the users `root` and `appuser` (1000).
///
/// # Errors
/// What cannot be written, or a busybox that does not run. It has to be linked statically: no library comes with it.
pub fn busybox_folder(folder: &Path, busybox: &Path, programs: &[(&str, &Path)]) -> io::Result<()> {
    for name in FOLDERS {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::set_permissions(folder.join("tmp"), Permissions::from_mode(0o1777))?;
    let bin = folder.join("bin");
    for (name, program) in [("busybox", busybox)].iter().chain(programs) {
        let target = bin.join(name);
        fs::copy(program, &target)?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    }
    let output = Command::new(busybox).arg("--list").output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} --list failed", busybox.display())));
    }
    for command in String::from_utf8_lossy(&output.stdout).split_ascii_whitespace() {
        let link = bin.join(command);
        if link.symlink_metadata().is_err() {
            symlink("busybox", link)?;
        }
    }
    fs::write(folder.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nappuser:x:1000:1000::/:/bin/sh\n")?;
    fs::write(folder.join("etc/group"), "root:x:0:\nappuser:x:1000:\n")
}

/// The machine's busybox (Debian's `busybox-static`), if it has one.
#[must_use]
pub fn find_busybox() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("busybox")).find(|program| program.is_file())
}
