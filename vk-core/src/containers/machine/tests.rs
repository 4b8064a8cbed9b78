//! Stories from the oracle, and laws for random pods.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn machine(spec: Json) -> PodMachine {
    PodMachine::new(&serde_json::from_value::<PodSpec>(spec).unwrap())
}

fn start(name: &str) -> Action {
    Action::Start(name.to_owned())
}

fn stop(name: &str) -> Action {
    Action::Stop(name.to_owned())
}

impl PodMachine {
    fn actions(&self) -> Vec<Action> {
        self.plan(Instant::now()).0
    }

    fn start_now(&mut self, name: &str) {
        self.starting(name, Instant::now());
        self.running(name, true);
    }

    fn end_now(&mut self, name: &str, code: i32) {
        self.ended(name, code, Instant::now());
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_app_containers_together() {
    // Oracle case init-two-in-order.
    let mut pod =
        machine(json!({"restartPolicy": "Never", "initContainers": [{"name": "i1"}, {"name": "i2"}],
        "containers": [{"name": "a"}, {"name": "b"}]}));
    assert_eq!(pod.actions(), [start("i1")]);
    pod.start_now("i1");
    assert_eq!(pod.actions(), []);
    pod.end_now("i1", 0);
    assert_eq!(pod.actions(), [start("i2")]);
    pod.start_now("i2");
    pod.end_now("i2", 0);
    assert_eq!(pod.actions(), [start("a"), start("b")]);
}

#[tokio::test(start_paused = true)]
async fn sidecars_start_before_the_others_and_stop_after_them_the_last_one_first() {
    // Oracle case sidecars-reverse-order.
    let sidecar = |name: &str| json!({"name": name, "restartPolicy": "Always"});
    let mut pod =
        machine(json!({"initContainers": [sidecar("s1"), sidecar("s2")], "containers": [{"name": "a"}]}));
    pod.starting("s1", Instant::now());
    pod.running("s1", false);
    assert_eq!(pod.actions(), [], "not before its startup probe has passed");
    pod.running("s1", true);
    assert_eq!(pod.actions(), [start("s2")]);
    pod.start_now("s2");
    pod.start_now("a");
    pod.stop();
    assert_eq!(pod.actions(), [stop("a")]);
    pod.stopping("a");
    assert_eq!(pod.actions(), []);
    pod.end_now("a", 0);
    assert_eq!(pod.actions(), [stop("s2")]);
    pod.end_now("s2", 0);
    assert_eq!((pod.actions(), pod.end()), (vec![stop("s1")], None));
    pod.end_now("s1", 137);
    assert_eq!(pod.end(), Some(End::Succeeded), "a sidecar's exit code never decides");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_does_not_keep_a_job_alive_and_comes_back_while_it_runs() {
    // Oracle cases sidecar-main-completes and sidecar-crashes.
    let mut pod = machine(json!({"restartPolicy": "Never", "containers": [{"name": "a"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
    pod.start_now("s");
    pod.start_now("a");
    pod.end_now("s", 1);
    assert_eq!(pod.actions(), [start("s")]);
    pod.start_now("s");
    pod.end_now("a", 0);
    assert_eq!(pod.actions(), [stop("s")]);
    pod.end_now("s", 0);
    assert_eq!((pod.end(), pod.restarts("s")), (Some(End::Succeeded), 1));
}

#[tokio::test(start_paused = true)]
async fn a_failing_container_is_restarted_at_once_and_then_with_growing_pauses() {
    // Oracle case crashloop-long.
    let mut pod = machine(json!({"restartPolicy": "Always", "containers": [{"name": "a"}]}));
    let mut pauses = Vec::new();
    pod.start_now("a");
    for _ in 0..4 {
        pod.end_now("a", 1);
        let ended = Instant::now();
        if let (_, Some(wake)) = pod.plan(ended) {
            tokio::time::advance(wake - ended).await;
        }
        pauses.push((Instant::now() - ended).as_secs());
        assert_eq!(pod.actions(), [start("a")]);
        pod.start_now("a");
    }
    assert_eq!((pauses, pod.restarts("a")), (vec![0, 10, 20, 40], 4));
}

#[tokio::test(start_paused = true)]
async fn a_rule_for_an_exit_code_stands_above_the_policy() {
    // Oracle case rule-restart-on-exit-code.
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
    let mut pod = machine(json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "restartPolicy": "Never", "restartPolicyRules": [rule]}]}));
    pod.start_now("a");
    pod.end_now("a", 42);
    assert_eq!((pod.actions(), pod.end()), (vec![start("a")], None));
    pod.start_now("a");
    pod.end_now("a", 1);
    assert_eq!((pod.actions(), pod.end()), (vec![], Some(End::Failed)));
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_fails_for_good_ends_the_pod() {
    // Oracle case init-fails-never.
    let mut pod = machine(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}]}));
    pod.start_now("i");
    pod.end_now("i", 1);
    assert_eq!((pod.actions(), pod.end()), (vec![], Some(End::Failed)));
}

/// A pod by its policy, the kinds of its containers, and the exit codes of their runs; behind them every run ends
/// with 0.
#[derive(Clone, Debug)]
struct Story {
    policy: &'static str,
    init: Vec<(bool, Vec<i32>)>,
    app: Vec<Vec<i32>>,
}

impl Story {
    fn spec(&self) -> Json {
        let init = self.init.iter().enumerate().map(|(i, (sidecar, _))| {
            let mut container = json!({"name": format!("i{i}")});
            if *sidecar {
                container["restartPolicy"] = "Always".into();
            }
            container
        });
        let init: Vec<_> = init.collect();
        let app: Vec<_> = (0..self.app.len()).map(|i| json!({"name": format!("a{i}")})).collect();
        json!({"restartPolicy": self.policy, "initContainers": init, "containers": app})
    }

