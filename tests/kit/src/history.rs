//! Every version of the pods that an independent watcher sees.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;
use vk_core::provider::PodUid;

use crate::cluster::Cluster;
use crate::pods::{is_true, phase_of, uid_of};
use crate::wait::eventually;

/// What a watcher of a namespace has seen. A watch that is cut misses what came in between; what
/// is here was there.
#[derive(Debug)]
pub struct History {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    listed: bool,
    pods: BTreeMap<PodUid, Vec<Pod>>,
    gone: std::collections::BTreeSet<PodUid>,
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl History {
    /// Watches from now on; returns when the pods have been listed.
    pub async fn of(cluster: &impl Cluster) -> Self {
        Self::of_all(cluster.api()).await
    }

    /// The same of other pods than those of the cluster's namespace.
    pub async fn of_all(api: Api<Pod>) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
                while let Some(event) = events.next().await {
                    let mut seen = lock(&seen);
                    match event {
                        Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => seen.note(pod),
                        Ok(watcher::Event::Delete(pod)) => {
                            seen.gone.insert(uid_of(&pod));
                            seen.note(pod);
                        }
                        Ok(watcher::Event::InitDone) => seen.listed = true,
                        // Errors are retried; a scenario that needs the watch waits for what it wants to see.
                        Ok(watcher::Event::Init) | Err(_) => {}
                    }
                }
            }
        });
        let history = Self { seen, task };
        eventually("the history has begun", async || {
            lock(&history.seen).listed.then_some(()).ok_or("no list")
        })
        .await;
        history
    }

    /// The last version of a pod whose object is gone; waits until the watch has told so.
    pub async fn last_of(&self, uid: &PodUid) -> Pod {
        eventually("the watch tells the pod's end", async || {
            let seen = lock(&self.seen);
            let last = seen.pods.get(uid).and_then(|versions| versions.last()).cloned();
            last.filter(|_| seen.gone.contains(uid)).ok_or("not yet")
        })
        .await
    }

    /// The phases a pod went through, without repetitions.
    #[must_use]
    pub fn phases_of(&self, uid: &PodUid) -> Vec<String> {
        let seen = lock(&self.seen);
        let versions = seen.pods.get(uid).into_iter().flatten();
        let mut phases: Vec<_> = versions.filter_map(|pod| phase_of(pod).map(str::to_owned)).collect();
        phases.dedup();
        phases
    }

    /// How many pods were seen.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.seen).pods.len()
    }

    /// Holds that no pod went backwards: no phase before an earlier one, no restart count that shrank, no
    /// address, start or end that changed, no readiness that came back without a restart.
    ///
    /// # Panics
    /// When one did; the message has the two versions.
    pub fn assert_no_flaps(&self) {
        for versions in lock(&self.seen).pods.values() {
            for pair in versions.windows(2) {
                if let Err(fault) = step(&pair[0], &pair[1]) {
                    let name = pair[1].name_any();
                    panic!(
                        "pod {name}: {fault}\nbefore: {:#?}\nafter: {:#?}",
                        pair[0].status, pair[1].status
                    );
                }
            }
            let ups = readinesses(versions);
            let restarts = versions.last().map_or(0, restarts);
            if let Some(pod) = versions.last()
                && ups > 1 + usize::try_from(restarts).unwrap_or_default()
            {
                panic!("pod {} became ready {ups} times with {restarts} restarts", pod.name_any());
            }
        }
    }
}

impl Seen {
    fn note(&mut self, pod: Pod) {
        self.pods.entry(uid_of(&pod)).or_default().push(pod);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a pod became ready. What the node lifecycle controller takes away from the pods of a node that gave no
/// sign, and the node gives back, is not counted: it leaves no reason, as a kubelet always does.
fn readinesses(versions: &[Pod]) -> usize {
    let given_up = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        ready.is_some_and(|ready| {
            ready.status == "False" && ready.reason.as_deref().unwrap_or_default().is_empty()
        })
    };
    let is_up =
        |pair: &&[Pod]| !is_true(&pair[0], "Ready") && is_true(&pair[1], "Ready") && !given_up(&pair[0]);
    versions.windows(2).filter(is_up).count()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| &status.container_statuses).flatten();
    statuses.map(|status| status.restart_count).sum()
}

fn step(before: &Pod, after: &Pod) -> Result<(), &'static str> {
    let rank = |pod: &Pod| match phase_of(pod) {
        None | Some("Pending") => 0,
        Some("Running" | "Unknown") => 1,
        Some(_) => 2,
    };
    if rank(after) < rank(before) || (rank(before) == 2 && phase_of(before) != phase_of(after)) {
        return Err("its phase went backwards");
    }
    if restarts(after) < restarts(before) {
        return Err("its restart count shrank");
    }
    let (Some(before), Some(after)) = (&before.status, &after.status) else { return Ok(()) };
    if before.start_time.is_some() && before.start_time != after.start_time {
        return Err("its start time changed");
    }
    let is_over = matches!(after.phase.as_deref(), Some("Succeeded" | "Failed"));
    if !is_over && before.pod_ip.is_some() && before.pod_ip != after.pod_ip {
        return Err("its address changed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ready(status: &str, reason: Option<&str>) -> Pod {
        let condition = json!({"type": "Ready", "status": status, "reason": reason});
        let pod = json!({"metadata": {"name": "one"}, "status": {"conditions": [condition]}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn readiness_that_a_lost_node_gets_back_is_not_counted_again() {
        let (down, up) = (ready("False", Some("ContainersNotReady")), ready("True", None));
        let given_up = ready("False", None);
        assert_eq!(readinesses(&[down.clone(), up.clone(), given_up, up.clone()]), 1);
        assert_eq!(readinesses(&[Pod::default(), up.clone(), down, up]), 2);
    }
}
