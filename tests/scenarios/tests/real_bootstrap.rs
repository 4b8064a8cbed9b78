//! A node that gets its own identity as a kubelet does: bootstrap kubeconfig, certificate request, approval by the
//! controller manager; then life under the Node authorizer and NodeRestriction.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::process::Child;
use vk_scenarios::{World, daemon, eventually};

const GROUP: &str = "system:bootstrappers:virtual-nodes";

/// What kubeadm sets up: bootstrappers may ask and are approved, nodes may renew and are approved.
async fn allow_bootstrap(world: &World) {
    let roles = [
        ("system:node-bootstrapper", GROUP),
        ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", GROUP),
        ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
    ];
    let api: Api<ClusterRoleBinding> = Api::all(world.client());
    for (role, group) in roles {
        let name = format!("vk-test:{role}");
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        api.patch(&name, &PatchParams::apply("vk-test"), &Patch::Apply(binding)).await.unwrap();
    }
}

fn start(folder: &Path, node: &str, words: &[String]) -> Child {
    daemon::command()
        .args(["--provider=mock", "--port=0", "--log-format=json", "--bootstrap-kubeconfig=bootstrap"])
        .args(["--kubeconfig=kubeconfig", "--cert-dir=pki", "--nodename", node])
        .args(std::env::var("NODE_ADDRESS").map(|address| format!("--node-ip={address}")))
        .args(words)
        .current_dir(folder)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ends a daemon as its supervisor does; its log.
async fn stop(child: Child) -> Vec<Value> {
    let pid = child.id().expect("it runs").to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await;
    let output = ended.expect("it ends").unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

async fn until_ready(world: &World, node: &str) {
    let api: Api<Node> = Api::all(world.client());
    eventually("the node is Ready", async || {
        let node = api.get_opt(node).await.map_err(|error| error.to_string())?.ok_or("no node")?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready =
            conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if ready { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
}

/// What an approver does with a node's request for a serving certificate.
async fn approve_serving(requests: &Api<CertificateSigningRequest>, node: &str) {
    let user = format!("system:node:{node}");
    let name = eventually("a request for a serving certificate", async || {
        let all = requests.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let ours = all.into_iter().find(|request| {
            request.spec.username.as_deref() == Some(&user)
                && request.spec.signer_name == "kubernetes.io/kubelet-serving"
        });
        ours.and_then(|request| request.metadata.name).ok_or_else(|| "none".to_owned())
    })
    .await;
    let approval = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Test", "message": "approved by the test"},
    ]}});
    requests.patch_approval(&name, &PatchParams::default(), &Patch::Strategic(approval)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrapped_node_runs_pods_with_secrets_within_the_rights_of_a_node() {
    let world = World::real().await;
    allow_bootstrap(&world).await;
    let plane = world.real_plane();
    let node = world.node_name();
    let folder = tempfile::tempdir().unwrap();
    let guest =
        plane.client_kubeconfig(&format!("bootstrap-{node}"), "system:bootstrap:guest", Some(GROUP)).unwrap();
    std::fs::copy(guest, folder.path().join("bootstrap")).unwrap();
    // A node may not read the ConfigMap that names it; a kubelet is told by a flag, too.
    let authority = format!("--client-ca-file={}", plane.pki().unwrap().authority().display());

    let words = [authority, "--rotate-server-certificates".to_owned()];
    let child = start(folder.path(), &node, &words);
    until_ready(&world, &node).await;
    let requests: Api<CertificateSigningRequest> = Api::all(world.client());
    approve_serving(&requests, &node).await;
    let kept = folder.path().join("pki/kubelet-server-current.pem");
    eventually("the cluster's serving certificate is kept", async || {
        if kept.exists() { Ok(()) } else { Err("no file yet") }
    })
    .await;
    let asked = requests.list(&ListParams::default()).await.unwrap().items;
    let of_guest = asked.iter().filter(|request| {
        request.spec.username.as_deref() == Some("system:bootstrap:guest")
            && request.spec.signer_name == "kubernetes.io/kube-apiserver-client-kubelet"
    });
    assert!(of_guest.count() >= 1);

    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "value"}});
    let secrets: Api<Secret> = world.api();
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "i", "env": [
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
            ]}],
        },
    });
    let pods: Api<Pod> = world.api();
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    eventually("the pod runs", async || {
        let status = pods.get("web").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if status.phase.as_deref() == Some("Running") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("the pod is gone", async || match pods.get_opt("web").await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let log = stop(child).await;
    let refused: Vec<&Value> = log.iter().filter(|line| line.to_string().contains("orbidden")).collect();
    assert!(refused.is_empty(), "{refused:#?}");

    // With its own identity the bootstrap kubeconfig is not needed any more.
    std::fs::write(folder.path().join("bootstrap"), "").unwrap();
    let child = start(folder.path(), &node, &words);
    until_ready(&world, &node).await;
    stop(child).await;
    Api::<Node>::all(world.client()).delete(&node, &DeleteParams::default()).await.unwrap();
    world.clean_up().await;
}
