//! The stand-ins for scheduler and controller manager, with a kubelet that starts everything at once.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PropagationPolicy, WatchParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use vk_apiserver::{ApiServer, Config, Controller};

fn server() -> ApiServer {
    ApiServer::with(Config { seed: Some(1), ..Config::default() }).unwrap()
}

fn add_node(server: &ApiServer, name: &str) {
    server
        .create(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"type": "virtual-kubelet"}},
            "status": {
                "allocatable": {"cpu": "100", "memory": "100Gi", "pods": "100"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }))
        .unwrap();
}

/// Runs what is assigned to a node, and lets go what is deleted. Exits with the code in label `exit`.
async fn kubelet(server: ApiServer, node: String) {
    let all: Api<Pod> = Api::all(server.client());
    let params = WatchParams::default().fields(&format!("spec.nodeName={node}"));
    let mut watch = all.watch(&params, "0").await.unwrap().boxed();
    while let Some(Ok(event)) = watch.next().await {
        let (kube::api::WatchEvent::Added(pod) | kube::api::WatchEvent::Modified(pod)) = event else {
            continue;
        };
        let name = pod.metadata.name.clone().unwrap();
        let api: Api<Pod> = Api::namespaced(server.client(), pod.metadata.namespace.as_deref().unwrap());
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone());
        if pod.metadata.deletion_timestamp.is_some() {
            // Another event may have brought the deletion about already.
            let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
        } else if phase.as_deref() == Some("Pending") {
            let exit =
                pod.metadata.labels.as_ref().and_then(|l| l.get("exit")).map(|e| e.parse::<i32>().unwrap());
            let (phase, ready, state) = match exit {
                Some(0) => ("Succeeded", "False", json!({"terminated": {"exitCode": 0}})),
                Some(code) => ("Failed", "False", json!({"terminated": {"exitCode": code}})),
                None => ("Running", "True", json!({"running": {}})),
            };
            let status = json!({"status": {
                "phase": phase, "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": ready == "True",
                                       "restartCount": 0, "state": state}],
            }});
            api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
        }
    }
}

/// Waits until a condition holds of the objects of a resource.
async fn until(server: &ApiServer, resource: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let wait = async {
        loop {
            let objects = server.objects(resource);
            if holds(&objects) {
                return objects;
            }
            // Paused time: the controllers run meanwhile.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = timeout(Duration::from_mins(30), wait).await;
    waited.unwrap_or_else(|_| panic!("never so: {:#?}", server.objects(resource)))
}

fn deployment(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "hello"}},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {"nodeSelector": {"type": "virtual-kubelet"}, "containers": [{"name": "a", "image": "i:1"}]},
            },
        },
    })
}

struct Cluster {
    server: ApiServer,
    _controllers: vk_apiserver::Running,
    _kubelets: JoinSet<()>,
}

async fn cluster() -> Cluster {
    let server = server();
    let controllers = server.start(Controller::ALL);
    add_node(&server, "n1");
    let mut kubelets = JoinSet::new();
    kubelets.spawn(kubelet(server.clone(), "n1".to_owned()));
    until(&server, "nodes", |n| n[0]["spec"]["taints"].is_null()).await;
    Cluster { server, _controllers: controllers, _kubelets: kubelets }
}

fn available(deployments: &[Value], count: i64) -> bool {
    deployments.iter().all(|d| {
        let status = &d["status"];
        status["observedGeneration"] == d["metadata"]["generation"]
            && status["availableReplicas"].as_i64().unwrap_or(0) == count
            && status["updatedReplicas"].as_i64().unwrap_or(0) == count
            && status["replicas"].as_i64().unwrap_or(0) == count
    })
}

#[tokio::test(start_paused = true)]
async fn a_deployment_is_scaled_rolled_and_deleted_with_its_pods() {
    let cluster = cluster().await;
    let server = &cluster.server;
    server.create(deployment(3)).unwrap();
    until(server, "deployments", |d| available(d, 3)).await;
    let api: Api<Deployment> = Api::default_namespaced(server.client());
    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    api.patch_scale("hello", &PatchParams::default(), &scale).await.unwrap();
    until(server, "deployments", |d| available(d, 5)).await;

    let before: Vec<Value> = server.objects("pods").iter().map(|p| p["metadata"]["uid"].clone()).collect();
    api.restart("hello").await.unwrap();
    let rolled =
        |pods: &[Value]| pods.len() == 5 && pods.iter().all(|p| !before.contains(&p["metadata"]["uid"]));
    until(server, "pods", rolled).await;
    until(server, "deployments", |d| available(d, 5)).await;
    assert_eq!(server.count("replicasets"), 2);
    let annotations =
        server.object("deployments", "default", "hello").unwrap()["metadata"]["annotations"].clone();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "2");

    api.delete("hello", &DeleteParams::background()).await.unwrap();
    until(server, "pods", <[Value]>::is_empty).await;
    assert_eq!(server.count("replicasets"), 0);
}

