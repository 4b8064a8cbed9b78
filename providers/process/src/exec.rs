//! Commands in running containers, and clients at their main process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::termios::Winsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};
use vk_core::provider::{Error, ExecIo, ExitStatus, LogOutput, Reader, Result, TerminalSize, Writer};

use crate::helper::{Exec, Process};
use crate::run::{Input, Run, clone, helper_command, open_terminal, write_private};

/// Ends a command with everything it started, when nobody waits for it any more.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone, or not yet a group of its own, and then its end by `kill_on_drop` is all there is to do.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// Runs a command in a container and returns its exit status, after all its output.
pub(crate) async fn exec(
    program: &Path,
    run: &Run,
    file: PathBuf,
    command: &[String],
    io: ExecIo,
) -> Result<ExitStatus> {
    let fail = |error: &dyn std::fmt::Display| Error::unavailable(format!("exec: {error}"));
    let gone = || Error::not_found(format!("a running container {}", run.spec.run.container));
    let container = run.pid().ok_or_else(gone)?;
    let terminal = match &io {
        ExecIo::Tty { .. } => Some(open_terminal(container).map_err(|error| fail(&error))?),
        ExecIo::Pipes { .. } => None,
    };
    let exec = Exec {
        container,
        terminal: terminal.as_ref().map(|(_, path)| path.into()),
        process: Process { command: command.to_vec(), ..run.process.clone() },
    };
    let text = serde_json::to_vec(&exec).map_err(|error| fail(&error))?;
    write_private(&file, &text).map_err(|error| fail(&error))?;
    let mut helper = helper_command(program, "exec", &file);
    let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    let (stdin, stdout) = match &io {
        ExecIo::Tty { .. } => (false, false),
        ExecIo::Pipes { stdin, .. } => (stdin.is_some(), true),
    };
    helper.stdin(pipe(stdin)).stdout(pipe(stdout)).stderr(pipe(stdout));
    let mut child = helper.spawn().map_err(|error| fail(&error))?;
    let mut group = Group(child.id().map(u32::cast_signed));
    match io {
        ExecIo::Pipes { stdin, stdout, stderr } => {
            let input = tokio::spawn(feed(stdin, child.stdin.take()));
            let (out, err) = (child.stdout.take(), child.stderr.take());
            tokio::join!(drain(out, stdout), drain(err, stderr));
            input.abort();
        }
        ExecIo::Tty { stdin, mut output, resize } => {
            let Some((master, _)) = terminal else { return Err(fail(&"no terminal")) };
            let sizes = tokio::spawn(follow_size(
                Arc::new(master.try_clone().map_err(|error| fail(&error))?),
                resize,
            ));
            let input = tokio::spawn(type_in(stdin, clone(&master).map_err(|error| fail(&error))?));
            let mut source = clone(&master).map_err(|error| fail(&error))?;
            // Ends with an error when the last process has closed its side.
            let copy = async {
                let _ = tokio::io::copy(&mut source, &mut output).await;
            };
            let (ended, ()) = tokio::join!(child.wait(), copy);
            let _ = output.shutdown().await;
            sizes.abort();
            input.abort();
            group.0 = None;
            let _ = std::fs::remove_file(&file);
            return ended.map(status).map_err(|error| fail(&error));
        }
    }
    let ended = child.wait().await.map_err(|error| fail(&error))?;
    group.0 = None;
    // The helper has read it long since; the folder goes with the pod.
    let _ = std::fs::remove_file(&file);
    Ok(status(ended))
}

fn status(ended: std::process::ExitStatus) -> ExitStatus {
    ended.code().map_or(ExitStatus::Unknown, ExitStatus::Code)
}

