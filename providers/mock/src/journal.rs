//! The state file: one JSON line for each change, so that a killed process loses nothing it has answered
//! for.
//!
//! A line is `{"pod": {…}}`, a pod as it is now, or `{"gone": "<uid>"}`. Lines are written, not synced:
//! they survive the end of the process, though not that of the machine. When the file has grown well
//! beyond what it describes, it is written anew beside the old one and renamed into its place. The last
//! line may be torn; anywhere else a bad line is an error.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vk_core::provider::PodUid;

use crate::pod::Pod;

/// Lines that a file may have beyond two for each pod before it is written anew.
const SLACK: usize = 2048;
/// How long after a failed write the file is written anew, at the next change.
const RETRY: Duration = Duration::from_secs(1);

/// An open state file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    line: Vec<u8>,
    /// The last write failed: the file says less than is true until it is written anew.
    failed: Option<Failure>,
    /// Keeps a second process off the file.
    _lock: File,
}

/// A failure to write.
#[derive(Debug)]
struct Failure {
    reason: String,
    retry_at: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Pod(&'a Pod),
    Gone(&'a str),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReadLine {
    Pod(Box<Pod>),
    Gone(String),
}

impl Journal {
    /// Opens or creates a state file and reads the pods in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Pod>), String> {
        let beside = |ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let lock = File::create(beside(".lock")).map_err(|error| error.to_string())?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => "another process uses it".to_owned(),
            TryLockError::Error(error) => error.to_string(),
        })?;
        let pods = match File::open(path) {
            Ok(file) => read(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        let file = append_to(path).map_err(|error| error.to_string())?;
        let journal =
            Self { path: path.to_owned(), file, lines: 0, line: Vec::new(), failed: None, _lock: lock };
        Ok((journal, pods))
    }

    /// A pod is now like this.
    pub(crate) fn put(&mut self, pod: &Pod) {
        self.append(&Line::Pod(pod));
    }

    /// A pod is no more.
    pub(crate) fn gone(&mut self, uid: &PodUid) {
        self.append(&Line::Gone(uid.as_str()));
    }

    /// Why the file does not say what is true, if that is so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.as_ref().map(|failure| failure.reason.as_str())
    }

    fn append(&mut self, line: &Line<'_>) {
        self.lines += 1;
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, line).map_err(io::Error::from).and_then(|()| {
            self.line.push(b'\n');
            // One write call: a line is torn only if the disk is full or the machine stops.
            self.file.write_all(&self.line)
        });
        if let Err(error) = written {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            tracing::error!(file = %self.path.display(), %error, "cannot write the state file");
        }
        self.failed = Some(Failure { reason: error.to_string(), retry_at: Instant::now() + RETRY });
    }

    /// Writes the file anew when it is long for `pods` pods, or when a write has failed.
    pub(crate) fn compact_if_long<'a, I: Iterator<Item = &'a Pod>>(
        &mut self,
        pods: usize,
        all: impl FnOnce() -> I,
    ) {
        let due = match &self.failed {
            Some(failure) => failure.retry_at <= Instant::now(),
            None => self.lines > 2 * pods + SLACK,
        };
        if !due {
            return;
        }
        if let Err(error) = self.rewrite(all()) {
            self.fail(&error);
        }
    }

    /// Writes the file anew.
    pub(crate) fn rewrite<'a>(&mut self, pods: impl Iterator<Item = &'a Pod>) -> io::Result<()> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let beside = PathBuf::from(name);
        let mut lines = 0;
        let mut writer = BufWriter::new(File::create(&beside)?);
        for pod in pods {
            serde_json::to_writer(&mut writer, &Line::Pod(pod))?;
            writer.write_all(b"\n")?;
            lines += 1;
        }
        writer.flush()?;
        drop(writer);
        fs::rename(&beside, &self.path)?;
        self.file = append_to(&self.path)?;
        self.lines = lines;
        self.failed = None;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The pods of a file, in the order in which they came into it.
fn read(file: File) -> Result<Vec<Pod>, String> {
    let mut pods: HashMap<String, (usize, Pod)> = HashMap::new();
    let mut reader = BufReader::new(file);
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        if reader.read_until(b'\n', &mut text).map_err(|error| format!("line {number}: {error}"))? == 0 {
            break;
        }
        match serde_json::from_slice(&text) {
            Ok(ReadLine::Pod(pod)) => {
                let uid = pod.id.uid.as_str().to_owned();
                let first = pods.get(&uid).map_or(number, |(first, _)| *first);
                pods.insert(uid, (first, *pod));
            }
            Ok(ReadLine::Gone(uid)) => {
                pods.remove(&uid);
            }
            // The process was killed in the middle of the write; nobody was told of this change.
            Err(_) if !text.ends_with(b"\n") => {
                tracing::warn!(line = number, "the last line of the state file is torn and left out");
                break;
            }
            Err(error) => {
                return Err(format!(
                    "line {number} is not a line of this file: {error}; remove the file to start empty"
                ));
            }
        }
    }
    let mut pods: Vec<(usize, Pod)> = pods.into_values().collect();
    pods.sort_by_key(|(first, _)| *first);
    Ok(pods.into_iter().map(|(_, pod)| pod).collect())
}
