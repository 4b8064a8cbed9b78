//! What pods refer to, read and waited for through an API server: the in-memory one, in paused time.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};
use vk_apiserver::{ApiServer, Fault, Rule, Verb};
use vk_core::internals::{ObjectRef, Recorder, ResolveError, Resolver};
use vk_core::provider::{PodRef, PodUid};

/// A pod that takes a variable from key `k` of Secret `late` and mounts ConfigMap `late`.
fn pod(uid: &str) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "pod", "namespace": "default", "uid": uid},
        "spec": {
            "containers": [{
                "name": "a",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "volumes": [{"name": "v", "configMap": {"name": "late"}}],
        },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn create(server: &ApiServer, kind: &str, name: &str) {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let (field, value) = if kind == "Secret" { ("stringData", "hunter2") } else { ("data", "v") };
    object[field] = json!({"k": value});
    server.create(object).unwrap();
}

struct Room {
    server: ApiServer,
    resolver: Resolver,
    wake: Arc<dyn Fn(&PodUid) + Send + Sync>,
    woken: UnboundedReceiver<PodUid>,
}

fn room() -> Room {
    let server = ApiServer::new().unwrap();
    let resolver = Resolver::new(server.client(), Recorder::default());
    let (sender, woken) = unbounded_channel();
    Room { server, resolver, wake: Arc::new(move |uid: &PodUid| drop(sender.send(uid.clone()))), woken }
}

impl Room {
    /// Resolves the pod, which lacks something, and asks to be woken for it.
    async fn wait_for_missing(&self, pod: &Arc<Pod>) -> Vec<ObjectRef> {
        match self.resolver.resolve(pod).await {
            Err(ResolveError::Missing { missing, .. }) => {
                self.resolver.wake_when_present(&PodRef::of(pod).unwrap(), &missing, Arc::clone(&self.wake));
                missing
            }
            other => panic!("{other:?}"),
        }
    }

    async fn open_watches(&self, secrets: usize, config_maps: usize) {
        let open = async {
            while (self.server.open_watches("secrets"), self.server.open_watches("configmaps"))
                != (secrets, config_maps)
            {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_mins(1), open).await.expect("the watches never came to be as expected");
    }

    async fn woken(&mut self) -> PodUid {
        timeout(Duration::from_mins(10), self.woken.recv()).await.expect("nobody was woken").unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_lacks_wakes_it_within_a_second_of_its_creation() {
    let mut room = room();
    let pod = pod("u-1");
    assert_eq!(room.wait_for_missing(&pod).await.len(), 2);
    room.open_watches(1, 1).await;
    let created = Instant::now();
    create(&room.server, "ConfigMap", "late");
    assert_eq!(room.woken().await, PodUid::new("u-1"));
    assert_eq!(room.wait_for_missing(&pod).await.len(), 1);
    create(&room.server, "Secret", "late");
    assert_eq!(room.woken().await, PodUid::new("u-1"));
    assert!(created.elapsed() < Duration::from_secs(1), "{:?}", created.elapsed());
    let resolved = room.resolver.resolve(&pod).await.unwrap();
    assert_eq!(resolved.containers[0].env[0].value.expose(), "hunter2");
    assert!(!format!("{resolved:?}").contains("hunter2"));
    room.open_watches(0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_missing_wakes_when_it_is_added() {
    let mut room = room();
    create(&room.server, "ConfigMap", "late");
    room.server.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}})).unwrap();
    let pod = pod("u-1");
    room.wait_for_missing(&pod).await;
    room.open_watches(1, 0).await;
    assert!(timeout(Duration::from_mins(1), room.woken.recv()).await.is_err(), "nothing has changed");
    let secrets: Api<Secret> = Api::namespaced(room.server.client(), "default");
    let patch = json!({"stringData": {"k": "now"}});
    secrets.patch("late", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(room.woken().await, PodUid::new("u-1"));
    assert!(room.resolver.resolve(&pod).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn watches_survive_cuts_compaction_and_an_api_server_that_fails_for_a_while() {
    let mut room = room();
    create(&room.server, "ConfigMap", "late");
    let pod = pod("u-1");
    room.wait_for_missing(&pod).await;
    room.open_watches(1, 0).await;
    room.server.compact("secrets");
    assert_eq!(room.server.drop_watches("secrets"), 1);
    room.open_watches(1, 0).await;
    let fault = room.server.faults().add(Rule::new(Fault::Unavailable).verb(Verb::List).times(5));
    room.server.drop_watches("secrets");
    create(&room.server, "Secret", "late");
    assert_eq!(room.woken().await, PodUid::new("u-1"));
    assert_eq!(fault.hits(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_that_refer_to_the_same_objects_share_one_call_and_one_watch_each() {
    let room = room();
    // As far away as an API server usually is.
    room.server.faults().add(Rule::new(Fault::Delay(Duration::from_millis(2))).verb(Verb::Get));
    let pods: Vec<_> = (0..1000).map(|i| pod(&format!("u-{i}"))).collect();
    futures::future::join_all(pods.iter().map(|pod| room.wait_for_missing(pod))).await;
    room.open_watches(1, 1).await;
    for pod in &pods {
        room.resolver.forget(&PodRef::of(pod).unwrap().uid);
    }
    room.open_watches(0, 0).await;
    create(&room.server, "ConfigMap", "late");
    create(&room.server, "Secret", "late");
    let before = room.server.requests();
    let all = futures::future::join_all(pods.iter().map(|pod| room.resolver.resolve(pod))).await;
    assert!(all.iter().all(Result::is_ok));
    let calls = room.server.requests().since(&before).total();
    assert_eq!(calls, 2, "one for each object");
}
