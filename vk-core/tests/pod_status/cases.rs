//! Statuses in situations that no kubelet is recorded in: the node's own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use vk_core::internals::{Situation, StatusInput, WaitingFor, pod_status, status_patch};
use vk_core::provider::{
    ContainerState, ExitStatus, LinuxUser, ObservedContainer, PodOutcome, PodRuntime, Sandbox, Termination,
};

pub(crate) fn pod(spec: Value) -> Pod {
    let mut pod = Pod { spec: serde_json::from_value(spec).unwrap(), ..Pod::default() };
    pod.metadata.generation = Some(1);
    pod
}

/// A pod of one container `a`.
fn one(policy: &str) -> Pod {
    pod(json!({ "restartPolicy": policy, "containers": [{ "name": "a", "image": "i" }] }))
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn look(
    pod: &Pod,
    observed: Option<&PodRuntime>,
    situation: &Situation,
    second: i64,
) -> PodStatus {
    let host_ips: [IpAddr; 1] = [[10, 0, 0, 1].into()];
    pod_status(&StatusInput { pod, observed, situation, host_ips: &host_ips, now: at(second) })
}

pub(crate) fn exited(code: i32) -> Termination {
    Termination::new(ExitStatus::Code(code))
}

pub(crate) fn runtime(sandbox: Sandbox, containers: Vec<ObservedContainer>) -> PodRuntime {
    let mut runtime = PodRuntime::default();
    runtime.sandbox = sandbox;
    runtime.containers = containers;
    runtime
}

fn running(name: &str) -> ObservedContainer {
    ObservedContainer::new(name, ContainerState::Running { started_at: at(1) })
}

fn terminated(name: &str, code: i32) -> ObservedContainer {
    ObservedContainer::new(name, ContainerState::Terminated(exited(code)))
}

fn waiting(name: &str, reason: &str) -> ObservedContainer {
    ObservedContainer::new(
        name,
        ContainerState::Waiting { reason: reason.to_owned(), message: String::new() },
    )
}

/// The pod after it was written that it runs.
fn started(mut pod: Pod) -> Pod {
    let seen = runtime(Sandbox::Ready, vec![running("a")]);
    pod.status = Some(look(&pod, Some(&seen), &Situation::Normal, 1));
    pod
}

fn phase(status: &PodStatus) -> &str {
    status.phase.as_deref().unwrap()
}

fn first(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().unwrap()[0]
}

fn state(status: &PodStatus) -> Value {
    serde_json::to_value(first(status).state.as_ref().unwrap()).unwrap()
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn ended() -> Situation {
    Situation::Ended { reason: Some("NotFound".to_owned()), message: Some("it is gone".to_owned()) }
}

#[test]
fn the_phase_follows_the_containers_and_the_sandbox() {
    use Sandbox::{Gone, Pending, Ready};
    let run = || running("a");
    let end = |code| terminated("a", code);
    let mut loops = waiting("a", "CrashLoopBackOff");
    loops.last = Some(exited(1));
    let table: Vec<(&str, Sandbox, ObservedContainer, &str, &str)> = vec![
        // policy, sandbox, container, first status, the same after Running
        ("Always", Pending, waiting("a", ""), "Pending", "Running"),
        ("Always", Ready, waiting("a", "ErrImagePull"), "Pending", "Running"),
        ("Always", Ready, run(), "Running", "Running"),
        ("Always", Ready, end(0), "Running", "Running"),
        ("Always", Ready, end(1), "Running", "Running"),
        ("Always", Ready, loops.clone(), "Running", "Running"),
        ("Always", Gone, end(0), "Succeeded", "Succeeded"),
        ("Always", Gone, end(1), "Failed", "Failed"),
        ("Always", Gone, loops, "Failed", "Failed"),
        ("Always", Gone, run(), "Failed", "Failed"),
        ("Always", Gone, waiting("a", ""), "Failed", "Failed"),
        // The phase waits for the sandbox.
        ("Never", Ready, end(0), "Pending", "Running"),
        ("Never", Ready, end(1), "Pending", "Running"),
        ("Never", Gone, end(0), "Succeeded", "Succeeded"),
        ("Never", Gone, end(1), "Failed", "Failed"),
        ("OnFailure", Ready, end(0), "Pending", "Running"),
        ("OnFailure", Ready, end(1), "Running", "Running"),
        ("OnFailure", Gone, end(0), "Succeeded", "Succeeded"),
        ("OnFailure", Gone, end(1), "Failed", "Failed"),
    ];
    for (policy, sandbox, container, new, after_running) in table {
        let what = format!("{policy} {sandbox:?} {:?}", container.state);
        let seen = runtime(sandbox, vec![container]);
        assert_eq!(phase(&look(&one(policy), Some(&seen), &Situation::Normal, 2)), new, "{what}");
        let pod = started(one(policy));
        assert_eq!(
            phase(&look(&pod, Some(&seen), &Situation::Normal, 2)),
            after_running,
            "{what} after Running"
        );
    }
}

#[test]
fn without_an_observation_a_new_pod_is_being_created_and_a_known_one_keeps_its_status() {
    let status = look(&one("Always"), None, &Situation::Normal, 0);
    assert_eq!(phase(&status), "Pending");
    assert_eq!(state(&status), json!({ "waiting": { "reason": "ContainerCreating" } }));

    let pod = started(one("Always"));
    let again = look(&pod, None, &Situation::Normal, 99);
    assert_eq!(status_patch("u", pod.status.as_ref().unwrap(), &again), None);
}

#[test]
fn a_container_that_cannot_be_configured_waits_with_the_reason_and_the_others_are_created() {
    let pod = pod(json!({ "containers": [{ "name": "b", "image": "i" }, { "name": "a", "image": "i" }] }));
    let why = WaitingFor {
        reason: "CreateContainerConfigError".to_owned(),
        message: "secret \"s\" not found".to_owned(),
    };
    let waits = Situation::Waiting(BTreeMap::from([("a".to_owned(), why)]));
    let status = look(&pod, None, &waits, 0);
    let list = serde_json::to_value(status.container_statuses.as_ref().unwrap()).unwrap();
    assert_eq!(
        list[0]["state"]["waiting"],
        json!({ "reason": "CreateContainerConfigError", "message": "secret \"s\" not found" })
    );
    assert_eq!(list[1]["state"]["waiting"], json!({ "reason": "ContainerCreating" }));
    assert_eq!(phase(&status), "Pending");
    // A container that runs all the same is not said to wait.
    let seen = runtime(Sandbox::Ready, vec![running("a")]);
    assert!(state(&look(&pod, Some(&seen), &waits, 0)).get("running").is_some());
}

#[test]
fn a_provider_that_fails_shows_in_reason_and_message_until_it_does_not() {
    let mut pod = one("Always");
    let failing =
        Situation::Failing { reason: "ProviderFailed".to_owned(), message: "no capacity".to_owned() };
    let status = look(&pod, None, &failing, 0);
    assert_eq!((phase(&status), status.reason.as_deref()), ("Pending", Some("ProviderFailed")));
    assert_eq!(status.message.as_deref(), Some("no capacity"));
    pod.status = Some(status);

    let better = look(&pod, None, &Situation::Normal, 5);
    let patch = status_patch("u", pod.status.as_ref().unwrap(), &better).unwrap();
    assert_eq!(patch, json!({ "metadata": { "uid": "u" }, "status": { "reason": null, "message": null } }));
}

#[test]
fn a_pod_that_vanished_has_failed_with_the_reason_and_unseen_ends_are_unknown() {
    let pod = started(one("Always"));
    let status = look(&pod, None, &ended(), 9);
    assert_eq!((phase(&status), status.reason.as_deref()), ("Failed", Some("NotFound")));
    assert_eq!(
        state(&status)["terminated"],
        json!({
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated"
        })
    );
    let a = first(&status);
    assert_eq!((a.ready, a.started, a.restart_count), (false, Some(false), 0));
    for kind in ["Ready", "ContainersReady"] {
        let condition = condition(&status, kind).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("PodFailed")));
        assert_eq!(condition.last_transition_time, Some(Time(at(9))));
    }
    let sandbox = condition(&status, "PodReadyToStartContainers").unwrap();
    assert_eq!(
        (sandbox.status.as_str(), sandbox.message.as_deref()),
        ("False", Some("pod sandbox is not ready"))
    );
}

