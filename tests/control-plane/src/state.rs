//! What is written down about an instance, so that another process finds it again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::component::Component;
use crate::namespace::Namespace;
use crate::process::Process;

/// The instance's own record; its presence means that the instance was brought up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The Kubernetes release, as [`crate::Version`] prints it.
    pub version: String,
    /// Whether etcd waits for the disk.
    pub durable: bool,
    /// Where it runs.
    pub namespace: Namespace,
}

/// The files in an instance's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub(crate) fn record(&self) -> Result<Option<Record>> {
        read(&self.0.join("instance.json"))
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        write(&self.0.join("instance.json"), record)
    }

    pub(crate) fn process(&self, component: Component) -> Result<Option<Process>> {
        read(&self.process_file(component))
    }

    pub(crate) fn write_process(&self, component: Component, process: Process) -> Result<()> {
        write(&self.process_file(component), &process)
    }

    fn process_file(&self, component: Component) -> PathBuf {
        self.0.join(format!("{component}.pid.json"))
    }

    pub(crate) fn log(&self, component: Component) -> PathBuf {
        self.0.join(format!("{component}.log"))
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let value = serde_json::from_str(&text).with_context(|| {
        format!("{} is damaged; remove its folder when nothing of it runs", path.display())
    })?;
    Ok(Some(value))
}

/// Writes through a rename, so that a reader never sees half a file.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("writing state as JSON")?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, text + "\n").with_context(|| format!("writing {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder(temporary.path().to_owned());
        assert_eq!(folder.record().expect("no record"), None);
        let process = Process { pid: 7, started: 8 };
        for namespace in [Namespace::Named("vk-1".to_owned()), Namespace::Held(process)] {
            let record = Record { version: "1.37.2".to_owned(), durable: true, namespace };
            folder.write_record(&record).expect("written");
            assert_eq!(folder.record().expect("read"), Some(record));
        }
        folder.write_process(Component::Etcd, process).expect("written");
        assert_eq!(folder.process(Component::Etcd).expect("read"), Some(process));
        assert_eq!(folder.process(Component::Scheduler).expect("read"), None);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        fs::write(temporary.path().join("instance.json"), "{").expect("written");
        let error = Folder(temporary.path().to_owned()).record().expect_err("damaged").to_string();
        assert!(error.contains("instance.json is damaged"), "{error}");
    }
}
