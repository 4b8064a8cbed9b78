//! Connecting to a port of a pod, or to wherever its probes and hooks point.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::backend::ContainerBackend;
use crate::provider::{Duplex, PodRef};

/// How the node reaches its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dial {
    /// At their addresses, as a kubelet does.
    #[default]
    Address,
    /// Through the backend's [port-forward](ContainerBackend::port_forward), where the node is not in their
    /// network. A probe of another host than the pod itself goes to that host.
    PortForward,
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The pod, if the connection is to the pod itself.
    pub(super) pod: Option<PodRef>,
    /// The host, as it is shown and as it is looked up.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Target {
    /// The port of a container, by number or by its name, at the pod or at another host.
    ///
    /// # Errors
    /// What a kubelet says of a port that is none.
    pub(super) fn new(
        pod: &PodRef,
        container: &Container,
        host: Option<&str>,
        port: &IntOrString,
        ips: &[IpAddr],
    ) -> Result<Self, String> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let mut ports = container.ports.iter().flatten();
                match ports.find(|port| port.name.as_deref() == Some(name)) {
                    Some(port) => port.container_port,
                    None => {
                        name.parse().map_err(|_| format!("couldn't find port: {name} in the container"))?
                    }
                }
            }
        };
        let number = u16::try_from(number).ok().filter(|number| *number > 0);
        let port = number.ok_or_else(|| format!("invalid port number: {port:?}"))?;
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            return Ok(Self { pod: None, host: host.to_owned(), port });
        }
        let ip = ips.first().ok_or_else(|| "the pod has no address yet".to_owned())?;
        Ok(Self { pod: Some(pod.clone()), host: ip.to_string(), port })
    }

    /// Connects.
    pub(super) async fn connect(
        &self,
        backend: &Arc<dyn ContainerBackend>,
        dial: Dial,
    ) -> io::Result<Box<dyn Duplex>> {
        if dial == Dial::PortForward
            && let Some(pod) = &self.pod
        {
            let forward = backend.port_forward().ok_or(io::ErrorKind::Unsupported)?;
            return forward.connect(pod, self.port).await.map_err(|error| match error {
                // There is nobody at that port.
                crate::provider::Error::NotFound { .. } => io::ErrorKind::ConnectionRefused.into(),
                error => io::Error::other(error.chain()),
            });
        }
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// What Go says of an attempt to connect that failed.
    pub(super) fn refusal(&self, error: &io::Error) -> String {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {self}: {why}")
    }
}