/// Connects a client to a container's main process until that ends.
pub(crate) async fn attach(run: &Run, io: ExecIo) -> Result<ExitStatus> {
    if run.pid().is_none() {
        return Err(Error::not_found(format!("a running container {}", run.spec.run.container)));
    }
    let live = run.log.live();
    let (stdin, stdout, stderr, resize) = match io {
        ExecIo::Tty { stdin, output, resize } => (stdin, Some(output), None, Some(resize)),
        ExecIo::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr, None),
    };
    let sizes = async {
        if let (Some(resize), Some(terminal)) = (resize, run.terminal()) {
            follow_size(terminal, resize).await;
        }
        std::future::pending::<()>().await;
    };
    let input = async {
        if let Some(stdin) = stdin {
            give(run, stdin).await;
        }
        std::future::pending::<()>().await;
    };
    // Cancel-safe: the run's end is looked at last; output that came before it has been passed on.
    tokio::select! {
        () = show(live, stdout, stderr, run) => {}
        () = sizes => {}
        () = input => {}
    }
    match run.record().state {
        vk_core::containers::RunState::Exited(exit) => Ok(exit.status),
        _ => Ok(ExitStatus::Unknown),
    }
}

/// Passes on output until the run has ended and all of it was shown.
async fn show(
    mut live: broadcast::Receiver<(LogOutput, Bytes)>,
    mut stdout: Option<Writer>,
    mut stderr: Option<Writer>,
    run: &Run,
) {
    loop {
        // Cancel-safe: a message that was not received stays.
        let next = tokio::select! {
            biased;
            next = live.recv() => next,
            () = run.ended() => return,
        };
        let (output, bytes) = match next {
            Ok(next) => next,
            // A client that is too slow misses what it did not take.
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let writer = match output {
            LogOutput::Stdout => &mut stdout,
            LogOutput::Stderr => &mut stderr,
        };
        if let Some(open) = writer
            && (open.write_all(&bytes).await.is_err() || open.flush().await.is_err())
        {
            *writer = None;
        }
    }
}

/// Gives a client's input to the main process.
async fn give(run: &Run, mut stdin: Reader) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        let mut input = run.input().lock().await;
        let written = match &mut *input {
            Some(Input::Pipe(pipe)) => pipe.write_all(&buffer[..length]).await,
            Some(Input::Terminal(terminal)) => match terminal.write_all(&buffer[..length]).await {
                Ok(()) => terminal.flush().await,
                Err(error) => Err(error),
            },
            None => return,
        };
        if written.is_err() {
            return;
        }
    }
    if run.spec.stdin_once {
        *run.input().lock().await = None;
    }
}

/// A client's input into a pipe; the pipe is closed when the client has no more.
async fn feed(stdin: Option<Reader>, pipe: Option<tokio::process::ChildStdin>) {
    if let (Some(mut stdin), Some(mut pipe)) = (stdin, pipe) {
        // The command may end before its input does.
        let _ = tokio::io::copy(&mut stdin, &mut pipe).await;
    }
}

/// A command's output to its end; a client that has gone must not block the command.
async fn drain(source: Option<impl tokio::io::AsyncRead + Unpin>, sink: Option<Writer>) {
    let Some(mut source) = source else { return };
    if let Some(mut sink) = sink
        && tokio::io::copy(&mut source, &mut sink).await.is_ok()
    {
        let _ = sink.shutdown().await;
        return;
    }
    let _ = tokio::io::copy(&mut source, &mut tokio::io::sink()).await;
}

async fn type_in(stdin: Option<Reader>, mut terminal: tokio::fs::File) {
    let Some(mut stdin) = stdin else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if terminal.write_all(&buffer[..length]).await.is_err() || terminal.flush().await.is_err() {
            return;
        }
    }
    // End of file, as a terminal has it.
    if terminal.write_all(&[4]).await.is_ok() {
        let _ = terminal.flush().await;
    }
}

async fn follow_size(terminal: Arc<std::fs::File>, mut sizes: mpsc::Receiver<TerminalSize>) {
    while let Some(size) = sizes.recv().await {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal that is gone has no size.
        let _ = rustix::termios::tcsetwinsize(&*terminal, size);
    }
}