#[test]
fn a_pod_whose_containers_had_all_succeeded_before_it_vanished_has_succeeded() {
    let mut pod = started(one("Never"));
    let done = runtime(Sandbox::Ready, vec![terminated("a", 0)]);
    pod.status = Some(look(&pod, Some(&done), &Situation::Normal, 2));
    let status = look(&pod, None, &ended(), 3);
    assert_eq!((phase(&status), &status.reason), ("Succeeded", &None));
}

#[test]
fn the_backends_verdict_stands_above_exit_codes_and_may_spare_a_job() {
    let mut pod = started(one("Never"));
    let mut seen = runtime(Sandbox::Ready, vec![terminated("a", 0)]);
    seen.outcome = Some(PodOutcome {
        reason: "SpotReclaimed".to_owned(),
        message: "the host was taken back".to_owned(),
        disruption: true,
    });
    let status = look(&pod, Some(&seen), &Situation::Normal, 5);
    assert_eq!((phase(&status), &status.reason), ("Running", &None));
    assert_eq!(condition(&status, "Ready").unwrap().reason.as_deref(), Some("PodFailed"));
    assert_eq!(condition(&status, "DisruptionTarget"), None);

    pod.status = Some(status);
    seen.sandbox = Sandbox::Gone;
    let status = look(&pod, Some(&seen), &Situation::Normal, 6);
    assert_eq!((phase(&status), status.reason.as_deref()), ("Failed", Some("SpotReclaimed")));
    let target = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(target.type_, "DisruptionTarget");
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
    assert_eq!(target.message.as_deref(), Some("the host was taken back"));
    assert_eq!(
        (target.observed_generation, target.last_transition_time.as_ref()),
        (Some(1), Some(&Time(at(6))))
    );
}

