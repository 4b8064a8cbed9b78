//! Defaults a pod gets when it is created, and what admission adds.
//!
//! Source: pkg/apis/core/v1/defaults.go; plugin/pkg/admission/{serviceaccount,defaulttolerationseconds,
//! priority}; pkg/apis/core/v1/helper/qos.

use serde_json::{Map, Value, json};

use super::containers;
use crate::error::ApiError;
use crate::quantity;
use crate::resources;
use crate::store::{Key, Store};

/// Fills in what the client left out of a pod's spec (or a pod template's). May leave nulls behind.
pub(crate) fn set_defaults(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    default(spec, "securityContext", json!({}));
    let host_network = spec["hostNetwork"] == true;
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec[field].as_array_mut().into_iter().flatten() {
            default_container(container, host_network && field != "ephemeralContainers");
        }
    }
    for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
        default_volume(volume);
    }
    let account = spec["serviceAccountName"].as_str().or(spec["serviceAccount"].as_str()).map(str::to_owned);
    if let Some(account) = account.filter(|a| !a.is_empty()) {
        spec["serviceAccountName"] = account.clone().into();
        spec["serviceAccount"] = account.into();
    }
}

/// Makes a new pod what the server stores: defaults, admission, and a fresh status.
pub(crate) fn admit(store: &Store, pod: &mut Value, suffix: &str, now: &str) -> Result<(), ApiError> {
    default(&mut pod["spec"], "enableServiceLinks", true);
    add_service_account(store, pod, suffix)?;
    add_tolerations(&mut pod["spec"]);
    add_priority(store, pod)?;
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": now,
        }]);
    }
    pod["status"] = status;
    Ok(())
}

fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object[field].is_null() {
        object[field] = value.into();
    }
}

fn default_container(container: &mut Value, host_network: bool) {
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    if container["imagePullPolicy"].is_null() {
        let image = container["image"].as_str().unwrap_or("");
        container["imagePullPolicy"] = pull_policy(image).into();
    }
    for port in container["ports"].as_array_mut().into_iter().flatten() {
        default(port, "protocol", "TCP");
        if host_network && port["hostPort"].is_null() {
            port["hostPort"] = port["containerPort"].clone();
        }
    }
    // Limits stand in for requests that are missing.
    let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
    for (resource, limit) in limits {
        let requests = &mut container["resources"]["requests"];
        if requests[&resource].is_null() {
            requests[&resource] = limit;
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[probe].is_object() {
            let probe = &mut container[probe];
            default(probe, "timeoutSeconds", 1);
            default(probe, "periodSeconds", 10);
            default(probe, "successThreshold", 1);
            default(probe, "failureThreshold", 3);
            default_handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook].is_object() {
            default_handler(&mut container["lifecycle"][hook]);
        }
    }
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        if variable["valueFrom"]["fieldRef"].is_object() {
            default(&mut variable["valueFrom"]["fieldRef"], "apiVersion", "v1");
        }
        if variable["valueFrom"]["resourceFieldRef"].is_object() {
            default(&mut variable["valueFrom"]["resourceFieldRef"], "divisor", "0");
        }
    }
}

fn default_handler(handler: &mut Value) {
    if handler["httpGet"].is_object() {
        default(&mut handler["httpGet"], "path", "/");
        default(&mut handler["httpGet"], "scheme", "HTTP");
    }
    if handler["grpc"].is_object() {
        default(&mut handler["grpc"], "service", "");
    }
}

/// `Always` for the tag `latest` or none, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    match (tag, digest) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn default_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|v| v.len() == 1 && v.contains_key("name")) {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if volume[source].is_object() {
            default(&mut volume[source], "defaultMode", 420);
        }
    }
    if volume["hostPath"].is_object() {
        default(&mut volume["hostPath"], "type", "");
    }
    if volume["downwardAPI"].is_object() {
        default_field_refs(&mut volume["downwardAPI"]["items"]);
    }
    for source in
        volume.get_mut("projected").into_iter().filter_map(|p| p["sources"].as_array_mut()).flatten()
    {
        if source["serviceAccountToken"].is_object() {
            default(&mut source["serviceAccountToken"], "expirationSeconds", 3600);
        }
        if source["downwardAPI"].is_object() {
            default_field_refs(&mut source["downwardAPI"]["items"]);
        }
    }
}

fn default_field_refs(items: &mut Value) {
    for item in items.as_array_mut().into_iter().flatten() {
        if item["fieldRef"].is_object() {
            default(&mut item["fieldRef"], "apiVersion", "v1");
        }
    }
}

