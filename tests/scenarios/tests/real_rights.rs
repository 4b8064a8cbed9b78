//! The permissions that are shipped, on the real control plane: enough for everything a node does, and not one too
//! many. Both are read from the API server's own audit log. Run by `cargo xtask test real`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node as NodeObject, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
    ServiceAccount,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::AuthInfo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use vk_core::api::tls::Serving;
use vk_core::api::{Access, ClientCa, KubeReviewer, Limits};
use vk_core::provider::{
    ContainerAttach, ContainerExec, ContainerLogs, Error, Feature, Features, FieldSupport, NodeInfo,
    ObservedPod, PodEvent, PodPrepare, PodRef, PodStats, PodUpdate, PortForward, Provider, ResolvedPod,
    Result as Answer,
};
use vk_core::{ApiServer, Node, Shutdown};
use vk_mock::MockProvider;
use vk_scenarios::rights::{Audit, NodeAccount, Right, granted};
use vk_scenarios::virtual_node::{condition, delete_object};
use vk_scenarios::workload::pod;
use vk_scenarios::{World, daemon, virtual_node};

/// How many nodes are without something at once.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(200);

/// The pod that the backend never creates.
const FAILING: &str = "failing";

/// The mock, as a backend that has a use for files: only for such a one are tokens asked for and objects watched.
#[derive(Debug)]
struct WithFiles(Arc<MockProvider>);

#[async_trait]
impl Provider for WithFiles {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn native(&self) -> Features {
        let files = [Feature::Files, Feature::FileUpdates];
        let own = Feature::ALL.into_iter().filter(|feature| self.0.native().contains(*feature));
        Features::of(&own.chain(files).collect::<Vec<_>>())
    }
    fn fields(&self) -> &FieldSupport {
        self.0.fields()
    }
    async fn node_info(&self) -> Answer<NodeInfo> {
        self.0.node_info().await
    }
    async fn create_pod(&self, pod: &ResolvedPod) -> Answer<()> {
        if *pod.pod.name == *FAILING {
            return Err(Error::unavailable("always in the same words"));
        }
        self.0.create_pod(pod).await
    }
    async fn delete_pod(&self, pod: &PodRef, grace: Duration) -> Answer<()> {
        self.0.delete_pod(pod, grace).await
    }
    async fn list_pods(&self) -> Answer<Vec<ObservedPod>> {
        self.0.list_pods().await
    }
    fn watch_pods(self: Arc<Self>) -> BoxStream<'static, Answer<PodEvent>> {
        Arc::clone(&self.0).watch_pods()
    }
    fn prepare(&self) -> Option<&dyn PodPrepare> {
        self.0.prepare()
    }
    fn update(&self) -> Option<&dyn PodUpdate> {
        Some(self)
    }
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.0.logs()
    }
    fn exec(&self) -> Option<&dyn ContainerExec> {
        Provider::exec(&*self.0)
    }
    fn attach(&self) -> Option<&dyn ContainerAttach> {
        Provider::attach(&*self.0)
    }
    fn port_forward(&self) -> Option<&dyn PortForward> {
        self.0.port_forward()
    }
    fn stats(&self) -> Option<&dyn PodStats> {
        self.0.stats()
    }
}

#[async_trait]
impl PodUpdate for WithFiles {
    async fn update_pod(&self, _: &ResolvedPod) -> Answer<()> {
        Ok(())
    }
}

/// The right that a node does without was asked for, and the API server said no.
#[derive(Debug)]
struct Missed;

/// A node that does everything a node does, with the shipped permissions, or all of them but one.
struct Exercise<'a> {
    world: &'a World,
    account: &'a NodeAccount,
    audit: Audit,
    without: Option<&'a Right>,
}

