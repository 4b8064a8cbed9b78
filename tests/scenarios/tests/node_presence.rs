//! A node's presence in the cluster: registration, lease, heartbeat, on the in-memory API server in paused time.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use vk_apiserver::{ApiServer, Fault, Rule, Verb};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::internals::{
    Heartbeat, LeaseHandle, LeaseKeeper, LeaseStatus, NodeContext, NodeReason, Recorded, Recorder,
    deregister, ensure_registered,
};
use vk_core::node::{HeartbeatError, Instance, LeaseRuntime, RegisterError};
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Features, FieldSupport, Health, NodeInfo,
    ObservedPod, PodEvent, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod,
    Result,
};

const NAME: &str = "virtual-1";

/// What the backend answers when it is asked about the node.
#[derive(Debug)]
enum Answer {
    Info(Box<NodeInfo>),
    Down,
    Never,
}

/// A backend of which only the node is of interest.
#[derive(Debug)]
struct Backend(Mutex<Answer>);

impl Backend {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Answer::Info(Box::new(info())))))
    }

    fn set(&self, answer: Answer) {
        *self.0.lock().unwrap() = answer;
    }
}

fn info() -> NodeInfo {
    let amounts = [("cpu", "4"), ("memory", "8Gi"), ("pods", "20")];
    NodeInfo::new(amounts.into_iter().map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).collect())
}

