//! Pods' volumes: folders of the sandbox.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Volume;
use vk_core::provider::{Error, File, ResolvedPod, ResolvedVolume, Result, VolumeContent};

/// Where a volume's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder of the sandbox's own, on disk.
    Disk,
    /// The same in memory, with a limit in bytes.
    Memory(Option<u64>),
    /// A file or folder of the machine.
    Host(PathBuf),
    /// An image's files, read-only.
    Image(String),
}

/// Where a volume goes. What cannot be mounted here is refused.
pub(crate) fn place(pod: &ResolvedPod, volume: &ResolvedVolume) -> Result<Place> {
    let volumes = pod.object.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let index = volumes.iter().position(|written| written.name == volume.name);
    let written = index.map(|index| &volumes[index]);
    let field = || format!("spec.volumes[{}]", index.unwrap_or_default());
    match &volume.content {
        // A kubelet keeps everything but ConfigMaps in memory: it may be secret.
        VolumeContent::Files(_) if written.is_some_and(|written| written.config_map.is_some()) => {
            Ok(Place::Disk)
        }
        VolumeContent::Files(_) => Ok(Place::Memory(None)),
        VolumeContent::EmptyDir(empty) if empty.memory => {
            Ok(Place::Memory(empty.size_limit.as_ref().and_then(|limit| crate::memory::bytes(&limit.0))))
        }
        VolumeContent::EmptyDir(_) => Ok(Place::Disk),
        VolumeContent::Native => native(written, &field()),
        VolumeContent::Claim(_) => {
            let reason = "the process provider mounts no claims; use an emptyDir or a hostPath";
            Err(Error::rejected(format!("{}.persistentVolumeClaim", field()), reason))
        }
        _ => Err(Error::rejected(field(), "the process provider does not know this kind of volume")),
    }
}

fn native(written: Option<&Volume>, field: &str) -> Result<Place> {
    if let Some(path) = written.and_then(|volume| volume.host_path.as_ref()) {
        let host = PathBuf::from(&path.path);
        check_type(&host, path.type_.as_deref().unwrap_or_default()).map_err(|why| {
            let name = written.map(|volume| volume.name.as_str()).unwrap_or_default();
            Error::unavailable(format!("MountVolume.SetUp failed for volume \"{name}\" : {why}"))
        })?;
        return Ok(Place::Host(host));
    }
    if let Some(image) = written.and_then(|volume| volume.image.as_ref()) {
        return Ok(Place::Image(image.reference.clone().unwrap_or_default()));
    }
    Err(Error::rejected(
        field,
        "the process provider mounts files, emptyDir, hostPath and image volumes only",
    ))
}

/// Makes what a hostPath volume lets be made, and checks that it is of its type; or why it is not, in the kubelet's words.
fn check_type(path: &Path, wanted: &str) -> Result<(), String> {
    let (expected, fits): (&str, fn(&fs::FileType) -> bool) = match wanted {
        "" => return Ok(()),
        "DirectoryOrCreate" | "Directory" => ("directory", fs::FileType::is_dir),
        "FileOrCreate" | "File" => ("file", fs::FileType::is_file),
        "Socket" => ("socket file", fs::FileType::is_socket),
        "CharDevice" => ("character device", fs::FileType::is_char_device),
        "BlockDevice" => ("block device", fs::FileType::is_block_device),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if !path.exists() {
        let made = match wanted {
            "DirectoryOrCreate" => fs::create_dir_all(path),
            "FileOrCreate" => fs::write(path, []),
            _ => {
                return Err(format!(
                    "hostPath type check failed, {} is not a {expected}, unable to determine its type: path {:?} \
                     does not exist",
                    path.display(),
                    path.display().to_string()
                ));
            }
        };
        return made.map_err(|error| format!("making {}: {error}", path.display()));
    }
    let kind = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.file_type();
    if fits(&kind) {
        return Ok(());
    }
    let is = match kind {
        kind if kind.is_dir() => "Directory",
        kind if kind.is_file() => "File",
        kind if kind.is_socket() => "Socket",
        kind if kind.is_char_device() => "CharDevice",
        kind if kind.is_block_device() => "BlockDevice",
        _ => "",
    };
    Err(format!("hostPath type check failed: {} is not a {expected}, it's a {is}", path.display()))
}

/// Puts files into a volume's folder, all at once for whoever reads it: behind a link that is replaced, as the
/// kubelet's AtomicWriter does.
pub(crate) fn publish(folder: &Path, files: &[File], group: Option<u32>) -> io::Result<()> {
    let data = folder.join("..data");
    let old = fs::read_link(&data).ok();
    let now = Timestamp::now();
    let stamp = format!("..{}.{}", now.strftime("%Y_%m_%d_%H_%M_%S"), fastrand::u32(..));
    let fresh = folder.join(&stamp);
    make(&fresh, 0o755, group)?;
    let mut names: Vec<String> = Vec::new();
    for file in files {
        let path = Path::new(&file.path);
        if path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!("{} leads out of the volume", file.path)));
        }
        let mut below = fresh.clone();
        for part in path.parent().into_iter().flat_map(Path::components) {
            below.push(part);
            if !below.is_dir() {
                make(&below, 0o755, group)?;
            }
        }
        let target = fresh.join(path);
        fs::write(&target, &file.content)?;
        if group.is_some() {
            chown(&target, None, group)?;
        }
        // A file of the pod's group has to be readable for it.
        let mode = file.mode | if group.is_some() { 0o440 } else { 0 };
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
        if let Some(Component::Normal(first)) = path.components().next() {
            let first = first.to_string_lossy().into_owned();
            if !names.contains(&first) {
                names.push(first);
            }
        }
    }
    let link = folder.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&stamp, &link)?;
    fs::rename(&link, &data)?;
    for name in &names {
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    // Names that are gone.
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !names.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    match old {
        Some(old) if old != Path::new(&stamp) => fs::remove_dir_all(folder.join(old)),
        _ => Ok(()),
    }
}

