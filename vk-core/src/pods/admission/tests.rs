use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::*;

fn host(node: Value, allocatable: &[(&str, &str)]) -> Host {
    let node: Node = serde_json::from_value(node).unwrap();
    let allocatable = allocatable
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
        .collect();
    Host::new(&node, &NodeInfo::default(), &allocatable)
}

fn plain() -> Host {
    host(
        json!({"metadata": {"name": "n", "labels": {"zone": "z1", "rank": "7"}},
            "status": {"allocatable": {"theirs.com/gpu": "1"}}}),
        &[
            ("cpu", "2"),
            ("memory", "1Gi"),
            ("ephemeral-storage", "1Gi"),
            ("pods", "3"),
            ("acme.com/fpga", "2"),
        ],
    )
}

#[expect(clippy::needless_pass_by_value, reason = "it is given literals")]
fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "it is given literals")]
fn asking(requests: Value) -> Pod {
    pod(json!({"containers": [{"name": "a", "resources": {"requests": requests}}]}))
}

fn demand(pod: &Pod) -> Arc<Demand> {
    Arc::new(Demand::of(pod.spec.as_ref().unwrap()))
}

/// What is told of the pod, in one line; empty if it is let in.
fn told(pod: &Pod, host: &Host, ledger: &Ledger) -> String {
    match check(pod, &demand(pod), host, &ledger.taken()) {
        Ok(()) => String::new(),
        Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
    }
}

#[test]
fn a_pod_that_asks_for_more_than_is_left_is_refused_by_the_first_resource_that_is_short() {
    let ledger = Arc::new(Ledger::default());
    let first = asking(json!({"cpu": "1500m", "memory": "512Mi"}));
    assert_eq!(told(&first, &plain(), &ledger), "");
    let place = ledger.take(demand(&first));
    let table = [
        (json!({"cpu": "500m"}), ""),
        (json!({}), ""),
        (
            json!({"cpu": "501m", "memory": "900Gi"}),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
        ),
        (
            json!({"memory": "513Mi"}),
            "OutOfmemory: Node didn't have enough resource: memory, requested: 537919488, used: 536870912, \
             capacity: 1073741824",
        ),
        (
            json!({"ephemeral-storage": "2Gi"}),
            "OutOfephemeral-storage: Node didn't have enough resource: ephemeral-storage, requested: 2147483648, \
             used: 0, capacity: 1073741824",
        ),
        (json!({"acme.com/fpga": "2"}), ""),
        (
            json!({"acme.com/fpga": "3"}),
            "OutOfacme.com/fpga: Node didn't have enough resource: acme.com/fpga, requested: 3, used: 0, capacity: 2",
        ),
        // The Node object alone knows it.
        (
            json!({"theirs.com/gpu": "2"}),
            "OutOftheirs.com/gpu: Node didn't have enough resource: theirs.com/gpu, requested: 2, used: 0, \
             capacity: 1",
        ),
        // Nobody knows it, so it is not the node's to refuse. Huge pages are.
        (json!({"nobody.org/widget": "5"}), ""),
        (
            json!({"hugepages-2Mi": "2Mi"}),
            "OutOfhugepages-2Mi: Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, \
             capacity: 0",
        ),
    ];
    for (requests, expected) in table {
        assert_eq!(told(&asking(requests.clone()), &plain(), &ledger), expected, "{requests}");
    }
    drop(place);
    assert_eq!(told(&asking(json!({"cpu": "2"})), &plain(), &ledger), "", "what has ended frees what it had");
}

#[test]
fn no_more_pods_are_let_in_than_the_node_may_have() {
    let ledger = Arc::new(Ledger::default());
    let one = asking(json!({}));
    let places: Vec<Place> = (0..3).map(|_| ledger.take(demand(&one))).collect();
    let expected = "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    assert_eq!(told(&one, &plain(), &ledger), expected);
    drop(places);
    assert_eq!(told(&one, &plain(), &ledger), "");
}

