//! Hello-world, from its application to its log, through the API server as any user would.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use tokio::time::Instant;

use super::progress::Progress;
use crate::cluster::Cluster;
use crate::fault::chain;
use crate::nodes;

/// The README's sample.
const HELLO_WORLD: &str = include_str!("../../../manifests/hello-world.yaml");
const NAMESPACE: &str = "default";
const NAME: &str = "hello-world";
const SELECTOR: &str = "app=hello-world";
/// What its log says.
const GREETING: &str = "hello, world";
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(30);

/// The demonstration on a cluster with one node.
pub(crate) struct Demo<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    progress: &'a Progress,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
}

impl<'a> Demo<'a> {
    pub(crate) fn new(cluster: &'a Cluster, node: &'a str, progress: &'a Progress) -> Self {
        Self {
            cluster,
            node,
            progress,
            deployments: Api::namespaced(cluster.client.clone(), NAMESPACE),
            pods: Api::namespaced(cluster.client.clone(), NAMESPACE),
        }
    }

    pub(crate) fn node(&self) -> &str {
        self.node
    }

    pub(crate) fn progress(&self) -> &Progress {
        self.progress
    }

    pub(crate) async fn node_is_ready(&self) -> Result<(), String> {
        nodes::wait_until_ready(self.cluster, &[self.node.to_owned()], PATIENCE).await?;
        self.progress.step(&format!("node {} is Ready", self.node));
        Ok(())
    }

    /// Applies the sample, server-side.
    pub(crate) async fn apply(&self) -> Result<(), String> {
        let object: serde_json::Value =
            serde_saphyr::from_str(HELLO_WORLD).map_err(|error| format!("hello-world.yaml: {error}"))?;
        let params = PatchParams::apply("vk-quickstart");
        self.deployments
            .patch(NAME, &params, &Patch::Apply(&object))
            .await
            .map_err(|error| format!("applying {NAME}: {}", chain(&error)))?;
        self.progress.step(&format!("deployment {NAME} applied (manifests/hello-world.yaml)"));
        Ok(())
    }

    /// Waits until so many pods, and no others, run and are ready on the node.
    pub(crate) async fn pods_are_running(&self, count: usize) -> Result<Vec<Pod>, String> {
        let pods = self
            .until(&format!("{count} pod(s) running"), |pods| {
                pods.len() == count && pods.iter().all(|pod| self.is_ready_here(pod))
            })
            .await?;
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        self.progress.step(&match names[..] {
            [] => "no pods are left".to_owned(),
            [name] => format!("pod {name} is Running on {}", self.node),
            _ => format!("{count} pods are Running on {}", self.node),
        });
        Ok(pods)
    }

    /// Prints the first lines of the pod's log, fetched by the API server from the node.
    pub(crate) async fn show_log(&self) -> Result<(), String> {
        let pod = self.only_pod().await?;
        let lines =
            self.lines_of(&pod, &LogParams { tail_lines: Some(10), ..LogParams::default() }, 1).await?;
        self.progress.step(&format!("log of pod {pod}:"));
        for line in &lines {
            self.progress.say(&format!("           | {line}"));
        }
        if lines.iter().any(|line| line.contains(GREETING)) {
            Ok(())
        } else {
            Err(format!("the log of pod {pod} does not say {GREETING:?}"))
        }
    }

    /// Follows the log until a line comes that was not there before.
    pub(crate) async fn follow_log(&self) -> Result<(), String> {
        let pod = self.only_pod().await?;
        let follow = LogParams { follow: true, tail_lines: Some(0), ..LogParams::default() };
        let lines = self.lines_of(&pod, &follow, 2).await?;
        self.progress.step(&format!("followed the log for {} new lines", lines.len()));
        Ok(())
    }