#[test]
fn a_refused_pod_keeps_nothing_but_what_others_wrote() {
    let mut pod = one("Always");
    let foreign = PodCondition {
        type_: "example.test/gate".to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    };
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    };
    pod.status = Some(PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some("BestEffort".to_owned()),
        conditions: Some(vec![foreign, scheduled]),
        ..PodStatus::default()
    });
    let refused = Situation::Refused { reason: "OutOfcpu".to_owned(), message: "no room".to_owned() };
    let status = look(&pod, None, &refused, 0);
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({
            "phase": "Failed",
            "reason": "OutOfcpu",
            "message": "Pod was rejected: no room",
            "observedGeneration": 1,
            "qosClass": "BestEffort",
            "startTime": "2027-01-15T08:00:00Z",
            "conditions": [{ "type": "example.test/gate", "status": "True" }]
        })
    );
    let patch = status_patch("u", pod.status.as_ref().unwrap(), &status).unwrap();
    assert_eq!(patch["status"]["conditions"], json!([{ "$patch": "delete", "type": "PodScheduled" }]));
}

#[test]
fn a_container_that_ended_for_good_does_not_run_again_whatever_is_reported() {
    for (policy, code, again) in [
        ("Never", 0, false),
        ("Never", 1, false),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Always", 0, true),
    ] {
        let mut pod = started(one(policy));
        let done = runtime(Sandbox::Ready, vec![terminated("a", code)]);
        pod.status = Some(look(&pod, Some(&done), &Situation::Normal, 2));
        let back = runtime(Sandbox::Ready, vec![running("a")]);
        let status = look(&pod, Some(&back), &Situation::Normal, 3);
        assert_eq!(state(&status).get("running").is_some(), again, "{policy} after exit {code}");
        // A restart that the backend did not count is counted, and the end before it kept.
        assert_eq!(first(&status).restart_count, i32::from(again), "{policy} after exit {code}");
    }
}

#[test]
fn a_container_that_the_backend_lost_was_running_and_is_counted_as_restarted() {
    let pod = pod(json!({ "containers": [{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }] }));
    let mut pod = pod;
    let both = runtime(Sandbox::Ready, vec![running("a"), running("b")]);
    pod.status = Some(look(&pod, Some(&both), &Situation::Normal, 1));
    let lost = runtime(Sandbox::Ready, vec![running("b")]);
    let status = look(&pod, Some(&lost), &Situation::Normal, 2);
    let a = first(&status);
    assert_eq!(a.restart_count, 1);
    assert_eq!(a.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 137);
    assert_eq!(phase(&status), "Running");
}

