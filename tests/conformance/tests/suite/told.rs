//! A provider with one mistake: what it tells of its pods, by listing and by watch.

use std::time::Duration;

use vk_conformance::journal::{MAIN, is_running};
use vk_conformance::pods::{INIT, NAMESPACE, OTHER};
use vk_core::provider::{
    ContainerState, ExitStatus, ObservedPod, PodEvent, PodRef, PodRuntime, PodUid, Sandbox, Termination,
};

use vk_mock::Act;

use crate::bug::Bug;
use crate::buggy::{Buggy, secrets};

impl Buggy {
    /// A pod as it is told by both listing and watch.
    pub(crate) fn tell(&self, pod: &mut ObservedPod) {
        let memory = self.lock();
        let original = memory.twins.iter().find(|(_, twin)| **twin == pod.pod.uid);
        if let Some((original, _)) = original {
            pod.pod.uid = original.clone();
        }
        let secrets = memory.created.get(&pod.pod.uid).map(secrets).unwrap_or_default();
        drop(memory);
        if let Some(runtime) = &mut pod.runtime {
            self.tell_runtime(&pod.pod, runtime, &secrets);
        }
    }

    fn tell_runtime(&self, pod: &PodRef, runtime: &mut PodRuntime, secrets: &str) {
        if self.is(Bug::SharesAddresses) && !runtime.ips.is_empty() && pod.name.starts_with("twins") {
            runtime.ips = vec!["10.88.77.1".parse().expect("an address")];
        }
        if self.is(Bug::SandboxIsNeverReady) && runtime.sandbox == Sandbox::Ready {
            runtime.sandbox = Sandbox::Pending;
        }
        // Pods with more containers, and with deadlines, are other clauses'.
        let started = runtime.container(MAIN).is_some();
        let plain = started && runtime.containers.len() < 2 && runtime.outcome.is_none();
        if self.is(Bug::FinishedPodsStayReady) && runtime.sandbox == Sandbox::Gone && plain {
            runtime.sandbox = Sandbox::Ready;
        }
        if self.is(Bug::SidecarsKeepTheirPods)
            && runtime.sandbox == Sandbox::Gone
            && started
            && runtime.container(INIT).is_some()
        {
            runtime.sandbox = Sandbox::Ready;
        }
        if self.is(Bug::GoneWithTheFirst) && runtime.container(OTHER).is_some() && !is_running(runtime) {
            runtime.sandbox = Sandbox::Gone;
        }
        if self.is(Bug::SidecarsGoFirst) && is_running(runtime) && self.lock().deleted.contains_key(&pod.uid)
        {
            for sidecar in runtime.containers.iter_mut().filter(|container| container.name == INIT) {
                sidecar.state = ContainerState::Terminated(Termination::new(ExitStatus::Code(0)));
            }
        }
        if self.is(Bug::StopsOneByOne) {
            end_later(runtime);
        }
        if self.is(Bug::DeadlineIsNoOutcome) {
            runtime.outcome = None;
        }
        for container in &mut runtime.containers {
            if self.is(Bug::RestartsOnce) && container.restart_count > 1 {
                let reason = "CrashLoopBackOff".to_owned();
                container.state = ContainerState::Waiting { reason, message: String::new() };
                container.restart_count = 1;
                container.last = None;
            }
            match (&mut container.state, self.bug) {
                (ContainerState::Terminated(end), Bug::ExitCodeIsAlwaysZero) => {
                    end.exit = ExitStatus::Code(0);
                }
                (ContainerState::Terminated(end), Bug::SecretInStatus) => {
                    end.message = Some(secrets.to_owned());
                }
                (ContainerState::Terminated(end), Bug::EndsWhenItBegan) => end.finished_at = end.started_at,
                (_, Bug::NeverReady) => container.ready = Some(false),
                (_, Bug::RestartsAreNotCounted) => container.restart_count = 0,
                (_, Bug::FormerRunIsForgotten) => container.last = None,
                _ => {}
            }
        }
    }