#[async_trait]
impl Provider for Backend {
    fn name(&self) -> &'static str {
        "mock"
    }
    fn native(&self) -> Features {
        Features::NONE
    }
    fn fields(&self) -> &FieldSupport {
        static NOTHING: LazyLock<FieldSupport> =
            LazyLock::new(|| FieldSupport::of_pods("mock", Features::NONE));
        &NOTHING
    }
    async fn node_info(&self) -> Result<NodeInfo> {
        let answer = match &*self.0.lock().unwrap() {
            Answer::Info(info) => Some(Ok((**info).clone())),
            Answer::Down => Some(Err(Error::unavailable("connection refused"))),
            Answer::Never => None,
        };
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
    async fn create_pod(&self, _: &ResolvedPod) -> Result<()> {
        Ok(())
    }
    async fn delete_pod(&self, _: &PodRef, _: Duration) -> Result<()> {
        Ok(())
    }
    async fn list_pods(&self) -> Result<Vec<ObservedPod>> {
        Ok(Vec::new())
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Result<PodEvent>> {
        futures::stream::pending().boxed()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        None
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        None
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        None
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        None
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        None
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        None
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        None
    }
}

/// A cluster and a backend, and what a daemon is made of.
struct Cluster {
    server: ApiServer,
    backend: Arc<Backend>,
    recorder: Recorder,
    clock: Clock,
}

/// A running daemon, as far as its node is concerned.
struct Daemon {
    synced: watch::Sender<bool>,
    lease: Option<LeaseHandle>,
    lease_status: watch::Receiver<LeaseStatus>,
    drain: CancellationToken,
    heartbeat: JoinHandle<Result<(), HeartbeatError>>,
}

impl Daemon {
    /// `kill -9`.
    fn kill(mut self) {
        self.heartbeat.abort();
        drop(self.lease.take());
    }

    async fn shut_down(mut self) {
        self.drain.cancel();
        self.heartbeat.await.unwrap().unwrap();
        self.lease.take().unwrap().stop().await;
    }
}

impl Cluster {
    fn new() -> Self {
        let base: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let server = ApiServer::with(vk_apiserver::Config { now: Some(base), ..Default::default() }).unwrap();
        Self {
            server,
            backend: Backend::new(),
            recorder: Recorder::recording(),
            clock: Clock::virtual_from(base),
        }
    }

    fn context(&self, instance: &str) -> NodeContext {
        self.context_with(instance, NodeConfig::new(NAME).with_address("192.0.2.10".parse().unwrap()))
    }

    fn context_with(&self, instance: &str, config: NodeConfig) -> NodeContext {
        let mut context = NodeContext::new(self.server.client(), config, self.backend.clone());
        context.recorder = self.recorder.clone();
        context.clock = self.clock.clone();
        context.instance = Instance::named(instance);
        context
    }

    async fn start(&self, instance: &str) -> std::result::Result<Daemon, RegisterError> {
        self.start_with(self.context(instance)).await
    }

    async fn start_with(&self, context: NodeContext) -> std::result::Result<Daemon, RegisterError> {
        let registered = ensure_registered(&context).await?;
        let lease = LeaseKeeper::new(&registered).spawn(&LeaseRuntime::current(context.client.clone()));
        let (synced, synced_receiver) = watch::channel(false);
        let heartbeat = Heartbeat::new(registered, synced_receiver, lease.status());
        let drain = CancellationToken::new();
        let heartbeat = tokio::spawn(heartbeat.run(drain.clone()));
        Ok(Daemon { synced, lease_status: lease.status(), lease: Some(lease), drain, heartbeat })
    }

    /// A daemon whose node is ready.
    async fn ready(&self, instance: &str) -> Daemon {
        let daemon = self.start(instance).await.unwrap();
        daemon.synced.send_replace(true);
        self.until("the node is ready", |node| ready(node).0 == "True").await;
        daemon
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.server.client())
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.server.client(), "kube-node-lease")
    }

    fn node(&self) -> Value {
        self.server.object("nodes", "", NAME).unwrap_or_default()
    }

    fn lease(&self) -> Value {
        self.server.object("leases", "kube-node-lease", NAME).unwrap_or_default()
    }

    /// Waits, two minutes of paused time at most, until the Node object is so.
    async fn until(&self, what: &str, so: impl Fn(&Value) -> bool) {
        let started = Instant::now();
        while !so(&self.node()) {
            assert!(started.elapsed() < Duration::from_mins(2), "never: {what}: {:#}", self.node());
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn patch_node(&self, patch: Value) {
        self.nodes().patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    fn node_events(&self) -> Vec<NodeReason> {
        let reason = |event| match event {
            Recorded::Node { reason, .. } => Some(reason),
            Recorded::Pod(..) => None,
        };
        self.recorder.recorded().into_iter().filter_map(reason).collect()
    }
}

/// Status, reason and transition time of `Ready`.
fn ready(node: &Value) -> (String, String, String) {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("lastTransitionTime"))
}

#[tokio::test(start_paused = true)]
async fn a_node_is_ready_once_its_pods_are_known_and_not_before() {
    let cluster = Cluster::new();
    let daemon = cluster.start("a").await.unwrap();
    sleep(Duration::from_mins(1)).await;
    let (status, reason, _) = ready(&cluster.node());
    assert_eq!((status.as_str(), reason.as_str()), ("False", "KubeletNotReady"));
    daemon.synced.send_replace(true);
    cluster.until("ready", |node| ready(node).0 == "True").await;
    let node = cluster.node();
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.37.2-vk-0.1.0");
    assert_eq!(node["status"]["allocatable"]["pods"], "20");
    let lease = cluster.lease();
    assert_eq!(lease["spec"]["holderIdentity"], NAME);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert_eq!(cluster.node_events(), [NodeReason::Starting, NodeReason::NodeReady]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_costs_a_lease_write_in_ten_seconds_and_a_status_write_in_five_minutes() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    sleep(Duration::from_secs(30)).await;
    let before = cluster.server.requests();
    sleep(Duration::from_hours(1)).await;
    let hour = cluster.server.requests().since(&before);
    let leases = hour.of(Verb::Update, "leases", "");
    assert!((344..=361).contains(&leases), "{leases} lease writes");
    assert_eq!(hour.of(Verb::Patch, "nodes", "status"), 12);
    assert_eq!(hour.count(|kind| kind.verb == Verb::Get), 0, "{hour:?}");
    // What is left is the watch, which the server ends after five minutes or so.
    let watches = hour.of(Verb::Watch, "nodes", "");
    assert_eq!(hour.total() - leases - 12 - watches, 0, "{hour:?}");
    assert!(watches < 20, "{watches}");
}

#[tokio::test(start_paused = true)]
async fn heartbeat_times_move_and_transition_times_do_not() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let (.., before) = ready(&cluster.node());
    let heartbeat = cluster.node()["status"]["conditions"][0]["lastHeartbeatTime"].clone();
    sleep(Duration::from_mins(11)).await;
    assert_ne!(cluster.node()["status"]["conditions"][0]["lastHeartbeatTime"], heartbeat);
    assert_eq!(ready(&cluster.node()).2, before);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_shows_as_a_condition_and_does_not_delay_the_lease() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    cluster.backend.set(Answer::Never);
    cluster.until("not ready", |node| ready(node).1 == "ProviderTimeout").await;
    let before = cluster.server.requests();
    for _ in 0..60 {
        sleep(Duration::from_secs(10)).await;
        let age = daemon.lease_status.borrow().age().unwrap();
        assert!(age < Duration::from_secs(11), "{age:?}");
    }
    assert!(cluster.server.requests().since(&before).of(Verb::Update, "leases", "") >= 57);
    cluster.backend.set(Answer::Info(Box::new(info())));
    cluster.until("ready again", |node| ready(node).0 == "True").await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_in_trouble_is_the_reason_why_the_node_is_not_ready() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster.backend.set(Answer::Down);
    cluster.until("not ready", |node| ready(node).0 == "False").await;
    assert_eq!(ready(&cluster.node()).1, "ProviderUnavailable");
    let mut unhealthy = info();
    unhealthy.health =
        Health::Unhealthy { reason: "QuotaExceeded".to_owned(), message: "no cores left".to_owned() };
    cluster.backend.set(Answer::Info(Box::new(unhealthy)));
    cluster.until("unhealthy", |node| ready(node).1 == "QuotaExceeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_at_the_start_does_not_keep_the_node_away_and_fills_it_in_later() {
    let cluster = Cluster::new();
    cluster.backend.set(Answer::Down);
    let daemon = cluster.start("a").await.unwrap();
    daemon.synced.send_replace(true);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(ready(&cluster.node()).1, "ProviderUnavailable");
    assert!(cluster.node()["metadata"]["labels"].get("kubernetes.io/os").is_none());
    cluster.backend.set(Answer::Info(Box::new(info())));
    cluster.until("ready", |node| ready(node).0 == "True").await;
    cluster.until("complete", |node| node["metadata"]["labels"]["kubernetes.io/os"] == "linux").await;
    assert_eq!(cluster.node()["spec"]["providerID"], "virtual-kubelet://mock/virtual-1");
    assert_eq!(cluster.node()["status"]["capacity"]["cpu"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_at_a_restart_takes_nothing_from_the_node() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let before = cluster.node();
    cluster.backend.set(Answer::Down);
    let _daemon = cluster.start("a").await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let after = cluster.node();
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["status"]["capacity"], before["status"]["capacity"]);
    assert_eq!(ready(&after).1, "ProviderUnavailable");
}

#[tokio::test(start_paused = true)]
async fn capacity_and_labels_follow_the_provider() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let mut more = info();
    more.capacity.insert("cpu".to_owned(), Quantity("40".to_owned()));
    more.capacity.insert("acme.com/fpga".to_owned(), Quantity("2".to_owned()));
    more.labels.insert("topology.kubernetes.io/region".to_owned(), "eu-1".to_owned());
    cluster.backend.set(Answer::Info(Box::new(more)));
    cluster.until("more", |node| node["status"]["allocatable"]["acme.com/fpga"] == "2").await;
    cluster
        .until("region", |node| node["metadata"]["labels"]["topology.kubernetes.io/region"] == "eu-1")
        .await;
    cluster.backend.set(Answer::Info(Box::new(info())));
    cluster.until("less", |node| node["status"]["capacity"].get("acme.com/fpga").is_none()).await;
    assert_eq!(cluster.node()["status"]["capacity"]["cpu"], "4");
    cluster
        .until("no region", |node| node["metadata"]["labels"].get("topology.kubernetes.io/region").is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_made_again_at_once_and_the_lease_follows() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let old = cluster.node()["metadata"]["uid"].clone();
    let deleted = Instant::now();
    cluster.nodes().delete(NAME, &DeleteParams::default()).await.unwrap();
    cluster.until("again", |node| ready(node).0 == "True" && node["metadata"]["uid"] != old).await;
    assert!(deleted.elapsed() < Duration::from_secs(1), "{:?}", deleted.elapsed());
    sleep(Duration::from_millis(200)).await;
    let uid = cluster.node()["metadata"]["uid"].clone();
    assert_eq!(cluster.lease()["metadata"]["ownerReferences"][0]["uid"], uid);
    assert!(cluster.node_events().contains(&NodeReason::Reregistered));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_deleted_again_and_again_is_made_again_at_a_limited_rate() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let before = cluster.server.requests();
    let started = Instant::now();
    while started.elapsed() < Duration::from_mins(10) {
        let _ = cluster.nodes().delete(NAME, &DeleteParams::default()).await;
        sleep(Duration::from_millis(500)).await;
    }
    let made = cluster.server.requests().since(&before).of(Verb::Create, "nodes", "");
    assert!((20..=40).contains(&made), "{made}");
}

#[tokio::test(start_paused = true)]
async fn what_others_change_of_ours_is_repaired_and_what_they_add_stays() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster
        .patch_node(json!({
            "metadata": { "labels": { "type": "other", "kubernetes.io/role": null, "theirs": "x" },
                          "annotations": { "theirs": "x" } },
            "spec": { "unschedulable": true, "taints": [{ "key": "theirs", "effect": "NoSchedule" }] },
        }))
        .await;
    cluster.until("repaired", |node| node["metadata"]["labels"]["type"] == "virtual-kubelet").await;
    let node = cluster.node();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/role"], "agent");
    assert_eq!(node["metadata"]["labels"]["theirs"], "x");
    assert_eq!(node["metadata"]["annotations"]["theirs"], "x");
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(
        node["spec"]["taints"],
        json!([
            { "key": "theirs", "effect": "NoSchedule" },
            { "key": "virtual-kubelet.io/provider", "value": "mock", "effect": "NoSchedule" },
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_a_label_is_fought_slowly() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let before = cluster.server.requests();
    let started = Instant::now();
    let mut theirs = 0;
    while started.elapsed() < Duration::from_mins(10) {
        cluster.patch_node(json!({ "metadata": { "labels": { "type": "other" } } })).await;
        theirs += 1;
        sleep(Duration::from_millis(500)).await;
    }
    let all = cluster.server.requests().since(&before).of(Verb::Patch, "nodes", "");
    let ours = all - theirs;
    assert!((50..=75).contains(&ours), "{ours}");
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_gone_after_a_restart_are_gone_from_the_node() {
    let cluster = Cluster::new();
    let config = NodeConfig::new(NAME).with_label("team", "a");
    cluster.start_with(cluster.context_with("a", config)).await.unwrap().kill();
    cluster.patch_node(json!({ "metadata": { "labels": { "theirs": "x" } } })).await;
    let mut config = NodeConfig::new(NAME);
    config.taints = Some(Vec::new());
    let _daemon = cluster.start_with(cluster.context_with("a", config)).await.unwrap();
    let node = cluster.node();
    assert!(node["metadata"]["labels"].get("team").is_none());
    assert_eq!(node["metadata"]["labels"]["theirs"], "x");
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    assert!(taints.iter().all(|t| t["key"] != "virtual-kubelet.io/provider"), "{taints:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_held_by_a_live_daemon_is_refused() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    let before = cluster.node();
    let asked = Instant::now();
    let error = cluster.start("b").await.err().unwrap();
    assert!(
        matches!(&error, RegisterError::HeldByAnother { instance, .. } if instance == "name:a"),
        "{error}"
    );
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    assert_eq!(cluster.node()["metadata"], before["metadata"]);
    sleep(Duration::from_mins(2)).await;
    assert!(!daemon.heartbeat.is_finished());
}

#[tokio::test(start_paused = true)]
async fn of_two_daemons_that_start_together_one_goes_on() {
    let cluster = Cluster::new();
    let (a, b) = tokio::join!(cluster.start("a"), cluster.start("b"));
    let (winners, losers): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(std::result::Result::is_ok);
    assert_eq!((winners.len(), losers.len()), (1, 1));
    assert!(matches!(losers[0], Err(RegisterError::HeldByAnother { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_killed_daemon_takes_its_node_back_at_once_and_the_node_does_not_flap() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let (.., since) = ready(&cluster.node());
    let before = cluster.server.requests();
    let started = Instant::now();
    let daemon = cluster.start("a").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    sleep(Duration::from_secs(5)).await;
    daemon.synced.send_replace(true);
    sleep(Duration::from_secs(5)).await;
    let (status, _, after) = ready(&cluster.node());
    assert_eq!((status.as_str(), after), ("True", since));
    let requests = cluster.server.requests().since(&before);
    assert_eq!(requests.of(Verb::Patch, "nodes", "") + requests.of(Verb::Patch, "nodes", "status"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ready_node_whose_pods_stay_unknown_after_a_restart_does_not_stay_ready() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let _daemon = cluster.start("a").await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(ready(&cluster.node()).0, "True");
    sleep(Duration::from_secs(15)).await;
    assert_eq!(ready(&cluster.node()).1, "KubeletNotReady");
}

#[tokio::test(start_paused = true)]
async fn a_dead_daemons_node_is_taken_over_when_its_lease_expires_and_a_released_one_at_once() {
    let cluster = Cluster::new();
    cluster.ready("a").await.kill();
    let started = Instant::now();
    let daemon = cluster.start("b").await.unwrap();
    let waited = started.elapsed();
    assert!(waited > Duration::from_secs(28) && waited <= Duration::from_secs(42), "{waited:?}");
    daemon.shut_down().await;
    let started = Instant::now();
    let _daemon = cluster.start("c").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_renews_without_saying_who_it_is_is_noticed_too() {
    let cluster = Cluster::new();
    let leases = cluster.leases();
    let lease = |at: Timestamp| -> Lease {
        serde_json::from_value(json!({
            "metadata": { "name": NAME, "namespace": "kube-node-lease" },
            "spec": { "holderIdentity": NAME, "leaseDurationSeconds": 40,
                      "renewTime": at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() },
        }))
        .unwrap()
    };
    leases.create(&PostParams::default(), &lease(cluster.clock.now())).await.unwrap();
    let clock = cluster.clock.clone();
    let kubelet = tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(10)).await;
            let patch = Patch::Merge(json!({ "spec": lease(clock.now()).spec }));
            leases.patch(NAME, &PatchParams::default(), &patch).await.unwrap();
        }
    });
    let error = cluster.start("a").await.err().unwrap();
    assert!(matches!(error, RegisterError::HeldByAnother { .. }), "{error}");
    kubelet.abort();
    let started = Instant::now();
    let daemon = cluster.start("a").await.unwrap();
    assert!(started.elapsed() <= Duration::from_secs(42), "{:?}", started.elapsed());
    daemon.kill();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_whose_lease_was_taken_stops_and_writes_no_more() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    // As after a pause of the process that was longer than its lease.
    let taken = json!({
        "metadata": { "annotations": { "virtual-kubelet.io/instance": "name:b" } },
        "spec": { "renewTime": cluster.clock.now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() },
    });
    cluster.leases().patch(NAME, &PatchParams::default(), &Patch::Merge(taken)).await.unwrap();
    let ended = timeout(Duration::from_secs(15), daemon.heartbeat).await.unwrap().unwrap();
    assert!(matches!(ended, Err(HeartbeatError::HeldByAnother { instance, .. }) if instance == "name:b"));
    let before = cluster.server.requests();
    sleep(Duration::from_mins(10)).await;
    assert_eq!(cluster.server.requests().since(&before).total(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_leases_the_status_is_written_at_every_ping_and_an_event_says_so() {
    let cluster = Cluster::new();
    let rule = cluster.server.faults().add(Rule::new(Fault::Forbidden).resource("leases"));
    let daemon = cluster.ready("a").await;
    assert!(daemon.lease_status.borrow().out_of_reach);
    sleep(Duration::from_secs(30)).await;
    let before = cluster.server.requests();
    sleep(Duration::from_mins(10)).await;
    let requests = cluster.server.requests().since(&before);
    let statuses = requests.of(Verb::Patch, "nodes", "status");
    assert!((59..=61).contains(&statuses), "{statuses}");
    assert!(requests.count(|kind| kind.resource == "leases") <= 16, "{requests:?}");
    let said = cluster.node_events().iter().filter(|r| **r == NodeReason::LeaseForbidden).count();
    assert_eq!(said, 1);
    rule.remove();
    sleep(Duration::from_mins(2)).await;
    assert!(!daemon.lease_status.borrow().out_of_reach);
    assert_eq!(cluster.lease()["spec"]["holderIdentity"], NAME);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_is_made_again() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster.leases().delete(NAME, &DeleteParams::default()).await.unwrap();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(cluster.lease()["metadata"]["ownerReferences"][0]["uid"], cluster.node()["metadata"]["uid"]);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_conflicts_do_not_cost_the_lease() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    let faults = cluster.server.faults();
    let lost =
        faults.add(Rule::new(Fault::LoseResponse).verb(Verb::Update).resource("leases").probability(0.5));
    let conflicts =
        faults.add(Rule::new(Fault::Conflict).verb(Verb::Update).resource("leases").probability(0.3));
    for _ in 0..100 {
        sleep(Duration::from_secs(10)).await;
        let status = daemon.lease_status.borrow().clone();
        assert_eq!(status.lost_to, None);
        assert!(status.age().unwrap() < Duration::from_secs(30), "{status:?}");
    }
    assert!(lost.hits() > 20 && conflicts.hits() > 10);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_lease_is_renewed_within_seconds() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    for fault in [Fault::Unavailable, Fault::Hang] {
        let rule = cluster.server.faults().add(Rule::new(fault));
        sleep(Duration::from_mins(10)).await;
        let before = cluster.server.requests();
        rule.remove();
        sleep(Duration::from_secs(19)).await;
        let age = daemon.lease_status.borrow().age().unwrap();
        assert!(age < Duration::from_secs(19), "{age:?}");
        assert!(cluster.server.requests().since(&before).of(Verb::Update, "leases", "") > 0);
    }
    cluster.until("still ready", |node| ready(node).0 == "True").await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_errors_ends_in_the_right_status() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    let faults = cluster.server.faults();
    let retry_after = Duration::from_secs(2);
    for fault in [
        Fault::Conflict,
        Fault::TooManyRequests { retry_after },
        Fault::InternalError,
        Fault::Unavailable,
        Fault::LoseResponse,
    ] {
        faults.add(Rule::new(fault).resource("nodes").writes().times(3));
    }
    cluster.backend.set(Answer::Down);
    cluster.until("not ready", |node| ready(node).1 == "ProviderUnavailable").await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_errors_at_the_start_delays_the_registration_only() {
    let cluster = Cluster::new();
    let faults = cluster.server.faults();
    faults.add(Rule::new(Fault::Unavailable).times(3));
    faults.add(Rule::new(Fault::LoseResponse).verb(Verb::Create).resource("leases").times(1));
    faults.add(Rule::new(Fault::LoseResponse).verb(Verb::Create).resource("nodes").times(1));
    let _daemon = cluster.ready("a").await;
}

#[tokio::test(start_paused = true)]
async fn where_the_node_cannot_be_watched_it_is_read_and_a_deletion_is_noticed_all_the_same() {
    let cluster = Cluster::new();
    let rule = || Rule::new(Fault::Forbidden).resource("nodes");
    cluster.server.faults().add(rule().verb(Verb::Watch).verb(Verb::List));
    let _daemon = cluster.ready("a").await;
    let old = cluster.node()["metadata"]["uid"].clone();
    cluster.nodes().delete(NAME, &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    cluster.until("again", |node| ready(node).0 == "True" && node["metadata"]["uid"] != old).await;
    assert!(deleted.elapsed() < Duration::from_secs(12), "{:?}", deleted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_or_cut_watch_of_the_node_is_survived() {
    let cluster = Cluster::new();
    let _daemon = cluster.ready("a").await;
    cluster.server.drop_watches("nodes");
    cluster.server.compact("nodes");
    let old = cluster.node()["metadata"]["uid"].clone();
    cluster.nodes().delete(NAME, &DeleteParams::default()).await.unwrap();
    cluster.until("again", |node| ready(node).0 == "True" && node["metadata"]["uid"] != old).await;
}

#[tokio::test(start_paused = true)]
async fn with_the_go_virtual_kubelets_rights_labels_go_with_the_status() {
    let cluster = Cluster::new();
    let rule = || Rule::new(Fault::Forbidden).resource("nodes").subresource("");
    let faults = cluster.server.faults();
    faults.add(rule().verb(Verb::Watch).verb(Verb::List).verb(Verb::Patch));
    cluster.ready("a").await.kill();
    let config = NodeConfig::new(NAME).with_label("team", "a");
    let daemon = cluster.start_with(cluster.context_with("a", config)).await.unwrap();
    daemon.synced.send_replace(true);
    assert_eq!(cluster.node()["metadata"]["labels"]["team"], "a");
    sleep(Duration::from_mins(1)).await;
    let before = cluster.server.requests();
    sleep(Duration::from_mins(4)).await;
    let writes = cluster.server.requests().since(&before).count(|k| k.verb == Verb::Patch);
    assert!(writes <= 1, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_says_so_keeps_the_lease_until_the_end_and_leaves_the_node() {
    let cluster = Cluster::new();
    let mut daemon = cluster.ready("a").await;
    daemon.drain.cancel();
    (&mut daemon.heartbeat).await.unwrap().unwrap();
    let (status, reason, _) = ready(&cluster.node());
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NodeShutdown"));
    sleep(Duration::from_secs(15)).await;
    assert!(daemon.lease_status.borrow().age().unwrap() < Duration::from_secs(11));
    daemon.lease.take().unwrap().stop().await;
    let renewed = cluster.lease()["spec"]["renewTime"].clone();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(cluster.lease()["spec"]["renewTime"], renewed);
    assert!(cluster.lease()["metadata"]["annotations"].get("virtual-kubelet.io/instance").is_none());
}

#[tokio::test(start_paused = true)]
async fn shutdown_with_a_dead_api_server_takes_five_seconds_at_most() {
    let cluster = Cluster::new();
    let daemon = cluster.ready("a").await;
    cluster.server.faults().add(Rule::new(Fault::Hang));
    let asked = Instant::now();
    daemon.shut_down().await;
    assert!(asked.elapsed() <= Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn deregistering_deletes_the_node_that_was_ours_and_no_other() {
    let cluster = Cluster::new();
    let context = cluster.context("a");
    let registered = ensure_registered(&context).await.unwrap();
    let uid = registered.uid().borrow().clone();
    deregister(&context, "another-uid").await.unwrap();
    assert_eq!(cluster.node()["metadata"]["uid"], uid.as_str());
    deregister(&context, &uid).await.unwrap();
    assert_eq!(cluster.node(), Value::Null);
    deregister(&context, &uid).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_cluster_is_an_error_within_seconds() {
    let cluster = Cluster::new();
    let refused = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("connection refused"))
    });
    let mut context = cluster.context("a");
    context.client = kube::Client::new(refused, "default");
    let asked = Instant::now();
    let error = ensure_registered(&context).await.unwrap_err();
    assert!(matches!(error, RegisterError::Reach(_)), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn missing_rights_to_create_the_node_are_an_error_at_once() {
    let cluster = Cluster::new();
    cluster.server.faults().add(Rule::new(Fault::Forbidden).resource("nodes").verb(Verb::Create));
    let asked = Instant::now();
    let error = cluster.start("a").await.err().unwrap();
    assert_eq!(error.to_string(), "create node virtual-1");
    assert!(asked.elapsed() < Duration::from_secs(1));
}

/// The admission plugin NodeRestriction before the server: what it says to a node that wants too much.
fn node_restriction(server: &ApiServer) -> kube::Client {
    let server = server.service();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
            let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
            let refused = if !parts.uri.path().starts_with("/api/v1/nodes") {
                None
            } else if sent["metadata"]["labels"].get("kubernetes.io/role").is_some() {
                Some("is not allowed to modify labels: kubernetes.io/role")
            } else if parts.method == http::Method::PATCH && sent["spec"].get("taints").is_some() {
                Some("is not allowed to modify taints")
            } else {
                None
            };
            let Some(message) = refused else {
                let request = http::Request::from_parts(parts, axum::body::Body::from(body));
                let Ok(response) = tower::ServiceExt::oneshot(server, request).await;
                return Ok::<_, tower::BoxError>(response);
            };
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                                 "reason": "Forbidden", "message": message });
            let answer =
                http::Response::builder().status(403).body(axum::body::Body::from(status.to_string()));
            Ok(answer?)
        }
    });
    kube::Client::new(service, "default")
}

#[tokio::test(start_paused = true)]
async fn a_node_identity_goes_without_what_it_may_not_set() {
    let cluster = Cluster::new();
    let mut context = cluster.context("a");
    context.client = node_restriction(&cluster.server);
    let daemon = cluster.start_with(context.clone()).await.unwrap();
    daemon.synced.send_replace(true);
    cluster.until("ready", |node| ready(node).0 == "True").await;
    let node = cluster.node();
    assert!(node["metadata"]["labels"].get("kubernetes.io/role").is_none());
    assert_eq!(node["metadata"]["labels"]["type"], "virtual-kubelet");
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    assert!(taints.iter().any(|t| t["key"] == "virtual-kubelet.io/provider"), "{taints:?}");
    daemon.kill();
    // Taints may be set at creation only.
    let mut config = NodeConfig::new(NAME).with_label("team", "a");
    config.taints = Some(Vec::new());
    context.config = Arc::new(config);
    let _daemon = cluster.start_with(context).await.unwrap();
    let node = cluster.node();
    assert_eq!(node["metadata"]["labels"]["team"], "a");
    assert_eq!(node["spec"]["taints"].as_array().cloned().unwrap_or_default(), taints);
    let before = cluster.server.requests();
    sleep(Duration::from_mins(4)).await;
    assert_eq!(cluster.server.requests().since(&before).of(Verb::Patch, "nodes", ""), 0);
}

/// The one test in real time: a runtime whose threads are all blocked renews nothing, and the lease has its own.
#[test]
fn a_blocked_runtime_does_not_delay_the_lease() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::new();
        let mut config = NodeConfig::new(NAME);
        config.lease_duration = Duration::from_secs(1);
        let context = cluster.context_with("a", config);
        let registered = ensure_registered(&context).await.unwrap();
        let service = cluster.server.clone();
        let thread = LeaseRuntime::start(move || Ok(service.client())).await.unwrap();
        let lease = LeaseKeeper::new(&registered).spawn(&thread);
        let before = cluster.server.requests();
        // Blocks this runtime, as a provider should not but may.
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        assert!(receiver.recv_timeout(Duration::from_secs(3)).is_err());
        let renewals = cluster.server.requests().since(&before).of(Verb::Update, "leases", "");
        assert!(renewals >= 6, "{renewals}");
        lease.stop().await;
    });
}