impl Exercise<'_> {
    fn users(&self) -> [String; 1] {
        [self.account.user.clone()]
    }

    /// Waits until something is so, unless the missing right is missed before.
    async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, Missed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(without) = self.without {
                let refused = self.audit.refused(&self.users());
                let others: Vec<_> = refused.iter().filter(|refusal| refusal.right != *without).collect();
                assert!(others.is_empty(), "without {without}, also refused: {others:#?}");
                if !refused.is_empty() {
                    return Err(Missed);
                }
            }
            match look().await {
                Ok(value) => return Ok(value),
                Err(seen) if Instant::now() >= deadline => {
                    let without = self.without.map_or_else(String::new, |right| format!("without {right}: "));
                    panic!("{without}{what}: not within {PATIENCE:?}; last seen: {seen}")
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn config(&self) -> kube::Config {
        let mut config = kube::Config::infer().await.expect("KUBECONFIG names the control plane");
        let token_file = Some(self.account.token_file().display().to_string());
        config.auth_info = AuthInfo { token_file, ..AuthInfo::default() };
        config
    }

    async fn run(&self) -> Result<(), Missed> {
        let world = self.world;
        let client = kube::Client::try_from(self.config().await).expect("a client");
        let mut config = virtual_node::config(world);
        config.deregister_on_shutdown = true;
        let (name, address) = (config.name.clone(), config.addresses[0]);
        let listener = TcpListener::bind((address, 0)).await.expect("an address of this namespace");
        config.port = listener.local_addr().expect("it is bound").port();
        let port = config.port;
        let pair = world.real_plane().serving_cert(&name, address).expect("a certificate");
        let ca = ClientCa::from_cluster(client.clone()).await.expect("the cluster publishes it");
        let reviewer = Arc::new(KubeReviewer::new(client.clone()));
        let server = ApiServer {
            listener,
            tls: Serving::files(pair.certificate, pair.key).expect("the certificate is good"),
            access: Access::none().with_client_ca(Arc::new(ca)).with_reviewer(reviewer),
            limits: Limits::default(),
        };
        let mock = MockProvider::new(virtual_node::backend(world), name.clone());
        let provider = Arc::new(WithFiles(Arc::new(mock)));
        let shutdown = Shutdown::new();
        let node = Node::builder(config, provider, client).serve_api(server).build();
        let task = tokio::spawn(node.run(shutdown.clone()));
        let lived = self.live(&name, &format!("https://{address}:{port}"), &shutdown).await;
        task.abort();
        // Ends as cancelled, or as it should; what it did is in the audit log.
        let _ = task.await;
        delete_object(world, &name).await;
        lived
    }

    async fn live(&self, node: &str, kubelet: &str, shutdown: &Shutdown) -> Result<(), Missed> {
        self.register(node).await?;
        self.answer_a_stranger(kubelet).await?;
        self.answer_the_api_server(node).await?;
        let volume = self.refer_to_everything(node).await?;
        self.repeat_itself(node).await?;
        let pods: Api<Pod> = self.world.api();
        pods.delete("full", &DeleteParams::default().grace_period(1)).await.expect("it is there");
        self.until("the pod is gone", async || match pods.get_opt("full").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        shutdown.drain();
        let nodes: Api<NodeObject> = Api::all(self.world.client());
        self.until("the node has taken its object with it", async || match nodes.get_opt(node).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        let granted: BTreeSet<Right> = granted().into_iter().collect();
        self.until("every right has been used", async || {
            let used = self.audit.allowed(&self.users());
            let unused: Vec<_> = granted.difference(&used).map(ToString::to_string).collect();
            if unused.is_empty() { Ok(()) } else { Err(unused.join(", ")) }
        })
        .await?;
        let volumes: Api<PersistentVolume> = Api::all(self.world.client());
        volumes.delete(&volume, &DeleteParams::default()).await.expect("it is there");
        Ok(())
    }

    /// Becomes Ready, and puts right what others change.
    async fn register(&self, node: &str) -> Result<(), Missed> {
        let nodes: Api<NodeObject> = Api::all(self.world.client());
        self.until("the node is Ready", async || {
            let object = nodes.get_opt(node).await.map_err(|error| error.to_string())?;
            let ready = object.as_ref().and_then(|node| condition(node, "Ready"));
            if ready.is_some_and(|ready| ready.status == "True") { Ok(()) } else { Err(format!("{ready:?}")) }
        })
        .await?;
        let taken = json!({"metadata": {"labels": {"type": null}}});
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(taken)).await.expect("the label is taken");
        self.until("the label is back", async || {
            let object = nodes.get(node).await.map_err(|error| error.to_string())?;
            let labels = object.metadata.labels.unwrap_or_default();
            if labels.contains_key("type") { Ok(()) } else { Err(format!("{labels:?}")) }
        })
        .await
    }

    /// Tells somebody it does not know by certificate what it may.
    async fn answer_a_stranger(&self, kubelet: &str) -> Result<(), Missed> {
        let accounts: Api<ServiceAccount> = self.world.api();
        let asked = TokenRequest::default();
        let token = accounts.create_token_request("default", &PostParams::default(), &asked).await;
        let token = token.expect("a token").status.expect("an answer").token;
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), token.expect("a token")).expect("the token is written");
        let mut config = kube::Config::new(kubelet.parse().expect("a URL"));
        config.accept_invalid_certs = true;
        config.default_retry = false;
        config.auth_info.token_file = Some(file.path().display().to_string());
        let client = kube::Client::try_from(config).expect("a client");
        self.until("a token's bearer is known, and has no rights", async || {
            let request = http::Request::get("/pods").body(Vec::new()).expect("a request");
            match client.request_text(request).await {
                Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Lets the API server in, which the cluster has bound to `system:kubelet-api-admin`.
    async fn answer_the_api_server(&self, node: &str) -> Result<(), Missed> {
        let client = self.world.client();
        for path in [
            "healthz",
            "pods",
            "runningpods/",
            "stats/summary",
            "metrics",
            "metrics/resource",
            "metrics/probes",
            "metrics/cadvisor",
            "configz",
            // Not statusz: its subresource is its own, and system:kubelet-api-admin lacks it, on every node.
            "flagz",
        ] {
            let uri = format!("/api/v1/nodes/{node}/proxy/{path}");
            self.until(&format!("the API server reads {path}"), async || {
                let request = http::Request::get(&uri).body(Vec::new()).expect("a request");
                client.request_text(request).await.map(drop).map_err(|error| error.to_string())
            })
            .await?;
        }
        Ok(())
    }

    /// Runs a pod that refers to all that a pod can refer to; the name of its volume.
    async fn refer_to_everything(&self, node: &str) -> Result<String, Missed> {
        let world = self.world;
        let volume = format!("volume-{}", world.namespace);
        let client = world.client();
        create(&world.api::<ConfigMap>(), json!({"metadata": {"name": "settings"}, "data": {"k": "v"}}))
            .await;
        create(&world.api::<Secret>(), json!({"metadata": {"name": "secret"}, "stringData": {"k": "v"}}))
            .await;
        let storage = json!({"storage": "1Gi"});
        create(
            &Api::<PersistentVolume>::all(client),
            json!({"metadata": {"name": volume}, "spec": {
                "capacity": storage, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
                "nfs": {"server": "192.0.2.1", "path": "/"},
                "claimRef": {"name": "claim", "namespace": world.namespace},
            }}),
        )
        .await;
        create(
            &world.api::<PersistentVolumeClaim>(),
            json!({"metadata": {"name": "claim"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "none", "volumeName": volume,
                "resources": {"requests": storage},
            }}),
        )
        .await;
        let full = with_volumes(
            "full",
            node,
            json!([
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "secret", "secret": {"secretName": "secret"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
            ]),
        );
        let pods: Api<Pod> = world.api();
        create(&pods, full).await;
        self.until("the pod runs", async || {
            let status = pods.get("full").await.map_err(|error| error.to_string())?.status;
            let status = status.unwrap_or_default();
            if status.phase.as_deref() == Some("Running") { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await?;
        Ok(volume)
    }

    /// Says the same thing twice about a pod, which makes one event with a count.
    async fn repeat_itself(&self, node: &str) -> Result<(), Missed> {
        let pods: Api<Pod> = self.world.api();
        pods.create(&PostParams::default(), &pod(FAILING, node)).await.expect("a pod");
        let events: Api<Event> = self.world.api();
        let about = ListParams::default().fields(&format!("involvedObject.name={FAILING}"));
        self.until("an event is counted up", async || {
            let found = events.list(&about).await.map_err(|error| error.to_string())?.items;
            let counts: Vec<_> = found.iter().map(|event| (&event.reason, event.count)).collect();
            if found.iter().any(|event| event.count > Some(1)) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await
    }
}

/// A pod with these volumes, all of them mounted.
fn with_volumes(name: &str, node: &str, volumes: Value) -> Value {
    let mut pod = serde_json::to_value(pod(name, node)).expect("a pod");
    let names = volumes.as_array().expect("a list").iter().map(|volume| &volume["name"]);
    let mounts = names.map(|name| json!({"name": name, "mountPath": format!("/{}", name.as_str().unwrap())}));
    pod["spec"]["containers"][0]["volumeMounts"] = mounts.collect();
    pod["spec"]["volumes"] = volumes;
    pod
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let object = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("it can be made");
}

/// What `vk-node check` says to somebody with this account.
async fn check(account: &NodeAccount, node: &str) -> String {
    let mut kubeconfig =
        serde_json::to_value(kube::config::Kubeconfig::read().expect("a kubeconfig")).expect("JSON");
    kubeconfig["users"][0]["user"] = json!({"tokenFile": account.token_file()});
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig.to_string()).expect("a file");
    let output = daemon::command()
        .args(["check", "--provider=mock", "--listen=127.0.0.1", "--port=0", "--deregister"])
        .args([Path::new("--kubeconfig"), &file])
        .args(["--nodename", node])
        .output()
        .await
        .expect("the daemon starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    format!("{:?}\n{}{}", output.status.code(), text(output.stdout), text(output.stderr))
}

async fn exercise(without: Option<&Right>) {
    let world = World::real().await;
    let client = world.client();
    let account = NodeAccount::create(&client, &world.namespace, "default", without).await;
    let audit = Audit::of(world.real_plane().audit_log().expect("a control plane of our own"));
    let said = check(&account, &world.node_name()).await;
    match without {
        None => {
            assert!(said.starts_with("Some(0)\n") && !said.contains("not allowed"), "{said}");
            assert!(said.contains("ok: the permissions a node needs are granted"), "{said}");
        }
        Some(right) => {
            let complaint = format!("not allowed to {right}");
            let after = said.split_once(&complaint).map(|(_, rest)| rest);
            assert!(after.is_some_and(|rest| rest.starts_with([' ', ':'])), "without {right}: {said}");
            assert_eq!(said.matches("not allowed to").count(), 1, "without {right}: {said}");
        }
    }
    let exercise = Exercise { world: &world, account: &account, audit, without };
    let outcome = exercise.run().await;
    let (audit, users) = (exercise.audit.clone(), exercise.users());
    match without {
        None => {
            assert!(outcome.is_ok() && audit.refused(&users).is_empty(), "{:#?}", audit.refused(&users));
            // Whoever is known to the cluster may ask what they may do.
            let of_all = |right: &Right| right.resource.starts_with("selfsubject");
            let granted: BTreeSet<Right> = granted().into_iter().collect();
            let used: BTreeSet<Right> = audit.allowed(&users).into_iter().filter(|r| !of_all(r)).collect();
            assert_eq!(used, granted, "what is used is what is granted");
        }
        Some(right) => assert!(outcome.is_err(), "nothing misses {right}: it need not be granted"),
    }
    account.remove(&client).await;
    world.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_uses_every_right_of_the_manifest_and_asks_for_no_other() {
    exercise(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_right_of_the_manifest_something_is_refused_and_check_says_what() {
    let rights = granted();
    assert!(rights.len() > 20, "{rights:?}");
    let exercises = rights.iter().map(|right| exercise(Some(right)));
    futures::stream::iter(exercises).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
