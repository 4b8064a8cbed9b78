//! Rows of the other kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::age::{human, since};
use super::{Printer, joined, list, narrow, number, text, wide};
use crate::clock::parse_time;

fn name(object: &Value) -> Value {
    text(object, "/metadata/name", "").into()
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(object["metadata"]["creationTimestamp"].as_str(), now).into()
}

/// A selector as text.
fn selector(object: &Value, pointer: &str) -> String {
    let labels = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    joined(labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))), "<none>")
}

fn container_names(object: &Value) -> String {
    joined(list(object, "/spec/template/spec/containers").map(|c| text(c, "/name", "")), "")
}

fn container_images(object: &Value) -> String {
    joined(list(object, "/spec/template/spec/containers").map(|c| text(c, "/image", "")), "")
}

fn count(object: &Value, pointer: &str) -> Value {
    number(object, pointer).to_string().into()
}

pub(super) const OTHERS: Printer = Printer {
    columns: &[narrow("Name"), narrow("Age")],
    cells: |object, now| vec![name(object), age(object, now)],
};

pub(super) const NAMESPACES: Printer = Printer {
    columns: &[narrow("Name"), narrow("Status"), narrow("Age")],
    cells: |object, now| vec![name(object), text(object, "/status/phase", "").into(), age(object, now)],
};

pub(super) const NODES: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Status"),
        narrow("Roles"),
        narrow("Age"),
        narrow("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |node, now| {
        let ready = list(node, "/status/conditions").find(|c| c["type"] == "Ready");
        let mut status = match ready.map(|c| c["status"].as_str().unwrap_or("")) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if node["spec"]["unschedulable"] == true {
            status.push_str(",SchedulingDisabled");
        }
        let labels = node["metadata"]["labels"].as_object();
        let roles = labels.into_iter().flatten().filter_map(|(key, value)| {
            match (key.strip_prefix("node-role.kubernetes.io/"), key.as_str()) {
                (Some(role), _) => Some(role.to_owned()),
                (None, "kubernetes.io/role") => value.as_str().map(str::to_owned),
                _ => None,
            }
        });
        let address = |kind: &str| {
            list(node, "/status/addresses")
                .find(|a| a["type"] == kind)
                .map_or_else(|| "<none>".to_owned(), |a| text(a, "/address", "<none>"))
        };
        vec![
            name(node),
            status.into(),
            joined(roles, "<none>").into(),
            age(node, now),
            text(node, "/status/nodeInfo/kubeletVersion", "").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            text(node, "/status/nodeInfo/osImage", "<unknown>").into(),
            text(node, "/status/nodeInfo/kernelVersion", "<unknown>").into(),
            text(node, "/status/nodeInfo/containerRuntimeVersion", "<unknown>").into(),
        ]
    },
};

pub(super) const EVENTS: Printer = Printer {
    columns: &[
        narrow("Last Seen"),
        narrow("Type"),
        narrow("Reason"),
        narrow("Object"),
        wide("Subobject"),
        wide("Source"),
        narrow("Message"),
        wide("First Seen"),
        wide("Count"),
        wide("Name"),
    ],
    cells: |event, now| {
        let time = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        let first = time("/firstTimestamp").or(time("/eventTime"));
        let last = time("/series/lastObservedTime").or(time("/lastTimestamp")).or(first);
        let kind = text(event, "/involvedObject/kind", "").to_lowercase();
        let source = text(event, "/source/component", &text(event, "/reportingComponent", ""));
        let host = text(event, "/source/host", "");
        let count = number(event, "/count").max(number(event, "/series/count")).max(1);
        vec![
            since(last, now).into(),
            text(event, "/type", "").into(),
            text(event, "/reason", "").into(),
            format!("{kind}/{}", text(event, "/involvedObject/name", "")).into(),
            text(event, "/involvedObject/fieldPath", "").into(),
            if host.is_empty() { source.into() } else { format!("{source}, {host}").into() },
            text(event, "/message", "").trim().into(),
            since(first, now).into(),
            count.to_string().into(),
            name(event),
        ]
    },
};

pub(super) const SERVICES: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Type"),
        narrow("Cluster-IP"),
        narrow("External-IP"),
        narrow("Port(s)"),
        narrow("Age"),
        wide("Selector"),
    ],
    cells: |service, now| {
        let ports = list(service, "/spec/ports").map(|p| {
            let node = number(p, "/nodePort");
            let port = number(p, "/port");
            let protocol = text(p, "/protocol", "TCP");
            if node > 0 { format!("{port}:{node}/{protocol}") } else { format!("{port}/{protocol}") }
        });
        vec![
            name(service),
            text(service, "/spec/type", "").into(),
            text(service, "/spec/clusterIP", "<none>").into(),
            joined(
                list(service, "/spec/externalIPs").filter_map(|i| i.as_str().map(str::to_owned)),
                "<none>",
            )
            .into(),
            joined(ports, "<none>").into(),
            age(service, now),
            selector(service, "/spec/selector").into(),
        ]
    },
};

