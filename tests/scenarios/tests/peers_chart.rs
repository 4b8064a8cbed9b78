//! The Helm chart, as Helm itself renders, checks and installs it, on the real control plane.
//!
//! Run by `cargo xtask test peers`, which names Helm in `VK_HELM`.

use std::process::{Command, Output};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, PostParams};
use serde_json::json;
use vk_scenarios::rights::{Audit, Right, granted, granted_by};
use vk_scenarios::virtual_node::{condition, delete_object};
use vk_scenarios::{World, daemon, eventually};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/chart");

fn helm(arguments: &[&str]) -> Output {
    let binary = std::env::var_os("VK_HELM").expect("VK_HELM; run `cargo xtask test peers`");
    Command::new(binary).args(arguments).output().expect("helm starts")
}

/// What a command that must succeed prints.
#[track_caller]
fn say(arguments: &[&str]) -> String {
    let output = helm(arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {}: {err}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_chart_passes_helms_own_checks_and_refuses_values_that_make_no_sense() {
    let said = say(&["lint", "--strict", CHART]);
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
    for (wrong, what) in [
        ("kubeletPorts=10250", "kubeletPorts"),
        ("adminPort=70000", "adminPort"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("colour=blue", "colour"),
    ] {
        let output = helm(&["template", "x", CHART, "--set", wrong]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains(what), "{wrong}: {complaint}");
    }
}

#[test]
fn the_chart_grants_what_the_plain_manifest_grants() {
    let rendered = say(&["template", "x", CHART, "--namespace", "somewhere"]);
    assert_eq!(granted_by(&rendered), granted());
    let kept = say(&["template", "x", CHART, "--set", "rbac.deleteNodes=false"]);
    let delete_nodes = |right: &Right| (&*right.verb, &*right.resource) == ("delete", "nodes");
    let without: Vec<Right> = granted().into_iter().filter(|right| !delete_nodes(right)).collect();
    assert_eq!(granted_by(&kept), without);
    assert_eq!(granted_by(&say(&["template", "x", CHART, "--set", "rbac.create=false"])), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_charts_account_and_configuration_run_a_node_and_an_uninstalled_one_leaves_nothing() {
    let world = World::real().await;
    let (node, release, client) = (world.node_name(), world.namespace.clone(), world.client());
    let name = format!("config.nodes[0].name={node}");
    say(&["install", &release, CHART, "--namespace", &release, "--set", &name]);
    let account = format!("{release}-vk-node");

    // No kubelet runs the chart's pod here: the daemon is started as it would start there.
    let maps: Api<ConfigMap> = world.api();
    let map = maps.get(&account).await.expect("the chart's configuration").data.unwrap_or_default();
    let accounts: Api<ServiceAccount> = world.api();
    let asked = TokenRequest::default();
    let token = accounts.create_token_request(&account, &PostParams::default(), &asked).await;
    let token = token.expect("a token").status.expect("an answer").token;
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).expect("a file");
    write("vk-node.yaml", &map["vk-node.yaml"]);
    let mut kubeconfig =
        serde_json::to_value(kube::config::Kubeconfig::read().expect("a kubeconfig")).expect("JSON");
    kubeconfig["users"][0]["user"] = json!({ "token": token });
    write("kubeconfig", &kubeconfig.to_string());
    let address = std::env::var("NODE_ADDRESS").expect("the node's address");
    let mut child = daemon::command()
        .args(["--config=vk-node.yaml", "--kubeconfig=kubeconfig", "--port=0", "--log-level=warn"])
        .arg(format!("--node-ip={address}"))
        .current_dir(folder.path())
        .spawn()
        .expect("the daemon starts");
    let nodes: Api<Node> = Api::all(client.clone());
    eventually("the node is Ready", async || {
        let object = nodes.get_opt(&node).await.map_err(|error| error.to_string())?;
        let ready = object.as_ref().and_then(|node| condition(node, "Ready"));
        if ready.is_some_and(|ready| ready.status == "True") { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    child.kill().await.expect("the daemon is killed");
    let audit = Audit::of(world.real_plane().audit_log().expect("a control plane of our own"));
    let refused = audit.refused(&[format!("system:serviceaccount:{release}:{account}")]);
    assert!(refused.is_empty(), "{refused:#?}");
    delete_object(&world, &node).await;

    say(&["uninstall", &release, "--namespace", &release]);
    let roles: Api<ClusterRole> = Api::all(client);
    assert!(roles.get_opt(&account).await.expect("an answer").is_none());
    world.clean_up().await;
}
