//! `vk-node check`: what would stop a node is said before it is one, each with what to do about it, and all of it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::process::Command;
use vk_apiserver::{ApiServer, Config, Fault, Rule, Serving};

struct Cluster {
    server: ApiServer,
    serving: Serving,
    home: tempfile::TempDir,
}

/// How a check ended, and what it said.
struct Said {
    code: Option<i32>,
    good: String,
    faults: Vec<String>,
}

impl Cluster {
    async fn start(config: Config) -> Self {
        let server = ApiServer::with(config).unwrap();
        let serving = server.serve_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        serving.write_kubeconfig(&home.path().join("kubeconfig")).unwrap();
        Self { server, serving, home }
    }

    async fn check(&self, words: &[&str]) -> Said {
        check(self.home.path(), words).await
    }
}

async fn check(home: &Path, words: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_vk-node"))
        .args(["check", "--provider=mock", "--nodename=a", "--listen=127.0.0.1", "--port=0"])
        .arg("--kubeconfig")
        .arg(home.join("kubeconfig"))
        .args(words)
        .env_clear()
        .current_dir(home)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_mins(1), output).await.expect("it ends").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Said {
        code: output.status.code(),
        good: String::from_utf8(output.stdout).unwrap(),
        faults: stderr.lines().map(|line| line.trim_start_matches("vk-node: ").to_owned()).collect(),
    }
}

impl Said {
    /// Exactly one fault, which says both of these, and exit code 2.
    #[track_caller]
    fn only(&self, what: &str, remedy: &str) {
        assert_eq!(self.code, Some(2), "{:?}", self.faults);
        let [fault] = &self.faults[..] else { panic!("{:?}", self.faults) };
        assert!(fault.starts_with(what), "{fault}");
        assert!(fault.contains(remedy), "{fault}");
    }
}

#[tokio::test]
async fn a_node_that_can_run_passes_and_leaves_nothing_behind() {
    let cluster = Cluster::start(Config::default()).await;
    let said = cluster.check(&[]).await;
    assert_eq!((said.code, said.faults), (Some(0), vec![]));
    for line in [
        "ok: the flags is valid: 1 node(s): a",
        "ok: node \"a\": provider mock is well",
        "ok: the permissions a node needs are granted",
        "ok: the name \"a\" is free",
        "ok: clocks agree within 0 s",
    ] {
        assert!(said.good.lines().any(|said| said == line), "{line} in:\n{}", said.good);
    }
    assert_eq!(cluster.server.count("nodes"), 0);
    assert_eq!(cluster.server.count("leases.coordination.k8s.io"), 0);
    cluster.serving.stop().await;
}

#[tokio::test]
async fn without_a_cluster_the_rest_is_checked_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}'}}}}]\n\
         users: [{{name: u, user: {{token: not-a-secret}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(home.path().join("kubeconfig"), kubeconfig).unwrap();
    let said = check(home.path(), &["--connect-timeout=300ms"]).await;
    said.only(
        "cannot reach the API server at https://127.0.0.1:",
        "check that it runs and that this address is",
    );
    assert!(said.good.contains("note: not checked without a cluster: permissions"), "{}", said.good);
    assert!(said.good.contains("ok: node \"a\": provider mock is well"), "{}", said.good);
    let said = check(home.path(), &["--offline"]).await;
    assert_eq!((said.code, said.faults), (Some(0), vec![]));
}

#[tokio::test]
async fn a_wrong_ca_is_told_from_a_server_that_is_away() {
    let cluster = Cluster::start(Config::default()).await;
    let other = Cluster::start(Config::default()).await;
    let file = cluster.home.path().join("kubeconfig");
    let (ours, theirs) = (cluster.serving.address().to_string(), other.serving.address().to_string());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(&ours));
    std::fs::write(&file, text.replace(&ours, &theirs)).unwrap();
    cluster
        .check(&[])
        .await
        .only("cannot trust the API server at https://", "check certificate-authority in the kubeconfig");
}

#[tokio::test]
async fn each_missing_permission_is_named_with_its_verb() {
    let cluster = Cluster::start(Config { rbac: true, ..Config::default() }).await;
    let nobody = cluster.server.issue_client_cert("nobody", "nobodies").unwrap();
    let kubeconfig = cluster.serving.kubeconfig_for("nobody", &nobody);
    std::fs::write(cluster.home.path().join("kubeconfig"), kubeconfig).unwrap();
    let said = cluster.check(&[]).await;
    said.only("not allowed to create nodes, get nodes (node a), ", "apply manifests/rbac.yaml");
    assert!(said.faults[0].contains("patch pods/status"), "{:?}", said.faults);
}

#[tokio::test]
async fn what_cannot_be_found_out_is_a_fault_and_not_in_order() {
    let cluster = Cluster::start(Config::default()).await;
    let rule = Rule::new(Fault::InternalError).resource("selfsubjectaccessreviews");
    let fault = cluster.server.faults().add(rule);
    let said = cluster.check(&["--connect-timeout=2s"]).await;
    said.only("cannot find out what this identity may do at https://", "system:basic-user");
    assert!(!said.good.contains("permissions a node needs are granted"), "{}", said.good);
    fault.remove();
    cluster.server.faults().add(Rule::new(Fault::InternalError).resource("leases"));
    cluster
        .check(&["--connect-timeout=2s"])
        .await
        .only("cannot find out who has the name \"a\" at https://", "see whether the API server is well");
}

