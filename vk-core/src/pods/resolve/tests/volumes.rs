//! Volumes, against what a kubelet 1.37 put into them.

use super::*;
use crate::pods::resolve::fake::{map, secret};
use crate::provider::{EmptyDir, VolumeContent};

/// A pod whose container mounts every volume.
fn pod_with(volumes: Json) -> Arc<Pod> {
    let names = volumes.as_array().unwrap().iter().map(|volume| volume["name"].clone());
    let mounts: Vec<_> = names.map(|name| json!({"name": name, "mountPath": "/v"})).collect();
    let resources = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    let container = json!({"name": "a", "volumeMounts": mounts, "resources": resources});
    let mut spec = json!({"containers": [container]});
    spec["volumes"] = volumes;
    pod(spec)
}

fn objects() -> Fake {
    let fake = Fake::default();
    let data = [("k".to_owned(), "v".into()), ("j".to_owned(), "w".into())].into();
    let binary = [("bin".to_owned(), bytes::Bytes::from_static(&[0, 1, 2]))].into();
    fake.put_object(&map("cm"), Object { data, binary, ..Object::default() });
    fake.put(&secret("s"), [("user", "u"), ("pass", "p")]);
    fake
}

/// Path, permissions, content as text, and whether it is secret, of each file of a volume.
fn files(ready: &ResolvedPod, volume: usize) -> Vec<(&str, u32, String, bool)> {
    let VolumeContent::Files(files) = &ready.volumes[volume].content else {
        panic!("{:?}", ready.volumes[volume])
    };
    files
        .iter()
        .map(|file| (file.path.as_str(), file.mode, file.content.escape_ascii().to_string(), file.secret))
        .collect()
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[tokio::test]
async fn config_maps_and_secrets_become_files_with_their_modes() {
    // Oracle case volume-configmap-modes.
    let pod = pod_with(json!([
        {"name": "a", "configMap": {"name": "cm"}},
        {"name": "b", "configMap": {"name": "cm", "defaultMode": 256, "items": [
            {"key": "k", "path": "deep/er/k", "mode": 511}, {"key": "j", "path": "j"},
        ]}},
        {"name": "c", "secret": {"secretName": "s"}},
        {"name": "d", "secret": {"secretName": "s", "defaultMode": 384}},
        {"name": "e", "emptyDir": {}},
        {"name": "f", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "g", "hostPath": {"path": "/var"}},
    ]));
    let fake = objects();
    let ready = resolver(&fake).resolve(&pod).await.unwrap();
    let all = [
        ("bin", 0o644, text("\\x00\\x01\\x02"), false),
        ("j", 0o644, text("w"), false),
        ("k", 0o644, text("v"), false),
    ];
    assert_eq!(files(&ready, 0), all);
    assert_eq!(files(&ready, 1), [("deep/er/k", 0o777, text("v"), false), ("j", 0o400, text("w"), false)]);
    assert_eq!(files(&ready, 2), [("pass", 0o644, text("p"), true), ("user", 0o644, text("u"), true)]);
    assert_eq!(files(&ready, 3), [("pass", 0o600, text("p"), true), ("user", 0o600, text("u"), true)]);
    let empty = |volume: usize| match &ready.volumes[volume].content {
        VolumeContent::EmptyDir(empty) => empty.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(empty(4), EmptyDir::default());
    assert_eq!(empty(5), EmptyDir { memory: true, size_limit: Some(Quantity("8Mi".into())) });
    assert!(matches!(ready.volumes[6].content, VolumeContent::Native));
    let mut calls = fake.calls();
    calls.sort();
    assert_eq!(calls, ["Cached cm", "Cached s"]);
}

#[tokio::test]
async fn projections_of_objects_and_fields_share_one_directory() {
    // Oracle case volume-projected, without its token.
    let pod = pod_with(json!([{"name": "p", "projected": {"defaultMode": 292, "sources": [
        {"configMap": {"name": "cm", "items": [{"key": "k", "path": "cm/k", "mode": 256}, {"key": "bin", "path": "bin"}]}},
        {"secret": {"name": "s"}},
        {"secret": {"name": "nope", "optional": true}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]}}]));
    let resolver = resolver(&objects());
    let ready = resolver.resolve(&pod).await.unwrap();
    let expected = [
        ("bin", 0o444, text("\\x00\\x01\\x02"), false),
        ("cm/k", 0o400, text("v"), false),
        ("name", 0o444, text("pod"), false),
        ("pass", 0o444, text("p"), true),
        ("user", 0o444, text("u"), true),
    ];
    assert_eq!(files(&ready, 0), expected);
    let told = (Reason::OptionalSecretNotFound, "secret \"nope\" not found".to_owned(), None);
    assert_eq!(resolver.events(), [told]);
}

#[tokio::test]
async fn fields_and_resources_become_files() {
    // Oracle case volume-downward.
    let pod = pod_with(json!([{"name": "d", "downwardAPI": {"defaultMode": 288, "items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}, "mode": 256},
        {"path": "one-label", "fieldRef": {"fieldPath": "metadata.labels['app']"}},
        {"path": "sub/name", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "a", "resource": "limits.cpu", "divisor": "1m"}},
        {"path": "mem", "resourceFieldRef": {"containerName": "a", "resource": "requests.memory"}},
    ]}}]));
    let ready = resolver(&Fake::default()).resolve(&pod).await.unwrap();
    let VolumeContent::Files(files) = &ready.volumes[0].content else { panic!("{:?}", ready.volumes) };
    let got: Vec<_> = files
        .iter()
        .map(|file| (file.path.as_str(), file.mode, std::str::from_utf8(&file.content).unwrap()))
        .collect();
    let expected = [
        ("annotations", 0o400, "example.test/a=\"q\\\"uote\"\nnote=\"two\\nlines\""),
        ("cpu", 0o440, "500"),
        ("labels", 0o440, "app=\"x\"\nexample.test/l=\"v\""),
        ("mem", 0o440, "67108864"),
        ("one-label", 0o440, "x"),
        ("sub/name", 0o440, "pod"),
    ];
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_volume_that_nobody_mounts_is_left_out_and_nothing_waits_for_it() {
    let volume = json!({"name": "v", "configMap": {"name": "late"}});
    let fake = Fake::default();
    let pod = pod(json!({"containers": [{"name": "a"}], "volumes": [volume]}));
    let ready = resolver(&fake).resolve(&pod).await.unwrap();
    assert!(ready.volumes.is_empty());
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn an_optional_volume_source_that_is_missing_leaves_the_volume_empty() {
    let items = json!([{"key": "gone", "path": "gone"}, {"key": "k", "path": "k"}]);
    let pod = pod_with(json!([
        {"name": "a", "configMap": {"name": "late", "optional": true}},
        {"name": "b", "configMap": {"name": "cm", "optional": true, "items": items}},
    ]));
    let resolver = resolver(&objects());
    let ready = resolver.resolve(&pod).await.unwrap();
    assert_eq!(files(&ready, 0), []);
    assert_eq!(files(&ready, 1), [("k", 0o644, text("v"), false)]);
    let told: Vec<_> = resolver.events().into_iter().map(|(reason, ..)| reason).collect();
    assert_eq!(told, [Reason::OptionalConfigMapNotFound, Reason::OptionalConfigMapKeyNotFound]);
}

#[tokio::test]
async fn a_missing_volume_keeps_every_container_creating_whatever_else_is_missing() {
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}}]);
    let pod = pod(json!({
        "containers": [{"name": "a", "volumeMounts": mount, "env": env}],
        "volumes": [{"name": "v", "configMap": {"name": "late"}}],
    }));
    let resolver = resolver(&objects());
    let ResolveError::Missing { waiting, missing } = resolver.resolve(&pod).await.unwrap_err() else {
        panic!()
    };
    assert!(waiting.is_empty(), "{waiting:?}");
    assert_eq!(missing, [map("late"), secret("nope")]);
    assert!(resolver.events().iter().all(|(reason, ..)| *reason != Reason::Failed));
}

