//! Exec, attach and port-forward: a container of the mock has a small shell, a process that repeats what it is
//! told (or a shell, if that is what it was started with), and an HTTP server on every port it declares.

mod attach;
mod commands;
mod files;
mod http;
mod io;
mod script;
mod shell;
mod tar;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::io::DuplexStream;
use vk_core::provider::{ContainerRef, Error, ExecIo, ExitStatus, PodRef, Result};

pub(crate) use self::files::FileStore;
use self::io::Io;
use self::shell::Shell;
use crate::backend::MockBackend;
use crate::pod::container::KILLED;

/// Bytes on their way to or from a forwarded port.
const PIPE: usize = 64 * 1024;

/// Runs a command in a container.
pub(crate) async fn exec(
    backend: &MockBackend,
    container: &ContainerRef,
    command: &[String],
    io: ExecIo,
) -> Result<ExitStatus> {
    let env = environment(backend, container)?;
    let Some(program) = command.first() else { return Err(Error::unexpected("args must not be empty")) };
    if !commands::exists(program) {
        let reason = format!("exec: {program:?}: executable file not found in $PATH");
        return Err(Error::unexpected(reason));
    }
    let files = backend.0.files.of(container);
    let mut shell = Shell::new(Io::new(io), env, files);
    tokio::select! {
        code = shell.run(command) => Ok(ExitStatus::Code(code)),
        () = ended(backend, container) => Ok(ExitStatus::Code(KILLED)),
    }
}

/// Waits until a container runs no more, which is also the end of every command in it.
async fn ended(backend: &MockBackend, container: &ContainerRef) {
    loop {
        let changes = {
            let mut state = backend.0.state();
            let Some(pod) = state.pods.get_mut(&container.pod.uid) else { return };
            Arc::clone(pod.followers.get_or_insert_default())
        };
        let changed = changes.notified();
        tokio::pin!(changed);
        // Listening begins before looking, so that no change falls between the two.
        changed.as_mut().enable();
        if environment(backend, container).is_err() {
            return;
        }
        changed.await;
    }
}

/// Connects to a container's main process.
pub(crate) async fn attach(
    backend: &MockBackend,
    container: &ContainerRef,
    io: ExecIo,
) -> Result<ExitStatus> {
    environment(backend, container)?;
    if let Some(command) = shell_of(backend, container) {
        let status = exec(backend, container, &command, io).await?;
        if let ExitStatus::Code(code) = status {
            // It may have been ended already, and is no shell's end then.
            let _ = backend.exit(&container.pod.uid, &container.name, code);
        }
        return Ok(status);
    }
    attach::attach(backend, container, io).await
}

/// A container's main process, where it is a shell that waits for somebody to attach.
fn shell_of(backend: &MockBackend, container: &ContainerRef) -> Option<Vec<String>> {
    let state = backend.0.state();
    let pod = state.pods.get(&container.pod.uid)?;
    let record = pod.containers.iter().find(|known| *known.name == *container.name)?;
    record.shell.as_deref().map(<[String]>::to_vec)
}

/// Connects to a port that one of the pod's containers declares.
pub(crate) fn connect(backend: &MockBackend, pod: &PodRef, port: u16) -> Result<DuplexStream> {
    let declared = {
        let state = backend.0.state();
        let record = state.pods.get(&pod.uid).ok_or_else(|| Error::not_found(format!("pod {pod}")))?;
        let mut running = record.containers.iter().filter(|container| container.is_running());
        running.any(|container| container.ports.contains(&port))
    };
    if !declared {
        let reason =
            format!("connect: connection refused: no running container of {pod} declares port {port}");
        return Err(Error::unavailable(reason));
    }
    let (ours, theirs) = tokio::io::duplex(PIPE);
    tokio::spawn(http::serve(theirs, pod.clone(), port));
    Ok(ours)
}

/// The environment of a container that runs.
fn environment(backend: &MockBackend, container: &ContainerRef) -> Result<BTreeMap<String, String>> {
    let state = backend.0.state();
    let found = state
        .pods
        .get(&container.pod.uid)
        .and_then(|pod| pod.containers.iter().find(|known| *known.name == *container.name));
    let Some(record) = found.filter(|record| record.is_running()) else {
        return Err(Error::not_found(format!("running container {container}")));
    };
    let mut env: BTreeMap<String, String> = [
        ("HOME".to_owned(), "/".to_owned()),
        ("HOSTNAME".to_owned(), container.pod.name.to_string()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ]
    .into();
    // What a process in the container is given to see, whoever may run one: as with any container.
    env.extend(record.env.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    Ok(env)
}
