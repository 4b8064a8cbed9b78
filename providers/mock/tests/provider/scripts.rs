//! What the annotations do, one by one, and what pods do without any.

use serde_json::json;
use tokio::time::Instant;
use vk_core::provider::{ContainerState, Error, ExitStatus, PodEvent, Provider};
use vk_mock::{MockConfig, PREFIX};

use crate::support::{Bench, GRACE, Template, pod, runtime, seconds, summary};

/// Creates a pod and tells its life as `seconds since creation: summary`, until `events` have been seen.
async fn life(bench: &mut Bench, template: &Template, events: usize) -> Vec<String> {
    let begin = Instant::now();
    bench.create(template).await;
    let mut life = Vec::new();
    for _ in 0..events {
        let now = match bench.event().await {
            PodEvent::Changed(pod) => summary(&runtime(pod)),
            other => panic!("{other:?}"),
        };
        life.push(format!("{:.1}: {now}", begin.elapsed().as_secs_f64()));
    }
    life
}

#[tokio::test(start_paused = true)]
async fn latencies_delay_sandbox_start_and_readiness() {
    let mut bench = Bench::new().await;
    let script = [("sandbox-latency", "1s"), ("start-latency", "2s"), ("readiness-delay", "1m")];
    let life = life(&mut bench, &pod("web", "u1", &script), 4).await;
    assert_eq!(life, ["0.0: pending", "1.0: ready", "3.0: ready a=running", "63.0: ready a=ready"]);
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_starts_waits_for_the_reason_given() {
    let mut bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[("never-start", "ErrImagePull")])).await;
    assert_eq!(summary(&bench.changed().await), "ready a=ErrImagePull");
    bench.quiet().await;
    bench.provider.delete_pod(&web, GRACE).await.unwrap();
    assert_eq!(summary(&bench.gone().await), "gone");

    let init = pod("web", "u2", &[("never-start", "ErrImagePull")]).init(&["first", "second"]);
    bench.create(&init).await;
    assert_eq!(summary(&bench.changed().await), "ready first=ErrImagePull");
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_with_its_exit_code_and_the_policy_decides_what_follows() {
    let table = [
        ("Never", "0", vec!["0.0: ready a=ready", "5.0: gone a=0"]),
        ("Never", "3", vec!["0.0: ready a=ready", "5.0: gone a=3"]),
        ("OnFailure", "0", vec!["0.0: ready a=ready", "5.0: gone a=0"]),
        ("OnFailure", "1,0", vec!["0.0: ready a=ready", "5.0: ready a=ready×1", "10.0: gone a=0×1"]),
    ];
    for (policy, codes, expected) in table {
        let mut bench = Bench::new().await;
        let script = [("run-duration", "5s"), ("exit-code", codes)];
        let life = life(&mut bench, &pod("job", "u1", &script).restart(policy), expected.len()).await;
        assert_eq!(life, expected, "{policy} {codes}");
        bench.quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_shows_the_end_of_the_run_and_after_the_back_off_the_reason() {
    let mut bench = Bench::new().await;
    let life = life(&mut bench, &pod("web", "u1", &[("run-duration", "1s"), ("exit-code", "1")]), 9).await;
    let expected = [
        "0.0: ready a=ready",
        "1.0: ready a=ready×1",
        "2.0: ready a=1×1",
        "12.0: ready a=CrashLoopBackOff×1",
        "12.2: ready a=ready×2",
        "13.2: ready a=1×2",
        "33.2: ready a=CrashLoopBackOff×2",
        "33.4: ready a=ready×3",
        "34.4: ready a=1×3",
    ];
    assert_eq!(life, expected);
    let state = runtime(bench.listed().await.remove(0));
    let last = state.containers[0].last.clone().unwrap();
    assert_eq!(last.exit, ExitStatus::Code(1));
    assert_ne!(last.container_id, state.containers[0].container_id);

    tokio::time::sleep(seconds(40.0)).await;
    let PodEvent::Changed(event) = bench.event().await else { panic!("a change") };
    let uid = event.pod.uid.clone();
    let ContainerState::Waiting { reason, message } = runtime(event).containers[0].state.clone() else {
        panic!("the container waits");
    };
    assert_eq!(reason, "CrashLoopBackOff");
    assert_eq!(message, format!("back-off 40s restarting failed container=a pod=web_default({uid})"));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_runs_out_of_memory_says_so() {
    let mut bench = Bench::new().await;
    let script = [("oom-after", "2s"), ("run-duration", "9s")];
    let life = life(&mut bench, &pod("job", "u1", &script).restart("Never"), 2).await;
    assert_eq!(life, ["0.0: ready a=ready", "2.0: gone a=OOMKilled:137"]);
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_sidecars_stay() {
    let mut bench = Bench::new().await;
    let script = [("run-duration.first", "1s"), ("run-duration.second", "1s"), ("run-duration.a", "5s")];
    let template = pod("job", "u1", &script).init(&["first", "side", "second"]).restart("Never");
    let expected = [
        "0.0: ready first=running",
        "1.0: ready first=0 side=ready second=running",
        "2.0: ready first=0 side=ready second=0 a=ready",
        "7.0: gone first=0 side=0 second=0 a=0",
    ];
    assert_eq!(life(&mut bench, &template, 4).await, expected);
    let last = runtime(bench.listed().await.remove(0));
    let ready: Vec<_> = last.containers.iter().map(|c| (c.name.as_str(), c.ready)).collect();
    let expected = [("first", true), ("side", false), ("second", true), ("a", false)];
    assert_eq!(ready, expected.map(|(name, ready)| (name, Some(ready))));
}

#[tokio::test(start_paused = true)]
async fn a_failing_init_container_ends_the_pod_or_is_restarted() {
    let mut bench = Bench::new().await;
    let never = pod("job", "u1", &[("exit-code.first", "4")]).init(&["first"]).restart("Never");
    assert_eq!(life(&mut bench, &never, 1).await, ["0.0: gone first=4"]);

    let mut bench = Bench::new().await;
    let script = [("exit-code.first", "1,1,0"), ("run-duration.first", "1s")];
    let always = pod("job", "u2", &script).init(&["first"]).restart("Always");
    let expected = [
        "0.0: ready first=running",
        "1.0: ready first=running×1",
        "2.0: ready first=1×1",
        "12.0: ready first=CrashLoopBackOff×1",
        "12.2: ready first=running×2",
        "13.2: ready first=0×2 a=ready",
    ];
    assert_eq!(life(&mut bench, &always, 6).await, expected);
}

#[tokio::test(start_paused = true)]
async fn sigterm_is_obeyed_within_the_grace_period_or_the_pod_is_killed() {
    let table = [
        ("0", "0", 30.0, 0.0, "gone a=0"),
        ("50ms", "143", 30.0, 0.05, "gone a=143"),
        ("29s", "0", 30.0, 29.0, "gone a=0"),
        ("30s", "0", 30.0, 30.0, "gone a=137"),
        ("never", "0", 30.0, 30.0, "gone a=137"),
        ("never", "0", 3.0, 3.0, "gone a=137"),
        ("0", "0", 0.0, 0.0, "gone a=137"),
        ("never", "0", 0.0, 0.0, "gone a=137"),
    ];
    for (latency, code, grace, takes, expected) in table {
        let mut bench = Bench::new().await;
        let script = [("termination-latency", latency), ("termination-exit-code", code)];
        let web = bench.create(&pod("web", "u1", &script)).await;
        bench.changed().await;
        let begin = Instant::now();
        bench.provider.delete_pod(&web, seconds(grace)).await.unwrap();
        let end = bench.gone().await;
        assert_eq!(summary(&end), expected, "{latency} in {grace} s");
        assert_eq!(begin.elapsed(), seconds(takes), "{latency} in {grace} s");
        bench.quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_shortens_the_kill_and_a_longer_one_changes_nothing() {
    for (second, takes) in [(2.0, 12.0), (0.0, 10.0), (600.0, 30.0)] {
        let mut bench = Bench::new().await;
        let web = bench.create(&pod("web", "u1", &[("termination-latency", "never")])).await;
        bench.changed().await;
        let begin = Instant::now();
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
        tokio::time::sleep(seconds(10.0)).await;
        bench.provider.delete_pod(&web, seconds(second)).await.unwrap();
        assert_eq!(summary(&bench.gone().await), "gone a=137");
        assert_eq!(begin.elapsed(), seconds(takes));
    }
}

#[tokio::test(start_paused = true)]
async fn sidecars_stop_after_the_others_the_last_one_first_inside_the_grace_period() {
    let mut bench = Bench::new().await;
    let script = [("termination-latency", "4s"), ("termination-latency.side2", "never")];
    let template = pod("web", "u1", &script).init(&["side1", "side2"]);
    let web = bench.create(&template).await;
    bench.changed().await;
    let begin = Instant::now();
    bench.provider.delete_pod(&web, seconds(10.0)).await.unwrap();
    assert_eq!(summary(&bench.changed().await), "ready side1=ready side2=ready a=0");
    assert_eq!(begin.elapsed(), seconds(4.0));
    assert_eq!(summary(&bench.gone().await), "gone side1=137 side2=137 a=0");
    assert_eq!(begin.elapsed(), seconds(10.0));
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_at_any_stage_and_what_never_ran_has_no_exit_code() {
    let script = [
        ("sandbox-latency", "5s"),
        ("start-latency", "5s"),
        ("run-duration.first", "5s"),
        ("termination-exit-code", "0"),
    ];
    for (after, expected) in
        [(1.0, "gone"), (6.0, "gone"), (11.0, "gone first=0"), (16.0, "gone first=0 a=0")]
    {
        let mut bench = Bench::new().await;
        let web = bench.create(&pod("web", "u1", &script).init(&["first"])).await;
        tokio::time::sleep(seconds(after)).await;
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
        let last = loop {
            match bench.event().await {
                PodEvent::Gone { last, .. } => break last.unwrap(),
                PodEvent::Changed(_) | PodEvent::Told { .. } | PodEvent::Probed { .. } => {}
                other => panic!("no gap, and nothing that these tests do not know: {other:?}"),
            }
        };
        assert_eq!(summary(&last), expected, "after {after} s");
        bench.quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_looping_pod_is_deleted_at_once_with_its_last_exit_code() {
    let mut bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[("run-duration", "1s"), ("exit-code", "7")])).await;
    tokio::time::sleep(seconds(5.0)).await;
    bench.provider.delete_pod(&web, GRACE).await.unwrap();
    for _ in 0..3 {
        bench.changed().await;
    }
    assert_eq!(summary(&bench.gone().await), "gone a=7×1");
}

#[tokio::test(start_paused = true)]
async fn pre_stop_sleep_comes_before_sigterm_and_counts_for_the_grace_period() {
    for (sleep, code, takes) in [(5, "gone a=0", 5.0), (60, "gone a=137", 30.0)] {
        let mut bench = Bench::new().await;
        let hook =
            json!([{"name": "a", "image": "web:1", "lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}}]);
        let web = bench.create(&pod("web", "u1", &[]).spec("containers", hook)).await;
        bench.changed().await;
        let begin = Instant::now();
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
        assert_eq!(summary(&bench.gone().await), code);
        assert_eq!(begin.elapsed(), seconds(takes));
    }
}

#[tokio::test(start_paused = true)]
async fn the_active_deadline_ends_the_pod_with_its_reason() {
    let mut bench = Bench::new().await;
    let template =
        pod("job", "u1", &[("termination-latency", "1s")]).spec("activeDeadlineSeconds", json!(60));
    assert_eq!(life(&mut bench, &template, 2).await, ["0.0: ready a=ready", "61.0: gone a=0"]);
    let outcome = runtime(bench.listed().await.remove(0)).outcome.unwrap();
    assert_eq!((outcome.reason.as_str(), outcome.disruption), ("DeadlineExceeded", false));
}

#[tokio::test(start_paused = true)]
async fn an_eviction_kills_the_pod_and_is_a_disruption() {
    let mut bench = Bench::new().await;
    let script = [("evict-after", "10s"), ("termination-latency", "5s")];
    assert_eq!(
        life(&mut bench, &pod("web", "u1", &script), 2).await,
        ["0.0: ready a=ready", "10.0: gone a=137"]
    );
    let outcome = runtime(bench.listed().await.remove(0)).outcome.unwrap();
    assert_eq!((outcome.reason.as_str(), outcome.disruption), ("Evicted", true));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_disappears_leaves_no_trace_but_a_gap_in_the_listing() {
    let mut bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[("disappear-after", "10s")])).await;
    bench.changed().await;
    tokio::time::sleep(seconds(9.9)).await;
    assert_eq!(bench.listed().await.len(), 1);
    bench.quiet().await;
    assert!(bench.listed().await.is_empty());
    bench.provider.delete_pod(&web, GRACE).await.unwrap();
    bench.nothing_now().await;
}

#[tokio::test(start_paused = true)]
async fn addresses_are_scripted_shared_with_the_host_or_taken_in_turn() {
    let config: MockConfig =
        serde_json::from_str(r#"{"podCidr": "192.0.2.0/29", "nodeAddress": "198.51.100.1"}"#).unwrap();
    let mut bench = Bench::with(config).await;
    let mut address = async |template: &Template| {
        bench.create(template).await;
        bench.changed().await.ips[0].to_string()
    };
    assert_eq!(address(&pod("web", "u1", &[("pod-ip", "192.0.2.2")])).await, "192.0.2.2");
    assert_eq!(address(&pod("web", "u2", &[])).await, "192.0.2.1");
    assert_eq!(address(&pod("web", "u3", &[])).await, "192.0.2.3");
    let host = pod("web", "u4", &[]).spec("hostNetwork", json!(true));
    assert_eq!(address(&host).await, "198.51.100.1");
    let taken = pod("web", "u5", &[("pod-ip", "192.0.2.1")]).build();
    assert!(matches!(bench.provider.create_pod(&taken).await, Err(Error::Exhausted { .. })));
}

#[tokio::test(start_paused = true)]
async fn addresses_run_out_and_come_back_when_a_pod_ends() {
    let config: MockConfig = serde_json::from_str(r#"{"podCidr": "192.0.2.0/30"}"#).unwrap();
    let bench = Bench::with(config).await;
    let job = pod("job", "job", &[("run-duration", "5s")]).restart("Never");
    bench.create(&job).await;
    bench.create(&pod("web", "u1", &[])).await;
    let third = pod("web", "u2", &[]);
    assert!(matches!(bench.provider.create_pod(&third.build()).await, Err(Error::Exhausted { .. })));
    tokio::time::sleep(seconds(6.0)).await;
    bench.create(&third).await;
    assert_eq!(bench.listed().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failing_delete_leaves_the_pod_running_until_one_succeeds() {
    let mut bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[("fail-delete", "2")])).await;
    bench.changed().await;
    for _ in 0..2 {
        assert!(matches!(bench.provider.delete_pod(&web, GRACE).await, Err(Error::Unavailable { .. })));
        bench.nothing_now().await;
    }
    assert_eq!(bench.backend.running(), std::slice::from_ref(&web));
    bench.provider.delete_pod(&web, GRACE).await.unwrap();
    bench.gone_without_a_word().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_may_have_a_restart_policy_of_its_own() {
    let mut bench = Bench::new().await;
    let containers = json!([
        {"name": "a", "image": "web:1"},
        {"name": "once", "image": "web:1", "restartPolicy": "Never"},
    ]);
    let template = pod("web", "u1", &[("exit-code.once", "5")]).spec("containers", containers);
    assert_eq!(life(&mut bench, &template, 1).await, ["0.0: ready a=ready once=5"]);
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn rules_on_exit_codes_restart_what_the_policy_would_not() {
    let mut bench = Bench::new().await;
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let containers =
        json!([{"name": "a", "image": "web:1", "restartPolicy": "Never", "restartPolicyRules": rules}]);
    let script = [("run-duration", "1s"), ("exit-code", "42,1")];
    let template = pod("job", "u1", &script).restart("Never").spec("containers", containers);
    let expected = ["0.0: ready a=ready", "1.0: ready a=ready×1", "2.0: gone a=1×1"];
    assert_eq!(life(&mut bench, &template, 3).await, expected);
}

#[tokio::test(start_paused = true)]
async fn what_a_test_does_to_a_container_is_seen_by_the_watcher() {
    let mut bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[])).await;
    bench.changed().await;
    let uid = &web.uid;
    assert!(bench.backend.set_ready(uid, "a", false));
    assert_eq!(summary(&bench.changed().await), "ready a=running");
    assert!(!bench.backend.set_ready(uid, "a", false));
    assert!(bench.backend.exit(uid, "a", 9));
    assert_eq!(summary(&bench.changed().await), "ready a=ready×1");
    assert!(bench.backend.oom(uid, "a"));
    assert_eq!(summary(&bench.changed().await), "ready a=OOMKilled:137×1");
    assert!(!bench.backend.exit(uid, "a", 9), "it does not run");
    assert!(bench.backend.evict(uid, "Preempted", "the host is needed"));
    let end = bench.changed().await;
    assert_eq!(summary(&end), "gone a=OOMKilled:137×1");
    assert_eq!(end.outcome.unwrap().reason, "Preempted");
    assert!(!bench.backend.evict(uid, "Preempted", "again"));
    assert!(!bench.backend.crash(uid));

    let web = bench.create(&pod("web", "u2", &[("termination-latency", "9s")])).await;
    bench.changed().await;
    assert!(bench.backend.crash(&web.uid));
    assert_eq!(summary(&bench.changed().await), "gone a=137");
    assert!(bench.backend.vanish(&web.uid));
    assert!(!bench.backend.vanish(&web.uid));
    assert_eq!(bench.backend.vanish_all(), 1);
    bench.nothing_now().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_makes_no_sense_is_refused_with_the_path_of_the_annotation() {
    let bench = Bench::new().await;
    let table = [
        ("start-latency", "soon", "\"soon\" is not a duration"),
        ("start-latency", "-1s", "\"-1s\" is not a duration"),
        ("start-latency", "99y", "longer than ten years"),
        ("start-latency.a", "1s", "unknown key"),
        ("sandbox-latency", "", "\"\" is not a duration"),
        ("run-duration", "whenever", "\"whenever\" is not a duration"),
        ("run-duration.b", "1s", "the pod has no container \"b\""),
        ("exit-code", "256", "\"256\" is not an exit code"),
        ("exit-code.a", "1,,2", "\"\" is not an exit code"),
        ("termination-exit-code", "-1", "\"-1\" is not an exit code"),
        ("pod-ip", "10.0.0.256", "\"10.0.0.256\" is not an IP address"),
        ("fail-create", "often", "\"often\" is not a number of failures"),
        ("fail-delete", "angry:1", "\"angry\" is not a failure"),
        ("never-start", "no reason", "\"no reason\" is not a reason"),
        ("reject-create", "", "\"\" is not a field"),
        ("log-rate", "fast", "\"fast\" is not a number"),
        ("log-rate", "NaN", "\"NaN\" is not a number"),
        ("log-line-bytes", "1e9", "\"1e9\" is not a number from 0 to 65536"),
        ("cpu-usage", "lots", "\"lots\" is not a quantity"),
        ("colour", "blue", "unknown key"),
    ];
    for (key, value, expected) in table {
        let web = pod("web", &format!("{key}={value}"), &[(key, value)]).build();
        match bench.provider.create_pod(&web).await {
            Err(Error::Rejected { field, reason }) => {
                assert_eq!(field, format!("metadata.annotations[{PREFIX}{key}]"));
                assert!(reason.contains(expected), "{key}={value}: {reason}");
            }
            other => panic!("{key}={value}: {other:?}"),
        }
    }
    assert!(bench.listed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn configured_defaults_hold_for_every_pod_and_annotations_override_them() {
    let config: MockConfig =
        serde_json::from_str(r#"{"defaults": {"run-duration": "5s", "exit-code": 2, "exit-code.b": 4}}"#)
            .unwrap();
    let mut bench = Bench::with(config).await;
    let template = pod("job", "u1", &[("exit-code", "3")]).containers(&["a", "b"]).restart("Never");
    assert_eq!(life(&mut bench, &template, 2).await, ["0.0: ready a=ready b=ready", "5.0: gone a=3 b=4"]);
    let template = pod("job", "u2", &[]).restart("Never");
    assert_eq!(life(&mut bench, &template, 2).await, ["0.0: ready a=ready", "5.0: gone a=2"]);
}

#[tokio::test(start_paused = true)]
async fn failures_at_a_configured_rate_are_the_same_in_every_run() {
    async fn outcomes() -> Vec<bool> {
        let config = serde_json::from_str(r#"{"failures": {"create": 0.3}, "seed": 42}"#).unwrap();
        let bench = Bench::with(config).await;
        let mut outcomes = Vec::new();
        for n in 0..100 {
            outcomes
                .push(bench.provider.create_pod(&pod("web", &format!("u{n}"), &[]).build()).await.is_ok());
        }
        assert_eq!(bench.listed().await.len(), outcomes.iter().filter(|ok| **ok).count());
        outcomes
    }
    let first = outcomes().await;
    assert_eq!(first, outcomes().await);
    assert!((50..90).contains(&first.iter().filter(|ok| **ok).count()));
}
