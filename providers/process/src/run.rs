//! One run of a container: a process, its output and its end.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vk_core::containers::{ContainerSpec, LONGEST_TERMINATION_MESSAGE, RunExit, RunRecord, RunState};
use vk_core::provider::{Error, ExitStatus, LinuxUser, LogOutput, Result};

use crate::helper::{self, Launch, Process};
use crate::log::Log;
use crate::memory;

/// How long a helper may take to report.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run.
#[derive(Debug)]
pub(crate) struct Run {
    pub spec: ContainerSpec,
    /// `process://` and 64 digits.
    pub id: String,
    /// Its files: launch, last words.
    pub folder: PathBuf,
    /// Who its command runs as, for exec too.
    pub process: Process,
    pub stop_signal: Signal,
    pub log: Arc<Log>,
    state: Mutex<RunState>,
    /// Process 1 of the container while it runs.
    pid: Mutex<Option<i32>>,
    /// How many bytes of memory it may take.
    limit: watch::Sender<Option<u64>>,
    /// When it is killed.
    deadline: watch::Sender<Option<Instant>>,
    signalled: AtomicBool,
    ended: watch::Sender<bool>,
    input: tokio::sync::Mutex<Option<Input>>,
    terminal: Mutex<Option<Arc<fs::File>>>,
}

/// Where an attached client's input goes.
#[derive(Debug)]
pub(crate) enum Input {
    Pipe(ChildStdin),
    Terminal(tokio::fs::File),
}

/// Told of every state.
pub(crate) type Notify = Arc<dyn Fn(&Run) + Send + Sync>;

impl Run {
    pub(crate) fn new(
        spec: ContainerSpec,
        id: String,
        folder: PathBuf,
        process: Process,
        stop_signal: Signal,
    ) -> Self {
        Self {
            limit: watch::Sender::new(memory::limit(&spec.resources)),
            spec,
            id,
            folder,
            process,
            stop_signal,
            log: Arc::new(Log::new()),
            state: Mutex::new(RunState::Created),
            pid: Mutex::default(),
            deadline: watch::Sender::new(None),
            signalled: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            input: tokio::sync::Mutex::default(),
            terminal: Mutex::default(),
        }
    }

    /// Its record, as it is now.
    pub(crate) fn record(&self) -> RunRecord {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let process = &self.process;
        let user = LinuxUser {
            uid: process.user.into(),
            gid: process.group.into(),
            groups: process.groups.iter().map(|id| i64::from(*id)).collect(),
        };
        RunRecord::new(self.spec.run.clone(), self.id.clone(), state)
            .of_image(self.spec.image.clone(), self.spec.image_id.clone())
            .run_by(user)
    }

