//! Files of a container: its own, and those of the volumes that are mounted in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A tree of files. Clones share it. `Debug` shows their names and sizes: Secrets are among them.
#[derive(Clone, Default)]
pub(super) struct Files {
    own: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// The longest path first.
    mounts: Vec<(String, Self)>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: BTreeMap<String, usize> =
            self.lock().iter().map(|(path, content)| (path.clone(), content.len())).collect();
        f.debug_struct("Files").field("own", &own).field("mounts", &self.mounts).finish()
    }
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mount(&mut self, path: &str, files: Self) {
        self.mounts.push((path.trim_end_matches('/').to_owned(), files));
        self.mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    }

    /// The tree that a path is in, and the path there.
    fn place<'a>(&'a self, path: &'a str) -> (&'a Self, &'a str) {
        for (mount, files) in &self.mounts {
            if let Some(rest) = path.strip_prefix(mount.as_str())
                && rest.starts_with('/')
            {
                return (files, rest);
            }
        }
        (self, path)
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let (files, path) = self.place(path);
        files.lock().get(path).cloned()
    }

    pub(super) fn write(&self, path: &str, content: &[u8]) {
        let (files, path) = self.place(path);
        files.lock().insert(path.to_owned(), content.to_vec());
    }

    pub(super) fn append(&self, path: &str, content: &[u8]) {
        let (files, path) = self.place(path);
        files.lock().entry(path.to_owned()).or_default().extend_from_slice(content);
    }

    /// Whether there was such a file.
    pub(super) fn remove(&self, path: &str) -> bool {
        let (files, path) = self.place(path);
        files.lock().remove(path).is_some()
    }

    /// Takes the other's files in place of its own.
    pub(super) fn replace(&self, other: &Self) {
        let other = other.lock().clone();
        *self.lock() = other;
    }

    pub(super) fn size(&self) -> u64 {
        self.lock().values().map(|content| content.len() as u64).sum()
    }
}