#[test]
fn a_pod_asks_for_its_most_demanding_moment() {
    let spec = |init: &str, sidecar: &str| {
        pod(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": sidecar}}},
                {"name": "i", "resources": {"requests": {"cpu": init}}}],
        }))
    };
    let ledger = Ledger::default();
    assert_eq!(told(&spec("1", "1"), &plain(), &ledger), "");
    assert!(told(&spec("1100m", "1"), &plain(), &ledger).contains("requested: 2100,"));
    assert!(told(&spec("0", "1600m"), &plain(), &ledger).contains("requested: 2100,"));
}

#[test]
fn a_critical_pod_is_not_refused_for_want_of_room() {
    let mut critical = asking(json!({"cpu": "64"}));
    critical.spec.as_mut().unwrap().priority = Some(2_000_000_000);
    assert_eq!(told(&critical, &plain(), &Ledger::default()), "");
    critical.spec.as_mut().unwrap().node_selector = Some([("no".to_owned(), "where".to_owned())].into());
    assert!(told(&critical, &plain(), &Ledger::default()).starts_with("NodeAffinity: "));
}

#[test]
fn a_node_that_the_pod_did_not_ask_for_refuses_it() {
    let no = "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    let terms = |terms: Value| {
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        json!({"containers": [], "affinity": {"nodeAffinity": required}})
    };
    let expression = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
    let one =
        |key, operator, values| terms(json!([{"matchExpressions": [expression(key, operator, values)]}]));
    let table = [
        (json!({"containers": [], "nodeSelector": {"zone": "z1"}}), true),
        (json!({"containers": [], "nodeSelector": {"zone": "z2"}}), false),
        (json!({"containers": [], "nodeSelector": {"zone": "z1", "other": ""}}), false),
        (one("zone", "In", &["z0", "z1"]), true),
        (one("zone", "NotIn", &["z1"]), false),
        (one("other", "NotIn", &["z1"]), true),
        (one("zone", "Exists", &[]), true),
        (one("other", "Exists", &[]), false),
        (one("other", "DoesNotExist", &[]), true),
        (one("rank", "Gt", &["6"]), true),
        (one("rank", "Lt", &["7"]), false),
        (one("zone", "Gt", &["1"]), false),
        (terms(json!([{"matchFields": [expression("metadata.name", "In", &["n"])]}])), true),
        (terms(json!([{"matchFields": [expression("metadata.name", "In", &["m"])]}])), false),
        // One term is enough; a term without conditions is none.
        (terms(json!([{}, {"matchExpressions": [expression("zone", "Exists", &[])]}])), true),
        (terms(json!([{}])), false),
    ];
    for (spec, matches) in table {
        let expected = if matches { "" } else { no };
        assert_eq!(told(&pod(spec.clone()), &plain(), &Ledger::default()), expected, "{spec}");
    }
}

#[test]
fn a_label_that_the_node_is_to_have_counts_before_its_object_has_it() {
    let mut host = plain();
    let selecting = pod(json!({"containers": [], "nodeSelector": {"zone": "z9", "disk": "fast"}}));
    host.fill_in([("disk".to_owned(), "fast".to_owned()), ("zone".to_owned(), "z9".to_owned())].into());
    assert!(
        told(&selecting, &host, &Ledger::default()).starts_with("NodeAffinity"),
        "the object knows better"
    );
    let selecting = pod(json!({"containers": [], "nodeSelector": {"disk": "fast"}}));
    assert_eq!(told(&selecting, &host, &Ledger::default()), "");
}

