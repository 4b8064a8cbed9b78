//! Logs that are never stored: every line follows from the container's run and the clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use vk_core::provider::{
    ContainerRef, Error, LogEntry, LogOptions, LogOutput, LogStart, LogStream, PodUid, Result,
};

use crate::backend::MockBackend;
use crate::pod::Pod;
use crate::pod::container::{Container, KILLED, State};
use crate::script::ContainerScript;
use crate::time::between;

/// What the well-known first image says.
const HELLO: [&str; 2] = [
    "Hello from Virtual Kubelet!",
    "This pod looks like any other to Kubernetes, and runs at the mock provider.",
];

/// Everything that the lines of one run follow from.
#[derive(Clone, Debug, PartialEq)]
struct Log {
    container: Box<str>,
    /// The lines at the start.
    head: Vec<String>,
    started: Timestamp,
    /// When the run ended, and what it said then.
    end: Option<(Timestamp, Option<String>)>,
    /// Time between two lines after the first ones.
    period: Option<Duration>,
    line_bytes: usize,
    stderr_every: u64,
}

impl Log {
    /// The log of the present run, or of the one before.
    fn of(pod: &Pod, container: &Container, previous: bool) -> Option<Self> {
        let last = container.last.as_deref();
        let (started, ended) = match &container.state {
            _ if previous => last.map(|run| (run.started, Some(*run)))?,
            State::Waiting => return None,
            State::Running { since, .. } => (*since, None),
            State::BackOff { run, .. } | State::CrashLoop { run, .. } | State::Ended(run) => {
                (run.started, Some(*run))
            }
        };
        let script = pod.script.container(&container.name);
        let end = ended.map(|run| {
            // A killed process says nothing.
            let silent = run.oom || run.code == KILLED;
            let words = format!("mock: container {} exited with code {}", container.name, run.code);
            (run.finished, (!silent).then_some(words))
        });
        Some(Self {
            container: container.name.clone(),
            head: head(pod, container, script),
            started,
            end,
            period: (script.log_rate > 0.0).then(|| Duration::from_secs_f64(1.0 / script.log_rate)),
            line_bytes: script.log_line_bytes,
            stderr_every: script.log_stderr_every,
        })
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.end.as_ref().is_some_and(|(at, _)| *at <= now)
    }

    /// How many periodic lines there are by `now`.
    fn ticks(&self, now: Timestamp) -> u64 {
        let until = self.end.as_ref().map_or(now, |(at, _)| now.min(*at));
        let Some(period) = self.period else { return 0 };
        let nanos = between(self.started, until).as_nanos() / period.as_nanos().max(1);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// How many lines there are by `now`.
    fn count(&self, now: Timestamp) -> u64 {
        let farewell = self.end.as_ref().is_some_and(|(at, words)| *at <= now && words.is_some());
        self.head.len() as u64 + self.ticks(now) + u64::from(farewell)
    }

    /// When line `index` is, or will be, written, as far as the run lasts.
    fn time(&self, index: u64) -> Timestamp {
        let tick = index.saturating_sub(self.head.len() as u64).saturating_add(1);
        if index < self.head.len() as u64 {
            return self.started;
        }
        if let Some((end, _)) = &self.end
            && tick > self.ticks(*end)
        {
            return *end;
        }
        let Some(period) = self.period else { return Timestamp::MAX };
        let nanos = period.as_nanos().saturating_mul(u128::from(tick));
        let delay = i128::try_from(nanos).ok().map(SignedDuration::from_nanos_i128);
        delay.and_then(|delay| self.started.checked_add(delay).ok()).unwrap_or(Timestamp::MAX)
    }

    /// Line `index`, which must be below [`count`](Self::count).
    fn entry(&self, index: u64) -> LogEntry {
        let time = self.time(index);
        let head = usize::try_from(index).ok().and_then(|index| self.head.get(index));
        let tick = index.saturating_sub(self.head.len() as u64) + 1;
        let (mut line, output) = match (head, &self.end) {
            (Some(line), _) => (line.clone(), LogOutput::Stdout),
            (None, Some((end, Some(words)))) if tick > self.ticks(*end) => (words.clone(), LogOutput::Stdout),
            (None, _) => {
                let on_stderr = self.stderr_every > 0 && tick.is_multiple_of(self.stderr_every);
                let output = if on_stderr { LogOutput::Stderr } else { LogOutput::Stdout };
                (format!("mock: container {} line {tick}", self.container), output)
            }
        };
        let missing = self.line_bytes.saturating_sub(line.len() + 1);
        line.extend(std::iter::repeat_n('.', missing));
        line.push('\n');
        LogEntry { time, output, line: Bytes::from(line) }
    }

    /// The first line that the options ask for, of those there are by `now`.
    fn first(&self, options: &LogOptions, now: Timestamp) -> u64 {
        let count = self.count(now);
        let since = match options.start {
            None => Timestamp::MIN,
            Some(LogStart::At(time)) => time,
            Some(LogStart::Ago(ago)) => SignedDuration::try_from(ago)
                .ok()
                .and_then(|ago| now.checked_sub(ago).ok())
                .unwrap_or(Timestamp::MIN),
        };
        // Times never go down from line to line.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time(middle) < since { low = middle + 1 } else { high = middle }
        }
        low.max(options.tail.map_or(0, |tail| count.saturating_sub(tail)))
    }
}