#[test]
fn a_finished_init_container_that_is_no_longer_listed_has_succeeded() {
    let pod = pod(json!({
        "initContainers": [{ "name": "i", "image": "i" }, { "name": "s", "image": "i", "restartPolicy": "Always" }],
        "containers": [{ "name": "a", "image": "i" }]
    }));
    let seen = runtime(Sandbox::Ready, vec![running("s"), running("a")]);
    let status = look(&pod, Some(&seen), &Situation::Normal, 2);
    let init = serde_json::to_value(&status.init_container_statuses).unwrap();
    assert_eq!(init[0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!((&init[0]["ready"], &init[1]["ready"]), (&json!(true), &json!(true)));
    assert_eq!(phase(&status), "Running");
    assert_eq!(condition(&status, "Ready").unwrap().status, "True");
}

#[test]
fn a_pod_that_has_ended_keeps_its_status_and_open_containers_are_closed() {
    // Pod garbage collection has failed a pod whose container still ran.
    let mut pod = started(one("Always"));
    pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let alive = runtime(Sandbox::Ready, vec![running("a")]);
    let status = look(&pod, Some(&alive), &Situation::Normal, 4);
    assert_eq!((phase(&status), state(&status).get("running").is_some()), ("Failed", true));
    assert_eq!(condition(&status, "Ready").unwrap().status, "False");

    pod.status = Some(status);
    let dead = runtime(Sandbox::Gone, vec![terminated("a", 0)]);
    let status = look(&pod, Some(&dead), &Situation::Normal, 5);
    assert_eq!((phase(&status), &state(&status)["terminated"]["exitCode"]), ("Failed", &json!(0)));

    pod.status = Some(status);
    pod.metadata.generation = Some(2);
    let later = look(&pod, None, &ended(), 6);
    assert_eq!(status_patch("u", pod.status.as_ref().unwrap(), &later), None);
}

#[test]
fn addresses_are_one_per_family_with_the_nodes_family_first() {
    let mut seen = runtime(Sandbox::Ready, vec![running("a")]);
    seen.ips = ["fd00::7", "10.1.2.3", "10.9.9.9"].map(|ip| ip.parse().unwrap()).to_vec();
    let pod = one("Always");
    for (host, ips) in [("10.0.0.1", ["10.1.2.3", "fd00::7"]), ("fd00::1", ["fd00::7", "10.1.2.3"])] {
        let host_ips: [IpAddr; 1] = [host.parse().unwrap()];
        let situation = Situation::Normal;
        let status = pod_status(&StatusInput {
            pod: &pod,
            observed: Some(&seen),
            situation: &situation,
            host_ips: &host_ips,
            now: at(0),
        });
        assert_eq!(status.pod_ip.as_deref(), Some(ips[0]));
        assert_eq!(status.pod_ips.unwrap().iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>(), ips);
        assert_eq!(status.host_ip.as_deref(), Some(host));
    }
}

#[test]
fn a_replaced_address_leaves_no_trace_of_the_old_one() {
    let mut pod = one("Always");
    let mut seen = runtime(Sandbox::Ready, vec![running("a")]);
    seen.ips = vec![[10, 1, 0, 1].into()];
    pod.status = Some(look(&pod, Some(&seen), &Situation::Normal, 1));
    seen.ips = vec![[10, 1, 0, 2].into()];
    let status = look(&pod, Some(&seen), &Situation::Normal, 2);
    let patch = status_patch("u", pod.status.as_ref().unwrap(), &status).unwrap();
    assert_eq!(
        patch["status"],
        json!({
            "podIP": "10.1.0.2",
            "podIPs": [{ "ip": "10.1.0.2" }, { "$patch": "delete", "ip": "10.1.0.1" }],
            "$setElementOrder/podIPs": [{ "ip": "10.1.0.2" }]
        })
    );
}

#[test]
fn the_quality_of_service_class_is_kept_or_worked_out() {
    let class = |resources: Value| {
        let pod = pod(json!({ "containers": [{ "name": "a", "image": "i", "resources": resources }] }));
        look(&pod, None, &Situation::Normal, 0).qos_class.unwrap()
    };
    let cpu_and_memory = json!({ "cpu": "1", "memory": "1Gi" });
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({ "requests": { "cpu": "1m" } })), "Burstable");
    assert_eq!(class(json!({ "limits": cpu_and_memory })), "Guaranteed");
    assert_eq!(
        class(json!({ "limits": cpu_and_memory, "requests": { "cpu": "1000m", "memory": "1024Mi" } })),
        "Guaranteed"
    );
    assert_eq!(
        class(json!({ "limits": cpu_and_memory, "requests": { "cpu": "1", "memory": "1Mi" } })),
        "Burstable"
    );

    let mut pod = one("Always");
    pod.status = Some(PodStatus { qos_class: Some("Guaranteed".to_owned()), ..PodStatus::default() });
    assert_eq!(look(&pod, None, &Situation::Normal, 0).qos_class.as_deref(), Some("Guaranteed"));
}

