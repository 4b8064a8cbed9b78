//! One run of a container: a small program, with a log, signals and ports.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};
use vk_core::clock::Clock;
use vk_core::containers::{ContainerSpec, RunExit, RunRecord, RunState};
use vk_core::provider::{ExecIo, LogEntry, LogOutput};

use super::files::Files;
use super::serve;
use super::shell::Shell;

/// 128 + SIGKILL.
pub(super) const KILLED: i32 = 137;
/// Bytes on their way to or from a port.
const PIPE: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) spec: ContainerSpec,
    id: String,
    pub(super) files: Files,
    pub(super) clock: Clock,
    state: watch::Sender<RunState>,
    /// SIGTERM and SIGKILL.
    pub(super) term: watch::Sender<bool>,
    kill: watch::Sender<bool>,
    log: Mutex<Vec<LogEntry>>,
    wrote: Notify,
    /// A server of it answers that it is well.
    well: AtomicBool,
    /// A server of it listens.
    listens: AtomicBool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) oom: bool,
}

/// Where a program's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Process {
    pub(super) fn new(spec: ContainerSpec, id: String, files: Files, clock: Clock) -> Self {
        Self {
            spec,
            id,
            files,
            clock,
            state: watch::Sender::new(RunState::Created),
            term: watch::Sender::new(false),
            kill: watch::Sender::new(false),
            log: Mutex::default(),
            wrote: Notify::new(),
            well: AtomicBool::new(true),
            listens: AtomicBool::new(false),
        }
    }

    pub(super) fn record(&self) -> RunRecord {
        RunRecord::new(self.spec.run.clone(), &*self.id, self.state.borrow().clone())
            .of_image(&*self.spec.image, &*self.spec.image_id)
    }

    pub(super) fn was_started(&self) -> bool {
        *self.state.borrow() != RunState::Created
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Running { .. })
    }

    pub(super) fn started_at(&self) -> Timestamp {
        match &*self.state.borrow() {
            RunState::Running { started_at } => *started_at,
            RunState::Exited(exit) => exit.started_at,
            RunState::Created => self.clock.now(),
        }
    }

    fn words(&self) -> Vec<String> {
        let words = self.spec.command.iter().chain(&self.spec.args);
        words.map(|word| word.expose().to_owned()).collect()
    }

    /// Whether there is a program of that name.
    pub(super) fn check(&self) -> Result<(), String> {
        let words = self.words();
        let program = words.first().map_or("tool", String::as_str);
        let name = program.rsplit('/').next().unwrap_or(program);
        if Shell::knows(name) {
            return Ok(());
        }
        let why = if program.contains('/') {
            format!("stat {program}: no such file or directory")
        } else {
            "executable file not found in $PATH".to_owned()
        };
        Err(format!(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: \
             unable to start container process: error during container init: exec: \"{program}\": {why}"
        ))
    }

    pub(super) fn start(&self) {
        self.state.send_replace(RunState::Running { started_at: self.clock.now() });
    }

    pub(super) fn end(&self, exit: RunExit) {
        self.listens.store(false, Ordering::Release);
        self.state.send_replace(RunState::Exited(exit));
        self.wrote.notify_waiters();
    }

    /// Runs the program.
    pub(super) async fn run(self: &Arc<Self>) -> Ended {
        let mut words = self.words();
        if words.is_empty() {
            words = vec!["tool".to_owned(), "serve".to_owned()];
        }
        let mut kill = self.kill.subscribe();
        let mut shell = Shell::new(Arc::clone(self), None);
        tokio::select! {
            ended = shell.program(&words) => ended,
            _ = kill.wait_for(|killed| *killed) => Ended { code: KILLED, oom: false },
        }
    }

    /// Runs another command beside the program, with output of its own.
    pub(super) async fn exec(self: &Arc<Self>, words: &[String], io: ExecIo) -> i32 {
        let (sender, mut output) = tokio::sync::mpsc::unbounded_channel();
        let (stdin, mut out, mut err) = match io {
            ExecIo::Tty { stdin, output, .. } => (stdin, Some(output), None),
            ExecIo::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr),
        };
        let mut shell = Shell::new(Arc::clone(self), Some(sender)).reading(stdin);
        let running = async move { shell.program(words).await };
        // It ends when the shell is gone, and with it the sender.
        let writing = async {
            while let Some((to, bytes)) = output.recv().await {
                let writer = if to == Output::Stderr { err.as_mut().or(out.as_mut()) } else { out.as_mut() };
                if let Some(writer) = writer
                    && writer.write_all(&bytes).await.is_err()
                {
                    break;
                }
            }
            for writer in out.iter_mut().chain(&mut err) {
                let _ = writer.shutdown().await;
            }
        };
        let (ended, ()) = tokio::join!(running, writing);
        ended.code
    }

    pub(super) fn terminate(&self) {
        self.term.send_replace(true);
    }

    pub(super) fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// Waits for the end; what was never started has ended.
    pub(super) async fn ended(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, RunState::Running { .. })).await;
    }

    fn entries(&self) -> MutexGuard<'_, Vec<LogEntry>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the log, a line at a time.
    pub(super) fn write(&self, to: Output, bytes: &[u8]) {
        let output = if to == Output::Stdout { LogOutput::Stdout } else { LogOutput::Stderr };
        let mut log = self.entries();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            log.push(LogEntry { time: self.clock.now(), output, line: Bytes::copy_from_slice(line) });
        }
        drop(log);
        self.wrote.notify_waiters();
    }

    pub(super) fn log(&self) -> Vec<LogEntry> {
        self.entries().clone()
    }

    /// Entries behind the first `read`, once there are some; `None` when there will be none.
    pub(super) async fn log_after(&self, read: usize) -> Option<Vec<LogEntry>> {
        loop {
            let wrote = self.wrote.notified();
            tokio::pin!(wrote);
            // Listening begins before looking, so that nothing falls between the two.
            wrote.as_mut().enable();
            let more: Vec<_> = self.entries().iter().skip(read).cloned().collect();
            if !more.is_empty() {
                return Some(more);
            }
            if !self.is_running() {
                return None;
            }
            wrote.await;
        }
    }

    pub(super) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::Release);
    }

    pub(super) fn is_well(&self) -> bool {
        self.well.load(Ordering::Acquire)
    }

    pub(super) fn listen(&self, listens: bool) {
        self.listens.store(listens, Ordering::Release);
    }

    /// Connects to the server in it.
    pub(super) fn connect(self: &Arc<Self>, port: u16) -> Option<DuplexStream> {
        if port != serve::PORT || !self.is_running() || !self.listens.load(Ordering::Acquire) {
            return None;
        }
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(serve::answer(Arc::clone(self), theirs));
        Some(ours)
    }
}
