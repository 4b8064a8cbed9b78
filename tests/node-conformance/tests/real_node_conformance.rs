//! `vk-node conformance --node` on the real control plane: our daemon over the mock, and KWOK, which plays nodes for load
//! tests and promises less.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use vk_control_plane::ControlPlane;
use vk_node_conformance::{ALL, Report, Verdict};

/// How long an agent may take to make its node Ready.
const START: Duration = Duration::from_mins(1);

struct Here {
    plane: ControlPlane,
    client: kube::Client,
    folder: tempfile::TempDir,
}

impl Here {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane =
            ControlPlane::current().expect("cargo xtask test real runs this inside the control plane");
        let config = kube::Config::infer().await.expect("KUBECONFIG names the control plane");
        let client = kube::Client::try_from(config).expect("a client");
        Self { plane, client, folder: tempfile::tempdir().expect("a folder") }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn address(&self) -> IpAddr {
        self.plane.node_address().expect("the node's address")
    }

    async fn until_ready(&self, node: &str, agent: &mut Child) {
        let end = Instant::now() + START;
        loop {
            let found = self.nodes().get_opt(node).await.expect("the API server answers");
            let conditions = found.and_then(|node| node.status).and_then(|status| status.conditions);
            let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            if ready {
                return;
            }
            assert!(agent.try_wait().expect("its state is known").is_none(), "the agent of {node} has ended");
            assert!(Instant::now() < end, "{node} is not Ready within {START:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs the command, and returns its exit code and the report that it wrote.
    async fn judge(&self, node: &str, timeout: &str) -> (i32, Report) {
        let json = self.folder.path().join(format!("{node}.json"));
        let junit = self.folder.path().join(format!("{node}.xml"));
        let status = Command::new(binary())
            .env_clear()
            .env("KUBECONFIG", self.plane.kubeconfig())
            .args(["conformance", "--node", node, "--timeout", timeout])
            .arg("--json")
            .arg(&json)
            .arg("--junit")
            .arg(&junit)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .expect("the command runs");
        let report: Report = serde_json::from_slice(&read(&json)).expect("a report");
        let xml = String::from_utf8(read(&junit)).expect("text");
        assert_eq!(xml.matches("<testcase ").count(), ALL.len(), "JUnit has every check");
        assert_eq!(report.outcomes.len(), ALL.len());
        (status.code().unwrap_or(-1), report)
    }

    async fn remove(&self, node: &str, mut agent: Child) {
        agent.kill().await.expect("the agent is killed");
        self.nodes().delete(node, &DeleteParams::default()).await.expect("the node is deleted");
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the report was written")
}

fn binary() -> PathBuf {
    std::env::var_os("VK_NODE_BIN").expect("VK_NODE_BIN; run `cargo xtask test`").into()
}

/// What did not pass: the names, and why.
fn not_passed(report: &Report) -> BTreeMap<String, String> {
    let reasons = report.outcomes.iter().filter_map(|outcome| match &outcome.verdict {
        Verdict::Passed => None,
        Verdict::Failed { reason } => Some((outcome.clause.clone(), format!("failed: {reason}"))),
        Verdict::NotApplicable { reason } => Some((outcome.clause.clone(), format!("n/a: {reason}"))),
    });
    reasons.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_daemon_over_the_mock_passes_everything() {
    let plane = Here::new().await;
    let node = format!("ours-{}", std::process::id());
    let pair = plane.plane.serving_cert(&node, plane.address()).expect("a serving certificate");
    let mut daemon = Command::new(binary())
        .env_clear()
        .args(["--provider=mock", "--port=0", "--log-level=error", "--nodename", &node])
        .arg(format!("--node-ip={}", plane.address()))
        .arg("--kubeconfig")
        .arg(plane.plane.kubeconfig())
        .arg("--tls-cert-file")
        .arg(&pair.certificate)
        .arg("--tls-private-key-file")
        .arg(&pair.key)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon starts");
    plane.until_ready(&node, &mut daemon).await;
    let (code, report) = plane.judge(&node, "1m").await;
    assert_eq!(not_passed(&report), BTreeMap::new());
    assert_eq!(code, 0);
    plane.remove(&node, daemon).await;
}

/// What KWOK 0.8.0 lacks, with its own fast stages and its server on: the list is in `docs/conformance.md`, too.
const KWOK_FAILS: &[&str] = &[
    "node_info_is_complete",
    "the_lease_is_the_nodes",
    "a_pod_runs",
    "a_deletion_outlives_its_grace_by_little",
    "a_second_deletion_does_no_harm",
    "the_same_name_again_is_a_new_pod",
    "a_forced_deletion_frees_the_name",
    "an_end_is_told_before_the_object_goes",
    "a_finalizer_holds_the_object_alone",
    "exit_codes_are_kept",
    "a_job_fails",
    "a_failed_init_container_fails_the_pod",
    "always_restarts",
    "on_failure_leaves_success_alone",
    "a_missing_config_map_is_waited_for",
    "the_environment_is_resolved",
    "conditions_are_a_kubelets",
    "generations_are_observed",
    "nothing_goes_backwards",
    "a_start_is_told",
    "a_deletion_is_told",
    "a_back_off_is_told",
    "what_it_cannot_run_is_failed_aloud",
    "a_log_is_whole",
    "the_tail_is_the_tail",
    "bytes_are_limited",
    "timestamps_are_added",
    "since_leaves_out_what_is_older",
    "the_previous_log_is_kept",
    "a_previous_log_that_is_not_there_is_an_error",
    "a_followed_log_ends",
    "exit_codes_come_back",
    "outputs_stay_apart",
    "input_reaches_the_command",
    "a_terminal_is_one",
    "an_attached_client_talks_to_the_process",
    "a_port_answers",
    "the_summary_has_the_pod",
    "the_resource_metrics_have_the_pod",
    "the_kubelet_api_lists_the_pod",
    "strangers_are_kept_out",
    "twenty_pods_run_at_once",
];
/// What does not apply to it.
const KWOK_NOT_APPLICABLE: &[&str] = &["a_closed_port_says_so"];

#[tokio::test(flavor = "multi_thread")]
async fn kwok_fails_what_it_lacks_and_the_report_says_which() {
    let Some(folder) = std::env::var_os("VK_KWOK").map(PathBuf::from) else {
        panic!("VK_KWOK; run `cargo xtask test real`");
    };
    let plane = Here::new().await;
    let node = format!("kwok-{}", std::process::id());
    let address = plane.address();
    // It manages nodes that somebody else makes.
    let object: Node = serde_json::from_value(kwok_node(&node)).expect("a node");
    plane.nodes().create(&PostParams::default(), &object).await.expect("the node is created");
    let pair = plane.plane.serving_cert(&node, address).expect("a serving certificate");
    let mut command = Command::new(folder.join("kwok"));
    command
        .env_clear()
        .args(["--manage-single-node", &node, "--v", "ERROR", "--node-lease-duration-seconds", "40"])
        .arg(format!("--node-ip={address}"))
        .args(["--node-port=10247", "--cidr=10.42.0.0/24"])
        .arg(format!("--server-address={address}:10247"))
        .arg("--kubeconfig")
        .arg(plane.plane.kubeconfig())
        .arg("--tls-cert-file")
        .arg(&pair.certificate)
        .arg("--tls-private-key-file")
        .arg(&pair.key);
    let mut stages: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("KWOK's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    stages.sort();
    assert!(!stages.is_empty(), "KWOK has no stage built in");
    for stage in stages {
        command.arg("--config").arg(stage);
    }
    let mut kwok = command.stdin(Stdio::null()).kill_on_drop(true).spawn().expect("KWOK starts");
    plane.until_ready(&node, &mut kwok).await;
    // Its stages answer at once.
    let (code, report) = plane.judge(&node, "5s").await;
    let not_applicable: Vec<&str> = report
        .outcomes
        .iter()
        .filter(|outcome| matches!(outcome.verdict, Verdict::NotApplicable { .. }))
        .map(|outcome| outcome.clause.as_str())
        .collect();
    assert_eq!(report.failed(), KWOK_FAILS);
    assert_eq!(not_applicable, KWOK_NOT_APPLICABLE);
    assert_eq!(code, 1, "a report with failures is a failure");
    plane.remove(&node, kwok).await;
}

fn kwok_node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "type": "kwok"}},
    })
}