    pub(crate) fn tell_event(&self, mut event: PodEvent) -> Vec<PodEvent> {
        match &mut event {
            PodEvent::Changed(pod) => {
                self.tell(pod);
                let ended = has_ended(pod);
                if self.is(Bug::LosesEvents) && ended || self.is(Bug::LosesRestarts) && has_restarted(pod) {
                    return Vec::new();
                }
                if self.is(Bug::RepeatsOldEvents) {
                    if pod.runtime.as_ref().is_some_and(is_running) {
                        self.lock().ran.insert(pod.pod.uid.clone(), pod.clone());
                    } else if ended && let Some(old) = self.lock().ran.get(&pod.pod.uid) {
                        return vec![event.clone(), PodEvent::Changed(old.clone())];
                    }
                }
            }
            PodEvent::Listed(pods) => {
                for pod in pods.iter_mut() {
                    self.tell(pod);
                }
                if self.is(Bug::ForgetsEndsOnRestart) {
                    self.forget_ends(pods);
                }
            }
            PodEvent::Gone { last, .. } => {
                if self.is(Bug::StopsOneByOne)
                    && let Some(last) = last
                {
                    end_later(last);
                }
                if self.is(Bug::EndsWithoutLastWords) {
                    *last = None;
                }
                if self.is(Bug::LosesDeletions) && last.is_none() {
                    return Vec::new();
                }
            }
            _ => {}
        }
        vec![event]
    }

    fn forget_ends(&self, pods: &mut Vec<ObservedPod>) {
        let memory = self.lock();
        pods.retain(|pod| !has_ended(pod) || memory.created.contains_key(&pod.pod.uid));
    }

    pub(crate) fn tell_list(&self, pods: &mut Vec<ObservedPod>) {
        let mut memory = self.lock();
        memory.listed.extend(pods.iter().map(|pod| pod.pod.uid.clone()));
        match self.bug {
            Bug::LosesNamespace => {
                for pod in pods {
                    pod.pod.namespace = "default".into();
                }
            }
            Bug::ListsTheFirstPage => {
                pods.sort_by(|a, b| a.pod.cmp(&b.pod));
                pods.truncate(3);
            }
            Bug::ListsTheDeleted => {
                pods.retain(|pod| !memory.deleted.contains_key(&pod.pod.uid));
                let own = memory.deleted.values().filter(|pod| memory.created.contains_key(&pod.uid));
                pods.extend(own.cloned().map(ObservedPod::existing));
            }
            Bug::ListsFromAStaleReplica => {
                for pod in pods {
                    let uid = pod.pod.uid.clone();
                    if pod.runtime.as_ref().is_some_and(is_running) {
                        memory.ran.insert(uid, pod.clone());
                    } else if has_ended(pod) {
                        let seen = memory.seen.entry(uid.clone()).or_default();
                        *seen += 1;
                        if (*seen).is_multiple_of(2)
                            && let Some(old) = memory.ran.get(&uid)
                        {
                            *pod = old.clone();
                        }
                    }
                }
            }
            Bug::AddressesGetLost => {
                for pod in pods {
                    let seen = memory.seen.entry(pod.pod.uid.clone()).or_default();
                    *seen += 1;
                    if *seen > 2
                        && let Some(runtime) = &mut pod.runtime
                    {
                        runtime.ips.clear();
                    }
                }
            }
            Bug::ForgetsOnRestart => {
                pods.retain(|pod| has_ended(pod) || memory.created.contains_key(&pod.pod.uid));
            }
            Bug::ForgetsDeletionsOnRestart => {
                let ledger = self.backend.ledger();
                let deleted = ledger.entries.iter().filter(|entry| matches!(entry.act, Act::Deleted { .. }));
                let known =
                    |uid: &PodUid| memory.created.contains_key(uid) || memory.deleted.contains_key(uid);
                let unknown = deleted.filter(|entry| !known(&entry.uid));
                let names = unknown.map(|entry| PodRef::new(NAMESPACE, "deleted", entry.uid.as_str()));
                pods.extend(names.map(ObservedPod::existing));
            }
            Bug::ForgetsEndsOnRestart => {
                drop(memory);
                self.forget_ends(pods);
            }
            _ => {}
        }
    }
}

fn has_ended(pod: &ObservedPod) -> bool {
    let main = pod.runtime.as_ref().and_then(|runtime| runtime.container(MAIN));
    main.is_some_and(|main| matches!(main.state, ContainerState::Terminated(_)))
}

fn has_restarted(pod: &ObservedPod) -> bool {
    let main = pod.runtime.as_ref().and_then(|runtime| runtime.container(MAIN));
    main.is_some_and(|main| main.restart_count > 0)
}

/// As if the second container had been asked to end when the first one had.
fn end_later(runtime: &mut PodRuntime) {
    for other in runtime.containers.iter_mut().filter(|container| container.name == OTHER) {
        if let ContainerState::Terminated(end) = &mut other.state {
            end.finished_at = end.finished_at.map(|at| at + Duration::from_secs(4));
        }
    }
}