#[tokio::test]
async fn paths_modes_and_owners_that_no_volume_can_have_are_refused() {
    let item = |path: &str| json!([{"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": path}]}}]);
    let refused = "spec.volumes[0].configMap.items[0].path";
    for (volumes, at) in [
        (item("/etc/passwd"), refused),
        (item("../x"), refused),
        (item("a/../../x"), refused),
        (item("..data"), refused),
        (item(""), refused),
        (item("."), refused),
        (item("a\0b"), refused),
        (
            json!([{"name": "v", "configMap": {"name": "cm", "defaultMode": 512}}]),
            "spec.volumes[0].configMap.defaultMode",
        ),
        (
            json!([{"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": -1}]}}]),
            "spec.volumes[0].secret.items[0].mode",
        ),
        (
            json!([{"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": "p", "user": 1}]}}]),
            "spec.volumes[0].configMap.items[0].user",
        ),
        (
            json!([{"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": "p"}, {"key": "j", "path": "p/q/r"}]}}]),
            "spec.volumes[0]",
        ),
        (
            json!([{"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}]),
            "spec.volumes[0].downwardAPI.items[0].fieldRef",
        ),
        (
            json!([{"name": "v", "downwardAPI": {"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}}]),
            "spec.volumes[0].downwardAPI.items[0].resourceFieldRef",
        ),
        (
            json!([{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": [{"path": "p"}]}}]}}]),
            "spec.volumes[0].projected.sources[0].downwardAPI.items[0]",
        ),
    ] {
        let error = resolver(&objects()).resolve(&pod_with(volumes.clone())).await.unwrap_err();
        let ResolveError::Invalid { field, .. } = &error else { panic!("{volumes}: {error}") };
        assert_eq!(field, at, "{error}");
    }
}

#[tokio::test]
async fn paths_are_written_in_their_shortest_form() {
    let pod = pod_with(
        json!([{"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": "a//./b..c/"}]}}]),
    );
    let ready = resolver(&objects()).resolve(&pod).await.unwrap();
    assert_eq!(files(&ready, 0), [("a/b..c", 0o644, text("v"), false)]);
}