    /// Reads at least so many lines.
    async fn lines_of(&self, pod: &str, params: &LogParams, count: usize) -> Result<Vec<String>, String> {
        let read = async {
            let mut stream = self
                .pods
                .log_stream(pod, params)
                .await
                .map_err(|error| format!("reading the log of pod {pod}: {}", chain(&error)))?
                .lines();
            let mut lines = Vec::new();
            while let Some(line) =
                stream.try_next().await.map_err(|error| format!("reading the log of pod {pod}: {error}"))?
            {
                lines.push(line);
                if params.follow && lines.len() >= count {
                    break;
                }
            }
            if lines.len() < count {
                return Err(format!("the log of pod {pod} ended after {} line(s)", lines.len()));
            }
            Ok(lines)
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .unwrap_or_else(|_| Err(format!("the log of pod {pod} gave nothing within {PATIENCE:?}")))
    }

    /// Asks for so many replicas.
    pub(crate) async fn scale(&self, replicas: usize) -> Result<(), String> {
        let patch = serde_json::json!({"spec": {"replicas": replicas}});
        self.deployments
            .patch_scale(NAME, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(|error| format!("scaling {NAME}: {}", chain(&error)))?;
        self.progress.step(&format!("scaled to {replicas}"));
        self.pods_are_running(replicas).await.map(|_| ())
    }

    /// Replaces every pod, as `kubectl rollout restart` does.
    pub(crate) async fn restart(&self) -> Result<(), String> {
        let before = self.uids().await?;
        self.deployments
            .restart(NAME)
            .await
            .map_err(|error| format!("restarting {NAME}: {}", chain(&error)))?;
        self.progress.step("rollout restarted");
        self.until("every pod replaced", |pods| {
            pods.len() == before.len()
                && pods.iter().all(|pod| {
                    self.is_ready_here(pod)
                        && pod.metadata.uid.as_ref().is_some_and(|uid| !before.contains(uid))
                })
        })
        .await?;
        self.progress.step(&format!("all {} pods are new and Running", before.len()));
        Ok(())
    }

    /// Deletes the deployment and waits until its pods are gone.
    pub(crate) async fn delete(&self) -> Result<(), String> {
        self.deployments
            .delete(NAME, &DeleteParams::background())
            .await
            .map_err(|error| format!("deleting {NAME}: {}", chain(&error)))?;
        self.progress.step(&format!("deployment {NAME} deleted"));
        self.pods_are_running(0).await.map(|_| ())
    }

    async fn only_pod(&self) -> Result<String, String> {
        let pods = self.list().await?;
        pods.into_iter().find_map(|pod| pod.metadata.name).ok_or_else(|| format!("there is no pod of {NAME}"))
    }

    async fn uids(&self) -> Result<BTreeSet<String>, String> {
        Ok(self.list().await?.into_iter().filter_map(|pod| pod.metadata.uid).collect())
    }

    async fn list(&self) -> Result<Vec<Pod>, String> {
        self.pods
            .list(&ListParams::default().labels(SELECTOR))
            .await
            .map(|list| list.items)
            .map_err(|error| format!("listing pods: {}", chain(&error)))
    }

    /// Looks at the pods until they are as wished.
    async fn until(&self, wish: &str, wished: impl Fn(&[Pod]) -> bool) -> Result<Vec<Pod>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pods = self.list().await?;
            if wished(&pods) {
                return Ok(pods);
            }
            if Instant::now() >= deadline {
                let seen: Vec<String> = pods.iter().map(describe).collect();
                let seen = if seen.is_empty() { "no pods".to_owned() } else { seen.join(", ") };
                return Err(format!("not {wish} after {PATIENCE:?}; there is: {seen}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_ready_here(&self, pod: &Pod) -> bool {
        let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(self.node);
        let status = pod.status.as_ref();
        let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
        let ready = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        here && running && ready && pod.metadata.deletion_timestamp.is_none()
    }
}

/// A pod as a failure names it.
fn describe(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let ending = if pod.metadata.deletion_timestamp.is_some() { ", being deleted" } else { "" };
    format!(
        "{} ({}, {}{ending})",
        pod.metadata.name.as_deref().unwrap_or("?"),
        status.and_then(|status| status.phase.as_deref()).unwrap_or("no phase"),
        node.map_or_else(|| "not scheduled".to_owned(), |node| format!("on {node}")),
    )
}
