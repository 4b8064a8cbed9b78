//! Pods from their creation to the end of their objects.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::bed::Bed;
use crate::pod::Seen;
use crate::stop::{Checked, Stop, demand};
use crate::workload::{GRACE, Script};

/// The container of most pods.
const APP: &str = "app";

/// How long a pod may be there after its deletion: its grace period, and one change's time.
fn going(bed: &Bed) -> Duration {
    Duration::from_secs(GRACE) + bed.patience()
}

pub(super) fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Whether a container id is `RUNTIME://ID`.
fn is_container_id(id: &str) -> bool {
    id.split_once("://").is_some_and(|(runtime, id)| !runtime.is_empty() && !id.is_empty())
}

/// A running pod has everything that users and controllers read.
pub async fn a_pod_runs(bed: &Bed) -> Checked {
    let pod = bed.start("runs", &bed.workload().running(APP, &Script::forever())).await?;
    let status = pod.status();
    for key in ["podIP", "hostIP", "startTime"] {
        demand!(!text_of(status, key).is_empty(), "the running pod has no status.{key}");
    }
    for (list, single) in [("podIPs", "podIP"), ("hostIPs", "hostIP")] {
        demand!(status[list][0]["ip"] == status[single], "status.{list}[0] is not status.{single}");
    }
    let ip = text_of(status, "podIP");
    demand!(ip.parse::<std::net::IpAddr>().is_ok(), "status.podIP is {ip:?}");
    let Some(container) = pod.container(APP) else {
        return Err(Stop::failed("the running pod has no container status"));
    };
    demand!(
        is_container_id(text_of(container, "containerID")),
        "containerID is {}",
        container["containerID"]
    );
    demand!(!text_of(container, "image").is_empty(), "the container status has no image");
    demand!(
        container["ready"] == true && container["started"] == true,
        "the container is not ready and started"
    );
    demand!(container["restartCount"] == 0, "restartCount is {}", container["restartCount"]);
    let since = text_of(&container["state"]["running"], "startedAt");
    demand!(!since.is_empty(), "state.running has no startedAt: {}", container["state"]);
    Ok(())
}

/// A deleted pod goes.
pub async fn a_deleted_pod_goes_in_time(bed: &Bed) -> Checked {
    let pod = bed.start("goes", &bed.workload().running(APP, &Script::forever())).await?;
    bed.delete(&pod, None).await?;
    bed.until_gone(&pod, going(bed)).await.map(drop)
}

/// A pod that ignores SIGTERM has its grace period, and no more than a little beyond.
pub async fn a_deletion_outlives_its_grace_by_little(bed: &Bed) -> Checked {
    let pod = bed.start("stubborn", &bed.workload().running(APP, &Script::stubborn())).await?;
    let began = tokio::time::Instant::now();
    bed.delete(&pod, None).await?;
    bed.until_gone(&pod, going(bed)).await?;
    let took = began.elapsed();
    // Whole seconds are what a kubelet counts.
    let least = Duration::from_secs(GRACE - 1);
    demand!(took >= least, "the pod ignores SIGTERM, has {GRACE} s, and was gone after {took:?}");
    Ok(())
}

/// A second deletion, with less grace, is taken.
pub async fn a_second_deletion_does_no_harm(bed: &Bed) -> Checked {
    let workload = bed.workload().running(APP, &Script::stubborn());
    let pod = bed.start("twice", &workload).await?;
    bed.delete(&pod, Some(10)).await?;
    // Well within its grace period.
    sleep(Duration::from_secs(1)).await;
    match bed.delete(&pod, Some(3)).await {
        Err(Stop::Failed(seen)) => {
            Err(Stop::Failed(format!("a second after its deletion with 10 s: {seen}")))
        }
        other => other,
    }?;
    bed.until_gone(&pod, Duration::from_secs(10) + bed.patience()).await.map(drop)
}

/// A pod under a name that was used before is a pod of its own.
pub async fn the_same_name_again_is_a_new_pod(bed: &Bed) -> Checked {
    let workload = bed.workload().running(APP, &Script::forever());
    let old = bed.start("again", &workload).await?;
    bed.delete(&old, None).await?;
    bed.until_gone(&old, going(bed)).await?;
    let new = bed.start("again", &workload).await?;
    is_another(&old, &new)
}

fn is_another(old: &Seen, new: &Seen) -> Checked {
    demand!(old.uid() != new.uid(), "the pod has the UID of the old one");
    let id = |pod: &Seen| pod.container(APP).map(|status| status["containerID"].clone()).unwrap_or_default();
    demand!(id(new).is_string(), "the container has no containerID");
    demand!(id(old) != id(new), "the container has the id of the old one, {}", id(new));
    demand!(new.restarts(APP) == 0, "the container has {} restarts", new.restarts(APP));
    Ok(())
}

