//! What a pod's specification refers to.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use crate::bed::Bed;
use crate::stop::{Checked, demand};
use crate::workload::Script;

/// A kubelet looks again at a pod that waits every 60 to 90 seconds.
const LOOKS_AGAIN: Duration = Duration::from_mins(2);

/// A container waits for its ConfigMap.
pub async fn a_missing_config_map_is_waited_for(bed: &Bed) -> Checked {
    let script = Script::forever().with("envFrom", json!([{"configMapRef": {"name": "later"}}]));
    bed.create("waits", &bed.workload().running("app", &script)).await?;
    let waiting = bed
        .until("waits", "waiting with CreateContainerConfigError", |pod| match pod.waiting_reason("app") {
            "CreateContainerConfigError" => Ok(()),
            _ => Err(pod.in_short()),
        })
        .await?;
    demand!(waiting.phase() == "Pending", "{}", waiting.in_short());
    let _: ConfigMap = bed.make(json!({"metadata": {"name": "later"}, "data": {"KEY": "value"}})).await?;
    bed.until_within("waits", "Running and Ready", bed.patience() + LOOKS_AGAIN, crate::pod::Seen::ready)
        .await
        .map(drop)
}

/// Variables have what they refer to.
/// Not applicable where no command can be run in the container.
pub async fn the_environment_is_resolved(bed: &Bed) -> Checked {
    let _: ConfigMap =
        bed.make(json!({"metadata": {"name": "map"}, "data": {"KEY": "from-map", "ALL": "of-it"}})).await?;
    let secret = json!({"metadata": {"name": "secret"}, "stringData": {"KEY": "from-secret"}});
    let _: Secret = bed.make(secret).await?;
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let script = Script::forever()
        .with("envFrom", json!([{"configMapRef": {"name": "map"}, "prefix": "P_"}]))
        .with("resources", json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}))
        .with(
            "env",
            json!([
                {"name": "PLAIN", "value": "plain"},
                {"name": "EXPANDED", "value": "$(PLAIN)-$(NODE)"},
                {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "KEY"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "KEY"}}},
                {"name": "OPTIONAL", "valueFrom": {"secretKeyRef": {"name": "none", "key": "KEY", "optional": true}}},
                {"name": "NODE", "valueFrom": field("spec.nodeName")},
                {"name": "NAME", "valueFrom": field("metadata.name")},
                {"name": "SPACE", "valueFrom": field("metadata.namespace")},
                {"name": "LATE", "value": "$(NODE)"},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"containerName": "app", "resource": "limits.memory"}}},
            ]),
        );
    bed.start("configured", &bed.workload().running("app", &script)).await?;
    let ran = bed.exec("configured", &["env"], None, false).await?;
    demand!(ran.code == 0, "`env` ended with {}: {}", ran.code, ran.err);
    let (node, namespace) = (bed.node_name(), bed.namespace());
    let late = format!("LATE={node}");
    for expected in [
        "PLAIN=plain",
        // A reference to what comes later in the list stays as it is written.
        "EXPANDED=plain-$(NODE)",
        "MAP=from-map",
        "SECRET=from-secret",
        &format!("NODE={node}"),
        "NAME=configured",
        &format!("SPACE={namespace}"),
        &late,
        "LIMIT=67108864",
        "P_KEY=from-map",
        "P_ALL=of-it",
    ] {
        demand!(
            ran.out.lines().any(|line| line == expected),
            "the environment has no {expected}: it is\n{}",
            ran.out
        );
    }
    let optional = ran.out.lines().any(|line| line.starts_with("OPTIONAL="));
    demand!(!optional, "an optional variable whose Secret is missing is set");
    Ok(())
}
