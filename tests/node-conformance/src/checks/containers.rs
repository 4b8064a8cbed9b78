//! Containers of a pod: their order, and their restarts.

use serde_json::{Value, json};

use super::lifecycle::text_of;
use crate::bed::Bed;
use crate::stop::{Checked, Stop, demand};
use crate::workload::Script;

/// Init containers run one after the other, before the app.
pub async fn init_containers_run_in_order(bed: &Bed) -> Checked {
    let workload = bed
        .workload()
        .after("first", &Script::exits(0, 1))
        .after("second", &Script::exits(0, 1))
        .running("app", &Script::forever());
    let pod = bed.start("in-order", &workload).await?;
    let mut before = String::new();
    for name in ["first", "second"] {
        let Some(end) = pod.terminated(name) else {
            return Err(Stop::failed(format!(
                "init container {name} has not terminated: {}",
                pod.in_short()
            )));
        };
        demand!(end["exitCode"] == 0, "init container {name} ended with {}", end["exitCode"]);
        let (from, to) = (text_of(end, "startedAt"), text_of(end, "finishedAt"));
        demand!(
            !from.is_empty() && before.as_str() <= from,
            "{name} started at {from}, the one before ended at {before}"
        );
        to.clone_into(&mut before);
    }
    let started = pod.container("app").map(|status| &status["state"]["running"]["startedAt"]);
    let started = started.and_then(Value::as_str).unwrap_or_default();
    demand!(
        before.as_str() <= started,
        "the app started at {started}, the last init container ended at {before}"
    );
    demand!(pod.is_true("Initialized"), "condition Initialized is not True");
    for version in bed.versions(&pod)? {
        let app_began = version
            .container("app")
            .is_some_and(|app| app["state"]["running"].is_object() || app["state"]["terminated"].is_object());
        let all_done = ["first", "second"].iter().all(|name| version.terminated(name).is_some());
        demand!(
            !app_began || all_done,
            "a version of the pod has the app running before its init containers: {}",
            version.in_short()
        );
    }
    Ok(())
}

/// An init container that fails for good is the pod's end.
pub async fn a_failed_init_container_fails_the_pod(bed: &Bed) -> Checked {
    let workload = bed.workload().after("first", &Script::exits(4, 1)).running("app", &Script::forever());
    bed.create("init-fails", &workload).await?;
    let pod = bed.until_ended("init-fails").await?;
    demand!(pod.phase() == "Failed", "{}", pod.in_short());
    let code = pod.terminated("first").map(|end| end["exitCode"].clone()).unwrap_or_default();
    demand!(code == 4, "the init container's exitCode is {code}, not 4");
    for version in bed.versions(&pod)? {
        let ran = version.container("app").is_some_and(|app| app["state"]["running"].is_object());
        demand!(!ran, "the app ran although an init container failed");
    }
    Ok(())
}

/// What ends is restarted, with pauses.
pub async fn always_restarts(bed: &Bed) -> Checked {
    let workload = bed.workload().running("app", &Script::exits(1, 0)).with("restartPolicy", json!("Always"));
    bed.create("restarts", &workload).await?;
    let pod = bed
        .until("restarts", "restarted", |pod| {
            let last = pod.container("app").map(|app| &app["lastState"]["terminated"]);
            match last {
                Some(last) if pod.restarts("app") > 0 && last.is_object() => Ok(()),
                _ => Err(format!("{}, {} restarts", pod.in_short(), pod.restarts("app"))),
            }
        })
        .await?;
    let code = pod.container("app").map(|app| app["lastState"]["terminated"]["exitCode"].clone());
    demand!(code == Some(json!(1)), "lastState has exit code {code:?}, not 1");
    bed.until("restarts", "waiting in CrashLoopBackOff", |pod| match pod.waiting_reason("app") {
        "CrashLoopBackOff" => Ok(()),
        _ => Err(pod.in_short()),
    })
    .await?;
    for version in bed.versions(&pod)? {
        demand!(!version.is_terminal(), "the pod was {} although it is always restarted", version.phase());
    }
    Ok(())
}

/// What ended well is left alone.
pub async fn on_failure_leaves_success_alone(bed: &Bed) -> Checked {
    let workload =
        bed.workload().running("app", &Script::exits(0, 1)).with("restartPolicy", json!("OnFailure"));
    bed.create("succeeds", &workload).await?;
    let pod = bed.until_ended("succeeds").await?;
    demand!(pod.phase() == "Succeeded", "{}", pod.in_short());
    demand!(pod.restarts("app") == 0, "it was restarted {} times", pod.restarts("app"));
    Ok(())
}
