//! The control plane itself: what scenarios rely on when they stop, kill, freeze and start its parts.
//!
//! Runs inside the namespace: `cargo xtask test real`.

use std::process::Stdio;
use std::time::Duration;

use vk_control_plane::wait::until;
use vk_control_plane::{Component, ControlPlane, addresses};

fn plane() -> ControlPlane {
    ControlPlane::current().expect("run by cargo xtask test real")
}

/// The plane if its parts are ours to break; a given cluster's are not, and it says so.
fn own() -> Option<ControlPlane> {
    let plane = plane();
    if plane.is_given() {
        eprintln!("not shown: this cluster's components are not ours to stop");
        return None;
    }
    Some(plane)
}

/// kubectl's answer, or its complaint.
fn kubectl(plane: &ControlPlane, arguments: &[&str]) -> Result<String, String> {
    let output = plane
        .enter("kubectl")
        .expect("the namespace")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("kubectl starts");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

fn answer(plane: &ControlPlane, arguments: &[&str]) -> String {
    kubectl(plane, arguments).unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
}

#[test]
fn the_server_reports_the_version_it_was_built_from() {
    let plane = plane();
    let Some(version) = plane.version() else { return };
    let said = answer(&plane, &["get", "--raw", "/version"]);
    assert!(said.contains(&format!("\"gitVersion\": \"v{version}\"")), "{said}");
}

#[test]
fn objects_outlive_a_killed_api_server_and_a_killed_etcd() {
    let Some(plane) = own() else { return };
    answer(&plane, &["create", "configmap", "kept", "--from-literal=a=b"]);
    for component in [Component::ApiServer, Component::Etcd] {
        plane.kill(component).expect("killed");
        assert!(!plane.is_running(component).expect("known"));
        assert!(
            kubectl(&plane, &["get", "configmap", "kept", "--request-timeout=2s"]).is_err(),
            "{component}"
        );
        plane.start(component).expect("started");
        plane.wait_ready(component).expect("ready");
        assert_eq!(answer(&plane, &["get", "configmap", "kept", "--output=jsonpath={.data.a}"]), "b");
    }
    answer(&plane, &["delete", "configmap", "kept"]);
}

#[test]
fn a_frozen_etcd_stalls_writes_until_it_thaws() {
    let Some(plane) = own() else { return };
    plane.freeze(Component::Etcd).expect("frozen");
    let stalled = kubectl(&plane, &["create", "configmap", "late", "--request-timeout=2s"]);
    plane.thaw(Component::Etcd).expect("thawed");
    assert!(stalled.is_err(), "{stalled:?}");
    plane.wait_ready(Component::ApiServer).expect("ready");
    // Whether the stalled write took effect is open; one more settles it.
    until("the write after the thaw", Duration::from_secs(30), || {
        let _ = kubectl(&plane, &["create", "configmap", "late", "--request-timeout=5s"]);
        Ok(kubectl(&plane, &["get", "configmap", "late", "--request-timeout=5s"]).err())
    })
    .expect("written");
    answer(&plane, &["delete", "configmap", "late"]);
}

#[test]
fn controllers_and_the_scheduler_work() {
    let plane = plane();
    let node = "plane-check";
    let manifest = format!(
        r#"{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "{node}", "labels": {{"plane": "check"}}}},
            "spec": {{"taints": [{{"key": "plane", "value": "check", "effect": "NoSchedule"}}]}}}}"#
    );
    apply(&plane, &manifest);
    let status = r#"{"status": {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "10"},
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    answer(&plane, &["patch", "node", node, "--subresource=status", "--type=merge", "--patch", status]);
    let deployment = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "plane-check"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "plane-check"}}, "template": {
            "metadata": {"labels": {"app": "plane-check"}},
            "spec": {"nodeSelector": {"plane": "check"}, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "none"}]}}}}"#;
    apply(&plane, deployment);
    until("two pods bound to the node", Duration::from_mins(1), || {
        let names =
            ["get", "pods", "--selector=app=plane-check", "--output=jsonpath={.items[*].spec.nodeName}"];
        let bound = answer(&plane, &names);
        Ok((bound != format!("{node} {node}")).then(|| format!("bound to {bound:?}")))
    })
    .expect("scheduled");
    answer(&plane, &["delete", "deployment", "plane-check"]);
    answer(&plane, &["delete", "pods", "--selector=app=plane-check", "--force", "--grace-period=0"]);
    answer(&plane, &["delete", "node", node]);
}

#[test]
fn a_node_may_do_what_its_own_identity_allows_and_no_more() {
    let Some(plane) = own() else { return };
    let kubeconfig = plane.node_kubeconfig("authorized").expect("a kubeconfig");
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    let who = answer(&plane, &[&flag, "auth", "whoami", "--output=jsonpath={.status.userInfo.username}"]);
    assert_eq!(who, "system:node:authorized");
    assert_eq!(answer(&plane, &[&flag, "auth", "can-i", "create", "nodes"]), "yes");
    assert!(kubectl(&plane, &[&flag, "auth", "can-i", "create", "deployments"]).is_err());
}

#[test]
fn the_kubelet_client_may_use_every_nodes_api() {
    let Some(plane) = own() else { return };
    let can =
        ["auth", "can-i", "create", "nodes", "--subresource=proxy", "--as=kube-apiserver-kubelet-client"];
    let group = "--as-group=vk-test:kubelet-api";
    let mut with_group = can.to_vec();
    with_group.push(group);
    assert_eq!(answer(&plane, &with_group), "yes");
    assert!(kubectl(&plane, &can).is_err(), "only by its group");
}

#[test]
fn the_addresses_are_there_and_nothing_leads_outside() {
    if own().is_none() {
        return;
    }
    for address in addresses::nodes() {
        std::net::TcpListener::bind((address, 0)).expect("an address of ours");
    }
    // 198.51.100.0/24 is TEST-NET-2: nobody's. The route through lo has the namespace itself answer, or nobody.
    let outside = std::net::SocketAddr::from(([198, 51, 100, 1], 80));
    assert!(std::net::TcpStream::connect_timeout(&outside, Duration::from_secs(1)).is_err());
}

fn apply(plane: &ControlPlane, manifest: &str) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), manifest).expect("written");
    let name = file.path().display().to_string();
    answer(plane, &["apply", "--filename", &name]);
}