    fn codes(&self, name: &str) -> &[i32] {
        let at: usize = name[1..].parse().unwrap();
        if name.starts_with('i') { &self.init[at].1 } else { &self.app[at] }
    }

    fn is_sidecar(&self, name: &str) -> bool {
        name.starts_with('i') && self.init[name[1..].parse::<usize>().unwrap()].0
    }

    /// The reference model: restarts of one container that runs to its end alone, and its last exit code. Under
    /// `Always` it never ends.
    fn alone(&self, codes: &[i32]) -> (u32, i32) {
        let mut runs = codes.iter().copied().chain(std::iter::repeat(0));
        let mut restarts = 0;
        loop {
            let code = runs.next().unwrap_or(0);
            if self.policy == "Never" || code == 0 {
                return (restarts, code);
            }
            restarts += 1;
        }
    }
}

fn story() -> impl Strategy<Value = Story> {
    let codes = || prop::collection::vec(prop_oneof![Just(0), Just(1), Just(137)], 0..4);
    let init = prop::collection::vec((any::<bool>(), codes()), 0..4);
    let app = prop::collection::vec(codes(), 1..4);
    (prop_oneof![Just("Never"), Just("OnFailure")], init, app).prop_map(|(policy, init, app)| Story {
        policy,
        init,
        app,
    })
}

proptest! {
    #[test]
    fn restart_counts_and_ends_are_those_of_the_reference_model(story in story(), order in any::<u64>()) {
        let mut pod = machine(story.spec());
        let mut now = Instant::now();
        let mut random = fastrand::Rng::with_seed(order);
        let mut runs = std::collections::HashMap::<String, usize>::new();
        let mut running: Vec<String> = Vec::new();
        for step in 0.. {
            prop_assert!(step < 1000, "it never ends");
            let (actions, wake) = pod.plan(now);
            for action in &actions {
                match action {
                    Action::Start(name) => {
                        prop_assert!(!running.contains(name));
                        let in_init = running.iter().any(|r| r.starts_with('i') && !story.is_sidecar(r));
                        prop_assert!(!in_init || story.is_sidecar(name), "{name} beside an init container");
                        pod.starting(name, now);
                        pod.running(name, true);
                        running.push(name.clone());
                    }
                    Action::Stop(name) => {
                        prop_assert!(story.is_sidecar(name), "only sidecars are left to be stopped");
                        prop_assert!(running.iter().all(|r| story.is_sidecar(r)));
                        pod.stopping(name);
                        pod.ended(name, 143, now);
                        running.retain(|r| r != name);
                    }
                }
            }
            if pod.end().is_some() {
                break;
            }
            if !actions.is_empty() {
                continue;
            }
            // One of those that end by themselves does; a sidecar only if it is written so.
            let can_end = |name: &String| {
                !story.is_sidecar(name) || runs.get(name).copied().unwrap_or(0) < story.codes(name).len()
            };
            let candidates: Vec<_> = running.iter().filter(|name| can_end(name)).cloned().collect();
            if candidates.is_empty() {
                let Some(wake) = wake else { return Err(TestCaseError::fail("nothing happens any more")) };
                now = wake;
                continue;
            }
            let name = candidates[random.usize(..candidates.len())].clone();
            let run = runs.entry(name.clone()).or_default();
            let code = story.codes(&name).get(*run).copied().unwrap_or(0);
            *run += 1;
            running.retain(|r| *r != name);
            now += Duration::from_secs(1);
            pod.ended(&name, code, now);
        }
        let mut failed = false;
        for (i, (sidecar, codes)) in story.init.iter().enumerate().filter(|(_, (sidecar, _))| !sidecar) {
            prop_assert!(!sidecar);
            let (restarts, code) = story.alone(codes);
            prop_assert_eq!(pod.restarts(&format!("i{i}")), restarts);
            if code != 0 {
                failed = true;
                break;
            }
        }
        if !failed {
            for (i, codes) in story.app.iter().enumerate() {
                let (restarts, code) = story.alone(codes);
                prop_assert_eq!(pod.restarts(&format!("a{i}")), restarts);
                failed |= code != 0;
            }
        }
        prop_assert_eq!(pod.end(), Some(if failed { End::Failed } else { End::Succeeded }));
        prop_assert!(running.is_empty(), "nothing runs at the end");
    }
}
