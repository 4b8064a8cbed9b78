//! `POST /run/…?cmd=`: a command without a stream, its output as the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use tokio::io::AsyncWrite;

use super::super::request::Call;
use super::super::routes::Endpoint;
use super::super::{KubeletApi, reply};
use super::refusal::Refusal;
use crate::provider::{Error, ExecIo, ExitStatus, Writer};

/// Output beyond this is refused, as by CRI's `ExecSync`.
const MOST: usize = 16 << 20;

pub(super) async fn run(api: &KubeletApi, call: &Call) -> Result<Response, Box<Response>> {
    let container = Refusal::container(api, call, Endpoint::Run)?;
    let _slot = api.streams.slot("exec", &api.streams.exec, &api.metrics)?;
    let command: Vec<String> = call.first("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let (stdout, stderr) = (Collected::default(), Collected::default());
    let io = ExecIo::Pipes { stdin: None, stdout: Some(stdout.writer()), stderr: Some(stderr.writer()) };
    let Some(exec) = api.provider.exec() else {
        return Err(Box::new(reply::provider_error(&Error::unavailable("the provider cannot run commands"))));
    };
    let failed = |text: String| Ok(reply::text(StatusCode::INTERNAL_SERVER_ERROR, text));
    match exec.exec(&container, &command, io).await {
        Err(error) => failed(error.chain()),
        Ok(_) if stdout.is_full() || stderr.is_full() => {
            failed(format!("the command's output exceeds {MOST} bytes; use exec"))
        }
        Ok(ExitStatus::Code(code)) if code != 0 => {
            let (command, stderr) = (command.join(" "), stderr.take());
            failed(format!("command '{command}' exited with {code}: {}", String::from_utf8_lossy(&stderr)))
        }
        Ok(_) => {
            let mut output = stdout.take();
            output.extend(stderr.take());
            Ok(reply::json(Body::from(output)))
        }
    }
}

/// Output in memory, up to a bound.
#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<(Vec<u8>, bool)>>);

impl Collected {
    fn writer(&self) -> Writer {
        Box::new(self.clone())
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn is_full(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl AsyncWrite for Collected {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut collected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if collected.0.len() + bytes.len() > MOST {
            collected.1 = true;
            return Poll::Ready(Err(std::io::ErrorKind::FileTooLarge.into()));
        }
        collected.0.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
