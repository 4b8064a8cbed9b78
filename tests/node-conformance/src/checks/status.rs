//! What is written about pods, and how often.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::lifecycle::text_of;
use crate::bed::Bed;
use crate::pod::Seen;
use crate::stop::{Checked, Stop, demand};
use crate::workload::Script;

/// The conditions that a kubelet keeps, whoever wrote the first.
const CONDITIONS: [&str; 5] =
    ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];
/// Those of them that are a kubelet's own.
const OWN: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// The conditions of a running pod are a kubelet's.
pub async fn conditions_are_a_kubelets(bed: &Bed) -> Checked {
    let pod = bed.start("conditions", &bed.workload().running("app", &Script::forever())).await?;
    for kind in CONDITIONS {
        let Some(condition) = pod.condition(kind) else {
            return Err(Stop::failed(format!("the running pod has no condition {kind}")));
        };
        demand!(condition["status"] == "True", "condition {kind} is {}", condition["status"]);
        demand!(
            !text_of(condition, "lastTransitionTime").is_empty(),
            "condition {kind} has no lastTransitionTime"
        );
    }
    let mut kinds: Vec<&str> = pod.conditions().iter().map(|entry| text_of(entry, "type")).collect();
    kinds.sort_unstable();
    let all = kinds.len();
    kinds.dedup();
    demand!(kinds.len() == all, "a condition is there twice: {kinds:?}");
    Ok(())
}

/// The node says which generation of the pod it has seen.
/// Not applicable where the API server counts none.
pub async fn generations_are_observed(bed: &Bed) -> Checked {
    bed.start("observed", &bed.workload().running("app", &Script::forever())).await?;
    let observed = |pod: &Seen| -> Result<(), String> {
        let generation = &pod.0["metadata"]["generation"];
        let seen = &pod.status()["observedGeneration"];
        if seen != generation {
            return Err(format!("generation is {generation}, status.observedGeneration {seen}"));
        }
        for kind in OWN {
            let seen = pod.condition(kind).map_or(&Value::Null, |entry| &entry["observedGeneration"]);
            if seen != generation {
                return Err(format!("generation is {generation}, observedGeneration of {kind} {seen}"));
            }
        }
        Ok(())
    };
    let pod = bed.until_ready("observed").await?;
    if !pod.0["metadata"]["generation"].is_i64() {
        return Err(Stop::not_applicable("the API server counts no generations of pods"));
    }
    bed.until("observed", "observed in its first generation", observed).await?;
    let patch = Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 36_000}}));
    bed.pods().patch("observed", &PatchParams::default(), &patch).await?;
    bed.until("observed", "observed in its second generation", |pod| {
        if pod.0["metadata"]["generation"] == 2 {
            observed(pod)
        } else {
            Err("it is not there yet".to_owned())
        }
    })
    .await
    .map(drop)
}

/// What a status said is not taken back.
pub async fn nothing_goes_backwards(bed: &Bed) -> Checked {
    bed.create("forwards", &bed.workload().running("app", &Script::exits(0, 2))).await?;
    let pod = bed.until_ended("forwards").await?;
    demand!(pod.phase() == "Succeeded", "{}", pod.in_short());
    bed.delete(&pod, None).await?;
    bed.until_gone(&pod, bed.patience()).await?;
    forwards(&bed.versions(&pod)?)
}