#[test]
fn only_taints_that_evict_refuse_a_pod() {
    let tainted = |effect: &str| {
        host(
            json!({"metadata": {"name": "n"}, "spec": {"taints": [
                {"key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule"},
                {"key": "t", "value": "v", "effect": effect}]}}),
            &[("pods", "9")],
        )
    };
    let no =
        "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
    let table = [
        ("NoSchedule", json!([]), true),
        ("NoExecute", json!([]), false),
        ("NoExecute", json!([{"operator": "Exists"}]), true),
        ("NoExecute", json!([{"key": "t", "operator": "Exists", "tolerationSeconds": 5}]), true),
        ("NoExecute", json!([{"key": "t", "value": "v", "effect": "NoExecute"}]), true),
        ("NoExecute", json!([{"key": "t", "operator": "Equal", "value": "w"}]), false),
        ("NoExecute", json!([{"key": "t", "operator": "Exists", "effect": "NoSchedule"}]), false),
        ("NoExecute", json!([{"key": "u", "operator": "Exists"}]), false),
    ];
    for (effect, tolerations, admitted) in table {
        let pod = pod(json!({"containers": [], "tolerations": tolerations}));
        let expected = if admitted { "" } else { no };
        assert_eq!(told(&pod, &tainted(effect), &Ledger::default()), expected, "{effect} {tolerations}");
    }
}

#[test]
fn a_port_of_the_host_is_had_by_one_pod() {
    let ports = |ports: Value| pod(json!({"containers": [{"name": "a", "ports": ports}]}));
    let ledger = Arc::new(Ledger::default());
    let first = ports(json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"},
        {"containerPort": 81, "hostPort": 8081}]));
    let place = ledger.take(demand(&first));
    let table = [
        (json!([{"containerPort": 80}]), true),
        (json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.2"}]), true),
        (json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"}]), false),
        (json!([{"containerPort": 80, "hostPort": 8080}]), false),
        (json!([{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}]), true),
        (json!([{"containerPort": 80, "hostPort": 8081, "hostIP": "192.0.2.1"}]), false),
    ];
    for (wanted, admitted) in table {
        let told = told(&ports(wanted.clone()), &plain(), &ledger);
        assert_eq!(told.is_empty(), admitted, "{wanted}: {told}");
        assert!(
            admitted
                || told.contains("NodePorts failed: node(s) didn't have free ports for the requested pod")
        );
    }
    drop(place);
    assert_eq!(told(&first, &plain(), &ledger), "");
}

#[test]
fn other_systems_parameters_and_profiles_are_refused_in_the_kubelets_words() {
    let sysctl = |name: &str, more: &[(&str, bool)]| {
        let mut spec =
            json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        for (field, value) in more {
            spec[*field] = json!(value);
        }
        pod(spec)
    };
    let mut labelled = pod(json!({"containers": []}));
    labelled.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
    let mut annotated = pod(json!({"containers": [{"name": "a"}]}));
    let annotation = "container.apparmor.security.beta.kubernetes.io/a".to_owned();
    annotated.metadata.annotations = Some([(annotation, "runtime/default".to_owned())].into());
    let profile = |kind: &str| {
        pod(json!({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": kind}}}]}))
    };
    let no_armor = "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host";
    let table = vec![
        (sysctl("net.ipv4.tcp_syncookies", &[]), ""),
        (sysctl("net/ipv4/tcp_syncookies", &[]), ""),
        (
            sysctl("kernel.msgmax", &[]),
            "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        ),
        (
            sysctl("net.ipv4.tcp_rmem", &[("hostNetwork", true)]),
            "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host Net enabled",
        ),
        (
            sysctl("kernel.shm_rmid_forced", &[("hostIPC", true)]),
            "SysctlForbidden: forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled",
        ),
        (
            pod(json!({"containers": [], "os": {"name": "windows"}})),
            "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
        ),
        (pod(json!({"containers": [], "os": {"name": "linux"}})), ""),
        (
            labelled,
            "PodOSSelectorNodeLabelDoesNotMatch: Failed to admit pod as the `kubernetes.io/os` label doesn't match \
             node label",
        ),
        (profile("RuntimeDefault"), no_armor),
        (profile("Unconfined"), ""),
        (annotated, no_armor),
    ];
    for (pod, expected) in table {
        assert_eq!(told(&pod, &plain(), &Ledger::default()), expected);
    }
    let mut armed = plain();
    armed.app_armor = true;
    assert_eq!(told(&profile("RuntimeDefault"), &armed, &Ledger::default()), "");
}