#[tokio::test(start_paused = true)]
async fn no_update_leaves_fewer_pods_than_allowed() {
    let cluster = cluster().await;
    let server = &cluster.server;
    let mut careful = deployment(4);
    careful["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    server.create(careful).unwrap();
    until(server, "deployments", |d| available(d, 4)).await;
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let mut watch = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let api: Api<Deployment> = Api::default_namespaced(server.client());
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "i:2"}]}}}});
    api.patch("hello", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();
    let finished = until(server, "deployments", |d| available(d, 4));
    let mut finished = std::pin::pin!(finished);
    loop {
        tokio::select! {
            _ = watch.next() => {
                let alive = server.objects("pods").iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()
                    && p["status"]["phase"] == "Running").count();
                assert!(alive >= 4, "{alive} pods alive");
                assert!(server.count("pods") <= 6, "more pods than surge and those on their way out");
            }
            _ = &mut finished => break,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_it_can_be() {
    let cluster = cluster().await;
    let server = &cluster.server;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                     "spec": {"nodeSelector": {"zone": "x"}, "containers": [{"name": "a", "image": "i"}]}});
    server.create(pod).unwrap();
    until(server, "pods", |pods| {
        pods[0]["status"]["conditions"][0]["message"]
            == "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    })
    .await;
    let nodes: Api<Node> = Api::all(server.client());
    let label = Patch::Merge(json!({"metadata": {"labels": {"zone": "x"}}}));
    nodes.patch("n1", &PatchParams::default(), &label).await.unwrap();
    until(server, "pods", |pods| pods[0]["status"]["phase"] == "Running").await;
    let reasons: Vec<Value> = server.objects("events").iter().map(|e| e["reason"].clone()).collect();
    assert_eq!(reasons.iter().filter(|r| **r == "FailedScheduling").count(), 1);
    assert_eq!(reasons.iter().filter(|r| **r == "Scheduled").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_heartbeats_becomes_unknown_and_loses_its_pods_in_time() {
    let server = server();
    let _controllers = server.start(Controller::ALL);
    add_node(&server, "n1");
    until(&server, "nodes", |n| n[0]["spec"]["taints"].is_null()).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                     "spec": {"containers": [{"name": "a", "image": "i"}]}});
    server.create(pod).unwrap();
    until(&server, "pods", |p| p[0]["spec"]["nodeName"] == "n1").await;
    let start = tokio::time::Instant::now();
    until(&server, "nodes", |n| n[0]["status"]["conditions"][0]["status"] == "Unknown").await;
    let silent = start.elapsed();
    assert!((50..=61).contains(&silent.as_secs()), "{silent:?}");
    let taints = server.object("nodes", "", "n1").unwrap()["spec"]["taints"].clone();
    assert_eq!(taints.as_array().unwrap().len(), 2);
    until(&server, "pods", |p| !p[0]["metadata"]["deletionTimestamp"].is_null()).await;
    let tolerated = start.elapsed().saturating_sub(silent);
    assert!((299..=302).contains(&tolerated.as_secs()), "{tolerated:?}");
    let nodes: Api<Node> = Api::all(server.client());
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    until(&server, "pods", <[Value]>::is_empty).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_completes_or_fails_by_its_policy() {
    let cluster = cluster().await;
    let server = &cluster.server;
    let job = |name: &str, exit: &str, policy: Value| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
            "completions": 3, "parallelism": 2, "backoffLimit": 2, "podFailurePolicy": policy,
            "template": {"metadata": {"labels": {"exit": exit}}, "spec": {
                "restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}},
        }})
    };
    server.create(job("good", "0", Value::Null)).unwrap();
    server.create(job("bad", "1", Value::Null)).unwrap();
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    server.create(job("fatal", "42", policy)).unwrap();
    let ended = |jobs: &[Value]| {
        jobs.iter().all(|j| j["status"]["conditions"].as_array().is_some_and(|c| c.len() > 1))
    };
    until(server, "jobs", ended).await;
    let status = |name: &str| server.object("jobs", "default", name).unwrap()["status"].clone();
    assert_eq!(status("good")["succeeded"], 3);
    assert_eq!(status("good")["conditions"][1]["type"], "Complete");
    assert_eq!(status("bad")["conditions"][1]["reason"], "BackoffLimitExceeded");
    assert_eq!(status("fatal")["conditions"][1]["reason"], "PodFailurePolicy");
    let jobs: Api<Job> = Api::default_namespaced(server.client());
    jobs.delete("good", &DeleteParams::background()).await.unwrap();
    until(server, "pods", |pods| pods.iter().all(|p| p["metadata"]["ownerReferences"][0]["name"] != "good"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_goes_when_its_pods_have_gone() {
    let cluster = cluster().await;
    let server = &cluster.server;
    server.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).unwrap();
    let mut app = deployment(2);
    app["metadata"]["namespace"] = "team".into();
    server.create(app).unwrap();
    until(server, "deployments", |d| available(d, 2)).await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until(server, "namespaces", |n| n.iter().all(|n| n["metadata"]["name"] != "team")).await;
    assert_eq!(server.count("pods"), 0);
    assert!(server.objects("events").iter().all(|e| e["metadata"]["namespace"] != "team"));
}

#[tokio::test(start_paused = true)]
async fn owners_wait_for_dependents_or_leave_them_as_asked() {
    let cluster = cluster().await;
    let server = &cluster.server;
    server.create(deployment(2)).unwrap();
    until(server, "deployments", |d| available(d, 2)).await;
    let api: Api<Deployment> = Api::default_namespaced(server.client());
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    api.delete("hello", &orphan).await.unwrap();
    until(server, "deployments", <[Value]>::is_empty).await;
    assert_eq!((server.count("replicasets"), server.count("pods")), (1, 2));
    assert!(server.objects("replicasets")[0]["metadata"]["ownerReferences"].is_null());
    // Made again, the deployment adopts what it left, and deletes it in the foreground.
    let left: Vec<Value> = server.objects("pods").iter().map(|p| p["metadata"]["uid"].clone()).collect();
    server.create(deployment(1)).unwrap();
    let kept = until(server, "pods", |pods| pods.len() == 1).await;
    assert!(left.contains(&kept[0]["metadata"]["uid"]));
    api.delete("hello", &DeleteParams::foreground()).await.unwrap();
    until(server, "deployments", <[Value]>::is_empty).await;
    assert_eq!((server.count("replicasets"), server.count("pods")), (0, 0));
}