    fn set(&self, state: RunState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Process 1 of the container, while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_created(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), RunState::Created)
    }

    /// The terminal's master side, if it has one.
    pub(crate) fn terminal(&self) -> Option<Arc<fs::File>> {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its standard input, if it is open.
    pub(crate) fn input(&self) -> &tokio::sync::Mutex<Option<Input>> {
        &self.input
    }

    /// The file for its last words, on the host.
    pub(crate) fn last_words(&self) -> PathBuf {
        self.folder.join("termination-log")
    }

    /// Starts it. Returns when the command runs, or why it does not.
    pub(crate) async fn start(
        self: &Arc<Self>,
        program: &Path,
        launch: &Launch,
        notify: Notify,
    ) -> Result<()> {
        match self.spawn(program, launch).await {
            Ok(running) => {
                let started_at = Timestamp::now();
                self.set(RunState::Running { started_at });
                notify(self);
                tokio::spawn(Arc::clone(self).supervise(running, started_at, notify));
                Ok(())
            }
            Err(reason) => {
                let message = format!("failed to start the container: {reason}");
                let mut exit = RunExit::new(ExitStatus::Code(128), Timestamp::UNIX_EPOCH, Timestamp::now());
                exit.start_error = Some(message.clone());
                self.set(RunState::Exited(exit));
                self.log.end();
                self.ended.send_replace(true);
                notify(self);
                Err(Error::unexpected(message))
            }
        }
    }

    async fn spawn(&self, program: &Path, launch: &Launch) -> std::result::Result<Running, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let file = self.folder.join("launch.json");
        write_private(&file, &serde_json::to_vec(launch).map_err(|error| text(&error))?)
            .map_err(|error| text(&error))?;
        let listener = UnixListener::bind(&launch.socket).map_err(|error| text(&error))?;
        let result = self.launch(program, &file, &listener).await;
        // Both are read by now, or by nobody; the folder goes with the pod in any case.
        let _ = fs::remove_file(&launch.socket);
        let _ = fs::remove_file(&file);
        result
    }

    async fn launch(
        &self,
        program: &Path,
        file: &Path,
        listener: &UnixListener,
    ) -> std::result::Result<Running, String> {
        let text = |error: io::Error| error.to_string();
        let mut command = helper_command(program, "outer", file);
        let tty = self.spec.tty;
        let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        command.stdin(pipe(self.spec.stdin && !tty)).stdout(pipe(!tty)).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(text)?;
        // Taken before the first `wait`, which would close it.
        let stdin = child.stdin.take();
        // Cancel-safe: a connection that is not accepted is closed, and the child ends with us.
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map_err(text)?.0,
            _ = child.wait() => return Err(said(&mut child).await),
            () = tokio::time::sleep(PATIENCE) => return Err("its helper did not report".to_owned()),
        };
        let pid = stream.peer_cred().map_err(text)?.pid().ok_or("its process is not known")?;
        let mut stream = BufReader::new(stream);
        let mut word = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut word).await.map_err(text)?;
        if word != "ready\n" {
            return Err(if word.is_empty() { said(&mut child).await } else { word });
        }
        let go = if tty {
            let (master, path) = open_terminal(pid).map_err(text)?;
            *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(master));
            format!("go {path}\n")
        } else {
            "go\n".to_owned()
        };
        send(&mut stream, &go).await.map_err(text)?;
        let mut error = String::new();
        stream.read_to_string(&mut error).await.map_err(text)?;
        if !error.is_empty() {
            return Err(error);
        }
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        let input = match self.terminal() {
            Some(master) if self.spec.stdin => Some(Input::Terminal(clone(&master).map_err(text)?)),
            Some(_) => None,
            None => stdin.map(Input::Pipe),
        };
        *self.input.lock().await = input;
        Ok(Running { child, pid })
    }

    async fn supervise(self: Arc<Self>, mut running: Running, started_at: Timestamp, notify: Notify) {
        let mut readers = JoinSet::new();
        if let Some(master) = self.terminal() {
            if let Ok(source) = clone(&master) {
                let log = Arc::clone(&self.log);
                readers.spawn(async move { log.read(LogOutput::Stdout, source).await });
            }
        } else if let (Some(out), Some(err)) = (running.child.stdout.take(), running.child.stderr.take()) {
            let log = Arc::clone(&self.log);
            readers.spawn(async move { log.read_both(out, err).await });
        }
        let (status, oom_killed) = self.wait(&mut running).await;
        let finished_at = Timestamp::now();
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Everything of it has ended with process 1, so its outputs end too.
        while readers.join_next().await.is_some() {}
        *self.input.lock().await = None;
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.log.end();
        let mut exit = RunExit::new(status, started_at, finished_at);
        exit.oom_killed = oom_killed;
        exit.message = tail(&self.last_words());
        self.set(RunState::Exited(exit));
        self.ended.send_replace(true);
        notify(&self);
    }

    /// Waits for the end, and brings it about when it is time.
    async fn wait(&self, running: &mut Running) -> (ExitStatus, bool) {
        let mut deadline = self.deadline.subscribe();
        let mut limits = self.limit.subscribe();
        let mut oom_killed = false;
        loop {
            let at = *deadline.borrow_and_update();
            let limit = *limits.borrow_and_update();
            let is_time = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let exceeded = async {
                match limit {
                    Some(limit) if !oom_killed => memory::exceeded(running.pid, limit).await,
                    _ => std::future::pending().await,
                }
            };
            // Cancel-safe: all of these only look, and are asked again.
            tokio::select! {
                ended = running.child.wait() => {
                    let code = ended.ok().and_then(|status| status.code());
                    return (code.map_or(ExitStatus::Unknown, ExitStatus::Code), oom_killed);
                }
                () = is_time => {
                    signal(running.pid, Signal::SIGKILL);
                    self.deadline.send_replace(None);
                }
                () = exceeded => {
                    oom_killed = true;
                    signal(running.pid, Signal::SIGKILL);
                }
                Ok(()) = deadline.changed() => {}
                Ok(()) = limits.changed() => {}
            }
        }
    }

    /// Sends the stop signal, once, and sees to the kill.
    pub(crate) fn stop(&self, grace: Duration) {
        let Some(pid) = self.pid() else { return };
        if !grace.is_zero() && !self.signalled.swap(true, Ordering::Relaxed) {
            signal(pid, self.stop_signal);
        }
        let at = Instant::now() + grace;
        self.deadline.send_modify(|deadline| *deadline = Some(deadline.map_or(at, |known| known.min(at))));
    }

    /// Gives it other limits from now on.
    pub(crate) fn resize(&self, resources: &ResourceRequirements) {
        self.limit.send_replace(memory::limit(resources));
    }

    /// Waits until it has ended. One that was never started has.
    pub(crate) async fn ended(&self) {
        if self.is_created() {
            return;
        }
        // The sender lives as long as we do.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// A helper and the container that it waits for.
#[derive(Debug)]
struct Running {
    child: Child,
    pid: i32,
}

/// A program as a helper, which ends with us.
pub(crate) fn helper_command(program: &Path, role: &str, file: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg0(helper::NAME).arg(role).arg(file).env_clear().kill_on_drop(true);
    command
}

/// Opens a terminal in a container: its master side, and the path of the other.
pub(crate) fn open_terminal(container: i32) -> io::Result<(fs::File, String)> {
    let master =
        fs::File::options().read(true).write(true).open(format!("/proc/{container}/root/dev/pts/ptmx"))?;
    rustix::pty::unlockpt(&master)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    Ok((master, path.to_string_lossy().into_owned()))
}

/// Another handle of a terminal, for reading or writing.
pub(crate) fn clone(terminal: &fs::File) -> io::Result<tokio::fs::File> {
    terminal.try_clone().map(tokio::fs::File::from_std)
}

/// Sends a signal; a process that is gone needs none.
pub(crate) fn signal(process: i32, signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(process), signal) {
        tracing::debug!(process, %signal, %error, "not signalled");
    }
}

/// Writes a file that only we may read: an environment may hold secrets.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::write(path, [])?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    fs::write(path, content)
}

/// 64 hexadecimal digits made from parts.
pub(crate) fn hex(parts: &[&str]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let word = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        parts.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    (0..4).map(word).collect()
}

async fn send(stream: &mut BufReader<UnixStream>, text: &str) -> io::Result<()> {
    stream.get_mut().write_all(text.as_bytes()).await
}

/// What a helper complained about before it ended.
async fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        // Nothing to read is nothing said.
        let _ = stderr.read_to_string(&mut text).await;
    }
    if text.is_empty() { "its helper ended without a word".to_owned() } else { text.trim().to_owned() }
}

/// The end of a run's last words.
fn tail(path: &Path) -> Bytes {
    let mut words = fs::read(path).unwrap_or_default();
    let skip = words.len().saturating_sub(LONGEST_TERMINATION_MESSAGE);
    Bytes::from(words.split_off(skip))
}