#[test]
fn a_pods_resources_are_those_of_its_most_demanding_moment() {
    let cpu = |name: &str, cpu: &str, more: Value| {
        let mut container =
            json!({ "name": name, "image": "i", "resources": { "requests": { "cpu": cpu } } });
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let sidecar = json!({ "restartPolicy": "Always" });
    let total = |spec: Value| {
        let status = look(&pod(spec), None, &Situation::Normal, 0);
        let resources = serde_json::to_value(&status.resources).unwrap();
        assert_eq!(resources["requests"], serde_json::to_value(&status.allocated_resources).unwrap());
        resources["requests"]["cpu"].as_str().unwrap().to_owned()
    };
    let mains = [cpu("a", "100m", json!({})), cpu("b", "300m", json!({}))];
    assert_eq!(total(json!({ "containers": mains })), "400m");
    // An init container beside the sidecars before it, but not beside those after it.
    let init = [cpu("s", "50m", sidecar.clone()), cpu("i", "1", json!({})), cpu("t", "1", sidecar)];
    assert_eq!(total(json!({ "containers": mains, "initContainers": init })), "1450m");
    assert_eq!(total(json!({ "containers": mains, "initContainers": init[..2] })), "1050m");
    assert_eq!(
        total(
            json!({ "containers": mains, "overhead": { "cpu": "10m" }, "resources": { "requests": { "cpu": "2" } } })
        ),
        "2010m"
    );
}

#[test]
fn times_finer_than_a_second_make_no_patch() {
    let pod = started(one("Always"));
    let mut finer = pod.status.clone().unwrap();
    let nudge = |time: &mut Option<Time>| {
        if let Some(Time(time)) = time {
            *time += jiff::SignedDuration::from_millis(700);
        }
    };
    nudge(&mut finer.start_time);
    finer.conditions.iter_mut().flatten().for_each(|c| nudge(&mut c.last_transition_time));
    let running = finer.container_statuses.as_mut().unwrap()[0].state.as_mut().unwrap();
    nudge(&mut running.running.as_mut().unwrap().started_at);
    assert_eq!(status_patch("u", pod.status.as_ref().unwrap(), &finer), None);
}

#[test]
fn a_resized_container_tells_what_it_has_beside_what_it_was_allocated() {
    let resources = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu, "memory": memory } });
    let mut pod = pod(json!({
        "restartPolicy": "Never",
        "containers": [{ "name": "a", "image": "i", "resources": resources("200m", "64Mi") }],
    }));
    let has = |cpu: &str, memory: &str| {
        let mut container = running("a");
        container.container_id = Some("x://1".to_owned());
        container.resources = Some(Box::new(serde_json::from_value(resources(cpu, memory)).unwrap()));
        container.user = Some(LinuxUser { uid: 1000, gid: 1000, groups: vec![1000, 2000] });
        runtime(Sandbox::Ready, vec![container])
    };
    let in_progress = json!({ "conditions": [{ "type": "PodResizeInProgress", "status": "True" }] });
    pod.status = Some(serde_json::from_value(in_progress).unwrap());
    let status = look(&pod, Some(&has("100m", "32Mi")), &Situation::Normal, 2);
    let told = serde_json::to_value(&status).unwrap();
    assert_eq!(told["containerStatuses"][0]["resources"], resources("100m", "32Mi"));
    assert_eq!(told["containerStatuses"][0]["allocatedResources"], resources("200m", "64Mi")["requests"]);
    assert_eq!(
        (&told["resources"]["requests"]["cpu"], &told["allocatedResources"]["cpu"]),
        (&json!("100m"), &json!("200m"))
    );
    let user = json!({ "linux": { "uid": 1000, "gid": 1000, "supplementalGroups": [1000, 2000] } });
    assert_eq!(told["containerStatuses"][0]["user"], user);
    assert_eq!(told["conditions"][0]["type"], "PodResizeInProgress", "before all others");

    // The run goes on saying what it said of memory, which nothing of it can be read back from.
    pod.status = Some(status);
    let status = look(&pod, Some(&has("200m", "64Mi")), &Situation::Normal, 3);
    let told = serde_json::to_value(&status).unwrap();
    assert_eq!(told["containerStatuses"][0]["resources"], resources("200m", "32Mi"));

    // Nothing is changed any more when the pod has ended.
    let mut end = runtime(Sandbox::Gone, vec![terminated("a", 0)]);
    end.containers[0].container_id = Some("x://1".to_owned());
    let told = serde_json::to_value(look(&pod, Some(&end), &Situation::Normal, 4)).unwrap();
    assert_eq!(told["conditions"][0]["type"], "PodReadyToStartContainers");
    assert_eq!(told["containerStatuses"][0]["user"], user, "who ran it is remembered");
}
