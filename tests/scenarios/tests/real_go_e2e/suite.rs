//! A daemon and what the Go suite does with it.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::sync::{Mutex, MutexGuard};
use vk_scenarios::pods::{phase_of, status_of};
use vk_scenarios::virtual_node::{condition, delete_object};
use vk_scenarios::wait::{eventually_within, holds};
use vk_scenarios::{Pods, World, eventually};

/// The suite's port, and the daemon's default: one daemon at a time.
static PORT_10250: Mutex<()> = Mutex::const_new(());

/// How long the suite lets a provider stop a pod after its deletion was seen.
const TIME_TO_STOP: Duration = Duration::from_secs(1);

/// A daemon on the real control plane, and the pod that stands for it. Its log is shown when the test fails.
pub(crate) struct Suite {
    pub(crate) world: World,
    /// The node's name.
    pub(crate) node: String,
    pub(crate) pods: Pods,
    daemon: Child,
    home: Home,
    _port: MutexGuard<'static, ()>,
}

/// The daemon's folder, with its log.
struct Home(TempDir);

impl Home {
    fn log(&self) -> String {
        std::fs::read_to_string(self.0.path().join("log")).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Starts the daemon as an operator does: with a certificate that the API server trusts, and its metrics open.
fn daemon(world: &World, node: &str, home: &Path) -> Child {
    let plane = world.real_plane();
    let address = plane.node_address().expect("the API server reaches nodes at an address of this machine");
    let log = std::fs::File::create(home.join("log")).expect("a log file");
    let mut command = vk_scenarios::daemon::command();
    command
        .args(["--provider=mock", "--anonymous-metrics", "--nodename", node, "--kubeconfig"])
        .arg(plane.kubeconfig())
        .args(["--node-ip", &address.to_string()])
        .stderr(log);
    // A user's own cluster has an authority we know nothing of; there the daemon signs for itself.
    if !plane.is_given() {
        let pair = plane.serving_cert(node, address).expect("a serving certificate");
        command.arg("--tls-cert-file").arg(pair.certificate).arg("--tls-private-key-file").arg(pair.key);
    }
    command.spawn().expect("the daemon starts")
}

impl Suite {
    /// A daemon whose node is Ready.
    pub(crate) async fn start() -> Self {
        let port = PORT_10250.lock().await;
        let world = World::real().await;
        let (node, home) = (world.node_name(), Home(tempfile::tempdir().expect("a temporary folder")));
        let daemon = daemon(&world, &node, home.0.path());
        let pods = Pods::of(&world);
        let mut suite = Self { world, node, pods, daemon, home, _port: port };
        suite.until_node_ready().await;
        suite.stand_in().await;
        suite
    }

    async fn until_node_ready(&mut self) {
        let api: Api<Node> = Api::all(self.world.client());
        eventually("the node is Ready", async || {
            if let Some(status) = self.daemon.try_wait().map_err(|error| error.to_string())? {
                panic!("the daemon has ended: {status}\n{}", self.home.log());
            }
            let node = api.get_opt(&self.node).await.map_err(|error| error.to_string())?;
            let ready = node.as_ref().and_then(|node| condition(node, "Ready"));
            holds(ready.is_some_and(|ready| ready.status == "True"), || self.home.log())
        })
        .await;
    }

    /// Makes the pod that is named like the node; it belongs to no node and runs nowhere.
    async fn stand_in(&self) {
        let name = &self.node;
        let address =
            self.world.real_plane().node_address().expect("the daemon was started at it").to_string();
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "vk-node", "image": "vk-node"}]},
        });
        self.pods.create(&serde_json::from_value(pod).expect("a pod")).await;
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        self.pods.patch_status(name, &status).await;
    }

    /// Creates a pod as the suite does: bound to the node, a container for each image.
    pub(crate) async fn create(&self, prefix: &str, images: &[&str]) -> Pod {
        let containers: Vec<Value> = images
            .iter()
            .enumerate()
            .map(|(i, image)| json!({"name": format!("{prefix}-{i}"), "image": image}))
            .collect();
        self.create_with(prefix, json!(containers)).await
    }

    /// Creates a pod whose only container has one variable, from an object that is not there.
    pub(crate) async fn create_referring_to_nothing(&self, source: &str, optional: bool) -> Pod {
        let mut reference = json!({"name": "not-there", "key": "key"});
        if optional {
            reference["optional"] = true.into();
        }
        let variable = json!({"name": "VARIABLE", "valueFrom": {source: reference}});
        self.create_with("refers", json!([{"name": "a", "image": "nginx", "env": [variable]}])).await
    }

    async fn create_with(&self, prefix: &str, containers: Value) -> Pod {
        let pod = json!({
            "metadata": {"generateName": format!("{prefix}-")},
            "spec": {"nodeName": self.node, "enableServiceLinks": false, "containers": containers},
        });
        self.pods.create(&serde_json::from_value(pod).expect("a pod")).await
    }

    /// Waits until a pod runs, is ready and has an address.
    pub(crate) async fn until_ready(&self, pod: &Pod) {
        let pod = self.pods.until_ready(&pod.name_any()).await;
        assert_eq!(phase_of(&pod), Some("Running"));
        assert!(status_of(&pod).pod_ip.is_some_and(|ip| !ip.is_empty()), "{:?}", pod.status);
    }

    /// What the daemon answers through the node proxy, as the API server's kubelet client.
    async fn ask_node(&self, path: &str) -> kube::Result<String> {
        self.ask(&format!("/api/v1/nodes/{}/proxy/{path}", self.node)).await
    }

    /// What the daemon answers through the proxy of the pod that stands for it, to nobody in particular.
    pub(crate) async fn ask_pod(&self, path: &str) -> kube::Result<String> {
        let (namespace, name) = (&self.world.namespace, &self.node);
        self.ask(&format!("/api/v1/namespaces/{namespace}/pods/https:{name}:10250/proxy/{path}")).await
    }

    async fn ask(&self, path: &str) -> kube::Result<String> {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        self.world.client().request_text(request).await
    }

    /// Whether the daemon lists a pod, of this very UID, at a path.
    pub(crate) async fn lists(&self, path: &str, pod: &Pod) -> bool {
        self.listed(path)
            .await
            .iter()
            .any(|listed| listed.uid() == pod.uid() && listed.name_any() == pod.name_any())
    }

    pub(crate) async fn listed(&self, path: &str) -> Vec<Pod> {
        let text = self.ask_node(path).await.expect("the daemon answers through the node proxy");
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")), "{text}");
        serde_json::from_value(list["items"].clone()).expect("pods")
    }

    /// Waits until a pod that was seen to be deleted no longer runs.
    pub(crate) async fn until_stopped(&self, pod: &Pod) {
        eventually_within("the deleted pod is no longer among the running ones", TIME_TO_STOP, async || {
            holds(!self.lists("runningpods/", pod).await, || "it still is")
        })
        .await;
    }

    /// Follows a pod until it is marked for deletion or gone, from before `act`; that state of it.
    pub(crate) async fn sees_deleted(&self, pod: &Pod, act: impl Future<Output = ()>) -> Pod {
        let fields = format!("metadata.name={}", pod.name_any());
        let now = self.pods.api.list(&ListParams::default().fields(&fields)).await.expect("a list");
        let version = now.metadata.resource_version.expect("a list has a version");
        let params = WatchParams::default().fields(&fields);
        let events = self.pods.api.watch(&params, &version).await.expect("a watch");
        let mut events = std::pin::pin!(events);
        act.await;
        let seen = async {
            loop {
                let event = futures::TryStreamExt::try_next(&mut events).await.expect("an event");
                match event.expect("the pod is deleted before the watch ends") {
                    WatchEvent::Deleted(pod) => return pod,
                    WatchEvent::Modified(pod) if pod.metadata.deletion_timestamp.is_some() => return pod,
                    WatchEvent::Error(status) => panic!("{status:?}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(vk_scenarios::wait::PATIENCE, seen).await.expect("the deletion is seen")
    }

    /// Ends the daemon, and removes what the test made.
    pub(crate) async fn end(mut self) {
        self.daemon.kill().await.expect("the daemon is killed");
        delete_object(&self.world, &self.node).await;
        let world = self.world;
        world.clean_up().await;
    }
}
