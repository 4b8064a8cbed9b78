//! What happens to a pod as time goes on.

use std::time::Duration;

use jiff::Timestamp;
use vk_core::provider::ContainerKind;

use super::container::{Container, End, KILLED, State};
use super::{Outcome, Pod, Stage};
use crate::time::after;

impl Pod {
    /// When there will be something to do. `None` for a pod that just runs, or is over.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let own = match self.stage {
            Stage::Sandbox => Some(after(self.created, self.script.sandbox_latency)),
            Stage::Starting if self.script.never_start.is_some() => None,
            Stage::Starting => self.started.map(|started| after(started, self.script.start_latency)),
            Stage::Init(_) | Stage::Running | Stage::Stopping { .. } | Stage::Gone => None,
        };
        let vanishes = self.script.disappear_after.map(|delay| after(self.created, delay));
        let containers = self.containers.iter().filter_map(Container::next_due);
        let dues = [own, vanishes, self.evicted_at(), self.deadline_at()];
        dues.into_iter().flatten().chain(containers).min()
    }

    /// Does everything that is due by `now`, each thing at its own time, so that a late call comes to the
    /// same result as a punctual one. Returns whether a watcher sees a difference.
    pub(crate) fn advance(&mut self, now: Timestamp) -> bool {
        let before = self.glimpse();
        while let Some(due) = self.next_due().filter(|due| *due <= now && !self.has_disappeared(*due)) {
            self.step(due);
        }
        self.glimpse() != before
    }

    fn step(&mut self, now: Timestamp) {
        if self.evicted_at().is_some_and(|at| at <= now) {
            let message = "The mock provider was told to evict the pod".to_owned();
            self.end_by_backend(now, Duration::ZERO, "Evicted", message, true);
        } else if self.deadline_at().is_some_and(|at| at <= now) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.end_by_backend(now, self.own_grace(), "DeadlineExceeded", message, false);
        }
        let stopping = matches!(self.stage, Stage::Stopping { .. });
        for container in &mut self.containers {
            container.advance(now, self.script.container(&container.name), stopping);
        }
        self.proceed(now);
    }

    /// Moves the pod on as far as its containers allow.
    pub(super) fn proceed(&mut self, now: Timestamp) {
        loop {
            match self.stage {
                Stage::Sandbox if after(self.created, self.script.sandbox_latency) <= now => {
                    self.started = Some(now);
                    self.stage = Stage::Starting;
                }
                Stage::Starting if self.next_due_start().is_some_and(|at| at <= now) => {
                    self.stage = Stage::Init(0);
                    self.start_ephemeral(now);
                }
                Stage::Init(index) => match self.run_init(index, now) {
                    Some(stage) => self.stage = stage,
                    None => return,
                },
                Stage::Running if self.is_over() => self.begin_stop(now, self.own_grace()),
                Stage::Stopping { kill_at } => {
                    if !self.stop_next(now, kill_at) {
                        return;
                    }
                }
                Stage::Sandbox | Stage::Starting | Stage::Running | Stage::Gone => return,
            }
        }
    }

    fn next_due_start(&self) -> Option<Timestamp> {
        let started = self.started.filter(|_| self.script.never_start.is_none())?;
        Some(after(started, self.script.start_latency))
    }

    /// Brings the init containers on. Returns the next stage, or `None` while this one lasts.
    fn run_init(&mut self, index: usize, now: Timestamp) -> Option<Stage> {
        let script = std::sync::Arc::clone(&self.script);
        let container = self.containers.get_mut(index);
        let container = container.filter(|c| matches!(c.kind, ContainerKind::Init | ContainerKind::Sidecar));
        let Some(container) = container else {
            for app in self.containers.iter_mut().filter(|c| c.kind == ContainerKind::App) {
                let script = script.container(&app.name);
                app.start(now, script);
                app.advance(now, script, false);
            }
            return Some(Stage::Running);
        };
        if container.state == State::Waiting {
            let script = script.container(&container.name);
            container.start(now, script);
            container.advance(now, script, false);
        }
        match (&container.state, container.kind) {
            // A sidecar is started and left running.
            (_, ContainerKind::Sidecar) => Some(Stage::Init(index + 1)),
            (State::Ended(run), _) if run.code == 0 => Some(Stage::Init(index + 1)),
            (State::Ended(_), _) => {
                self.begin_stop(now, self.own_grace());
                Some(self.stage)
            }
            _ => None,
        }
    }

    /// Starts containers for debugging, once, as soon as the pod has begun and while it goes on.
    pub(super) fn start_ephemeral(&mut self, now: Timestamp) {
        if !matches!(self.stage, Stage::Init(_) | Stage::Running) {
            return;
        }
        for container in &mut self.containers {
            if container.kind == ContainerKind::Ephemeral && container.state == State::Waiting {
                container.start(now, self.script.container(&container.name));
            }
        }
    }

    /// Whether every app container has ended for good.
    fn is_over(&self) -> bool {
        let mut apps = self.containers.iter().filter(|c| c.kind == ContainerKind::App);
        apps.all(|c| matches!(c.state, State::Ended(_)))
    }

    /// Stops the pod from outside: SIGTERM now, SIGKILL after `grace`. A stop that is under way is only
    /// ever shortened.
    pub(crate) fn stop(&mut self, now: Timestamp, grace: Duration) {
        match self.stage {
            Stage::Gone => {}
            Stage::Stopping { kill_at } => {
                let sooner = after(now, grace).min(kill_at);
                self.stage = Stage::Stopping { kill_at: sooner };
                for container in &mut self.containers {
                    container.hasten(sooner);
                }
            }
            Stage::Sandbox | Stage::Starting | Stage::Init(_) | Stage::Running => self.begin_stop(now, grace),
        }
        self.proceed(now);
        self.advance(now);
    }

    /// Deletes the pod: [`stop`](Self::stop), and whether there will be anything to say of its end.
    pub(crate) fn delete(&mut self, now: Timestamp, grace: Duration) {
        self.deleting = true;
        let mut lasting = self.containers.iter().filter(|c| c.kind != ContainerKind::Init);
        let all_run = self.stage == Stage::Running && lasting.all(Container::is_running);
        let told = self.containers.iter().any(|c| self.script.container(&c.name).tells_termination());
        self.stop(now, grace);
        self.untold = all_run && !told && self.outcome.is_none() && self.is_gone();
    }

    fn begin_stop(&mut self, now: Timestamp, grace: Duration) {
        let kill_at = after(now, grace);
        self.stage = Stage::Stopping { kill_at };
        for container in &mut self.containers {
            container.give_up_restarts();
            if container.is_main() {
                container.signal(now, kill_at, self.script.container(&container.name));
            }
        }
    }

    /// Once the main containers have ended, stops the sidecars one by one, the last one first (KEP-753).
    /// Returns whether the pod moved on.
    fn stop_next(&mut self, now: Timestamp, kill_at: Timestamp) -> bool {
        let script = std::sync::Arc::clone(&self.script);
        for container in &mut self.containers {
            container.advance(now, script.container(&container.name), true);
        }
        if self.containers.iter().any(|c| c.is_main() && c.is_running()) {
            return false;
        }
        let Some(sidecar) = self.containers.iter_mut().rev().find(|c| !c.is_main() && !c.has_stopped())
        else {
            self.stage = Stage::Gone;
            return true;
        };
        let script = script.container(&sidecar.name);
        sidecar.signal(now, kill_at, script);
        sidecar.advance(now, script, true);
        sidecar.has_stopped()
    }

    /// Ends the pod on the backend's own account.
    fn end_by_backend(
        &mut self,
        now: Timestamp,
        grace: Duration,
        reason: &str,
        message: String,
        disruption: bool,
    ) {
        self.outcome = Some(Box::new(Outcome { reason: reason.to_owned(), message, disruption }));
        self.stop(now, grace);
    }

    /// The backend evicts the pod: killed at once, and not the pod's fault.
    pub(crate) fn evict(&mut self, now: Timestamp, reason: &str, message: &str) {
        if self.outcome.is_none() && !self.is_gone() {
            self.end_by_backend(now, Duration::ZERO, reason, message.to_owned(), true);
        }
    }

    /// A container's process ends by itself. Returns whether it was running.
    pub(crate) fn exit(&mut self, now: Timestamp, container: &str, code: i32, oom: bool) -> bool {
        let stopping = matches!(self.stage, Stage::Stopping { .. });
        let Some(container) = self.containers.iter_mut().find(|c| *c.name == *container && c.is_running())
        else {
            return false;
        };
        let script = self.script.container(&container.name);
        container.finish(End { at: now, code, oom }, script, stopping);
        self.proceed(now);
        self.advance(now);
        true
    }

    /// The readiness probe's verdict changes. Returns whether that made a difference.
    pub(crate) fn set_ready(&mut self, container: &str, verdict: bool) -> bool {
        let container = self.containers.iter_mut().find(|c| *c.name == *container);
        let Some(State::Running { ready, ready_at, .. }) = container.map(|c| &mut c.state) else {
            return false;
        };
        *ready_at = None;
        std::mem::replace(ready, verdict) != verdict
    }

    /// The host under the pod fails: everything is killed on the spot, with nobody to report an outcome.
    pub(crate) fn crash(&mut self, now: Timestamp) {
        for container in &mut self.containers {
            let script = self.script.container(&container.name);
            container.finish(End { at: now, code: KILLED, oom: false }, script, true);
        }
        self.stop(now, Duration::ZERO);
    }

    fn own_grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.into())
    }

    fn evicted_at(&self) -> Option<Timestamp> {
        let delay = self.script.evict_after.filter(|_| self.may_be_ended())?;
        Some(after(self.created, delay))
    }

    fn deadline_at(&self) -> Option<Timestamp> {
        let seconds = self.deadline_seconds.filter(|_| self.may_be_ended())?;
        Some(after(self.created, Duration::from_secs(seconds.into())))
    }

    /// Whether the backend may still end the pod: not when somebody else has begun to.
    fn may_be_ended(&self) -> bool {
        self.outcome.is_none() && !matches!(self.stage, Stage::Stopping { .. } | Stage::Gone)
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use serde_json::{Map, Value, json};
    use vk_core::provider::ResolvedPod;

    use super::*;
    use crate::script::{PREFIX, Scripts};
    use crate::time::between;

    fn begin() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn at(millis: u64) -> Timestamp {
        after(begin(), Duration::from_millis(millis))
    }

    /// Any pod: with init containers, sidecars, a policy and a script.
    fn any_pod(dice: &mut Rng) -> Pod {
        let mut annotations = Map::new();
        let keys = [
            ("sandbox-latency", vec!["0", "1s"]),
            ("start-latency", vec!["0", "700ms", "3s"]),
            ("run-duration", vec!["0", "1s", "20s", "11m", "forever"]),
            ("run-duration.i0", vec!["0", "2s"]),
            ("run-duration.i1", vec!["1s", "forever"]),
            ("exit-code", vec!["0", "1", "1,0", "0,1,2"]),
            ("exit-code.i0", vec!["0", "0", "1,0", "1"]),
            ("oom-after", vec!["never", "5s"]),
            ("readiness-delay", vec!["0", "3s"]),
            ("termination-latency", vec!["0", "2s", "never"]),
            ("evict-after", vec!["never", "30s"]),
            ("never-start", vec!["ErrImagePull"]),
        ];
        for (key, values) in keys {
            let rare = ["evict-after", "never-start", "oom-after"].contains(&key);
            if dice.u8(..10) < if rare { 1 } else { 5 } {
                annotations.insert(format!("{PREFIX}{key}"), json!(values[dice.usize(..values.len())]));
            }
        }
        let policy = *dice.choice(&["Always", "OnFailure", "Never"]).unwrap();
        let init = (0..2).map(|n| {
            let mut container = json!({"name": format!("i{n}"), "image": "init:1"});
            if dice.bool() {
                container["restartPolicy"] = json!("Always");
            }
            container
        });
        let mut spec = json!({
            "initContainers": init.collect::<Vec<Value>>(),
            "containers": [{"name": "a", "image": "web:1"}, {"name": "b", "image": "web:1"}],
            "restartPolicy": policy,
        });
        if dice.u8(..5) == 0 {
            spec["activeDeadlineSeconds"] = json!(45);
        }
        let metadata = json!({"namespace": "n", "name": "p", "uid": "u", "annotations": annotations});
        let object = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        let mut pod = Pod::new(&ResolvedPod::literal(object).unwrap(), &Scripts::default(), begin()).unwrap();
        pod.advance(begin());
        pod
    }

    /// Something done to a pod from outside, and when.
    type Deed = (u64, u8, u64);

    fn deeds(dice: &mut Rng) -> Vec<Deed> {
        let mut deeds: Vec<Deed> =
            (0..dice.usize(..4)).map(|_| (dice.u64(..120_000), dice.u8(..4), dice.u64(..20))).collect();
        deeds.sort_unstable();
        deeds
    }

    fn act(pod: &mut Pod, (time, deed, seconds): Deed) {
        match deed {
            0 => drop(pod.exit(at(time), "a", 7, false)),
            1 => drop(pod.exit(at(time), "i1", 0, false)),
            2 => pod.stop(at(time), Duration::from_secs(seconds)),
            _ => pod.stop(at(time), Duration::ZERO),
        }
    }

    /// Lives through the deeds, looking at the pod at the given times besides.
    fn live(pod: &mut Pod, deeds: &[Deed], looks: &[u64], mut look: impl FnMut(&Pod, Timestamp)) {
        let mut times: Vec<(u64, Option<Deed>)> = deeds.iter().map(|deed| (deed.0, Some(*deed))).collect();
        times.extend(looks.iter().map(|time| (*time, None)));
        times.sort_by_key(|(time, deed)| (*time, deed.is_some()));
        for (time, deed) in times {
            pod.advance(at(time));
            if let Some(deed) = deed {
                act(pod, deed);
            }
            look(pod, at(time));
        }
    }

    #[test]
    fn a_pod_looked_at_late_comes_to_the_same_as_one_looked_at_often() {
        for seed in 0..500 {
            let mut dice = Rng::with_seed(seed);
            let (mut often, mut late) = (any_pod(&mut dice.clone()), any_pod(&mut dice));
            let deeds = deeds(&mut dice);
            let mut looks: Vec<u64> = (0..40).map(|_| dice.u64(..600_000)).collect();
            looks.push(600_000);
            live(&mut often, &deeds, &looks, |_, _| {});
            live(&mut late, &deeds, &[600_000], |_, _| {});
            assert_eq!(often.runtime(), late.runtime(), "seed {seed}");
            assert_eq!(often.next_due(), late.next_due(), "seed {seed}");
        }
    }

    #[test]
    fn whatever_happens_a_pod_keeps_its_laws() {
        for seed in 0..500 {
            let mut dice = Rng::with_seed(seed);
            let mut pod = any_pod(&mut dice);
            let deeds = deeds(&mut dice);
            let looks: Vec<u64> = (0..60).map(|n| n * 3000).collect();
            let mut gone: Option<vk_core::provider::PodRuntime> = None;
            let mut restarts = vec![0; pod.containers.len()];
            let mut glimpse = None;
            live(&mut pod, &deeds, &looks, |pod, now| {
                let what = format!("seed {seed} after {:?}", between(begin(), now));
                assert!(pod.next_due().is_none_or(|due| due > now), "something is due for ever: {what}");
                let runtime = pod.runtime();
                if let Some(gone) = &gone {
                    assert_eq!(&runtime, gone, "what is gone stays as it is: {what}");
                }
                if pod.is_gone() {
                    assert!(pod.containers.iter().all(Container::has_stopped), "{what}");
                    assert_eq!(pod.next_due(), None, "{what}");
                    gone = Some(runtime.clone());
                }
                for (before, container) in restarts.iter_mut().zip(&pod.containers) {
                    assert!(container.restarts >= *before, "{what}");
                    *before = container.restarts;
                }
                let seen = (pod.glimpse(), runtime);
                if let Some((before, known)) = glimpse.replace(seen.clone()) {
                    assert_eq!(
                        before == seen.0,
                        known == seen.1,
                        "a glimpse tells what a watcher sees: {what}"
                    );
                }
                let mut apps = pod.containers.iter().filter(|c| c.kind == ContainerKind::App);
                let early = pod.containers.iter().any(|c| c.kind == ContainerKind::Init && c.is_running());
                assert!(!early || apps.all(|c| c.state == State::Waiting), "init containers first: {what}");
            });
            // Stopped at once, it is over at once.
            pod.stop(at(700_000), Duration::ZERO);
            assert!(pod.is_gone(), "seed {seed}");
        }
    }
}
