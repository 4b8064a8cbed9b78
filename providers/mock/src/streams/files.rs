//! Files that were written into containers: in memory, as long as the pod is there.

use std::collections::{BTreeMap, HashMap};
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use vk_core::provider::{ContainerRef, PodUid};

/// Bytes of one container's files. More is "no space left".
const DISK: usize = 512 << 20;

type ByContainer = HashMap<(PodUid, Arc<str>), Files>;

/// The files of every container that has any. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileStore(Arc<Mutex<ByContainer>>);

/// The files of a container, by path without the leading slash. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl FileStore {
    pub(super) fn of(&self, container: &ContainerRef) -> Files {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of nobody, and of whom there are none, are not kept.
        store.retain(|_, files| Arc::strong_count(&files.0) > 1 || !files.lock().is_empty());
        let key = (container.pod.uid.clone(), Arc::clone(&container.name));
        store.entry(key).or_default().clone()
    }

    /// Forgets the files of a pod.
    pub(crate) fn forget(&self, pod: &PodUid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(uid, _), _| uid != pod);
    }
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, path: &str) -> Option<Bytes> {
        self.lock().get(&plain(path)).cloned()
    }

    /// Whether more may be written.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.lock().values().map(Bytes::len).sum::<usize>().saturating_add(more) <= DISK
    }

    pub(super) fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        if !self.has_room(bytes.len()) {
            return Err(Error::new(ErrorKind::StorageFull, "No space left on device"));
        }
        self.lock().insert(plain(path), bytes);
        Ok(())
    }

    pub(super) fn remove(&self, path: &str) {
        let path = plain(path);
        let below = format!("{path}/");
        self.lock().retain(|known, _| *known != path && !known.starts_with(&below));
    }

    /// `/`, `/tmp`, and what files lie in.
    pub(super) fn is_folder(&self, path: &str) -> bool {
        let path = plain(path);
        let below = format!("{path}/");
        matches!(path.as_str(), "" | "tmp") || self.lock().keys().any(|known| known.starts_with(&below))
    }

    /// The file of a path, or those below it.
    pub(super) fn below(&self, path: &str) -> Vec<(String, Bytes)> {
        let path = plain(path);
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        let files = self.lock();
        let found = files.iter().filter(|(known, _)| **known == path || known.starts_with(&below));
        found.map(|(known, bytes)| (known.clone(), bytes.clone())).collect()
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        self.below(path).into_iter().map(|(name, _)| format!("/{name}")).collect()
    }
}

/// Without `.`, `..` and needless slashes.
pub(super) fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain_and_folders_are_what_files_lie_in() {
        let files = Files::default();
        files.write("/a/./b/../c", Bytes::from_static(b"x")).unwrap();
        assert_eq!(files.list("/"), ["/a/c"]);
        assert!(files.is_folder("/a/") && files.is_folder("/tmp") && !files.is_folder("/a/c"));
        assert_eq!(files.read("a/c").as_deref(), Some(&b"x"[..]));
        files.remove("/a");
        assert!(files.list("/").is_empty() && !files.is_folder("/a"));
    }
}
