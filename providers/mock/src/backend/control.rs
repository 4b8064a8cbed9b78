//! What a test can do to the backend behind the node's back.

use jiff::Timestamp;
use vk_core::provider::{Health, ObservedPod, PodRef, PodUid, Verb};

use super::{Changes, MockBackend, State};
use crate::ledger::Ledger;
use crate::pod::Pod;

impl MockBackend {
    /// What the backend was asked and did, so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.0.state().ledger.clone()
    }

    /// What the backend has of a pod.
    #[must_use]
    pub fn observe(&self, uid: &PodUid) -> Option<ObservedPod> {
        self.0.state().pods.get(uid).map(Pod::observe)
    }

    /// The pods of which something runs, or may run, in the order of their UIDs.
    #[must_use]
    pub fn running(&self) -> Vec<PodRef> {
        let state = self.0.state();
        let mut running: Vec<PodRef> =
            state.pods.values().filter(|pod| !pod.is_gone()).map(|pod| pod.id.clone()).collect();
        running.sort_by(|a, b| a.uid.cmp(&b.uid));
        running
    }

    /// How many pods the backend has, running or over.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.0.state().pods.len()
    }

    /// Whether all pods just run, or are over: nothing will happen until somebody does something.
    #[must_use]
    pub fn has_nothing_due(&self) -> bool {
        self.0.state().alarms.earliest().is_none()
    }

    /// Loses a pod: no event, no trace. Returns whether there was one.
    #[must_use = "false means that there was no such pod"]
    pub fn vanish(&self, uid: &PodUid) -> bool {
        let now = self.0.clock.now();
        self.0.with(|state, _| state.vanish(uid, now))
    }

    /// Loses every pod. Returns how many there were.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn vanish_all(&self) -> usize {
        let now = self.0.clock.now();
        self.0.with(|state, _| {
            let uids: Vec<PodUid> = state.pods.keys().cloned().collect();
            uids.iter().filter(|uid| state.vanish(uid, now)).count()
        })
    }

    /// A container's process exits by itself. Returns whether it was running.
    #[must_use = "false means that no such container was running"]
    pub fn exit(&self, uid: &PodUid, container: &str, code: i32) -> bool {
        self.change(uid, |pod, now| pod.exit(now, container, code, false))
    }

    /// A container's process runs out of memory. Returns whether it was running.
    #[must_use = "false means that no such container was running"]
    pub fn oom(&self, uid: &PodUid, container: &str) -> bool {
        self.change(uid, |pod, now| pod.exit(now, container, crate::pod::container::KILLED, true))
    }

    /// Changes the readiness of a running container. Returns whether that was a change.
    #[must_use = "false means that nothing changed"]
    pub fn set_ready(&self, uid: &PodUid, container: &str, ready: bool) -> bool {
        self.change(uid, |pod, _| pod.set_ready(container, ready))
    }

    /// Evicts a pod: killed at once, with an outcome that is not its own fault. Returns whether it was
    /// alive.
    #[must_use = "false means that there was no such pod, or it was over"]
    pub fn evict(&self, uid: &PodUid, reason: &str, message: &str) -> bool {
        self.change(uid, |pod, now| {
            let alive = !pod.is_gone();
            pod.evict(now, reason, message);
            alive
        })
    }

    /// The host under a pod fails: everything is killed, and the backend says no more than that. Returns
    /// whether it was alive.
    #[must_use = "false means that there was no such pod, or it was over"]
    pub fn crash(&self, uid: &PodUid) -> bool {
        self.change(uid, |pod, now| {
            let alive = !pod.is_gone();
            pod.crash(now);
            alive
        })
    }

    /// What `node_info` says of the backend's health from now on.
    pub fn set_health(&self, health: Health) {
        self.0.state().health = health;
    }

    /// Lets a share of the calls fail. Short for [`faults`](Self::faults), which can do more.
    pub fn fail(&self, verb: Verb, rate: f64) {
        self.faults().fail_rate(verb, rate);
    }

    /// Lets calls hang, or lets them through again. Short for [`faults`](Self::faults).
    pub fn hang(&self, verb: Verb, on: bool) {
        self.faults().hang(verb, on);
    }

    /// Breaks every watch: each yields an error and then begins anew with a listing.
    pub fn cut_watches(&self) {
        self.0.cut_watches();
    }

    fn change(&self, uid: &PodUid, change: impl FnOnce(&mut Pod, Timestamp) -> bool) -> bool {
        let now = self.0.clock.now();
        self.0.with(|state: &mut State, out: &mut Changes| {
            let visible = state.pods.get_mut(uid).is_some_and(|pod| change(pod, now));
            if visible {
                state.settle(uid, now, true, out);
            }
            visible
        })
    }
}
