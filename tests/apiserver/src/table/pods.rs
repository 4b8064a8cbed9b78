//! A pod's row, above all its `STATUS`.

use jiff::Timestamp;
use serde_json::Value;

use super::age::{human, since};
use super::{Printer, list, narrow, number, text, wide};
use crate::clock::parse_time;

pub(super) const PODS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Ready"),
        narrow("Status"),
        narrow("Restarts"),
        narrow("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

/// What the container statuses add up to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    initializing: bool,
}

impl Summary {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += number(status, "/restartCount");
        let ended = status["lastState"]["terminated"]["finishedAt"].as_str().and_then(parse_time);
        self.last_restart = self.last_restart.max(ended);
    }
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let sidecars = list(pod, "/spec/initContainers").filter(|c| c["restartPolicy"] == "Always").count();
    let total = list(pod, "/spec/containers").count() + sidecars;
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, human(now.as_second() - at.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        text(pod, "/metadata/name", "").into(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        since(pod["metadata"]["creationTimestamp"].as_str(), now).into(),
        text(pod, "/status/podIP", "<none>").into(),
        text(pod, "/spec/nodeName", "<none>").into(),
        text(pod, "/status/nominatedNodeName", "<none>").into(),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates: Vec<&Value> = list(pod, "/spec/readinessGates").collect();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = |gate: &&&Value| {
        list(pod, "/status/conditions").any(|c| c["type"] == gate["conditionType"] && c["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len())
}

fn summary(pod: &Value) -> Summary {
    let mut s = Summary { reason: text(pod, "/status/phase", "Unknown"), ..Summary::default() };
    if let Some(reason) = pod["status"]["reason"].as_str().filter(|r| !r.is_empty()) {
        reason.clone_into(&mut s.reason);
    }
    if list(pod, "/status/conditions")
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        s.reason = "SchedulingGated".into();
    }
    init_containers(pod, &mut s);
    let initialized =
        list(pod, "/status/conditions").any(|c| c["type"] == "Initialized" && c["status"] == "True");
    if !s.initializing || initialized {
        main_containers(pod, &mut s);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        s.reason = if pod["status"]["reason"] == "NodeLost" { "Unknown" } else { "Terminating" }.into();
    }
    s
}

fn init_containers(pod: &Value, s: &mut Summary) {
    let total = list(pod, "/spec/initContainers").count();
    for (at, status) in list(pod, "/status/initContainerStatuses").enumerate() {
        s.count_restarts(status);
        let spec = list(pod, "/spec/initContainers").find(|c| c["name"] == status["name"]);
        let sidecar = spec.is_some_and(|c| c["restartPolicy"] == "Always");
        let (ended, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if ended.is_object() && number(ended, "/exitCode") == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            s.ready += usize::from(status["ready"] == true);
            continue;
        }
        s.reason = if ended.is_object() {
            format!("Init:{}", end_of(ended))
        } else {
            match waiting["reason"].as_str() {
                Some(reason) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
                _ => format!("Init:{at}/{total}"),
            }
        };
        s.initializing = true;
        return;
    }
}

fn main_containers(pod: &Value, s: &mut Summary) {
    s.restarts = list(pod, "/status/initContainerStatuses")
        .filter(|status| {
            list(pod, "/spec/initContainers")
                .any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always")
        })
        .map(|status| number(status, "/restartCount"))
        .sum();
    let statuses: Vec<&Value> = list(pod, "/status/containerStatuses").collect();
    let mut running = false;
    for status in statuses.into_iter().rev() {
        s.count_restarts(status);
        let (ended, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if let Some(reason) = waiting["reason"].as_str().filter(|r| !r.is_empty()) {
            reason.clone_into(&mut s.reason);
        } else if ended.is_object() {
            s.reason = end_of(ended);
        } else if status["ready"] == true && status["state"]["running"].is_object() {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" && running {
        let ready = list(pod, "/status/conditions").any(|c| c["type"] == "Ready" && c["status"] == "True");
        s.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}

/// Why a container ended.
fn end_of(ended: &Value) -> String {
    match (ended["reason"].as_str().unwrap_or(""), number(ended, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(ended, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(pod: &Value) -> Vec<String> {
        let cells = cells(pod, "2026-01-01T00:10:00Z".parse().unwrap());
        cells.iter().map(|c| c.as_str().unwrap_or("").to_owned()).collect()
    }

    #[test]
    fn the_status_of_a_pod_is_its_containers() {
        let with = |state: Value| {
            json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "restartCount": 2, "state": state,
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]}})
        };
        let waiting = row(&with(json!({"waiting": {"reason": "CrashLoopBackOff"}})));
        assert_eq!(waiting[1..4], ["0/1", "CrashLoopBackOff", "2 (5m ago)"]);
        assert_eq!(row(&with(json!({"terminated": {"exitCode": 3}})))[2], "ExitCode:3");
        assert_eq!(row(&with(json!({"terminated": {"exitCode": 3, "reason": "Error"}})))[2], "Error");
        let mut going = with(json!({"running": {}}));
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(row(&going)[2], "Terminating");
    }

    #[test]
    fn init_containers_come_first() {
        let pod = json!({
            "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]},
        });
        assert_eq!(row(&pod)[2], "Init:1/2");
    }
}
