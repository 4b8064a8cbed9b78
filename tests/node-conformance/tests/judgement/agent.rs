//! A small agent that writes statuses as it is told, true ones or lies. There is nothing behind them.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cluster::{Cluster, NODE};

/// How it answers deletions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Deletes {
    /// After the grace period, with a terminal status before.
    #[default]
    AsAKubelet,
    /// At once, whatever the grace period.
    AtOnce,
    /// After the grace period, without a word.
    Silently,
    Never,
}

/// What an agent does.
#[derive(Clone)]
pub(crate) struct Agent {
    /// Changes the true status before it is written.
    pub(crate) lie: fn(&Value, &mut Value),
    pub(crate) deletes: Deletes,
    /// Writes every status again and again.
    pub(crate) restless: bool,
}

impl Default for Agent {
    fn default() -> Self {
        Self { lie: |_, _| {}, deletes: Deletes::default(), restless: false }
    }
}

/// A running agent; ends when it is dropped.
pub(crate) struct Acting(JoinHandle<()>);

impl Drop for Acting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent {
    pub(crate) fn act(self, cluster: &Cluster) -> Acting {
        let client = cluster.server.client();
        let server = cluster.server.clone();
        Acting(tokio::spawn(async move {
            let mut seen = HashMap::new();
            let all: Api<Pod> = Api::all(client.clone());
            loop {
                for pod in all.list(&ListParams::default()).await.unwrap().items {
                    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(NODE) {
                        continue;
                    }
                    let pod = serde_json::to_value(pod).unwrap();
                    let now = server.clock().now();
                    self.look(&client, &pod, now, &mut seen).await;
                }
                sleep(Duration::from_millis(400)).await;
            }
        }))
    }

    async fn look(
        &self,
        client: &kube::Client,
        pod: &Value,
        now: jiff::Timestamp,
        seen: &mut HashMap<String, jiff::Timestamp>,
    ) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, namespace, uid) = (
            text(&pod["metadata"]["name"]),
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["uid"]),
        );
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let began = *seen.entry(uid.clone()).or_insert(now);
        let leaving = text(&pod["metadata"]["deletionTimestamp"]);
        let due = leaving.parse::<jiff::Timestamp>().is_ok_and(|due| now >= due);
        let mut status = true_status(pod, began);
        if !leaving.is_empty() {
            match self.deletes {
                Deletes::Never => return,
                Deletes::AsAKubelet | Deletes::Silently if !due => return,
                Deletes::AtOnce | Deletes::AsAKubelet | Deletes::Silently => {}
            }
            if self.deletes != Deletes::Silently {
                end(&mut status, 0, began);
                write(&pods, &name, pod, status).await;
            }
            let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
            return;
        }
        if let Some(code) = exit_code(pod)
            && now.duration_since(began) > jiff::SignedDuration::from_secs(1)
        {
            end(&mut status, code, began);
        }
        (self.lie)(pod, &mut status);
        if self.restless {
            status["message"] = json!(now.to_string());
        }
        write(&pods, &name, pod, status).await;
    }
}

async fn write(pods: &Api<Pod>, name: &str, pod: &Value, status: Value) {
    let mut whole = pod.clone();
    whole["status"] = status;
    if whole["status"] != pod["status"] {
        let patch = Patch::Merge(json!({"status": whole["status"]}));
        // A pod may be gone by now.
        let _ = pods.patch_status(name, &PatchParams::default(), &patch).await;
    }
}

/// The code in `sleep N; exit CODE`.
fn exit_code(pod: &Value) -> Option<i32> {
    let line = pod["spec"]["containers"][0]["command"][2].as_str()?;
    if !line.starts_with("sleep ") {
        return None;
    }
    line.rsplit_once("exit ")?.1.parse().ok()
}

fn second(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a kubelet would write of a pod that runs.
fn true_status(pod: &Value, began: jiff::Timestamp) -> Value {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let generation = &pod["metadata"]["generation"];
    let began = second(began);
    let ip = format!("10.{}.{}.{}", byte(uid, 0), byte(uid, 2), byte(uid, 4));
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions = conditions.map(|kind| {
        json!({"type": kind, "status": "True", "lastTransitionTime": began, "observedGeneration": generation})
    });
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let containers: Vec<Value> = containers
        .iter()
        .map(|container| {
            json!({"name": container["name"], "image": container["image"], "imageID": "fake://image",
                "containerID": format!("fake://{uid}-{}", container["name"].as_str().unwrap_or_default()),
                "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": began}}})
        })
        .collect();
    json!({"phase": "Running", "conditions": conditions, "observedGeneration": generation,
        "hostIP": "192.0.2.20", "hostIPs": [{"ip": "192.0.2.20"}], "podIP": ip, "podIPs": [{"ip": ip}],
        "startTime": began, "qosClass": pod["status"]["qosClass"], "containerStatuses": containers})
}

fn byte(uid: &str, at: usize) -> u8 {
    uid.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

fn end(status: &mut Value, code: i32, began: jiff::Timestamp) {
    status["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
    for condition in status["conditions"].as_array_mut().unwrap() {
        if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
            condition["status"] = json!("False");
            condition["lastTransitionTime"] = json!(second(began + jiff::SignedDuration::from_secs(1)));
        }
    }
    for container in status["containerStatuses"].as_array_mut().unwrap() {
        let reason = if code == 0 { "Completed" } else { "Error" };
        let finished = second(began + jiff::SignedDuration::from_secs(1));
        container["ready"] = json!(false);
        container["started"] = json!(false);
        container["state"] = json!({"running": null, "terminated": {"exitCode": code, "reason": reason,
            "startedAt": second(began), "finishedAt": finished, "containerID": container["containerID"]}});
    }
}
