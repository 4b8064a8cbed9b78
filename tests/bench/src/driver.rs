//! Creates, watches and deletes pods from outside.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How many calls the driver has under way in a closed loop.
const IN_FLIGHT: usize = 16;

/// The driver's own connection to the API server.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) client: Client,
    pods: Api<Pod>,
    nodes: Api<Node>,
}

/// When things happened to one pod.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    pub(crate) created: Option<Instant>,
    pub(crate) running: Option<Instant>,
    pub(crate) deleted: Option<Instant>,
    pub(crate) gone: Option<Instant>,
}

/// What the watch has seen, by pod name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lives: Mutex<HashMap<String, Life>>,
    changed: Notify,
}

/// Ends the watch when dropped.
#[derive(Debug)]
pub(crate) struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lives {
    fn note(&self, name: &str, f: impl FnOnce(&mut Life)) {
        f(self.0.lives.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default());
        self.0.changed.notify_waiters();
    }

    /// Everything seen so far.
    pub(crate) fn all(&self) -> Vec<Life> {
        self.0.lives.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// Waits until `count` pods are as asked.
    pub(crate) async fn until(
        &self,
        what: &str,
        count: usize,
        within: Duration,
        is: impl Fn(&Life) -> bool,
    ) -> Result<()> {
        let enough = async {
            loop {
                let changed = self.0.changed.notified();
                if self.all().iter().filter(|life| is(life)).count() >= count {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(within, enough).await.is_err() {
            let seen = self.all().iter().filter(|life| is(life)).count();
            bail!("only {seen} of {count} pods were {what} within {within:?}");
        }
        Ok(())
    }
}

impl Driver {
    pub(crate) async fn connect() -> Result<Self> {
        let client = Client::try_default().await.context("connecting to the API server")?;
        let pods = Api::namespaced(client.clone(), "default");
        Ok(Self { pods, nodes: Api::all(client.clone()), client })
    }

    /// Makes a node for those who need one.
    pub(crate) async fn make_node(&self, name: &str) -> Result<()> {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"type": "virtual-kubelet", "kubernetes.io/hostname": name}},
            "status": {
                "capacity": {"cpu": "1k", "memory": "1Ti", "pods": "20k"},
                "allocatable": {"cpu": "1k", "memory": "1Ti", "pods": "20k"},
            },
        }))?;
        self.nodes.create(&PostParams::default(), &node).await.context("making a node")?;
        Ok(())
    }

    /// Waits until the node says that it is ready.
    pub(crate) async fn node_ready(&self, name: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let node = self.nodes.get_opt(name).await?;
            let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
            if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                return Ok(());
            }
            // Before anything is measured, so a poll will do.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("node {name} is not Ready after {within:?}")
    }

    pub(crate) async fn delete_node(&self, name: &str) -> Result<()> {
        match self.nodes.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).context("deleting the node"),
        }
    }

    /// Watches this run's pods on a connection of its own.
    pub(crate) async fn watch(&self, run: &str) -> Result<(Lives, Watch)> {
        let lives = Lives::default();
        let selector = format!("bench={run}");
        let listed = self.pods.list(&ListParams::default().labels(&selector)).await?;
        let mut version = listed.metadata.resource_version.unwrap_or_default();
        let (pods, seen) = (self.pods.clone(), lives.clone());
        let task = tokio::spawn(async move {
            loop {
                let params = WatchParams::default().labels(&selector).timeout(280);
                let Ok(events) = pods.watch(&params, &version).await else { return };
                let mut events = events.boxed();
                while let Ok(Some(event)) = events.try_next().await {
                    version = note(&seen, event).unwrap_or(version);
                }
            }
        });
        Ok((lives, Watch(task.abort_handle())))
    }

    fn pod(run: &str, node: &str, index: usize) -> Result<Pod> {
        Ok(serde_json::from_value(json!({
            "metadata": {"name": format!("{run}-{index}"), "labels": {"bench": run, "app": "bench"}},
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "a",
                    "image": "registry.example/app:1",
                    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
                }],
            },
        }))?)
    }

    async fn create(&self, lives: &Lives, run: &str, node: &str, index: usize) -> Result<()> {
        let pod = Self::pod(run, node, index)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let sent = Instant::now();
        self.pods.create(&PostParams::default(), &pod).await.context("creating a pod")?;
        lives.note(&name, |life| life.created = Some(sent));
        Ok(())
    }

    async fn delete(&self, lives: &Lives, run: &str, index: usize, params: &DeleteParams) -> Result<()> {
        let name = format!("{run}-{index}");
        let sent = Instant::now();
        match self.pods.delete(&name, params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(anyhow::Error::from(error).context("deleting a pod")),
        }
        lives.note(&name, |life| life.deleted = Some(sent));
        Ok(())
    }

    /// Creates pods as fast as the API server takes them.
    pub(crate) async fn create_all(&self, lives: &Lives, run: &str, node: &str, count: usize) -> Result<()> {
        let creates = (0..count).map(|index| self.create(lives, run, node, index));
        stream::iter(creates).buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Creates pods at a fixed rate, whatever becomes of them.
    pub(crate) async fn create_at_rate(
        &self,
        lives: &Lives,
        run: &str,
        node: &str,
        count: usize,
        per_second: u32,
    ) -> Result<()> {
        at_rate(count, per_second, |index| {
            let (driver, lives, run, node) = (self.clone(), lives.clone(), run.to_owned(), node.to_owned());
            async move { driver.create(&lives, &run, &node, index).await }
        })
        .await
    }

    /// Deletes a run's pods, with the default grace or at once, as fast as the API server takes it.
    pub(crate) async fn delete_all(&self, lives: &Lives, run: &str, count: usize, now: bool) -> Result<()> {
        let params = if now { DeleteParams::default().grace_period(0) } else { DeleteParams::default() };
        let deletes = (0..count).map(|index| self.delete(lives, run, index, &params));
        stream::iter(deletes).buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Deletes a run's pods with the default grace at a fixed rate.
    pub(crate) async fn delete_at_rate(
        &self,
        lives: &Lives,
        run: &str,
        count: usize,
        per_second: u32,
    ) -> Result<()> {
        at_rate(count, per_second, |index| {
            let (driver, lives, run) = (self.clone(), lives.clone(), run.to_owned());
            async move { driver.delete(&lives, &run, index, &DeleteParams::default()).await }
        })
        .await
    }
}

/// Starts so many tasks at a fixed rate, without waiting for one before the next.
async fn at_rate<F>(count: usize, per_second: u32, mut task: impl FnMut(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..count {
        tick.tick().await;
        tasks.spawn(task(index));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn note(lives: &Lives, event: WatchEvent<Pod>) -> Option<String> {
    let now = Instant::now();
    let (pod, gone) = match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
        WatchEvent::Deleted(pod) => (pod, true),
        WatchEvent::Bookmark(mark) => return Some(mark.metadata.resource_version),
        WatchEvent::Error(_) => return None,
    };
    let running = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    lives.note(pod.metadata.name.as_deref().unwrap_or_default(), |life| {
        if running {
            life.running.get_or_insert(now);
        }
        if gone {
            life.gone.get_or_insert(now);
        }
    });
    pod.metadata.resource_version
}