/// After a forced deletion the name is free.
pub async fn a_forced_deletion_frees_the_name(bed: &Bed) -> Checked {
    let workload = bed.workload().running(APP, &Script::forever());
    let old = bed.start("forced", &workload).await?;
    bed.delete(&old, Some(0)).await?;
    bed.until_gone(&old, bed.patience()).await?;
    let new = bed.start("forced", &workload).await?;
    is_another(&old, &new)
}

/// The object of a deleted pod says how it ended, before it goes.
pub async fn an_end_is_told_before_the_object_goes(bed: &Bed) -> Checked {
    let pod = bed.start("ends", &bed.workload().running(APP, &Script::forever())).await?;
    bed.delete(&pod, None).await?;
    let last = bed.until_gone(&pod, going(bed)).await?;
    ended(&last)
}

fn ended(last: &Seen) -> Checked {
    demand!(last.is_terminal(), "the last status is not a terminal one: {}", last.in_short());
    let Some(end) = last.terminated(APP) else {
        return Err(Stop::failed(format!("the container has not terminated: {}", last.in_short())));
    };
    demand!(end["exitCode"].is_i64(), "state.terminated has no exitCode");
    Ok(())
}

/// A finalizer keeps the object, not the containers.
pub async fn a_finalizer_holds_the_object_alone(bed: &Bed) -> Checked {
    let workload = bed
        .workload()
        .running(APP, &Script::forever())
        .marked("finalizers", json!(["vk-node-conformance.example.com/hold"]));
    let pod = bed.start("held", &workload).await?;
    bed.delete(&pod, None).await?;
    let held = bed
        .until_within("held", "ended", going(bed), |pod| ended(pod).map_err(|stop| stop.to_string()))
        .await?;
    demand!(!held.text("/metadata/deletionTimestamp").is_empty(), "the pod ended without being deleted");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    bed.pods().patch("held", &PatchParams::default(), &patch).await?;
    bed.until_gone(&pod, bed.patience()).await.map(drop)
}

/// Exit codes make phases and reasons.
pub async fn exit_codes_are_kept(bed: &Bed) -> Checked {
    for (name, code, phase, reason) in
        [("exits-with-0", 0, "Succeeded", "Completed"), ("exits-with-3", 3, "Failed", "Error")]
    {
        bed.create(name, &bed.workload().running(APP, &Script::exits(code, 1))).await?;
        let pod = bed.until_ended(name).await?;
        demand!(pod.phase() == phase, "a pod that ended with {code} {}", pod.in_short());
        let Some(end) = pod.terminated(APP) else {
            return Err(Stop::failed(format!("the container has not terminated: {}", pod.in_short())));
        };
        demand!(end["exitCode"] == code, "exitCode is {}, not {code}", end["exitCode"]);
        demand!(end["reason"] == reason, "the reason is {}, not {reason}", end["reason"]);
        let (from, to) = (text_of(end, "startedAt"), text_of(end, "finishedAt"));
        demand!(!from.is_empty() && from <= to, "startedAt is {from:?}, finishedAt {to:?}");
        demand!(is_container_id(text_of(end, "containerID")), "containerID is {}", end["containerID"]);
    }
    Ok(())
}

/// A Job whose pod succeeds is complete.
/// Not applicable without a Job controller.
pub async fn a_job_completes(bed: &Bed) -> Checked {
    job(bed, 0, "Complete").await
}

/// A Job whose pod fails is failed.
/// Not applicable without a Job controller.
pub async fn a_job_fails(bed: &Bed) -> Checked {
    job(bed, 3, "Failed").await
}

/// How long a Job controller may take to make a pod.
const CONTROLLER: Duration = Duration::from_secs(20);

async fn job(bed: &Bed, code: u8, wanted: &str) -> Checked {
    let name = format!("exits-with-{code}");
    let template = bed.workload().running(APP, &Script::exits(code, 1)).template();
    let spec = json!({"backoffLimit": 0, "template": template});
    let _: Job = bed.make(json!({"metadata": {"name": name}, "spec": spec})).await?;
    let pods = bed.pods();
    let made = bed
        .poll("no pod", CONTROLLER, async || {
            let pods: Vec<Pod> =
                pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            if pods.is_empty() { Err(String::new()) } else { Ok(()) }
        })
        .await;
    if made.is_err() {
        return Err(Stop::not_applicable(format!("no Job controller made a pod within {CONTROLLER:?}")));
    }
    let jobs = bed.api::<Job>();
    let complaint = format!("the Job is not {wanted}");
    bed.poll(&complaint, bed.patience() * 2, async || {
        let job = jobs.get(&name).await.map_err(|error| error.to_string())?;
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        let holds = conditions.iter().any(|entry| entry.type_ == wanted && entry.status == "True");
        if holds {
            Ok(())
        } else {
            Err(format!("{:?}", conditions.iter().map(|c| &c.type_).collect::<Vec<_>>()))
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_id_has_a_runtime() {
        assert!(is_container_id("mock://abc"));
        assert!(!is_container_id("abc") && !is_container_id("://abc") && !is_container_id("mock://"));
    }
}
