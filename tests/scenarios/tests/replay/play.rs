//! One recorded case on a node over containers in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use vk_core::clock::Clock;
use vk_core::config::NodeConfig;
use vk_core::containers::{Dial, PodRunner};
use vk_core::provider::{ExecIo, LogOptions, PodRef, Provider};
use vk_core::{Node, Shutdown};
use vk_mock::MockContainers;
use vk_oracle::{Act, Action, Case, Names, Run, Target};
use vk_scenarios::{World, eventually};

use crate::differences;

const NODE: &str = "replay";
const NAMESPACE: &str = "played";
const HOST: &str = "192.0.2.10";
/// How often is looked whether a case has come to its end.
const LOOK: Duration = Duration::from_millis(250);
/// How long after a new version something else may still come.
const SETTLING: Duration = Duration::from_secs(3);
/// How much longer than the recorded one it may take: a kubelet's pauses are not ours.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every version of the pod that the watch delivered, and when.
type Seen = Arc<Mutex<Vec<(Instant, &'static str, Value)>>>;

struct Play<'a> {
    case: &'a Case,
    client: kube::Client,
    provider: Arc<PodRunner<MockContainers>>,
    seen: Seen,
    begin: Instant,
}

/// Plays a case, and returns what came of it.
pub(crate) async fn play(case: &Case) -> Run {
    let world = World::in_memory().await;
    let clock: Clock = world.clock();
    let backend = MockContainers::new(clock.clone())
        .with_image("oracle.test/tool:1")
        .with_image_of("oracle.test/named:1", "appuser")
        .with_image_of("oracle.test/user:1", "1000")
        .with_registry_image("registry.test/pulled:1")
        .taking(Duration::from_millis(100));
    let provider = Arc::new(PodRunner::dialing(Arc::new(backend), clock.clone(), Dial::PortForward));
    let mut config = NodeConfig::new(NODE).with_address(HOST.parse().unwrap());
    config.taints = Some(Vec::new());
    config.pending_status_delay = Duration::ZERO;
    let handed = Arc::clone(&provider) as Arc<dyn Provider>;
    let node = Node::builder(config, handed, world.node_client(NODE)).clock(clock).build();
    let node = tokio::spawn(node.run(Shutdown::new()));
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    Api::all(world.client()).create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client(), NAMESPACE);
    eventually("the default service account", async || accounts.get("default").await).await;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(world.client());
    eventually("the node is ready", async || {
        let node = nodes.get_opt(NODE).await.map_err(|error| error.to_string())?;
        let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    let play = Play { case, client: world.client(), provider, seen: Arc::default(), begin: Instant::now() };
    let run = play.run().await;
    node.abort();
    run
}

impl Play<'_> {
    async fn run(mut self) -> Run {
        for object in &self.case.objects {
            self.create(object).await;
        }
        let name = self.case.pod.as_ref().and_then(|pod| pod["metadata"]["name"].as_str()).unwrap_or("pod");
        let watching = tokio::spawn(watch(self.client.clone(), name.to_owned(), Arc::clone(&self.seen)));
        let (before, after) = self.case.actions.split_at(self.case.preparations());
        for action in before {
            self.act(action).await;
        }
        self.begin = Instant::now();
        if let Some(pod) = &self.case.pod {
            let mut pod = pod.clone();
            pod["kind"] = json!("Pod");
            self.create(&pod).await;
        }
        eventually("the pod is seen", async || {
            if self.seen.lock().unwrap().is_empty() { Err("it is not") } else { Ok(()) }
        })
        .await;
        for action in after {
            sleep_until(self.begin + Duration::from_secs_f64(action.at)).await;
            self.act(action).await;
        }
        let latest = self.begin + Duration::from_secs_f64(self.case.length()) + PATIENCE;
        let (mut versions, mut changed) = (0, Instant::now());
        loop {
            let present = self.seen.lock().unwrap().len();
            if present != versions {
                (versions, changed) = (present, Instant::now());
            }
            // Events and logs come a little after the versions that they belong to.
            let over = Instant::now() >= latest;
            if over || changed.elapsed() < SETTLING {
                let run = self.gather().await;
                if over || differences(self.case, &run).is_empty() {
                    watching.abort();
                    return run;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn create(&self, object: &Value) {
        let mut object = placed(object);
        let kind = object["kind"].as_str().unwrap_or("ConfigMap").to_owned();
        object["apiVersion"] = json!("v1");
        object["kind"] = json!(kind.clone());
        if kind != "Node" {
            object["metadata"]["namespace"] = json!(NAMESPACE);
        }
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.api(&kind).create(&PostParams::default(), &object).await.unwrap();
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let plural = match kind {
            "Pod" => "pods",
            "ConfigMap" => "configmaps",
            "Secret" => "secrets",
            "Service" => "services",
            "Node" => "nodes",
            other => panic!("{}: objects of kind {other} are not known here", self.case.name),
        };
        let resource = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        if kind == "Node" {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource)
    }

    async fn act(&self, action: &Action) {
        let name = |target: &Target| match target.kind.as_str() {
            "Node" => NODE.to_owned(),
            _ => target.name.clone().unwrap_or_else(|| self.pod_name()),
        };
        match &action.act {
            Act::Delete(target, options) => {
                let grace = options["gracePeriodSeconds"].as_u64().map(|s| u32::try_from(s).unwrap());
                let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
                let _ = self.api(&target.kind).delete(&name(target), &params).await;
            }
            Act::Patch(target, patch) => {
                let api = self.api(&target.kind);
                let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
                let done = match &target.subresource {
                    Some(part) => api.patch_subresource(part, &name(target), &params, &patch).await,
                    None => api.patch(&name(target), &params, &patch).await,
                };
                assert_eq!(done.is_ok(), action.code.is_none_or(|code| code == 200), "{patch:?}: {done:?}");
            }
            Act::Create(object) => self.create(object).await,
            Act::Http(path) => {
                let forward = self.provider.port_forward().unwrap();
                let mut stream = forward.connect(&self.reference(), 8080).await.unwrap();
                stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
            }
            Act::Exec(script) => {
                let exec = self.provider.exec().unwrap();
                let words = ["sh", "-c", script].map(str::to_owned);
                let io = ExecIo::Pipes { stdin: None, stdout: None, stderr: None };
                exec.exec(&self.reference().container(self.first_container()), &words, io).await.unwrap();
            }
            other => panic!("{}: {other:?} is not played here", self.case.name),
        }
    }

    fn pod(&self) -> Value {
        let last = self.seen.lock().unwrap().last().map(|(_, _, pod)| pod.clone());
        last.expect("the pod was seen")
    }

    fn pod_name(&self) -> String {
        self.pod()["metadata"]["name"].as_str().unwrap().to_owned()
    }

    fn first_container(&self) -> String {
        self.pod()["spec"]["containers"][0]["name"].as_str().unwrap().to_owned()
    }

    fn reference(&self) -> PodRef {
        PodRef::of(&serde_json::from_value::<Pod>(self.pod()).unwrap()).unwrap()
    }

    async fn gather(&self) -> Run {
        let seen = self.seen.lock().unwrap().clone();
        let pod = self.pod();
        let ips = seen.iter().filter_map(|(_, _, pod)| pod["status"]["podIP"].as_str()?.parse().ok());
        let mut ips: Vec<_> = ips.collect();
        ips.dedup();
        let names = Names {
            namespace: NAMESPACE.to_owned(),
            node: NODE.to_owned(),
            host_ip: HOST.to_owned(),
            pod_uid: pod["metadata"]["uid"].as_str().unwrap().to_owned(),
            pod_name: None,
            pod_ips: ips,
            created: pod["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse().ok()),
        };
        let transitions = seen
            .iter()
            .map(|(at, kind, pod)| names.transition((*at - self.begin).as_secs_f64(), kind, &whole(pod)))
            .collect();
        let events: Api<Event> = Api::namespaced(self.client.clone(), NAMESPACE);
        let events = events.list(&kube::api::ListParams::default()).await.unwrap();
        let pod_name = self.pod_name();
        let events = events
            .items
            .iter()
            .map(|event| names.event(&serde_json::to_value(event).unwrap(), &pod_name))
            .filter(|event| event.object == "Pod" || event.object.starts_with("Pod/"))
            .collect();
        let mut logs = BTreeMap::new();
        for container in self.case.recording.logs.keys() {
            logs.insert(container.clone(), self.log(container).await);
        }
        Run { transitions, events, logs, answers: Vec::new() }
    }

    async fn log(&self, container: &str) -> String {
        let logs = self.provider.logs().unwrap();
        let container = self.reference().container(container);
        let Ok(mut lines) = logs.container_logs(&container, &LogOptions::default()).await else {
            return String::new();
        };
        let mut text = Vec::new();
        while let Some(line) = lines.next().await {
            text.extend_from_slice(&line.unwrap().line);
        }
        String::from_utf8(text).unwrap()
    }
}

/// The object with this node's name where the recording has a placeholder.
fn placed(object: &Value) -> Value {
    let text = object.to_string().replace("<node>", NODE);
    serde_json::from_str(&text).unwrap()
}

/// A pod as the real API server writes it: of conditions also the time that nobody sets.
fn whole(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let conditions = pod.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.entry("lastProbeTime").or_insert(Value::Null);
    }
    pod
}

async fn watch(client: kube::Client, name: String, seen: Seen) {
    let resource = ApiResource::erase::<Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &resource);
    let mut from = "0".to_owned();
    loop {
        let Ok(stream) = pods.watch(&WatchParams::default().timeout(290), &from).await else { continue };
        let mut stream = Box::pin(stream);
        while let Some(event) = stream.next().await {
            let (kind, object) = match event {
                Ok(WatchEvent::Added(object)) => ("ADDED", object),
                Ok(WatchEvent::Modified(object)) => ("MODIFIED", object),
                Ok(WatchEvent::Deleted(object)) => ("DELETED", object),
                _ => continue,
            };
            from = object.metadata.resource_version.clone().unwrap_or(from);
            if object.metadata.name.as_deref() != Some(&name) {
                continue;
            }
            seen.lock().unwrap().push((Instant::now(), kind, serde_json::to_value(object).unwrap()));
        }
    }
}
