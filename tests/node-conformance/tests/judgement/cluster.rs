//! An in-memory cluster, and runs of the suite in it.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use serde_json::{Value, json};
use vk_apiserver::{ApiServer, Controller, Running};
use vk_node_conformance::{Glob, Report, Settings, Verdict, run};

/// The node under test.
pub(crate) const NODE: &str = "subject";

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    _controllers: Running,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::of(ApiServer::new().unwrap())
    }

    pub(crate) fn of(server: ApiServer) -> Self {
        let controllers = server.start(Controller::ALL);
        Self { server, _controllers: controllers }
    }

    /// Makes the Node object of an agent that is none of ours.
    pub(crate) fn make_node(&self, address: &str, port: u16) {
        let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let now = self.server.clock().now().to_string();
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "Said", "message": "said", "lastHeartbeatTime": now,
                "lastTransitionTime": now})
        };
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64"}},
            "status": {
                "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"),
                    condition("DiskPressure", "False"), condition("PIDPressure", "False")],
                "addresses": [{"type": "InternalIP", "address": address}],
                "capacity": amounts, "allocatable": amounts,
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.37.0-fake",
                    "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                    "machineID": "", "osImage": "", "systemUUID": ""},
            },
        });
        self.server.create(node).unwrap();
    }

    /// Runs what these patterns name.
    pub(crate) async fn check(&self, only: &[&str], patience: Duration) -> Report {
        let only = only.iter().map(|pattern| Glob::new(*pattern));
        let settings = Settings::new(NODE).with_patience(patience).with_only(only);
        run(self.server.client(), settings, |_| {}, pending()).await.unwrap()
    }

    /// The one verdict about this check.
    pub(crate) async fn verdict(&self, name: &str) -> Verdict {
        let report = self.check(&[name], Duration::from_secs(20)).await;
        assert_eq!(report.outcomes.len(), 1, "{name}");
        report.outcomes[0].verdict.clone()
    }

    /// Nothing that a run makes is left.
    pub(crate) fn is_clean(&self) {
        let left: Vec<Value> = self.server.objects("namespaces");
        let ours =
            left.iter().filter(|ns| ns["metadata"]["labels"]["app.kubernetes.io/managed-by"].is_string());
        assert_eq!(ours.count(), 0, "{left:#?}");
        assert_eq!(self.server.count("pods"), 0);
    }
}

/// A report's verdicts by the names of the checks.
pub(crate) fn by_name(report: &Report) -> BTreeMap<&str, &Verdict> {
    report.outcomes.iter().map(|outcome| (outcome.clause.as_str(), &outcome.verdict)).collect()
}