fn add_service_account(store: &Store, pod: &mut Value, suffix: &str) -> Result<(), ApiError> {
    let metadata = &pod["metadata"];
    // Mirror pods stand for files on a node and get no account.
    if !metadata["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return Ok(());
    }
    let (namespace, name) = (metadata["namespace"].as_str().unwrap_or(""), metadata["name"].as_str());
    let name = name.unwrap_or("").to_owned();
    let account_name = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned();
    let Some(account) = store.get(resources::service_accounts(), &Key::new(namespace, &account_name)) else {
        return Err(ApiError::forbidden(
            resources::pods(),
            &name,
            &format!(
                "error looking up service account {namespace}/{account_name}: serviceaccount \
                 \"{account_name}\" not found"
            ),
        ));
    };
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = account_name.clone().into();
    spec["serviceAccount"] = account_name.into();
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && let Some(secrets) = account["imagePullSecrets"].as_array()
    {
        spec["imagePullSecrets"] = secrets.clone().into();
    }
    let automount = spec["automountServiceAccountToken"]
        .as_bool()
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(spec, &format!("kube-api-access-{suffix}"));
    }
    Ok(())
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mount_token(spec: &mut Value, volume: &str) {
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        for container in spec[field].as_array_mut().into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH) {
                continue;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH});
            container["volumeMounts"] = [mounts, vec![mount]].concat().into();
            mounted = true;
        }
    }
    if mounted {
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        let token = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]}});
        spec["volumes"] = [volumes, vec![token]].concat().into();
    }
}

/// Has a pod tolerate for a while a node that is not ready or not reachable.
pub(crate) fn add_tolerations(spec: &mut Value) {
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|t| {
            let key_fits = t["key"] == key || t["key"].as_str().unwrap_or("").is_empty();
            let effect_fits = t["effect"] == "NoExecute" || t["effect"].as_str().unwrap_or("").is_empty();
            key_fits && effect_fits
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
    spec["tolerations"] = tolerations.into();
}

fn add_priority(store: &Store, pod: &mut Value) -> Result<(), ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let spec = &mut pod["spec"];
    let class = spec["priorityClassName"].as_str().unwrap_or("").to_owned();
    let (mut priority, mut preemption) = (json!(0), json!("PreemptLowerPriority"));
    match class.as_str() {
        "" => {}
        "system-node-critical" => priority = json!(2_000_001_000),
        "system-cluster-critical" => priority = json!(2_000_000_000),
        _ => {
            let resource = resources::find("scheduling.k8s.io", "v1", "priorityclasses");
            let found = resource.and_then(|r| store.get(r, &Key::new("", &class))).ok_or_else(|| {
                let text = format!("no PriorityClass with name {class} was found");
                ApiError::forbidden(resources::pods(), &name, &text)
            })?;
            priority = found["value"].clone();
            if let Some(policy) = found["preemptionPolicy"].as_str() {
                preemption = policy.into();
            }
        }
    }
    if spec["priority"].is_i64() && spec["priority"] != priority {
        let text = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name",
            spec["priority"]
        );
        return Err(ApiError::forbidden(resources::pods(), &name, &text));
    }
    default(spec, "priority", priority);
    default(spec, "preemptionPolicy", preemption);
    Ok(())
}

/// Guaranteed when every container limits cpu and memory and requests as much, BestEffort when none asks
/// for either, else Burstable.
fn qos_class(pod: &Value) -> &'static str {
    let (mut guaranteed, mut asks) = (true, false);
    let empty = Map::new();
    for (_, container) in containers(pod).filter(|(field, _)| *field != "ephemeralContainers") {
        let resources = &container["resources"];
        let limits = resources["limits"].as_object().unwrap_or(&empty);
        let requests = resources["requests"].as_object().unwrap_or(&empty);
        for resource in ["cpu", "memory"] {
            let amount = |of: &Map<String, Value>| {
                of.get(resource).and_then(quantity::milli_of).filter(|amount| *amount > 0)
            };
            let (limit, request) = (amount(limits), amount(requests));
            asks |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (asks, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_gets_what_a_kubelet_relies_on() {
        let mut spec = json!({
            "containers": [{"name": "a", "image": "reg:5000/web", "ports": [{"containerPort": 80}],
                            "readinessProbe": {"httpGet": {"port": 80}},
                            "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
        });
        set_defaults(&mut spec);
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["readinessProbe"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
        assert_eq!(spec["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("r:5000/a", "Always"),
            ("r:5000/a:2", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"limits": both, "requests": both}))), "Guaranteed");
        let less = json!({"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(qos_class(&pod(less)), "Burstable");
    }

    #[test]
    fn tolerations_of_its_own_are_not_doubled() {
        let mut spec = json!({"tolerations": [{"operator": "Exists"}]});
        add_tolerations(&mut spec);
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1);
        let mut spec = json!({});
        add_tolerations(&mut spec);
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    }
}
