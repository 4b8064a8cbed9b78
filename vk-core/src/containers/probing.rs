//! Running one probe once: by HTTP, TCP, gRPC or a command.
//!
//! Source: `pkg/probe` and `pkg/kubelet/prober`; texts as in the oracle cases readiness-* and liveness-*.

mod grpc;
pub(super) mod http;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::backend::ContainerBackend;
use super::command;
use super::dial::{Dial, Target};
use super::probe::ProbeResult;
use crate::provider::{ContainerRef, ExitStatus};

/// What one run of a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) result: ProbeResult,
    /// What to say about a failure, or of a success that deserves a [remark](Self::warning).
    pub(super) output: String,
    /// It succeeded, but not quite as it should.
    pub(super) warning: bool,
}

impl Finding {
    fn success() -> Self {
        Self { result: ProbeResult::Success, output: String::new(), warning: false }
    }

    fn failure(output: impl Into<String>) -> Self {
        Self { result: ProbeResult::Failure, output: output.into(), warning: false }
    }

    fn unknown(output: impl Into<String>) -> Self {
        Self { result: ProbeResult::Unknown, output: output.into(), warning: false }
    }
}

/// What a probe needs to be run.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    pub(super) backend: Arc<dyn ContainerBackend>,
    pub(super) dial: Dial,
    pub(super) container: ContainerRef,
    pub(super) spec: Arc<Container>,
    pub(super) ips: Vec<IpAddr>,
}

impl Prober {
    /// Runs the probe once.
    pub(super) async fn run(&self, probe: &Probe, within: Duration) -> Finding {
        if let Some(exec) = &probe.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default(), within).await;
        }
        if let Some(get) = &probe.http_get {
            return match self.target(get.host.as_deref(), &get.port) {
                Ok(target) => {
                    let request = http::Request::of(get, "kube-probe/1.37");
                    http::probe(&self.backend, self.dial, &target, &request, within).await
                }
                Err(why) => Finding::unknown(why),
            };
        }
        if let Some(socket) = &probe.tcp_socket {
            return match self.target(socket.host.as_deref(), &socket.port) {
                Ok(target) => self.tcp(&target, within).await,
                Err(why) => Finding::unknown(why),
            };
        }
        if let Some(check) = &probe.grpc {
            let port = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(check.port);
            return match self.target(None, &port) {
                Ok(target) => {
                    let service = check.service.as_deref().unwrap_or_default();
                    grpc::probe(&self.backend, self.dial, &target, service, within).await
                }
                Err(why) => Finding::unknown(why),
            };
        }
        Finding::unknown(format!("missing probe handler for {}", self.container))
    }

    fn target(
        &self,
        host: Option<&str>,
        port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
    ) -> Result<Target, String> {
        Target::new(&self.container.pod, &self.spec, host, port, &self.ips)
    }

    async fn exec(&self, words: &[String], within: Duration) -> Finding {
        match command::run(self.backend.exec(), &self.container, words, within).await {
            Ok(Some(ended)) => match ended.status {
                ExitStatus::Code(0) => Finding::success(),
                ExitStatus::Code(_) => Finding::failure(String::from_utf8_lossy(&ended.both)),
                ExitStatus::Unknown => Finding::unknown("the command's exit code is not known"),
            },
            Ok(None) => Finding::failure(format!(
                "command timed out: {:?} timed out after {}",
                words.join(" "),
                super::words::duration(within)
            )),
            Err(error) => Finding::unknown(error.chain()),
        }
    }

    async fn tcp(&self, target: &Target, within: Duration) -> Finding {
        match tokio::time::timeout(within, target.connect(&self.backend, self.dial)).await {
            Ok(Ok(_)) => Finding::success(),
            Ok(Err(error)) => Finding::failure(target.refusal(&error)),
            Err(_) => Finding::failure(target.refusal(&std::io::ErrorKind::TimedOut.into())),
        }
    }
}