/// A folder for a volume, that every user of the pod may write to; its group too, if it is the pod's.
pub(crate) fn open(folder: &Path, group: Option<u32>) -> io::Result<()> {
    // Memory that was mounted there has its own mode.
    let mode = if fs::metadata(folder)?.mode() & 0o1000 != 0 { 0o1777 } else { 0o777 };
    own(folder, mode, group)
}

fn make(folder: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(folder)?;
    own(folder, mode, group)
}

fn own(folder: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let mode = match group {
        Some(group) => {
            chown(folder, None, Some(group))?;
            mode | 0o2000
        }
        None => mode,
    };
    fs::set_permissions(folder, Permissions::from_mode(mode))
}

/// A path below a volume, without following a link that leads out of it. Folders that are missing are made, as a
/// kubelet does for `subPath`.
pub(crate) fn below(folder: &Path, path: &str) -> io::Result<PathBuf> {
    let mut target = folder.to_owned();
    // What is made has the volume's own mode (`doSafeMakeDir`).
    let mode = fs::metadata(folder)?.mode() & 0o777;
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => target.push(part),
            Component::CurDir => continue,
            _ => return Err(io::Error::other("the path leads out of the volume")),
        }
        match fs::metadata(&target) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&target)?;
                fs::set_permissions(&target, Permissions::from_mode(mode))?;
            }
            Err(error) => return Err(error),
        }
    }
    let (root, resolved) = (fs::canonicalize(folder)?, fs::canonicalize(&target)?);
    if resolved.starts_with(&root) {
        Ok(target)
    } else {
        Err(io::Error::other("the path leads out of the volume"))
    }
}

/// Bytes on disk below a folder.
pub(crate) fn usage(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => meta.blocks() * 512 + usage(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.into(),
            mode: 0o640,
            content: Bytes::copy_from_slice(text.as_bytes()),
            secret: false,
        }
    }

    #[test]
    fn new_contents_replace_the_old_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        publish(folder.path(), &[file("k", "old"), file("deep/er/k", "x"), file("gone", "y")], None).unwrap();
        assert_eq!(fs::read_link(at("k")).unwrap(), Path::new("..data/k"));
        assert_eq!(fs::read_to_string(at("deep/er/k")).unwrap(), "x");
        assert_eq!(fs::metadata(at("k")).unwrap().mode() & 0o777, 0o640);
        publish(folder.path(), &[file("k", "new")], None).unwrap();
        assert_eq!(fs::read_to_string(at("k")).unwrap(), "new");
        assert!(at("gone").symlink_metadata().is_err() && at("deep").symlink_metadata().is_err());
        let stamped = fs::read_dir(folder.path()).unwrap().flatten().count();
        assert_eq!(stamped, 3, "one version, one link to it, one link to the file");
    }

    #[test]
    fn nothing_leads_out_of_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/etc", folder.path().join("out")).unwrap();
        fs::write(folder.path().join("f"), "").unwrap();
        assert!(below(folder.path(), "out").is_err());
        assert!(below(folder.path(), "../x").is_err());
        assert!(below(folder.path(), "f/g").is_err(), "below a file");
        assert_eq!(below(folder.path(), "a/b").unwrap(), folder.path().join("a/b"));
        assert!(publish(folder.path(), &[file("../x", "")], None).is_err());
    }

    #[test]
    fn a_path_of_the_host_is_of_the_type_that_was_asked_for_or_the_volume_waits() {
        let home = tempfile::tempdir().unwrap();
        let (folder, file) = (home.path().join("d"), home.path().join("f"));
        let no = home.path().join("no");
        assert_eq!(check_type(&folder, "DirectoryOrCreate"), Ok(()));
        assert_eq!(check_type(&file, "FileOrCreate"), Ok(()));
        for (path, kind) in [(&folder, "Directory"), (&folder, ""), (&file, "File"), (&no, "")] {
            assert_eq!(check_type(path, kind), Ok(()), "{kind}");
        }
        let why = |path: &Path, kind| {
            check_type(path, kind).unwrap_err().replace(home.path().to_str().unwrap(), "")
        };
        assert_eq!(why(&file, "Directory"), "hostPath type check failed: /f is not a directory, it's a File");
        assert_eq!(
            why(&folder, "Socket"),
            "hostPath type check failed: /d is not a socket file, it's a Directory"
        );
        assert_eq!(
            why(&no, "Directory"),
            "hostPath type check failed, /no is not a directory, unable to determine its type: path \"/no\" does not \
             exist"
        );
    }
}
