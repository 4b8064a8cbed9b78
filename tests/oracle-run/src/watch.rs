//! Everything that a watch delivers of a case's pod.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vk_oracle::Transition;

/// A version, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub when: Instant,
    pub kind: &'static str,
    pub pod: Value,
}

/// A pod under observation. Dropping it ends the watch.
pub(crate) struct Watched {
    versions: Arc<Mutex<Vec<Version>>>,
    /// How many there are.
    pub count: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Watches the pod of that name, or the first of the namespace.
    pub(crate) async fn start(client: kube::Client, namespace: &str, name: Option<String>) -> Result<Self> {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let pods: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
        let versions = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        // From here on, so that nothing is missed however long the watch takes to begin.
        let from = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let from = from.unwrap_or_else(|| "0".to_owned());
        let task = tokio::spawn(follow(pods, name, from, Arc::clone(&versions), sender));
        Ok(Self { versions, count, task })
    }

    /// What came so far.
    pub(crate) fn versions(&self) -> Vec<Version> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every address that the pod ever had.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let versions = self.versions();
        let addresses =
            versions.iter().filter_map(|version| version.pod["status"]["podIP"].as_str()?.parse().ok());
        addresses.collect::<BTreeSet<IpAddr>>().into_iter().collect()
    }
}

async fn follow(
    pods: Api<DynamicObject>,
    mut name: Option<String>,
    mut from: String,
    versions: Arc<Mutex<Vec<Version>>>,
    count: watch::Sender<usize>,
) {
    loop {
        let params = WatchParams::default().timeout(290);
        let Ok(stream) = pods.watch(&params, &from).await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let mut stream = Box::pin(stream);
        while let Some(event) = stream.next().await {
            let (kind, object) = match event {
                Ok(WatchEvent::Added(object)) => ("ADDED", object),
                Ok(WatchEvent::Modified(object)) => ("MODIFIED", object),
                Ok(WatchEvent::Deleted(object)) => ("DELETED", object),
                Ok(WatchEvent::Bookmark(_)) => continue,
                Ok(WatchEvent::Error(_)) | Err(_) => break,
            };
            if let Some(version) = &object.metadata.resource_version {
                from.clone_from(version);
            }
            if name.is_none() {
                name.clone_from(&object.metadata.name);
            }
            if object.metadata.name != name {
                continue;
            }
            // An object that came as JSON can be JSON again.
            let Ok(pod) = serde_json::to_value(object) else { continue };
            let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.push(Version { when: Instant::now(), kind, pod });
            count.send_replace(versions.len());
        }
    }
}

/// A version in one line, for people.
pub(crate) fn line(version: &Transition) -> String {
    let status = &version.status;
    let conditions = status["conditions"].as_array().into_iter().flatten().map(|condition| {
        let reason = condition["reason"].as_str().map(|reason| format!("/{reason}")).unwrap_or_default();
        format!("{}={}{reason}", text(&condition["type"]), text(&condition["status"]))
    });
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let containers =
        lists.iter().flat_map(|list| status[*list].as_array().into_iter().flatten()).map(|each| {
            let state = |state: &Value| {
                let Some((kind, state)) = state.as_object().and_then(|state| state.iter().next()) else {
                    return "-".to_owned();
                };
                format!(
                    "{kind}({}{})",
                    text(&state["reason"]),
                    state["exitCode"].as_i64().map(|code| format!(" {code}")).unwrap_or_default()
                )
            };
            format!(
                "{}:{} last {} ready={} started={} n={}",
                text(&each["name"]),
                state(&each["state"]),
                state(&each["lastState"]),
                each["ready"],
                each["started"],
                each["restartCount"]
            )
        });
    format!(
        "{:6.2} {} g{} {} {} | {} | {}",
        version.at,
        version.kind,
        version.generation.unwrap_or_default(),
        text(&status["phase"]),
        text(&status["reason"]),
        conditions.collect::<Vec<_>>().join(" "),
        containers.collect::<Vec<_>>().join("; ")
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
