//! What users ask of a node through the API server: logs, sessions, its own endpoints.

use std::time::Duration;

use futures::AsyncReadExt as _;
use kube::api::{AttachParams, AttachedProcess, LogParams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::bed::Bed;
use crate::stop::{Checked, Stop, code};

/// How long a short call may take.
pub(crate) const CALL: Duration = Duration::from_secs(30);
/// What is read of an answer at most, in bytes.
const LIMIT: u64 = 16 * 1024 * 1024;

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// What a failed call says: a node that answers 501 declares that it lacks this.
pub(crate) fn lacks(what: &str, error: kube::Error) -> Stop {
    if code(&error) == Some(501) {
        return Stop::not_applicable(format!("the node declares that it has no {what} (HTTP 501)"));
    }
    match Stop::from(error) {
        Stop::Failed(seen) => Stop::failed(format!("{what}: {seen}")),
        other @ Stop::NotApplicable(_) => other,
    }
}

impl Bed {
    /// A log.
    pub(crate) async fn log(&self, pod: &str, params: &LogParams) -> Checked<String> {
        match timeout(CALL, self.pods().logs(pod, params)).await {
            Ok(log) => log.map_err(|error| lacks("logs", error)),
            Err(_) => Err(Stop::failed(format!("the log of pod {pod} did not end within {CALL:?}"))),
        }
    }

    /// A log that has begun: the node may take a moment from a container's start until its first line can be read.
    pub(crate) async fn log_with(&self, pod: &str, params: &LogParams, part: &str) -> Checked<String> {
        let mut refused = None;
        let within = CALL.min(self.patience());
        let log = self
            .poll(&format!("the log of pod {pod} has no {part:?}"), within, async || {
                match self.log(pod, params).await {
                    Ok(log) if log.contains(part) => Ok(log),
                    Ok(log) => Err(format!("it is {log:?}")),
                    Err(Stop::NotApplicable(why)) => {
                        refused = Some(why);
                        Ok(String::new())
                    }
                    Err(Stop::Failed(seen)) => Err(seen),
                }
            })
            .await?;
        match refused {
            Some(why) => Err(Stop::NotApplicable(why)),
            None => Ok(log),
        }
    }

    /// A command in a pod's only container, run to its end.
    pub(crate) async fn exec(
        &self,
        pod: &str,
        command: &[&str],
        stdin: Option<&[u8]>,
        tty: bool,
    ) -> Checked<Ran> {
        let params = AttachParams {
            stdin: stdin.is_some(),
            stdout: true,
            stderr: !tty,
            tty,
            ..AttachParams::default()
        };
        let words = command.join(" ");
        let run = async {
            let process = self.pods().exec(pod, command.to_vec(), &params).await;
            let process = process.map_err(|error| lacks("exec", error))?;
            collect(process, stdin).await
        };
        match timeout(CALL, run).await {
            Ok(ran) => ran,
            Err(_) => Err(Stop::failed(format!("exec of `{words}` did not end within {CALL:?}"))),
        }
    }

    /// An endpoint of the node's own, through the API server.
    pub(crate) async fn proxied(&self, path: &str) -> Checked<String> {
        self.may("get", "nodes", "proxy").await?;
        let uri = format!("/api/v1/nodes/{}/proxy{path}", self.node_name());
        let request = http::Request::get(uri).body(Vec::new());
        let request = request.map_err(|error| Stop::failed(format!("a fault of this suite: {error}")))?;
        match timeout(CALL, self.client().request_text(request)).await {
            Ok(text) => text.map_err(|error| lacks(path, error)),
            Err(_) => Err(Stop::failed(format!("{path} was not answered within {CALL:?}"))),
        }
    }

    /// [`poll`](Self::poll) for an endpoint: what is not applicable ends it at once.
    pub(crate) async fn until_proxied(
        &self,
        path: &str,
        what: &str,
        look: impl Fn(&str) -> Result<(), String>,
    ) -> Checked<String> {
        let mut refused = None;
        let text = self
            .poll(&format!("{path} does not {what}"), self.patience(), async || {
                match self.proxied(path).await {
                    Ok(text) => look(&text).map(|()| text),
                    Err(Stop::NotApplicable(why)) => {
                        refused = Some(why);
                        Ok(String::new())
                    }
                    Err(Stop::Failed(seen)) => Err(seen),
                }
            })
            .await?;
        match refused {
            Some(why) => Err(Stop::NotApplicable(why)),
            None => Ok(text),
        }
    }
}

/// Writes everything, reads everything, and waits for the end.
async fn collect(mut process: AttachedProcess, stdin: Option<&[u8]>) -> Checked<Ran> {
    let (writer, out, err) = (process.stdin(), process.stdout(), process.stderr());
    let status = process.take_status();
    let write = async {
        if let (Some(mut writer), Some(stdin)) = (writer, stdin) {
            // A process that does not read to the end is no fault; what it printed is looked at.
            let _ = writer.write_all(stdin).await;
            let _ = writer.shutdown().await;
        }
    };
    let read_out = async {
        let mut bytes = Vec::new();
        if let Some(out) = out {
            let _ = out.take(LIMIT).read_to_end(&mut bytes).await;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let read_err = async {
        let mut bytes = Vec::new();
        if let Some(err) = err {
            let _ = err.take(LIMIT).read_to_end(&mut bytes).await;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let ended = async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    };
    let ((), out, err, status) = tokio::join!(write, read_out, read_err, ended);
    let Some(status) = status else {
        let why =
            process.join().await.err().map_or_else(|| "it was closed".to_owned(), |error| error.to_string());
        return Err(Stop::failed(format!("the session ended without a status: {why}")));
    };
    let exit = match (status.status.as_deref(), status.reason.as_deref()) {
        (Some("Success"), _) => 0,
        (_, Some("NonZeroExitCode")) => {
            let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
            let cause = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
            let code = cause.and_then(|cause| cause.message).and_then(|message| message.parse().ok());
            code.ok_or_else(|| Stop::failed("a status with reason NonZeroExitCode has no cause ExitCode"))?
        }
        _ => {
            let message = status.message.unwrap_or_default();
            return Err(Stop::failed(format!("the command did not run: {message}")));
        }
    };
    Ok(Ran { out, err, code: exit })
}

/// Reads a followed log to its end.
pub(crate) async fn follow(bed: &Bed, pod: &str, within: Duration) -> Checked<String> {
    let params = LogParams { follow: true, ..LogParams::default() };
    let stream = timeout(CALL, bed.pods().log_stream(pod, &params)).await;
    let stream = match stream {
        Ok(stream) => stream.map_err(|error| lacks("logs", error))?,
        Err(_) => return Err(Stop::failed(format!("the log of pod {pod} did not begin within {CALL:?}"))),
    };
    let mut text = Vec::new();
    let mut stream = std::pin::pin!(stream.take(LIMIT));
    match timeout(within, stream.read_to_end(&mut text)).await {
        Ok(Ok(_)) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Ok(Err(error)) => Err(Stop::failed(format!("the followed log of pod {pod} broke off: {error}"))),
        Err(_) => Err(Stop::failed(format!(
            "the followed log of pod {pod} did not end within {within:?}; it had {:?}",
            String::from_utf8_lossy(&text)
        ))),
    }
}