/// Whether each of a pod's versions may follow the one before.
fn forwards(versions: &[Arc<Seen>]) -> Checked {
    let rank = |pod: &Seen| match pod.phase() {
        "" | "Pending" => 0,
        "Running" => 1,
        "Succeeded" | "Failed" => 2,
        _ => -1,
    };
    for (before, now) in versions.iter().zip(versions.iter().skip(1)) {
        demand!(rank(now) >= 0, "phase {:?} is none", now.phase());
        demand!(rank(now) >= rank(before), "the phase went from {} to {}", before.phase(), now.phase());
        demand!(
            !before.is_terminal() || before.phase() == now.phase(),
            "the phase went from {} to {}",
            before.phase(),
            now.phase()
        );
        let start = |pod: &Seen| pod.text("/status/startTime").to_owned();
        demand!(
            start(before).is_empty() || start(before) == start(now),
            "startTime went from {} to {}",
            start(before),
            start(now)
        );
        demand!(now.restarts("app") >= before.restarts("app"), "restartCount went down");
        for condition in now.conditions() {
            let kind = text_of(condition, "type");
            let Some(old) = before.condition(kind) else { continue };
            let moved = old["lastTransitionTime"] != condition["lastTransitionTime"];
            demand!(
                !moved || old["status"] != condition["status"],
                "lastTransitionTime of {kind} moved, its status did not"
            );
        }
    }
    Ok(())
}

/// Nothing is written about a pod at which nothing happens.
pub async fn an_idle_pod_is_left_alone(bed: &Bed) -> Checked {
    let pod = bed.start("idle", &bed.workload().running("app", &Script::forever())).await?;
    // What belongs to the start may come a little later.
    sleep(bed.settings().idle / 3).await;
    let before = bed.versions(&pod)?.len();
    sleep(bed.settings().idle).await;
    let versions = bed.versions(&pod)?;
    demand!(
        versions.len() == before,
        "{} versions were written in {:?}, the last one: {}",
        versions.len() - before,
        bed.settings().idle,
        versions.last().map(|pod| pod.status().to_string()).unwrap_or_default()
    );
    Ok(())
}

/// The class of the quality of service is kept.
pub async fn the_quality_of_service_stays(bed: &Bed) -> Checked {
    let amounts = json!({"cpu": "10m", "memory": "16Mi"});
    let classes = [
        ("Guaranteed", json!({"requests": amounts, "limits": amounts})),
        ("Burstable", json!({"requests": amounts})),
        ("BestEffort", json!({})),
    ];
    for (class, resources) in &classes {
        let script = Script::forever().with("resources", resources.clone());
        bed.create(&class.to_lowercase(), &bed.workload().running("app", &script)).await?;
    }
    for (class, _) in classes {
        let pod = bed.until_ready(&class.to_lowercase()).await?;
        demand!(pod.status()["qosClass"] == class, "qosClass is {}, not {class}", pod.status()["qosClass"]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(status: &Value) -> Arc<Seen> {
        Arc::new(Seen(json!({"status": status})))
    }

    fn complaint(versions: &[Value]) -> String {
        let versions: Vec<_> = versions.iter().map(version).collect();
        match forwards(&versions) {
            Ok(()) => String::new(),
            Err(Stop::Failed(seen) | Stop::NotApplicable(seen)) => seen,
        }
    }

    #[test]
    fn what_goes_backwards_is_named() {
        let phase = |phase: &str| json!({"phase": phase});
        assert_eq!(complaint(&[phase("Pending"), phase("Running"), phase("Running"), phase("Failed")]), "");
        assert_eq!(
            complaint(&[phase("Running"), phase("Pending")]),
            "the phase went from Running to Pending"
        );
        assert_eq!(
            complaint(&[phase("Failed"), phase("Succeeded")]),
            "the phase went from Failed to Succeeded"
        );
        assert_eq!(complaint(&[phase("Pending"), phase("Weird")]), "phase \"Weird\" is none");
        let start = |time: &str| json!({"phase": "Running", "startTime": time});
        assert!(complaint(&[start("1"), start("2")]).contains("startTime went from 1 to 2"));
        let restarts = |count: i64| json!({"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": count}]});
        assert_eq!(complaint(&[restarts(0), restarts(1)]), "");
        assert_eq!(complaint(&[restarts(2), restarts(1)]), "restartCount went down");
        let ready = |status: &str, time: &str| {
            json!({"phase": "Running",
                "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": time}]})
        };
        assert_eq!(complaint(&[ready("False", "1"), ready("True", "2")]), "");
        assert!(complaint(&[ready("True", "1"), ready("True", "2")]).contains("of Ready moved"));
    }
}
