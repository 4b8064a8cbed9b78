//! Objects through kube's own client: create, read, change, watch, delete.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::config::KubeConfigOptions;
use kube::runtime::watcher;
use serde_json::{Value, json};
use vk_apiserver::{ApiServer, Config, Fault, Rule, Verb};

fn server() -> ApiServer {
    ApiServer::with(Config { seed: Some(1), ..Config::default() }).unwrap()
}

fn pods(server: &ApiServer) -> Api<Pod> {
    Api::default_namespaced(server.client())
}

fn pod(name: &str, node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "a", "image": "busybox"}]},
    }))
    .unwrap()
}

async fn create(api: &Api<Pod>, pod: &Pod) -> Pod {
    api.create(&PostParams::default(), pod).await.unwrap()
}

async fn version(api: &Api<Pod>) -> String {
    api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap()
}

fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_gets_defaults_identity_and_a_token() {
    let server = server();
    let pod = create(&pods(&server), &pod("web", "")).await;
    let metadata = &pod.metadata;
    assert_eq!(metadata.generation, Some(1));
    assert!(metadata.uid.is_some() && metadata.creation_timestamp.is_some());
    let spec = pod.spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.enable_service_links, Some(true));
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(spec.tolerations.unwrap().len(), 2);
    let volumes = spec.volumes.unwrap();
    assert!(volumes[0].name.starts_with("kube-api-access-"));
    assert_eq!(volumes[0].projected.as_ref().unwrap().sources.as_ref().unwrap().len(), 3);
    let status = pod.status.unwrap();
    assert_eq!((status.phase.as_deref(), status.qos_class.as_deref()), (Some("Pending"), Some("BestEffort")));
}

