//! What autoscalers, metrics-server and monitoring read.

use serde_json::Value;

use crate::bed::Bed;
use crate::stop::{Checked, demand};
use crate::workload::Script;

/// The summary has node and pod.
pub async fn the_summary_has_the_pod(bed: &Bed) -> Checked {
    let pod = bed.start("measured", &bed.workload().running("app", &Script::forever())).await?;
    let uid = pod.uid().to_owned();
    let text = bed
        .until_proxied("/stats/summary", "have the pod's use", |text| {
            let summary: Value =
                serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
            let Some(pod) = of_uid(&summary, &uid) else { return Err("the pod is not in it".to_owned()) };
            let containers = pod["containers"].as_array().map_or(&[][..], Vec::as_slice);
            let Some(app) = containers.iter().find(|entry| entry["name"] == "app") else {
                return Err("the container is not in it".to_owned());
            };
            for (part, field) in [("cpu", "usageCoreNanoSeconds"), ("memory", "workingSetBytes")] {
                if !app[part][field].is_u64() {
                    return Err(format!("the container has no {part}.{field}: {app}"));
                }
            }
            Ok(())
        })
        .await?;
    let summary: Value = serde_json::from_str(&text).unwrap_or_default();
    let node = &summary["node"];
    demand!(node["nodeName"] == bed.node_name(), "node.nodeName is {}", node["nodeName"]);
    for (part, field) in [("cpu", "usageCoreNanoSeconds"), ("memory", "workingSetBytes")] {
        demand!(node[part][field].is_u64(), "node.{part}.{field} is {}", node[part][field]);
    }
    Ok(())
}

fn of_uid<'a>(summary: &'a Value, uid: &str) -> Option<&'a Value> {
    summary["pods"].as_array()?.iter().find(|pod| pod["podRef"]["uid"] == uid)
}

/// Families of `/metrics/resource` about containers and pods, with the labels that metrics-server reads them by.
const OF_PODS: [(&str, &[&str]); 4] = [
    ("container_cpu_usage_seconds_total", &["container", "namespace", "pod"]),
    ("container_memory_working_set_bytes", &["container", "namespace", "pod"]),
    ("pod_cpu_usage_seconds_total", &["namespace", "pod"]),
    ("pod_memory_working_set_bytes", &["namespace", "pod"]),
];
/// Those about the node.
const OF_NODE: [&str; 2] = ["node_cpu_usage_seconds_total", "node_memory_working_set_bytes"];

/// The resource metrics have node, pod and container.
pub async fn the_resource_metrics_have_the_pod(bed: &Bed) -> Checked {
    bed.start("measured", &bed.workload().running("app", &Script::forever())).await?;
    let namespace = bed.namespace().to_owned();
    let text = bed
        .until_proxied("/metrics/resource", "have the pod's families", |text| {
            for (family, labels) in OF_PODS {
                let fits = |line: &str| {
                    labels.iter().all(|label| {
                        let value = match *label {
                            "container" => "app",
                            "namespace" => namespace.as_str(),
                            _ => "measured",
                        };
                        line.contains(&format!("{label}=\"{value}\""))
                    })
                };
                let found = text.lines().any(|line| line.starts_with(&format!("{family}{{")) && fits(line));
                if !found {
                    return Err(format!("there is no {family} with {} of the pod", labels.join(", ")));
                }
            }
            Ok(())
        })
        .await?;
    for family in OF_NODE {
        let found = text.lines().any(|line| line.split([' ', '{']).next() == Some(family));
        demand!(found, "there is no {family}");
    }
    for family in OF_PODS.iter().map(|(family, _)| *family).chain(OF_NODE) {
        demand!(text.contains(&format!("# TYPE {family} ")), "{family} has no type");
    }
    Ok(())
}

/// The kubelet API has the pod, and is well.
pub async fn the_kubelet_api_lists_the_pod(bed: &Bed) -> Checked {
    let pod = bed.start("listed", &bed.workload().running("app", &Script::forever())).await?;
    let uid = pod.uid().to_owned();
    bed.until_proxied("/pods", "list the pod", |text| {
        let list: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        let pods = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        if pods.iter().any(|pod| pod["metadata"]["uid"] == uid.as_str()) {
            Ok(())
        } else {
            Err(format!("there are {} others", pods.len()))
        }
    })
    .await?;
    let health = bed.proxied("/healthz").await?;
    demand!(health.trim() == "ok", "/healthz says {health:?}");
    Ok(())
}
