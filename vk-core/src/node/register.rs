//! Makes the Node object, or adopts the one with our name.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::NodeContext;
use super::call::{Backoff, CallError, call};
use super::claim::{Claim, ClaimError, claim};
use super::conditions::{Readiness, conditions, is_ready};
use super::object::{DesiredNode, ObjectError};
use super::ping::{Ping, ping};
use super::writer::NodeWriter;

/// How long the first contact may fail before the cluster counts as unreachable.
const FIRST_CONTACT: Duration = Duration::from_secs(5);
/// How long a step after that may go on failing. Less than a lease's duration, as the lease claimed before is
/// not renewed meanwhile.
const PATIENCE: Duration = Duration::from_secs(25);

/// Why the node could not be registered. Transient failures have been retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The settings make no Node object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Another live daemon stands for a node of this name.
    #[error(
        "node {node} is held by another live daemon ({instance}), which goes on renewing its lease; stop that one, \
         or choose another node name"
    )]
    HeldByAnother {
        /// The node.
        node: String,
        /// What the other daemon calls itself.
        instance: String,
    },
    /// The API server did not tell its version.
    #[error("reach the API server")]
    Reach(#[source] CallError),
    /// The lease could not be read or written.
    #[error("claim lease kube-node-lease/{node}")]
    ClaimLease {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: CallError,
    },
    /// The Node object could not be read.
    #[error("read node {node}")]
    ReadNode {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: CallError,
    },
    /// The Node object could not be created.
    #[error("create node {node}")]
    CreateNode {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: CallError,
    },
    /// The existing Node object could not be brought to what it should be.
    #[error("adopt node {node}")]
    AdoptNode {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: CallError,
    },
}

impl RegisterError {
    fn cause(&self) -> Option<&CallError> {
        match self {
            Self::Object(_) | Self::HeldByAnother { .. } => None,
            Self::Reach(source)
            | Self::ClaimLease { source, .. }
            | Self::ReadNode { source, .. }
            | Self::CreateNode { source, .. }
            | Self::AdoptNode { source, .. } => Some(source),
        }
    }
}

/// A node that has a Node object, and the claim to its name.
#[derive(Debug)]
#[must_use = "the node is alive only while its lease is kept and its heartbeat runs"]
pub struct Registered {
    pub(super) context: NodeContext,
    pub(super) writer: NodeWriter,
    pub(super) live: Node,
    pub(super) desired: DesiredNode,
    pub(super) ping: Ping,
    pub(super) server_version: String,
    pub(super) uid: watch::Sender<String>,
    claim: Claim,
}

impl Registered {
    /// What it was registered with.
    #[must_use]
    pub fn context(&self) -> &NodeContext {
        &self.context
    }

    /// The Node object's UID: the present one, and those after it when the object is deleted and made again.
    #[must_use]
    pub fn uid(&self) -> watch::Receiver<String> {
        self.uid.subscribe()
    }

    /// The API server's version, such as `v1.37.2`.
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The lease as it was claimed; `None` if leases are out of reach.
    pub(super) fn claim(&self) -> Option<&Lease> {
        match &self.claim {
            Claim::Lease(lease) => Some(lease),
            Claim::OutOfReach => None,
        }
    }
}

/// What is done already when a step fails and is tried again.
#[derive(Default)]
struct Progress {
    server_version: Option<String>,
    claim: Option<Claim>,
    ping: Option<Ping>,
}

/// Claims the node's name, and makes its Node object what it should be: creates it, or adopts the one that is
/// there, leaving in it what others own.
///
/// # Flow
/// The API server's version is read, the lease is claimed (which may take up to the lease's duration if
/// another daemon had it and died elsewhere), the provider is asked once, the object is written. A provider that
/// fails does not keep the node from registering: it is `Ready=False` with the provider's reason, and what the
/// provider would have said is filled in by the [heartbeat](super::Heartbeat).
///
/// # Errors
/// See [`RegisterError`]. Failures that may pass are tried again for 5 s at the first contact and for 25 s later.
///
/// # Cancellation
/// May be dropped anywhere; what it wrote is found by the next call.
pub async fn ensure_registered(context: &NodeContext) -> Result<Registered, RegisterError> {
    let mut progress = Progress::default();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let mut failing: Option<Instant> = None;
    loop {
        let contact = progress.server_version.is_some();
        let error = match register(context, &mut progress).await {
            Ok(registered) => return Ok(registered),
            Err(error) => error,
        };
        if !contact && progress.server_version.is_some() {
            failing = None;
        }
        let patience = if progress.server_version.is_some() { PATIENCE } else { FIRST_CONTACT };
        let since = *failing.get_or_insert_with(Instant::now);
        let Some(cause) = error.cause() else { return Err(error) };
        // A conflict means that what we decided on has changed, so it is read again.
        if !(cause.is_transient() || cause.is_conflict() || cause.is_gone()) || since.elapsed() >= patience {
            return Err(error);
        }
        let pause = backoff.pause(cause);
        tracing::warn!(node = context.config.name, %error, %cause, ?pause, "not registered yet");
        sleep(pause).await;
    }
}

