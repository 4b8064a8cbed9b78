//! Jobs, what they make of their pods' ends, and CronJobs.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{EvictParams, ListParams};
use serde_json::{Value, json};

use crate::agreement::agree;
use crate::history::History;
use crate::objects::Objects;
use crate::pods::{Pods, condition, container, exit_code, is_true, phase_of, uid_of};
use crate::scenario::controllers::until_nothing_is_left;
use crate::virtual_node::VirtualNode;
use crate::wait::eventually_within;
use crate::workload::{job, template};
use crate::world::World;

/// Why a Job has this condition, if it has.
fn reason(job: &Job, kind: &str) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?;
    Some(found.reason.clone().unwrap_or_default())
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_default()
}

/// A Job with more in its specification than a template.
fn job_with(name: &str, node: &VirtualNode, script: &[(&str, &str)], more: Value) -> Value {
    let mut object = job(name, &node.name, script);
    if let (Some(spec), Value::Object(more)) = (object["spec"].as_object_mut(), more) {
        spec.extend(more);
    }
    object
}

/// A Job completes when its pods have, each of which ran once.
pub async fn a_job_whose_pods_succeed_is_complete(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let jobs = Objects::<Job>::of(world);
    let more = json!({"completions": 4, "parallelism": 2});
    jobs.create(job_with("good", &node, &[("run-duration", "300ms")], more)).await;
    let job = jobs.until("good", "is complete", |job| reason(job, "Complete").is_some()).await;
    assert_eq!((status(&job).succeeded, status(&job).failed), (Some(4), None), "{:#?}", job.status);
    let ended = pods.list().await;
    assert_eq!(ended.len(), 4);
    for pod in &ended {
        assert_eq!((phase_of(pod), exit_code(pod)), (Some("Succeeded"), Some(0)), "{:#?}", pod.status);
    }
    agree(world, &node).await;
    assert_eq!(node.backend.ledger().started, 4);
    jobs.delete("good").await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// A Job fails when its pod does, and the pod's exit code is in its status.
pub async fn a_job_whose_pod_fails_has_failed_with_its_exit_code(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let jobs = Objects::<Job>::of(world);
    let script = [("run-duration", "300ms"), ("exit-code", "42")];
    jobs.create(job_with("bad", &node, &script, json!({"backoffLimit": 0}))).await;
    let job = jobs.until("bad", "has failed", |job| reason(job, "Failed").is_some()).await;
    assert_eq!(reason(&job, "Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(status(&job).failed, Some(1), "{:#?}", job.status);
    let ended = pods.list().await;
    assert_eq!(ended.len(), 1);
    assert_eq!((phase_of(&ended[0]), exit_code(&ended[0])), (Some("Failed"), Some(42)));
    agree(world, &node).await;
    jobs.delete("bad").await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// A Job whose containers are restarted in place completes with the pod that it began with.
pub async fn a_job_restarts_its_container_until_it_succeeds(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let jobs = Objects::<Job>::of(world);
    let mut object = job("again", &node.name, &[("run-duration", "200ms"), ("exit-code", "3,0")]);
    object["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    jobs.create(object).await;
    jobs.until("again", "is complete", |job| reason(job, "Complete").is_some()).await;
    let ended = pods.list().await;
    assert_eq!((ended.len(), history.count()), (1, 1));
    let container = container(&ended[0]).expect("a container status");
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    assert_eq!((container.restart_count, last.map(|last| last.exit_code)), (1, Some(3)), "{container:#?}");
    agree(world, &node).await;
    jobs.delete("again").await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// A pod failure policy that fails the Job on an exit code does, at the first pod; another exit code counts.
pub async fn a_pod_failure_policy_fails_the_job_on_its_exit_code(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let jobs = Objects::<Job>::of(world);
    let policy = json!({"backoffLimit": 1, "podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "a", "operator": "In", "values": [42]}},
    ]}});
    let script = |code| [("run-duration", "200ms"), ("exit-code", code)];
    jobs.create(job_with("policy", &node, &script("42"), policy.clone())).await;
    let job = jobs.until("policy", "has failed", |job| reason(job, "Failed").is_some()).await;
    assert_eq!(reason(&job, "Failed").as_deref(), Some("PodFailurePolicy"), "{:#?}", job.status);
    assert_eq!(history.count(), 1, "no second pod was tried");
    agree(world, &node).await;

    jobs.create(job_with("counts", &node, &script("7"), policy)).await;
    let job = jobs.until("counts", "has failed", |job| reason(job, "Failed").is_some()).await;
    assert_eq!(reason(&job, "Failed").as_deref(), Some("BackoffLimitExceeded"), "{:#?}", job.status);
    assert_eq!(history.count(), 3, "a second pod was tried");
    agree(world, &node).await;
    for name in ["policy", "counts"] {
        jobs.delete(name).await;
    }
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// The Job's pod that is ready and none of these.
async fn another(pods: &Pods, known: &[&Pod]) -> Pod {
    let is_new = |pod: &Pod| is_true(pod, "Ready") && known.iter().all(|known| known.uid() != pod.uid());
    let list = pods.until_all("another ready pod of the Job", |list| list.iter().any(is_new)).await;
    list.into_iter().find(is_new).expect("it was just there")
}

/// A pod failure policy that ignores disruptions does so when the backend took a pod away and when the eviction API
/// did: the Job goes on, though it has no failure to spare.
pub async fn a_disruption_does_not_count_against_a_job(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let jobs = Objects::<Job>::of(world);
    let policy = json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]}});
    let script = [("run-duration", "1h"), ("termination-exit-code", "143"), ("termination-latency", "300ms")];
    jobs.create(job_with("long", &node, &script, policy)).await;
    let reclaimed = another(&pods, &[]).await;
    assert!(node.backend.evict(&uid_of(&reclaimed), "SpotReclaimed", "the machine was taken away"));

    let evicted = another(&pods, &[&reclaimed]).await;
    pods.api.evict(&evicted.name_any(), &EvictParams::default()).await.expect("the eviction is accepted");

    let last = another(&pods, &[&reclaimed, &evicted]).await;
    assert!(node.backend.exit(&uid_of(&last), "a", 0));
    let job = jobs.until("long", "is complete", |job| reason(job, "Complete").is_some()).await;
    assert_eq!((status(&job).succeeded, status(&job).failed), (Some(1), None), "{:#?}", job.status);
    assert_eq!(history.count(), 3);
    agree(world, &node).await;

    let lost = pods.get(&reclaimed.name_any()).await;
    assert_eq!(phase_of(&lost), Some("Failed"));
    assert!(is_true(&lost, "DisruptionTarget"), "{:#?}", lost.status);
    let gone = history.last_of(&uid_of(&evicted)).await;
    assert_eq!((phase_of(&gone), exit_code(&gone)), (Some("Failed"), Some(143)), "{:#?}", gone.status);
    let disruption = condition(&gone, "DisruptionTarget").and_then(|condition| condition.reason.as_deref());
    assert_eq!(disruption, Some("EvictionByEvictionAPI"), "{:#?}", gone.status);
    jobs.delete("long").await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}

/// A CronJob makes its Job when it is time, and the Job's pod runs.
///
/// Needs the real controllers, and waits for the next full minute.
pub async fn a_cron_jobs_pod_runs_when_it_is_time(world: &World) {
    let node = VirtualNode::ready(world).await;
    let pods = Pods::of(world);
    let history = History::of(world).await;
    let crons = Objects::<CronJob>::of(world);
    let jobs = Objects::<Job>::of(world);
    let mut pod = template("tick", &node.name, &[("run-duration", "200ms")]);
    pod["spec"]["restartPolicy"] = json!("Never");
    crons
        .create(json!({"metadata": {"name": "tick"}, "spec": {
            "schedule": "* * * * *", "jobTemplate": {"spec": {"template": pod}},
        }}))
        .await;
    let made = eventually_within("the CronJob's Job", Duration::from_secs(90), async || {
        let list = jobs.api.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        list.into_iter().next().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    let owner = made.owner_references().first().map(|owner| (owner.kind.clone(), owner.name.clone()));
    assert_eq!(owner, Some(("CronJob".to_owned(), "tick".to_owned())));
    jobs.until(&made.name_any(), "is complete", |job| reason(job, "Complete").is_some()).await;
    // No second one while the first is looked at.
    crons.patch("tick", &json!({"spec": {"suspend": true}})).await;
    agree(world, &node).await;
    assert!(pods.list().await.iter().all(|pod| exit_code(pod) == Some(0)));
    crons.delete("tick").await;
    until_nothing_is_left(world, &node, &pods).await;
    history.assert_no_flaps();
    node.remove(world).await;
}