/// What a container says first.
fn head(pod: &Pod, container: &Container, script: &ContainerScript) -> Vec<String> {
    if let Some(text) = &script.log {
        return text.lines().map(str::to_owned).collect();
    }
    let mut head = vec![format!("mock: container {} of {} started", container.name, pod.id)];
    if let Some(command) = &container.command {
        head.push(format!("mock: command {command}"));
    }
    if container.env_count > 0 {
        head.push(format!("mock: {} environment variables", container.env_count));
    }
    if is_hello_world(&container.image) {
        head.extend(HELLO.map(str::to_owned));
    }
    head
}

/// Whether the image is called `hello-world`, whatever its registry, tag or digest.
fn is_hello_world(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split([':', '@']).next() == Some("hello-world")
}

/// Opens a container's log.
pub(crate) fn open(
    backend: &MockBackend,
    container: &ContainerRef,
    options: &LogOptions,
) -> Result<LogStream> {
    let now = backend.0.clock.now();
    let (log, followers) = look(backend, &container.pod.uid, &container.name, options.previous)
        .ok_or_else(|| not_found(container, options.previous))?;
    let index = log.first(options, now);
    let follow = options.follow && !options.previous;
    let reader = LogReader {
        backend: backend.clone(),
        container: container.clone(),
        log,
        followers,
        index,
        now,
        follow,
    };
    let stream = stream::unfold(reader, |mut reader| async move {
        let entry = reader.next().await?;
        Some((Ok(entry), reader))
    });
    Ok(stream.boxed())
}

fn not_found(container: &ContainerRef, previous: bool) -> Error {
    if previous {
        Error::not_found(format!("previous terminated container {} of pod {}", container.name, container.pod))
    } else {
        Error::not_found(format!("container {} of pod {}", container.name, container.pod))
    }
}

fn look(backend: &MockBackend, uid: &PodUid, name: &str, previous: bool) -> Option<(Log, Arc<Notify>)> {
    let mut state = backend.0.state();
    let pod = state.pods.get_mut(uid)?;
    let followers = Arc::clone(pod.followers.get_or_insert_default());
    let container = pod.containers.iter().find(|c| *c.name == *name)?;
    Some((Log::of(pod, container, previous)?, followers))
}

/// A log being read.
struct LogReader {
    backend: MockBackend,
    container: ContainerRef,
    log: Log,
    followers: Arc<Notify>,
    index: u64,
    now: Timestamp,
    follow: bool,
}

impl LogReader {
    async fn next(&mut self) -> Option<LogEntry> {
        loop {
            if self.index < self.log.count(self.now) {
                let entry = self.log.entry(self.index);
                self.index += 1;
                return Some(entry);
            }
            if !self.follow || self.log.is_over(self.now) {
                return None;
            }
            self.wait().await?;
        }
    }

    /// Waits for the next line, or for a change of the pod. `None` when there is nothing more to come.
    async fn wait(&mut self) -> Option<()> {
        let followers = Arc::clone(&self.followers);
        let changed = followers.notified();
        tokio::pin!(changed);
        // Listening begins before looking, so that no change falls between the two.
        changed.as_mut().enable();
        self.refresh()?;
        if self.log.is_over(self.now) || self.index < self.log.count(self.now) {
            return Some(());
        }
        let next = self.log.time(self.index);
        let due = (next < Timestamp::MAX).then(|| between(self.now, next));
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => {
                // Where the wall clock does not follow the timers, the timers win.
                self.now = self.now.max(next);
            }
        }
        self.now = self.now.max(self.backend.0.clock.now());
        Some(())
    }

    /// Takes in what has become of the run: still this one, ended, or followed by another.
    fn refresh(&mut self) -> Option<()> {
        let uid = &self.container.pod.uid;
        let same = |(log, _): (Log, Arc<Notify>)| (log.started == self.log.started).then_some(log);
        let log = look(&self.backend, uid, &self.container.name, false)
            .and_then(same)
            .or_else(|| look(&self.backend, uid, &self.container.name, true).and_then(same));
        self.log = log?;
        Some(())
    }
}
