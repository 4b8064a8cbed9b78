//! Services, tokens, credentials, claims, sub-paths and late-bound fields.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeSpec, Service};

use super::*;
use crate::pods::resolve::fake::{map, of_kind, secret};
use crate::provider::{Origin, Value, VolumeContent};

fn service(name: &str, address: &str) -> Object {
    let service =
        json!({"metadata": {"name": name}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    Object::from(serde_json::from_value::<Service>(service).unwrap())
}

fn value<'a>(ready: &'a ResolvedPod, name: &str) -> Option<&'a str> {
    ready.containers[0].env.iter().find(|var| var.name == name).map(|var| var.value.expose())
}

#[tokio::test]
async fn services_of_the_namespace_and_the_api_servers_own_are_told() {
    let fake = Fake::default();
    let master =
        ObjectRef { kind: ObjectKind::Service, namespace: "default".into(), name: "kubernetes".into() };
    fake.put_object(&master, service("kubernetes", "10.96.0.1"));
    fake.put_object(&of_kind(ObjectKind::Services, ""), service("web", "10.96.0.7"));
    let spec = json!({"env": [
        {"name": "URL", "value": "http://$(WEB_SERVICE_HOST):$(WEB_SERVICE_PORT)"},
        {"name": "WEB_PORT", "value": "mine"},
    ], "args": ["$(KUBERNETES_SERVICE_HOST)"]});
    let ready = resolver(&fake).resolve(&pod_of(spec.clone())).await.unwrap();
    assert_eq!(value(&ready, "URL"), Some("http://10.96.0.7:80"));
    assert_eq!(value(&ready, "WEB_PORT"), Some("mine"), "the pod's own name wins");
    assert_eq!(value(&ready, "WEB_SERVICE_HOST"), Some("10.96.0.7"));
    assert_eq!(ready.containers[0].args, [Value::plain("10.96.0.1")]);
    let origin = |name: &str| {
        ready.containers[0].env.iter().find(|var| var.name == name).map(|var| var.origin.clone())
    };
    assert_eq!(origin("WEB_SERVICE_HOST"), Some(Origin::Service("web".into())));

    let mut without = Pod::clone(&pod_of(spec));
    without.spec.as_mut().unwrap().enable_service_links = Some(false);
    let ready = resolver(&fake).resolve(&Arc::new(without)).await.unwrap();
    assert_eq!(value(&ready, "WEB_SERVICE_HOST"), None);
    assert_eq!(value(&ready, "KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
}

fn with_token() -> Arc<Pod> {
    pod(json!({
        "serviceAccountName": "robot",
        "containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}},
            {"configMap": {"name": "cm"}},
        ]}}],
    }))
}

fn file<'a>(ready: &'a ResolvedPod, path: &str) -> &'a crate::provider::File {
    let VolumeContent::Files(files) = &ready.volumes[0].content else { panic!("{:?}", ready.volumes) };
    files.iter().find(|file| file.path == path).unwrap()
}

#[tokio::test(start_paused = true)]
async fn tokens_are_bound_kept_and_replaced_at_four_fifths_of_their_lives() {
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "v")]);
    let (resolver, pod) = (resolver(&fake), with_token());
    let uid = PodUid::new("u-1");
    let first = resolver.resolve(&pod).await.unwrap();
    let vault = file(&first, "vault").clone();
    assert!(vault.secret && vault.content.starts_with(b"u-1/robot/vault/"), "{vault:?}");
    assert!(file(&first, "token").content.starts_with(b"u-1/robot//"));
    let begin = Instant::now();
    let due = resolver.tokens_due(&uid).unwrap();
    assert!(
        (Duration::from_secs(469)..=Duration::from_mins(8)).contains(&(due - begin)),
        "{:?}",
        due - begin
    );

    let again = resolver.resolve(&pod).await.unwrap();
    assert_eq!(file(&again, "vault"), &vault, "what is valid is used again");
    tokio::time::advance(due - Instant::now()).await;
    let renewed = resolver.resolve(&pod).await.unwrap();
    assert_ne!(file(&renewed, "vault").content, vault.content);
    assert_eq!(file(&renewed, "token").content, file(&first, "token").content, "the longer one is not due");
    assert!(resolver.tokens_due(&uid).unwrap() > due);
    resolver.forget(&uid);
    assert_eq!(resolver.tokens_due(&uid), None);
}

