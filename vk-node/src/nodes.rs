//! The nodes of this process: made all together, run side by side, ended together.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vk_core::admin::Observed;
use vk_core::node::{Instance, LeaseRuntime};
use vk_core::provider::Provider;
use vk_core::{ApiServer, Node, Shutdown};

use crate::cluster::Cluster;
use crate::config::flags;
use crate::config::settings::Settings;
use crate::fault::{Fault, chain};
use crate::reload::Adjustable;
use crate::{admin, kubelet_api, preflight};

/// How often a node that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Nodes that run.
#[derive(Debug)]
pub(crate) struct Nodes {
    tasks: JoinSet<Result<(), String>>,
    shutdown: Shutdown,
    adjustable: Vec<Adjustable>,
    /// Ends with the nodes.
    _admin_port: JoinSet<()>,
}

impl Nodes {
    /// Checks what can be checked, makes every node with its provider, then starts them: nothing is started before everything
    /// could be.
    pub(crate) async fn start(
        settings: &Settings,
        providers: Vec<Arc<dyn Provider>>,
        cluster: &Cluster,
        shutdown: &Shutdown,
    ) -> Result<Self, Fault> {
        let rights = preflight::check(cluster, settings).await?;
        for (right, without) in &rights.lacking {
            tracing::warn!("not allowed to {right}: {without}");
        }
        if let Some(why) = &rights.unknown {
            tracing::warn!("cannot ask the API server for our permissions: {why}");
        }
        let user = preflight::user(cluster, settings.cluster.connect_timeout).await;
        let access = kubelet_api::access(&settings.kubelet_api, cluster, &rights).await?;
        let leases = LeaseRuntime::start(cluster.connector())
            .await
            .map_err(|error| Fault::new("cannot keep leases", "in this process", chain(&error)))?;
        let mut nodes = Vec::new();
        let mut adjustable = Vec::new();
        for (node, provider) in settings.nodes.iter().zip(providers) {
            let listener = kubelet_api::listen(&settings.kubelet_api, node).await?;
            let flags = flags::of(settings, node);
            let mut config = node.config.clone();
            config.port = listener.local_addr().map_or(config.port, |address| address.port());
            config.addresses = kubelet_api::addresses(&settings.kubelet_api, node, cluster).await?;
            let name = config.name.clone();
            config.node_identity = user == format!("system:node:{name}");
            let tls = kubelet_api::tls(&settings.kubelet_api, &name, &config.addresses)?;
            tracing::info!(node = name, address = ?config.addresses, port = config.port, "kubelet API");
            let (markings, marked) = watch::channel(config.markings());
            let client_ca = access.client_ca();
            adjustable.push(Adjustable { name: name.clone(), markings, serving: tls.clone(), client_ca });
            let mut node = Node::builder(config, provider, cluster.client.clone())
                .lease_runtime(leases.clone())
                .markings(marked)
                .stream_limits(settings.kubelet_api.streams)
                .flags(flags)
                .serve_api(ApiServer {
                    listener,
                    tls,
                    access: access.clone(),
                    limits: settings.kubelet_api.limits,
                });
            if let Some(instance) = &settings.instance {
                node = node.instance(Instance::named(instance));
            }
            let node = node.build();
            nodes.push((name, node));
        }
        let mut tasks = JoinSet::new();
        let observed = nodes.iter().map(|(name, node)| Observed {
            node: name.clone(),
            health: node.health(),
            metrics: node.metrics(),
        });
        let observed = observed.collect();
        let mut admin_port = JoinSet::new();
        if let Some(address) = settings.admin {
            admin_port.spawn(admin::serve(admin::listen(address).await?, observed));
        }
        for (name, node) in nodes {
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                Box::pin(node.run(shutdown)).await.map_err(|error| format!("node {name}: {}", chain(&error)))
            });
        }
        Ok(Self { tasks, shutdown: shutdown.clone(), adjustable, _admin_port: admin_port })
    }

    /// What can be changed of the nodes while they run.
    pub(crate) fn take_adjustable(&mut self) -> Vec<Adjustable> {
        std::mem::take(&mut self.adjustable)
    }

    /// Waits until every node has ended. The first that fails drains the others, and its error is the answer.
    pub(crate) async fn finished(mut self) -> Result<(), String> {
        let mut first = None;
        while let Some(ended) = self.tasks.join_next().await {
            let outcome = ended.unwrap_or_else(|error| Err(format!("a node's task ended: {error}")));
            if let Err(error) = outcome {
                tracing::error!("{error}");
                self.shutdown.drain();
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Waits until the API server says that all these nodes are Ready.
pub(crate) async fn wait_until_ready(
    cluster: &Cluster,
    names: &[String],
    patience: Duration,
) -> Result<(), String> {
    let api: Api<NodeObject> = Api::all(cluster.client.clone());
    let deadline = Instant::now() + patience;
    for name in names {
        let mut last = "there is no such node".to_owned();
        let ready = async {
            loop {
                match api.get_opt(name).await {
                    Ok(Some(node)) => match readiness(&node) {
                        Ok(()) => return,
                        Err(why) => last = why,
                    },
                    Ok(None) => "there is no such node".clone_into(&mut last),
                    Err(error) => last = chain(&error),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout_at(deadline, ready).await.is_err() {
            return Err(format!("node {name} is not Ready after {patience:?}: {last}"));
        }
    }
    Ok(())
}

/// Whether a node is Ready, or why not.
fn readiness(node: &NodeObject) -> Result<(), String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let Some(ready) = conditions.iter().find(|condition| condition.type_ == "Ready") else {
        return Err("it has no Ready condition yet".to_owned());
    };
    if ready.status == "True" {
        return Ok(());
    }
    Err(format!(
        "{}: {}",
        ready.reason.as_deref().unwrap_or("no reason"),
        ready.message.as_deref().unwrap_or("no message")
    ))
}