#[tokio::test(start_paused = true)]
async fn refusals_read_like_the_real_servers() {
    let server = server();
    let api = pods(&server);
    assert_eq!(refused(api.get("x").await), (404, "NotFound".to_owned(), "pods \"x\" not found".to_owned()));
    create(&api, &pod("a", "")).await;
    assert_eq!(
        refused(api.create(&PostParams::default(), &pod("a", "")).await),
        (409, "AlreadyExists".to_owned(), "pods \"a\" already exists".to_owned())
    );
    let elsewhere: Api<Pod> = Api::namespaced(server.client(), "nowhere");
    let (code, _, message) = refused(elsewhere.create(&PostParams::default(), &pod("a", "")).await);
    assert_eq!((code, message.as_str()), (404, "namespaces \"nowhere\" not found"));
    let mut bare = pod("b", "");
    bare.spec.as_mut().unwrap().containers.clear();
    let (code, reason, message) = refused(api.create(&PostParams::default(), &bare).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert_eq!(message, "Pod \"b\" is invalid: spec.containers: Required value");
    let mut stale = api.get("a").await.unwrap();
    stale.metadata.resource_version = Some("1".to_owned());
    let (code, reason, message) = refused(api.replace("a", &PostParams::default(), &stale).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.starts_with("Operation cannot be fulfilled on pods \"a\": the object has been modified"));
}

#[tokio::test(start_paused = true)]
async fn a_status_patch_merges_conditions_and_is_not_written_twice() {
    let server = server();
    let api = pods(&server);
    let uid = create(&api, &pod("a", "n")).await.metadata.uid.unwrap();
    let gate = json!({"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}});
    let params = PatchParams::default();
    api.patch_status("a", &params, &Patch::Strategic(gate)).await.unwrap();
    let ours = json!({"metadata": {"uid": uid}, "status": {
        "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "image": "busybox", "imageID": ""}],
    }});
    let written = api.patch_status("a", &params, &Patch::Strategic(&ours)).await.unwrap();
    let types: Vec<String> =
        written.status.as_ref().unwrap().conditions.clone().unwrap().into_iter().map(|c| c.type_).collect();
    // As the real server has it: what a patch adds comes before what it does not name.
    assert_eq!(types, ["Ready", "example.com/gate"]);
    assert_eq!(written.metadata.generation, Some(1));
    let again = api.patch_status("a", &params, &Patch::Strategic(&ours)).await.unwrap();
    assert_eq!(again.metadata.resource_version, written.metadata.resource_version);
    let other = json!({"metadata": {"uid": "another"}, "status": {"phase": "Failed"}});
    let (code, reason, message) = refused(api.patch_status("a", &params, &Patch::Strategic(other)).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.contains("metadata.uid: Invalid value: \"another\": field is immutable"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_pod_is_deleted_in_two_steps() {
    let server = server();
    let api = pods(&server);
    let uid = create(&api, &pod("a", "n")).await.metadata.uid.unwrap();
    let marked = api.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(marked.metadata.generation, Some(2));
    let wrong = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some("other".to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(refused(api.delete("a", &wrong).await).0, 409);
    let right = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..wrong
    };
    api.delete("a", &right).await.unwrap();
    assert_eq!(refused(api.get("a").await).0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_holds_a_pod_until_it_goes() {
    let server = server();
    let api = pods(&server);
    let mut held = pod("a", "n");
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    create(&api, &held).await;
    api.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(api.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    let free = json!({"metadata": {"finalizers": null}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    assert_eq!(refused(api.get("a").await).0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_node_tells_arrivals_changes_and_departures() {
    let server = server();
    let api = pods(&server);
    let params = WatchParams::default().fields("spec.nodeName=n1");
    let version = version(&api).await;
    let mut watch = api.watch(&params, &version).await.unwrap().boxed();
    create(&api, &pod("a", "n1")).await;
    create(&api, &pod("b", "n2")).await;
    let running = json!({"status": {"phase": "Running"}});
    api.patch_status("a", &PatchParams::default(), &Patch::Strategic(running)).await.unwrap();
    api.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let (kind, pod) = match watch.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(pod) => ("added", pod),
            WatchEvent::Modified(pod) => ("modified", pod),
            WatchEvent::Deleted(pod) => ("deleted", pod),
            other => panic!("{other:?}"),
        };
        assert_eq!(pod.metadata.name.as_deref(), Some("a"));
        seen.push(kind);
    }
    // The mark with grace 0 is a change of its own.
    assert_eq!(seen, ["added", "modified", "modified", "deleted"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_stops_matching_is_told_as_deleted() {
    let server = server();
    let api = pods(&server);
    create(&api, &pod("a", "")).await;
    let params = WatchParams::default().labels("app=a");
    let mut watch = api.watch(&params, "0").await.unwrap().boxed();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    let change = json!({"metadata": {"labels": {"app": "b"}}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Deleted(_)))));
}

#[tokio::test(start_paused = true)]
async fn kubes_watcher_recovers_from_an_expired_watch() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = server();
        let api = pods(&server);
        create(&api, &pod("a", "n")).await;
        let events = watcher(api.clone(), config);
        let mut store = watcher_state(events);
        store.wait_for(&["a"]).await;
        // Cut the watch, and lose what happened meanwhile.
        let down = server.faults().add(Rule::new(Fault::Unavailable).resource("pods").verb(Verb::Watch));
        server.drop_watches("pods");
        create(&api, &pod("b", "n")).await;
        api.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
        server.compact("pods");
        down.remove();
        store.wait_for(&["b"]).await;
    }
}

struct Seen<S> {
    events: S,
    names: BTreeSet<String>,
    fresh: BTreeSet<String>,
}

fn watcher_state(
    events: impl futures::Stream<Item = watcher::Result<watcher::Event<Pod>>> + Send + 'static,
) -> Seen<futures::stream::BoxStream<'static, watcher::Result<watcher::Event<Pod>>>> {
    // The watcher itself does not pause between attempts; a caller does.
    let events = events.then(|event| async {
        if event.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        event
    });
    Seen { events: events.boxed(), names: BTreeSet::new(), fresh: BTreeSet::new() }
}

impl<S: futures::Stream<Item = watcher::Result<watcher::Event<Pod>>> + Unpin> Seen<S> {
    async fn wait_for(&mut self, names: &[&str]) {
        let wanted: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        tokio::time::timeout(Duration::from_mins(5), async {
            while self.names.iter().cloned().collect::<Vec<_>>() != wanted {
                let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
                match self.events.next().await.unwrap() {
                    Ok(watcher::Event::Init) => self.fresh.clear(),
                    Ok(watcher::Event::InitApply(pod)) => _ = self.fresh.insert(name(&pod)),
                    Ok(watcher::Event::InitDone) => self.names = std::mem::take(&mut self.fresh),
                    Ok(watcher::Event::Apply(pod)) => _ = self.names.insert(name(&pod)),
                    Ok(watcher::Event::Delete(pod)) => _ = self.names.remove(&name(&pod)),
                    Err(_) => {}
                }
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn bookmarks_carry_a_quiet_watch_past_compaction() {
    let server = server();
    let api = pods(&server);
    let version = version(&api).await;
    let mut watch =
        api.watch(&WatchParams::default().fields("spec.nodeName=n1"), &version).await.unwrap().boxed();
    create(&api, &pod("b", "n2")).await;
    let Some(Ok(WatchEvent::Bookmark(bookmark))) = watch.next().await else { panic!("no bookmark") };
    let newest = api.get("b").await.unwrap().metadata.resource_version.unwrap();
    assert_eq!(bookmark.metadata.resource_version, newest);
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_in_pages_of_one_moment() {
    let server = server();
    let api = pods(&server);
    for name in ["a", "b", "c"] {
        create(&api, &pod(name, "")).await;
    }
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    create(&api, &pod("bb", "")).await;
    let token = first.metadata.continue_.unwrap();
    let second = api.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(second.items.len(), 1);
    assert_eq!(second.items[0].metadata.name.as_deref(), Some("c"));
    server.compact("pods");
    let (code, reason, _) = refused(api.list(&ListParams::default().continue_token(&token)).await);
    assert_eq!((code, reason.as_str()), (410, "Expired"));
}

#[tokio::test(start_paused = true)]
async fn leases_nodes_and_events_are_written_as_a_kubelet_does() {
    let server = server();
    let nodes: Api<Node> = Api::all(server.client());
    let node = json!({"metadata": {"name": "n1"}, "status": {"capacity": {"pods": "10"}}});
    let node = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    assert!(node.status.unwrap().capacity.is_some(), "a new node keeps its status");
    assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "node.kubernetes.io/not-ready");

    let leases: Api<Lease> = Api::namespaced(server.client(), "kube-node-lease");
    let lease = json!({"metadata": {"name": "n1"}, "spec": {
        "holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": "2026-11-23T00:00:00.123456Z",
    }});
    let mut lease =
        leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    lease.spec.as_mut().unwrap().lease_duration_seconds = Some(50);
    leases.replace("n1", &PostParams::default(), &lease).await.unwrap();
    assert_eq!(refused(leases.replace("n1", &PostParams::default(), &lease).await).0, 409);

    let events: Api<Event> = Api::default_namespaced(server.client());
    let event = json!({"metadata": {"name": "e1"}, "reason": "Pulled", "type": "Normal",
                       "involvedObject": {"kind": "Pod", "name": "a"}, "message": "m"});
    events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
    let found =
        events.list(&ListParams::default().fields("involvedObject.name=a,reason=Pulled")).await.unwrap();
    assert_eq!(found.items.len(), 1);
    let v1: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(server.client());
    assert_eq!(v1.get("e1").await.unwrap().note.as_deref(), Some("m"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_still_took_effect() {
    let server = server();
    let api = pods(&server);
    let fault = server.faults().add(Rule::new(Fault::LoseResponse).verb(Verb::Create).times(1));
    assert!(api.create(&PostParams::default(), &pod("a", "n")).await.is_err());
    assert_eq!(fault.hits(), 1);
    assert_eq!(refused(api.create(&PostParams::default(), &pod("a", "n")).await).1, "AlreadyExists");
}

#[tokio::test(start_paused = true)]
async fn throttling_says_when_to_come_back() {
    let server = server();
    let retry_after = Duration::from_secs(7);
    server.faults().add(Rule::new(Fault::TooManyRequests { retry_after }).resource("pods").times(1));
    let request = http::Request::get("/api/v1/pods").body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(server.service(), request).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(server.requests().count(|k| k.code == 429), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_watch_holds_its_events_back() {
    let server = server();
    let api = pods(&server);
    let mut watch = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    create(&api, &pod("a", "n")).await;
    assert!(watch.next().await.unwrap().is_ok());
    assert_eq!(server.stall_watches("pods", true), 1);
    create(&api, &pod("b", "n")).await;
    assert!(tokio::time::timeout(Duration::from_mins(2), watch.next()).await.is_err());
    server.stall_watches("pods", false);
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_pod_is_evicted_and_a_service_account_gets_a_token() {
    let server = server();
    let api = pods(&server);
    let created = create(&api, &pod("a", "n")).await;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::default_namespaced(server.client());
    let request = json!({"spec": {"audiences": ["api"], "expirationSeconds": 3600, "boundObjectRef": {
        "kind": "Pod", "apiVersion": "v1", "name": "a", "uid": created.metadata.uid,
    }}});
    let token = accounts
        .create_token_request("default", &PostParams::default(), &serde_json::from_value(request).unwrap())
        .await
        .unwrap();
    let token = token.status.unwrap().token.unwrap();
    let review = |token: &str| json!({"spec": {"token": token, "audiences": ["api"]}});
    let reviews: Api<k8s_openapi::api::authentication::v1::TokenReview> = Api::all(server.client());
    let ask = async |token: &str| -> Value {
        let review = serde_json::from_value(review(token)).unwrap();
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        serde_json::to_value(answer.status).unwrap()
    };
    let answer = ask(&token).await;
    assert_eq!(answer["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(answer["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["a"]));
    assert_ne!(ask("nonsense").await["authenticated"], true);

    api.evict("a", &kube::api::EvictParams::default()).await.unwrap();
    assert!(api.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    api.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_ne!(ask(&token).await["authenticated"], true, "the pod it was bound to is gone");
}

#[tokio::test(start_paused = true)]
async fn dry_run_and_server_side_apply_do_what_they_say() {
    let server = server();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}});
    let params = PatchParams::apply("me");
    maps.patch("m", &params.clone().dry_run(), &Patch::Apply(&map)).await.unwrap();
    assert_eq!(refused(maps.get("m").await).0, 404);
    maps.patch("m", &params, &Patch::Apply(&map)).await.unwrap();
    let less =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}});
    let applied = maps.patch("m", &params, &Patch::Apply(&less)).await.unwrap();
    assert_eq!(applied.data.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
    let other =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "9"}});
    let (code, _, message) =
        refused(maps.patch("m", &PatchParams::apply("you"), &Patch::Apply(&other)).await);
    assert_eq!(
        (code, message.as_str()),
        (409, "Apply failed with 1 conflict: conflict with \"me\": .data.a")
    );
}

#[tokio::test(start_paused = true)]
async fn unknown_fields_are_dropped_warned_of_or_refused_as_asked() {
    let server = server();
    let ask = async |validation: &str| {
        let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"colour": "red", "containers": [
            {"name": "a", "image": "i", "comand": ["x"]}]}});
        let request =
            http::Request::post(format!("/api/v1/namespaces/default/pods?fieldValidation={validation}"))
                .header("content-type", "application/json")
                .body(axum::body::Body::from(pod.to_string()))
                .unwrap();
        tower::ServiceExt::oneshot(server.service(), request).await.unwrap()
    };
    let strict = ask("Strict").await;
    assert_eq!(strict.status(), 400);
    let body = axum::body::to_bytes(strict.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body["message"],
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.colour\", \
         unknown field \"spec.containers[0].comand\""
    );
    let warned = ask("Warn").await;
    assert_eq!(warned.status(), 201);
    assert_eq!(warned.headers().get_all("warning").iter().count(), 2);
    assert!(ask("Ignore").await.headers().get("warning").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_refuses_content_once_it_ends() {
    let server = server();
    let namespaces: Api<Namespace> = Api::all(server.client());
    let namespace = json!({"metadata": {"name": "team"}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let api: Api<Pod> = Api::namespaced(server.client(), "team");
    create(&api, &pod("a", "")).await;
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let (code, _, message) = refused(api.create(&PostParams::default(), &pod("b", "")).await);
    assert_eq!(code, 403);
    assert!(message.contains("because it is being terminated"), "{message}");
}

#[tokio::test]
async fn kubectls_way_in_is_tls_with_a_kubeconfig() {
    let server = server();
    let serving = server.serve_tls("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&serving.kubeconfig()).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(version.git_version, "v1.37.2");
    let api: Api<Pod> = Api::default_namespaced(client);
    create(&api, &pod("a", "n")).await;
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert_eq!(server.requests().count(|k| k.user == "kubernetes-admin"), 2);
    serving.stop().await;
}