async fn register(context: &NodeContext, progress: &mut Progress) -> Result<Registered, RegisterError> {
    let node = || context.config.name.clone();
    let provider = context.provider.name();
    let (config, clock) = (&context.config, &context.clock);
    let bare = |version: &str| DesiredNode::new(config, provider, None, version);
    // Before anything is done, so that wrong settings touch nothing; any version will do for that.
    bare("v0.0.0")?;

    let server_version = if let Some(version) = &progress.server_version {
        version.clone()
    } else {
        let version = call(context.client.apiserver_version()).await.map_err(RegisterError::Reach)?;
        progress.server_version.insert(version.git_version).clone()
    };

    let claim = if let Some(claim) = &progress.claim {
        claim.clone()
    } else {
        let claimed = claim(context).await.map_err(|error| match error {
            ClaimError::Held { instance } => RegisterError::HeldByAnother { node: node(), instance },
            ClaimError::Call(source) => RegisterError::ClaimLease { node: node(), source },
        })?;
        progress.claim.insert(claimed).clone()
    };

    let mut ping = if let Some(ping) = &progress.ping {
        ping.clone()
    } else {
        let answer = ping(context.provider.clone(), context.config.clone()).await;
        progress.ping.insert(answer).clone()
    };
    let desired = match DesiredNode::new(config, provider, ping.info.as_ref(), &server_version) {
        Ok(desired) => desired,
        Err(error) => {
            ping = Ping { info: None, readiness: Readiness::not_ready("InvalidNodeInfo", error.to_string()) };
            bare(&server_version)?
        }
    };

    let mut writer = NodeWriter::new(context.client.clone(), &config.name);
    if config.node_identity {
        let may = desired.restricted();
        let without: Vec<&str> = desired
            .labels
            .keys()
            .filter(|label| !may.labels.contains_key(*label))
            .map(String::as_str)
            .collect();
        tracing::info!(
            node = config.name,
            ?without,
            "as its own user the node goes without the labels that NodeRestriction forbids"
        );
        writer = writer.with_node_labels_only();
    }
    let read = writer.read().await.map_err(|source| RegisterError::ReadNode { node: node(), source })?;
    let live = match read {
        None => {
            let ours = conditions(&[], &unsynced(&ping.readiness, false), clock.now());
            let made = writer.create(&desired, &ours).await;
            made.map_err(|source| RegisterError::CreateNode { node: node(), source })?
        }
        Some(live) => adopt(context, &mut writer, live, &desired, &ping)
            .await
            .map_err(|source| RegisterError::AdoptNode { node: node(), source })?,
    };
    let uid = live.metadata.uid.clone().unwrap_or_default();
    tracing::info!(node = config.name, uid, "the node is registered");
    Ok(Registered {
        context: context.clone(),
        writer,
        live,
        desired,
        ping,
        server_version,
        uid: watch::Sender::new(uid),
        claim,
    })
}

/// The status first: it reads what a Go Virtual Kubelet left in annotations that the second write removes.
async fn adopt(
    context: &NodeContext,
    writer: &mut NodeWriter,
    live: Node,
    desired: &DesiredNode,
    ping: &Ping,
) -> Result<Node, CallError> {
    let before = live.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let readiness = unsynced(&ping.readiness, is_ready(before));
    let ours = conditions(before, &readiness, context.clock.now());
    let live = writer.update_status(&live, desired, &ours, false).await?.unwrap_or(live);
    Ok(writer.update_object(&live, desired).await?.unwrap_or(live))
}

/// Readiness before the pods are known: a new node takes none yet, but one that was ready stays so, as a restart is
/// no reason to take its pods out of their services.
pub(super) fn unsynced(provider: &Readiness, was_ready: bool) -> Readiness {
    match provider {
        Readiness::Ready if !was_ready => Readiness::not_ready(
            "KubeletNotReady",
            "the node's pods have not been listed yet, at the API server or at the provider",
        ),
        readiness => readiness.clone(),
    }
}

/// Deletes the Node object with that UID. No error if it is gone, or another one by now.
pub async fn deregister(context: &NodeContext, uid: &str) -> Result<(), CallError> {
    let api: Api<Node> = Api::all(context.client.clone());
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams::default().preconditions(preconditions);
    match call(api.delete(&context.config.name, &params)).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}
