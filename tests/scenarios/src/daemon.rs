//! The daemon itself, as a process over the mock provider that keeps its pods in a file: killed, it leaves what a
//! killed machine's daemon leaves at its cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use vk_core::provider::PodUid;

use crate::agreement::{Kept, agree_on};
use crate::virtual_node::delete_object;
use crate::world::World;

/// A daemon's files, and what its backend did so far. Outlives the process.
#[derive(Debug)]
pub struct DaemonHome {
    /// The node's name.
    pub node: String,
    /// `$KUBECONFIG` of the process.
    kubeconfig: PathBuf,
    folder: TempDir,
    /// When each pod was created at the backend, by the records of the processes that have ended.
    creations: BTreeMap<PodUid, BTreeSet<String>>,
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    home: DaemonHome,
    child: Child,
}

/// A command of the binary that `VK_NODE_BIN` names, which dies with what holds it.
///
/// Its environment is empty: to the daemon every variable that begins with `VK_` is a setting, and those by which
/// tests find their way are none of its business.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn command() -> Command {
    let binary = std::env::var_os("VK_NODE_BIN").expect("VK_NODE_BIN; run `cargo xtask test`");
    let mut command = Command::new(binary);
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl DaemonHome {
    /// The files of a daemon that was not started yet. `mock` are its provider's settings.
    ///
    /// # Panics
    /// When they cannot be written.
    #[must_use]
    pub fn new(node: String, kubeconfig: &Path, mut mock: Value) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        mock["stateFile"] = json!(folder.path().join("pods"));
        let config = json!({
            "provider": {"mock": mock},
            "nodeDefaults": {"pendingStatusDelay": "20ms", "minBackoff": "100ms", "maxBackoff": "5s"},
            "nodes": [{"name": node}],
        });
        // JSON is YAML.
        std::fs::write(folder.path().join("vk.yaml"), config.to_string()).expect("the file is written");
        Self { node, kubeconfig: kubeconfig.to_owned(), folder, creations: BTreeMap::new() }
    }

    /// Starts the binary that `VK_NODE_BIN` names, and waits for nothing.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start(self) -> Daemon {
        let mut command = command();
        command.arg("--config").arg(self.folder.path().join("vk.yaml"));
        command.args(["--port=0", "--log-level=error"]).env("KUBECONFIG", &self.kubeconfig);
        if let Ok(address) = std::env::var("NODE_ADDRESS") {
            command.arg(format!("--node-ip={address}"));
        }
        let child = command.spawn().expect("the daemon starts");
        Daemon { home: self, child }
    }

    /// The pods as the file has them now, each with its last record, and every record there is.
    fn read(&self) -> (BTreeMap<PodUid, Value>, Vec<Value>) {
        let text = match std::fs::read_to_string(self.folder.path().join("pods")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("the state file: {error}"),
        };
        let (mut pods, mut records) = (BTreeMap::new(), Vec::new());
        // What follows the last line end is being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let line: Value = serde_json::from_str(line).expect("a line of the state file");
            if let Some(gone) = line["gone"].as_str() {
                pods.remove(&PodUid::new(gone));
                continue;
            }
            let record = &line["pod"];
            pods.insert(uid_of(record), record.clone());
            records.push(record.clone());
        }
        (pods, records)
    }

    /// Notes what the file tells before a new process writes it anew.
    fn take_note(&mut self) {
        for record in self.read().1 {
            let created = record["created"].as_str().expect("a time of creation").to_owned();
            self.creations.entry(uid_of(&record)).or_default().insert(created);
        }
    }

    /// The pods that have more than one time of creation.
    fn created_twice(&self) -> Vec<&PodUid> {
        self.creations.iter().filter(|(_, times)| times.len() > 1).map(|(uid, _)| uid).collect()
    }
}

fn uid_of(record: &Value) -> PodUid {
    PodUid::new(record["id"][2].as_str().expect("a record of a pod has its UID"))
}

impl Daemon {
    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.home.node
    }

    /// Kills the process (SIGKILL) and waits until it is no more.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub async fn kill(mut self) -> DaemonHome {
        let ended = self.child.try_wait().expect("the daemon's state is known");
        assert!(ended.is_none(), "the daemon ended by itself: {ended:?}");
        self.child.kill().await.expect("the daemon is killed");
        self.home.take_note();
        self.home
    }

    /// Waits until backend and API server agree about the node's pods, then checks that no pod was ever created
    /// twice, by this process or those before it.
    ///
    /// # Panics
    /// When they do not come to agree, or a pod was.
    pub async fn agree(&mut self, world: &World) {
        agree_on(world, &self.home.node, |objects| {
            let (pods, _) = self.home.read();
            let runs = |record: &Value| record["stage"] != "Gone";
            Kept {
                live: pods.iter().filter(|(_, record)| runs(record)).map(|(uid, _)| uid.clone()).collect(),
                count: pods.len(),
                with_object: pods.keys().filter(|uid| objects.contains(uid)).count(),
            }
        })
        .await;
        self.home.take_note();
        assert_eq!(self.home.created_twice(), Vec::<&PodUid>::new(), "pods that were created more than once");
        assert!(!self.home.creations.is_empty(), "the state file tells of every pod");
    }

    /// Kills the daemon and deletes its node's object.
    pub async fn remove(self, world: &World) {
        let home = self.kill().await;
        delete_object(world, &home.node).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_creation_shows_across_processes_and_a_torn_line_does_not() {
        let mut home = DaemonHome::new("n".to_owned(), Path::new("kubeconfig"), json!({}));
        let file = home.folder.path().join("pods");
        let record = |uid: &str, created: &str, stage: &str| {
            json!({"pod": {"id": ["ns", "name", uid], "created": created, "stage": stage}}).to_string() + "\n"
        };
        let first = record("a", "1", "Running") + &record("b", "2", "Running") + "{\"gone\":\"a\"}\n";
        std::fs::write(&file, first).unwrap();
        assert_eq!(home.read().0.into_keys().collect::<Vec<_>>(), [PodUid::new("b")]);
        home.take_note();
        // Another process: it knows b, whose record changes, and creates a once more.
        let second = record("b", "2", "Gone") + &record("a", "3", "Running") + "{\"pod\":{\"id";
        std::fs::write(&file, second).unwrap();
        home.take_note();
        assert_eq!(home.created_twice(), [&PodUid::new("a")]);
    }
}