#[tokio::test(start_paused = true)]
async fn an_old_token_serves_until_it_ends_when_another_is_not_to_be_had() {
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "v")]);
    let (resolver, pod) = (resolver(&fake), with_token());
    let first = resolver.resolve(&pod).await.unwrap();
    fake.fail(&of_kind(ObjectKind::ServiceAccount, "robot"), 500);
    tokio::time::advance(Duration::from_secs(500)).await;
    let again = resolver.resolve(&pod).await.unwrap();
    assert_eq!(file(&again, "vault"), file(&first, "vault"));
    tokio::time::advance(Duration::from_secs(200)).await;
    let error = resolver.resolve(&pod).await.unwrap_err();
    assert!(matches!(&error, ResolveError::Read { object, .. } if object.kind == ObjectKind::ServiceAccount));
}

#[tokio::test]
async fn no_token_is_asked_for_while_something_else_is_missing() {
    let fake = Fake::default();
    let resolver = resolver(&fake);
    assert!(matches!(resolver.resolve(&with_token()).await, Err(ResolveError::Missing { .. })));
    assert!(fake.calls().iter().all(|call| !call.starts_with("Token")));
}

#[tokio::test]
async fn a_backend_without_files_is_left_volumes_with_tokens_as_a_whole() {
    let fake = Fake::default();
    let options = ResolveOptions { tokens: false, ..ResolveOptions::default() };
    let ready = resolver(&fake).with_options(options).resolve(&with_token()).await.unwrap();
    assert!(matches!(ready.volumes[0].content, VolumeContent::Native));
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn pull_credentials_are_those_that_match_the_pods_images() {
    let fake = Fake::default();
    let json = json!({"auths": {
        "registry.example": {"username": "general", "password": "p1"},
        "registry.example/team": {"username": "team", "password": "hunter2"},
        "other.example": {"username": "other", "password": "p3"},
    }});
    fake.put(&secret("pull"), [(".dockerconfigjson", json.to_string())]);
    let pod = pod(json!({
        "imagePullSecrets": [{"name": "pull"}, {"name": "absent"}],
        "containers": [{"name": "a", "image": "registry.example/team/app:1"}, {"name": "b", "image": "busybox"}],
    }));
    let resolver = resolver(&fake);
    let ready = resolver.resolve(&pod).await.unwrap();
    let users: Vec<_> =
        ready.pull_credentials.iter().map(|credential| credential.username.as_str()).collect();
    assert_eq!(users, ["team", "general"], "the longer path first");
    assert_eq!(ready.pull_credentials[0].images, ["registry.example/team/app:1"]);
    assert!(!format!("{ready:?}").contains("hunter2"));
    assert_eq!(resolver.events(), [], "a kubelet does not speak of one that is missing");
}

#[tokio::test]
async fn a_claim_leads_to_its_volume_once_it_is_bound() {
    let claim = of_kind(ObjectKind::Claim, "data");
    let volume = ObjectRef { kind: ObjectKind::Volume, namespace: "".into(), name: "pv-1".into() };
    let fake = Fake::default();
    let resolver = resolver(&fake);
    let pod = pod(json!({
        "containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}],
    }));
    let waits = async || match resolver.resolve(&pod).await {
        Err(ResolveError::Missing { missing, .. }) => missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(waits().await, *std::slice::from_ref(&claim));
    fake.put_object(&claim, Object { detail: Detail::Claim(None), ..Object::default() });
    assert_eq!(waits().await, *std::slice::from_ref(&claim));
    fake.put_object(&claim, Object { detail: Detail::Claim(Some("pv-1".into())), ..Object::default() });
    assert_eq!(waits().await, *std::slice::from_ref(&volume));
    let source = json!({"nfs": {"server": "nfs.example", "path": "/data"}});
    let spec: PersistentVolumeSpec = serde_json::from_value(source).unwrap();
    fake.put_object(&volume, Object { detail: Detail::Volume(Arc::new(spec)), ..Object::default() });
    let ready = resolver.resolve(&pod).await.unwrap();
    let VolumeContent::Claim(claimed) = &ready.volumes[0].content else { panic!("{:?}", ready.volumes) };
    assert!(claimed.read_only);
    assert_eq!(claimed.volume, "pv-1");
    assert_eq!(claimed.spec.nfs.as_ref().unwrap().server, "nfs.example");
}

#[tokio::test]
async fn a_backend_that_starts_what_it_can_is_given_the_pod_with_its_blocked_containers() {
    let fake = Fake::default();
    let options = ResolveOptions { partial: true, ..ResolveOptions::default() };
    let resolver = resolver(&fake).with_options(options);
    let pod = pod(json!({
        "containers": [
            {"name": "a", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]},
            {"name": "b", "env": [{"name": "POD", "value": "b"}], "volumeMounts": [
                {"name": "v", "mountPath": "/v", "subPathExpr": "$(POD)/x"},
            ]},
            {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(NOPE)"}]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }));
    let partly = resolver.resolve_with(&pod, &LateBound::default()).await.unwrap();
    assert_eq!(partly.missing, [secret("late")]);
    let blocked: Vec<_> =
        partly.pod.containers.iter().map(|c| c.blocked.as_ref().map(|b| b.message.as_str())).collect();
    assert_eq!(blocked, [Some("secret \"late\" not found"), None, Some("missing value for NOPE")]);
    assert_eq!(partly.pod.containers[1].mounts[0].sub_path.as_deref(), Some("b/x"));
    fake.put(&secret("late"), [("k", "v")]);
    let wholly = resolver.resolve_with(&pod, &LateBound::default()).await.unwrap();
    assert!(wholly.pod.containers[0].blocked.is_none() && wholly.missing.is_empty());
}

#[tokio::test]
async fn an_address_that_nobody_knows_yet_is_refused_empty_or_the_nodes() {
    let pod = pod_of(json!({"env": [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]}));
    for (policy, expected) in [
        (LateBoundPolicy::Fail, None),
        (LateBoundPolicy::Empty, Some("")),
        (LateBoundPolicy::NodeIp, Some("192.0.2.1")),
    ] {
        let options = ResolveOptions { late_bound: policy, ..ResolveOptions::default() };
        let resolver =
            resolver(&Fake::default()).with_options(options).with_host_ips(["192.0.2.1".parse().unwrap()]);
        match (resolver.resolve(&pod).await, expected) {
            (Ok(ready), Some(expected)) => {
                assert_eq!(value(&ready, "IP"), Some(expected));
                assert_eq!(resolver.events()[0].0, Reason::LateBoundField);
            }
            (Err(ResolveError::Invalid { field, .. }), None) => {
                assert_eq!(field, "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath");
            }
            (other, _) => panic!("{policy:?}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_what_files_came_from_wakes_the_pod_once() {
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "old")]);
    let (resolver, pod) = (resolver(&fake), with_token());
    let first = resolver.resolve(&pod).await.unwrap();
    let (sender, mut woken) = tokio::sync::mpsc::unbounded_channel();
    resolver.wake_when_changed(&first.pod, Arc::new(move |uid: &PodUid| drop(sender.send(uid.clone()))));
    fake.watches(1).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(woken.try_recv().is_err(), "nothing has changed");
    fake.put(&map("cm"), [("k", "new")]);
    assert_eq!(woken.recv().await, Some(PodUid::new("u-1")));
    assert_eq!(&file(&resolver.resolve(&pod).await.unwrap(), "k").content[..], b"new");
}

#[tokio::test]
async fn variables_from_files_join_when_the_container_starts() {
    // Oracle case env-from-file.
    let pod = pod_of(json!({
        "env": [
            {"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "A"}}},
            {"name": "X", "valueFrom": {"fileKeyRef": {
                "volumeName": "v", "path": "f.env", "key": "NOPE", "optional": true}}},
            {"name": "B2", "value": "<$(A)>"},
        ],
        "args": ["$(A)", "$(X)"],
    }));
    let ready = resolver(&Fake::default()).resolve(&pod).await.unwrap();
    let file = |volume: &str, path: &str| (volume == "v" && path == "f.env").then(|| b"A='one'\n".to_vec());
    let started = ready.with_env_files(&ready.containers[0], file).unwrap();
    let mut env: Vec<_> = started.env.iter().map(|var| (var.name.as_str(), var.value.expose())).collect();
    env.sort_unstable();
    assert_eq!(env, [("A", "one"), ("B2", "<one>")]);
    assert_eq!(started.args, [Value::plain("one"), Value::plain("$(X)")]);
    let missing = ready.with_env_files(&ready.containers[0], |_, _| None).unwrap_err();
    assert_eq!(missing, "file \"f.env\" not found in volume \"v\"");
}
