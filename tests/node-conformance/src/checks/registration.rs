//! The Node object.

use std::net::IpAddr;

use serde_json::Value;

use crate::bed::Bed;
use crate::stop::{Checked, Stop, demand};

fn condition<'a>(node: &'a Value, kind: &str) -> Checked<&'a Value> {
    let conditions = node["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    found.ok_or_else(|| Stop::failed(format!("the node has no condition {kind}")))
}

fn has_text(value: &Value, keys: &[&str], what: &str) -> Checked {
    for key in keys {
        demand!(value[*key].as_str().is_some_and(|text| !text.is_empty()), "{what} has no {key}");
    }
    Ok(())
}

/// Condition Ready is True, with times, a reason and a message.
pub async fn the_node_is_ready(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let ready = condition(&node, "Ready")?;
    demand!(ready["status"] == "True", "condition Ready is {}: {}", ready["status"], ready["message"]);
    has_text(ready, &["lastHeartbeatTime", "lastTransitionTime", "reason", "message"], "condition Ready")
}

/// The pressures are told, and there are none.
pub async fn pressures_are_told(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        let pressure = condition(&node, kind)?;
        demand!(pressure["status"] == "False", "condition {kind} is {}", pressure["status"]);
    }
    Ok(())
}

/// The addresses are ones.
pub async fn addresses_are_usable(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let addresses = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    let usable = |entry: &&Value| entry["type"] == "InternalIP" || entry["type"] == "Hostname";
    demand!(
        addresses.iter().any(|entry| usable(&entry)),
        "status.addresses has no InternalIP and no Hostname"
    );
    for entry in addresses {
        let (kind, text) =
            (entry["type"].as_str().unwrap_or_default(), entry["address"].as_str().unwrap_or_default());
        let fits = if kind.ends_with("IP") { text.parse::<IpAddr>().is_ok() } else { !text.is_empty() };
        demand!(fits, "address {text:?} is no {kind}");
    }
    Ok(())
}

/// Capacity and allocatable hold pods.
pub async fn capacity_holds_pods(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    for resource in ["cpu", "memory", "pods"] {
        let amount = |list: &str| -> Checked<f64> {
            let text = node["status"][list][resource].as_str().unwrap_or_default();
            let amount = amount_of(text).filter(|amount| *amount > 0.0);
            amount.ok_or_else(|| Stop::failed(format!("status.{list}.{resource} is {text:?}")))
        };
        let (capacity, allocatable) = (amount("capacity")?, amount("allocatable")?);
        // Both are numbers: they were read as more than 0.
        demand!(
            allocatable.total_cmp(&capacity).is_le(),
            "of {resource}, {allocatable} is allocatable, which is more than the capacity, {capacity}"
        );
    }
    Ok(())
}

/// A quantity as a number.
pub(super) fn amount_of(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    if let Ok(plain) = text.parse::<f64>() {
        return Some(plain);
    }
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    text.strip_suffix(unit)?.parse::<f64>().ok().map(|number| number * factor)
}

/// Release and minor of `v1.37.2-…`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v')?.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// nodeInfo is complete, and the kubelet's version is one the API server puts up with.
pub async fn node_info_is_complete(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let info = &node["status"]["nodeInfo"];
    has_text(info, &["operatingSystem", "architecture", "kubeletVersion"], "status.nodeInfo")?;
    let system = info["operatingSystem"].as_str().unwrap_or_default();
    demand!(matches!(system, "linux" | "windows"), "operatingSystem is {system:?}");
    let version = info["kubeletVersion"].as_str().unwrap_or_default();
    let Some((major, kubelet)) = minor(version) else {
        return Err(Stop::failed(format!("kubeletVersion {version:?} is no version such as v1.37.2")));
    };
    let server = bed.client().apiserver_version().await?.git_version;
    let Some((server_major, apiserver)) = minor(&server) else { return Ok(()) };
    // https://kubernetes.io/releases/version-skew-policy/#kubelet
    demand!(
        major == server_major && kubelet <= apiserver && kubelet + 3 >= apiserver,
        "kubeletVersion {version} is not within three minor releases before the API server's, {server}"
    );
    Ok(())
}

/// The labels that schedulers look at are there and true.
pub async fn labels_say_what_it_is(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let (labels, info) = (&node["metadata"]["labels"], &node["status"]["nodeInfo"]);
    has_text(
        labels,
        &["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"],
        "metadata.labels",
    )?;
    for (label, field) in [("kubernetes.io/os", "operatingSystem"), ("kubernetes.io/arch", "architecture")] {
        demand!(
            labels[label] == info[field],
            "label {label} is {}, nodeInfo.{field} {}",
            labels[label],
            info[field]
        );
    }
    Ok(())
}

/// A Ready node has none of the taints that the node controller gives unready ones.
/// Not applicable while the node is not Ready.
pub async fn a_ready_node_is_not_tainted_as_unready(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    if condition(&node, "Ready")?["status"] != "True" {
        return Err(Stop::not_applicable("the node is not Ready"));
    }
    for taint in node["spec"]["taints"].as_array().into_iter().flatten() {
        let key = taint["key"].as_str().unwrap_or_default();
        // Cordoning is a person's doing.
        let own = key.starts_with("node.kubernetes.io/") && key != "node.kubernetes.io/unschedulable";
        demand!(!own, "the Ready node has taint {key}");
    }
    Ok(())
}

/// The port of the kubelet API is told.
pub async fn the_kubelet_endpoint_is_told(bed: &Bed) -> Checked {
    let node = bed.node().await?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(0);
    demand!((1..=65535).contains(&port), "status.daemonEndpoints.kubeletEndpoint.Port is {port}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_as_numbers() {
        for (text, number) in
            [("2", 2.0), ("500m", 0.5), ("1Gi", 1_073_741_824.0), ("1k", 1000.0), ("1e3", 1000.0)]
        {
            assert_eq!(amount_of(text), Some(number), "{text}");
        }
        assert_eq!(amount_of("many"), None);
        assert_eq!(amount_of(""), None);
    }

    #[test]
    fn versions_are_read_whatever_follows_them() {
        assert_eq!(minor("v1.37.2-vk-0.1.0"), Some((1, 37)));
        assert_eq!(minor("v1.35"), Some((1, 35)));
        assert_eq!(minor("fake"), None);
    }
}