#[tokio::test]
async fn a_name_that_a_live_daemon_has_is_taken_and_a_dead_ones_is_not() {
    let cluster = Cluster::start(Config::default()).await;
    let leases: Api<Lease> = Api::namespaced(cluster.server.client(), "kube-node-lease");
    let lease = |renewed: Timestamp| -> Lease {
        serde_json::from_value(json!({
            "metadata": { "name": "a", "annotations": { "virtual-kubelet.io/instance": "name:elsewhere" } },
            "spec": { "holderIdentity": "a", "leaseDurationSeconds": 40, "renewTime": format!("{renewed:.6}") },
        }))
        .unwrap()
    };
    leases.create(&PostParams::default(), &lease(Timestamp::now())).await.unwrap();
    cluster.check(&[]).await.only(
        "node \"a\" is held by another live daemon (name:elsewhere) at https://",
        "choose another --nodename",
    );
    let said = cluster.check(&["--instance=elsewhere"]).await;
    assert_eq!((said.code, said.faults), (Some(0), vec![]), "it is the same daemon");

    let past = Timestamp::now() - SignedDuration::from_mins(2);
    let mut expired = lease(past);
    expired.metadata.resource_version = leases.get("a").await.unwrap().metadata.resource_version;
    leases.replace("a", &PostParams::default(), &expired).await.unwrap();
    assert_eq!(cluster.check(&[]).await.code, Some(0));
}

#[tokio::test]
async fn a_clock_that_disagrees_with_the_api_servers_is_named_in_its_direction() {
    let ahead = Timestamp::now() + SignedDuration::from_mins(5);
    let cluster = Cluster::start(Config { now: Some(ahead), ..Config::default() }).await;
    let said = cluster.check(&[]).await;
    said.only("this machine's clock is ", "set one of them right");
    assert!(said.faults[0].contains(" s behind the API server's at https://"), "{:?}", said.faults);
}

#[tokio::test]
async fn a_port_in_use_is_named_for_the_kubelet_api_and_for_the_admin_port() {
    let cluster = Cluster::start(Config::default()).await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    cluster.check(&[&format!("--port={port}")]).await.only(
        &format!("cannot serve the kubelet API of node \"a\" at 127.0.0.1:{port}"),
        "choose another --port or --listen",
    );
    cluster
        .check(&[&format!("--admin-listen=127.0.0.1:{port}")])
        .await
        .only(&format!("cannot serve the admin port at 127.0.0.1:{port}"), "choose another --admin-listen");
}

#[tokio::test]
async fn a_provider_that_is_down_is_named_with_its_own_words() {
    let cluster = Cluster::start(Config::default()).await;
    let file = cluster.home.path().join("vk.yaml");
    std::fs::write(&file, "provider: {mock: {failures: {nodeInfo: 1}}}\n").unwrap();
    cluster
        .check(&["--config=vk.yaml"])
        .await
        .only("provider mock is down for node \"a\": check its credentials", "(");
    std::fs::write(&file, "provider: {mock: {latency: {nodeInfo: 1h}}}\nnodeDefaults: {pingTimeout: 50ms}\n")
        .unwrap();
    cluster
        .check(&["--config=vk.yaml"])
        .await
        .only("provider mock is down for node \"a\"", "no answer within 50ms");
}

#[tokio::test]
async fn a_serving_certificate_is_read_as_its_callers_will_read_it() {
    let cluster = Cluster::start(Config::default()).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    std::fs::write(cluster.home.path().join("old.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(cluster.home.path().join("old.key"), key.serialize_pem()).unwrap();
    let words = ["--tls-cert-file=old.crt", "--tls-private-key-file=old.key", "--node-ip=192.0.2.10"];
    let said = cluster.check(&words).await;
    assert_eq!(said.code, Some(2));
    assert_eq!(
        said.faults,
        [
            "serving certificate expired on 2020-01-01T00:00:00Z in old.crt: renew it",
            "serving certificate does not name 192.0.2.10, an address of node \"a\", in old.crt: make it with the \
             node's addresses as subject alternative names",
        ]
    );
    let words = ["--tls-cert-file=old.crt", "--tls-private-key-file=new.key"];
    let said = cluster.check(&words).await;
    said.only("unusable serving certificate in old.crt and new.key", "check --tls-cert-file");
}

#[tokio::test]
async fn every_problem_is_listed_not_only_the_first() {
    let ahead = Timestamp::now() + SignedDuration::from_mins(5);
    let cluster = Cluster::start(Config { now: Some(ahead), ..Config::default() }).await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let file = cluster.home.path().join("vk.yaml");
    std::fs::write(&file, "provider: {mock: {failures: {nodeInfo: 1}}}\n").unwrap();
    let port = format!("--port={}", taken.local_addr().unwrap().port());
    let said = cluster.check(&["--config=vk.yaml", &port, "--client-ca-file=none.crt"]).await;
    assert_eq!(said.code, Some(2));
    let begins = [
        "cannot serve the kubelet API",
        "unusable client CA",
        "provider mock is down",
        "this machine's clock",
    ];
    for begin in begins {
        let hits = said.faults.iter().filter(|fault| fault.starts_with(begin)).count();
        assert_eq!(hits, 1, "{begin}: {:?}", said.faults);
    }
    assert_eq!(said.faults.len(), begins.len(), "{:?}", said.faults);
}