fn size(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(super) const CONFIG_MAPS: Printer = Printer {
    columns: &[narrow("Name"), narrow("Data"), narrow("Age")],
    cells: |map, now| {
        let entries = size(map, "/data") + size(map, "/binaryData");
        vec![name(map), entries.into(), age(map, now)]
    },
};

pub(super) const SECRETS: Printer = Printer {
    columns: &[narrow("Name"), narrow("Type"), narrow("Data"), narrow("Age")],
    cells: |secret, now| {
        let entries = size(secret, "/data").to_string();
        vec![name(secret), text(secret, "/type", "").into(), entries.into(), age(secret, now)]
    },
};

pub(super) const DEPLOYMENTS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Ready"),
        narrow("Up-to-date"),
        narrow("Available"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |deployment, now| {
        let (ready, wanted) =
            (number(deployment, "/status/readyReplicas"), number(deployment, "/spec/replicas"));
        vec![
            name(deployment),
            format!("{ready}/{wanted}").into(),
            count(deployment, "/status/updatedReplicas"),
            count(deployment, "/status/availableReplicas"),
            age(deployment, now),
            container_names(deployment).into(),
            container_images(deployment).into(),
            selector(deployment, "/spec/selector/matchLabels").into(),
        ]
    },
};

pub(super) const REPLICA_SETS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Desired"),
        narrow("Current"),
        narrow("Ready"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |set, now| {
        vec![
            name(set),
            count(set, "/spec/replicas"),
            count(set, "/status/replicas"),
            count(set, "/status/readyReplicas"),
            age(set, now),
            container_names(set).into(),
            container_images(set).into(),
            selector(set, "/spec/selector/matchLabels").into(),
        ]
    },
};

pub(super) const STATEFUL_SETS: Printer = Printer {
    columns: &[narrow("Name"), narrow("Ready"), narrow("Age"), wide("Containers"), wide("Images")],
    cells: |set, now| {
        let (ready, wanted) = (number(set, "/status/readyReplicas"), number(set, "/spec/replicas"));
        vec![
            name(set),
            format!("{ready}/{wanted}").into(),
            age(set, now),
            container_names(set).into(),
            container_images(set).into(),
        ]
    },
};

pub(super) const DAEMON_SETS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Desired"),
        narrow("Current"),
        narrow("Ready"),
        narrow("Up-to-date"),
        narrow("Available"),
        narrow("Node Selector"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |set, now| {
        vec![
            name(set),
            count(set, "/status/desiredNumberScheduled"),
            count(set, "/status/currentNumberScheduled"),
            count(set, "/status/numberReady"),
            count(set, "/status/updatedNumberScheduled"),
            count(set, "/status/numberAvailable"),
            selector(set, "/spec/template/spec/nodeSelector").into(),
            age(set, now),
            container_names(set).into(),
            container_images(set).into(),
            selector(set, "/spec/selector/matchLabels").into(),
        ]
    },
};

pub(super) const JOBS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Status"),
        narrow("Completions"),
        narrow("Duration"),
        narrow("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |job, now| {
        let has =
            |kind: &str| list(job, "/status/conditions").any(|c| c["type"] == kind && c["status"] == "True");
        let status = match () {
            () if has("Complete") => "Complete",
            () if has("Failed") => "Failed",
            () if !job["metadata"]["deletionTimestamp"].is_null() => "Terminating",
            () if has("Suspended") => "Suspended",
            () => "Running",
        };
        let time = |field: &str| job["status"][field].as_str().and_then(parse_time);
        let duration = time("startTime").map_or_else(String::new, |start| {
            human(time("completionTime").unwrap_or(now).as_second() - start.as_second())
        });
        let (done, wanted) = (number(job, "/status/succeeded"), number(job, "/spec/completions"));
        vec![
            name(job),
            status.into(),
            format!("{done}/{wanted}").into(),
            duration.into(),
            age(job, now),
            container_names(job).into(),
            container_images(job).into(),
            selector(job, "/spec/selector/matchLabels").into(),
        ]
    },
};

pub(super) const CRON_JOBS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Schedule"),
        narrow("Timezone"),
        narrow("Suspend"),
        narrow("Active"),
        narrow("Last Schedule"),
        narrow("Age"),
    ],
    cells: |job, now| {
        let last = job["status"]["lastScheduleTime"].as_str();
        vec![
            name(job),
            text(job, "/spec/schedule", "").into(),
            text(job, "/spec/timeZone", "<none>").into(),
            if job["spec"]["suspend"] == true { "True" } else { "False" }.into(),
            list(job, "/status/active").count().to_string().into(),
            last.map_or_else(|| "<none>".to_owned(), |t| since(Some(t), now)).into(),
            age(job, now),
        ]
    },
};

pub(super) const LEASES: Printer = Printer {
    columns: &[narrow("Name"), narrow("Holder"), narrow("Age")],
    cells: |lease, now| vec![name(lease), text(lease, "/spec/holderIdentity", "").into(), age(lease, now)],
};

pub(super) const REQUESTS: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Age"),
        narrow("SignerName"),
        narrow("Requestor"),
        narrow("RequestedDuration"),
        narrow("Condition"),
    ],
    cells: |request, now| {
        let mut condition =
            joined(list(request, "/status/conditions").map(|c| text(c, "/type", "")), "Pending");
        if !request["status"]["certificate"].is_null() {
            condition.push_str(",Issued");
        }
        let seconds = number(request, "/spec/expirationSeconds");
        vec![
            name(request),
            age(request, now),
            text(request, "/spec/signerName", "<none>").into(),
            text(request, "/spec/username", "").into(),
            if seconds > 0 { human(seconds) } else { "<none>".to_owned() }.into(),
            condition.into(),
        ]
    },
};
