//! A pod on a runner over puppets, and its status as a node would write it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vk_core::clock::Clock;
use vk_core::containers::{Dial, PodRunner};
use vk_core::internals::{Situation, StatusInput, pod_status};
use vk_core::provider::{PodEvent, PodRef, PodRuntime, Provider, ResolvedPod};

use crate::backend::{Act, Deed, Puppets, Role};

/// See the module.
pub(crate) struct Bed {
    pub(crate) runner: Arc<PodRunner<Puppets>>,
    pub(crate) backend: Puppets,
    pub(crate) told: Arc<Mutex<Told>>,
    clock: Clock,
}

/// What was told of the pod, and what a node makes of it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) pod: Pod,
    runtime: Option<PodRuntime>,
    pub(crate) gone: bool,
    /// Every status, and since when.
    pub(crate) statuses: Vec<(Instant, PodStatus)>,
    pub(crate) events: Vec<String>,
}

impl Told {
    fn write(&mut self, clock: &Clock) {
        let ended = Situation::Ended { reason: None, message: None };
        let situation = if self.gone { ended } else { Situation::Normal };
        let status = pod_status(&StatusInput {
            pod: &self.pod,
            observed: self.runtime.as_ref(),
            situation: &situation,
            host_ips: &[IpAddr::from([192, 0, 2, 1])],
            now: clock.now(),
        });
        if self.pod.status.as_ref() != Some(&status) {
            self.statuses.push((Instant::now(), status.clone()));
            self.pod.status = Some(status);
        }
    }

    pub(crate) fn status(&self) -> &PodStatus {
        &self.statuses.last().expect("a status").1
    }
}

/// A pod with this specification.
pub(crate) fn pod(spec: &Value) -> Pod {
    let metadata = json!({"namespace": "default", "name": "pod", "uid": "uid-1"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
}

/// A container that does this in every run.
pub(crate) fn always(act: Act) -> Role {
    Role { runs: Vec::new(), then: act, answers: BTreeMap::new() }
}

/// A run that goes on until it is told to stop, and then ends so.
pub(crate) fn serves(term: Option<(u64, i32)>) -> Act {
    let term = term.map(|(millis, code)| (Duration::from_millis(millis), code));
    Act { lasts: None, code: 0, term, starts: true }
}

/// A run that ends by itself.
pub(crate) fn ends(millis: u64, code: i32) -> Act {
    let lasts = Some(Duration::from_millis(millis));
    Act { lasts, code, term: Some((Duration::from_millis(5), 143)), starts: true }
}

impl Bed {
    /// A pod that was just created, of these containers.
    pub(crate) async fn new(pod: &Pod, roles: BTreeMap<String, Role>, listing: Duration) -> Self {
        let clock = Clock::virtual_from("2026-11-23T11:00:00Z".parse().expect("a time"));
        let backend = Puppets::new(clock.clone(), roles, listing);
        let runner =
            Arc::new(PodRunner::dialing(Arc::new(backend.clone()), clock.clone(), Dial::PortForward));
        let (statuses, events) = (Vec::new(), Vec::new());
        let told = Told { pod: pod.clone(), runtime: None, gone: false, statuses, events };
        let told = Arc::new(Mutex::new(told));
        let mut stream = Arc::clone(&runner).watch_pods();
        let (kept, time) = (Arc::clone(&told), clock.clone());
        // The first listing, or the pod would be created before anybody listens.
        stream.next().await.expect("a listing").expect("no error");
        tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                let mut told = kept.lock().unwrap();
                match event.expect("the watch goes on") {
                    PodEvent::Changed(pod) => told.runtime = pod.runtime,
                    PodEvent::Gone { last, .. } => {
                        told.runtime = last.or(told.runtime.take());
                        told.gone = true;
                    }
                    PodEvent::Told { event, .. } => {
                        let container = event.container.as_deref().unwrap_or("-");
                        let line = format!("{} {container}: {}", event.reason.as_str(), event.message);
                        told.events.push(line);
                        continue;
                    }
                    _ => continue,
                }
                told.write(&time);
            }
        });
        let bed = Self { runner, backend, told, clock };
        bed.runner.create_pod(&ResolvedPod::literal(pod.clone()).expect("a pod")).await.expect("accepted");
        bed
    }

    /// A pod of containers that each do one thing in every run.
    pub(crate) async fn of(spec: &Value, acts: &[(&str, Act)]) -> Self {
        let roles = acts.iter().map(|(name, act)| ((*name).to_owned(), always(*act))).collect();
        Self::new(&pod(spec), roles, Duration::ZERO).await
    }

    pub(crate) fn reference(&self) -> PodRef {
        PodRef::of(&self.told.lock().unwrap().pod).expect("a pod")
    }

    pub(crate) async fn delete(&self, grace: Duration) {
        self.backend.note(Deed::Deleted { grace });
        {
            let mut told = self.told.lock().unwrap();
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.clock.now());
            told.pod.metadata.deletion_timestamp = Some(now);
        }
        self.runner.delete_pod(&self.reference(), grace).await.expect("accepted");
    }

    /// The pod as it is wanted now.
    pub(crate) async fn update(&self, change: impl FnOnce(&mut Pod)) {
        let pod = {
            let mut told = self.told.lock().unwrap();
            change(&mut told.pod);
            told.pod.clone()
        };
        let update = self.runner.update().expect("an update");
        update.update_pod(&ResolvedPod::literal(pod).expect("a pod")).await.expect("accepted");
    }

    /// Sets a condition of the pod, as whoever answers for a readiness gate does.
    pub(crate) fn set_condition(&self, kind: &str, status: &str) {
        let mut told = self.told.lock().unwrap();
        let conditions = told.pod.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        let condition = PodCondition { type_: kind.into(), status: status.into(), ..PodCondition::default() };
        conditions.push(condition);
        told.write(&self.clock);
    }

    pub(crate) fn status(&self) -> PodStatus {
        self.told.lock().unwrap().status().clone()
    }

    pub(crate) fn container(&self, name: &str) -> ContainerStatus {
        let status = self.status();
        let all =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        all.into_iter().flatten().flatten().find(|status| status.name == name).expect("its status")
    }

    /// Why the container waits.
    pub(crate) fn waiting(&self, name: &str) -> Option<String> {
        self.container(name).state?.waiting?.reason
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.told.lock().unwrap().gone
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.told.lock().unwrap().events.clone()
    }

    /// How long after `begin` the deeds of that kind were done, in seconds, with the container's name.
    pub(crate) fn deeds(&self, begin: Instant, kind: &str) -> Vec<(String, f64)> {
        let journal = self.backend.journal();
        let all = journal.into_iter().filter_map(|(at, deed)| {
            let (("start", Deed::Started { name, .. })
            | ("term", Deed::Term { name, .. })
            | ("end", Deed::Ended { name, .. })) = (kind, deed)
            else {
                return None;
            };
            Some((name, (at - begin).as_millis() as f64 / 1000.0))
        });
        all.collect()
    }
}

/// Lets paused time pass.
pub(crate) async fn seconds(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds)).await;
}
