//! Environment and command lines, against what a kubelet 1.37 gave its containers.

use super::*;
use crate::pods::resolve::fake::{map, pairs, secret};
use crate::provider::{ContainerKind, Origin, ResolvedContainer};

async fn resolved(fake: &Fake, pod: &Arc<Pod>) -> ResolvedPod {
    resolver(fake).resolve(pod).await.unwrap()
}

fn env(container: &ResolvedContainer) -> Vec<(&str, &str)> {
    container.env.iter().map(|var| (var.name.as_str(), var.value.expose())).collect()
}

fn var<'a>(container: &'a ResolvedContainer, name: &str) -> &'a crate::provider::EnvVar {
    container.env.iter().find(|var| var.name == name).unwrap()
}

fn words(values: &[crate::provider::Value]) -> Vec<&str> {
    values.iter().map(crate::provider::Value::expose).collect()
}

#[tokio::test]
async fn variables_see_the_ones_before_them_and_command_lines_see_the_last_of_each() {
    // Oracle case env-expansion.
    let fake = Fake::default();
    let pod = pod_of(json!({
        "env": [
            {"name": "A", "value": "a"},
            {"name": "B", "value": "$(A)-b"},
            {"name": "ESCAPED", "value": "$$(A)"},
            {"name": "TWICE", "value": "$$$(A)"},
            {"name": "LATER", "value": "$(Z)"},
            {"name": "UNKNOWN", "value": "$(NOPE) $(NOPE"},
            {"name": "IMAGE", "value": "$(IMAGE_VAR)"},
            {"name": "SELF", "value": "$(SELF)x"},
            {"name": "DOLLARS", "value": "$ $$ $$$ $A ${A} $(A"},
            {"name": "EMPTY", "value": ""},
            {"name": "NOVALUE"},
            {"name": "A_AGAIN", "value": "$(A)"},
            {"name": "A", "value": "second"},
            {"name": "AFTER", "value": "$(A)"},
            {"name": "with.dots-and-dashes", "value": "ok"},
            {"name": "odd name!", "value": "ok"},
            {"name": "Z", "value": "z"},
        ],
        "command": ["sh", "-c", "for a in \"$@\"; do echo \"[$a]\"; done", "$(A)"],
        "args": ["$(B)", "$$(A)", "$(NOPE)", "$$", "$$$$", "x$(A)y$(Z)", "$(EMPTY)|", "$(odd name!)"],
    }));
    let ready = resolved(&fake, &pod).await;
    let a = &ready.containers[0];
    let expected = [
        ("A", "second"),
        ("B", "a-b"),
        ("ESCAPED", "$(A)"),
        ("TWICE", "$a"),
        ("LATER", "$(Z)"),
        ("UNKNOWN", "$(NOPE) $(NOPE"),
        ("IMAGE", "$(IMAGE_VAR)"),
        ("SELF", "$(SELF)x"),
        ("DOLLARS", "$ $ $$ $A ${A} $(A"),
        ("EMPTY", ""),
        ("NOVALUE", ""),
        ("A_AGAIN", "a"),
        ("AFTER", "second"),
        ("with.dots-and-dashes", "ok"),
        ("odd name!", "ok"),
        ("Z", "z"),
    ];
    assert_eq!(env(a), expected);
    assert_eq!(words(&a.command), ["sh", "-c", "for a in \"$@\"; do echo \"[$a]\"; done", "second"]);
    assert_eq!(words(&a.args), ["a-b", "$(A)", "$(NOPE)", "$", "$$", "xsecondyz", "|", "ok"]);
    assert!(fake.calls().is_empty(), "a pod that refers to nothing makes no call");
}

#[tokio::test]
async fn whole_objects_come_before_variables_and_later_ones_win() {
    // Oracle case env-from.
    let fake = Fake::default();
    let data = [
        ("K", "one"),
        ("DUP", "one"),
        ("with-dash", "d"),
        ("with.dot", "d"),
        ("1digit", "d"),
        ("REF", "$(K)"),
    ];
    let data = data.map(|(key, value)| (key.to_owned(), value.into())).into();
    fake.put_object(
        &map("one"),
        Object { data, binary: [("BIN".into(), "hi".into())].into(), ..Object::default() },
    );
    fake.put(&map("two"), [("DUP", "two"), ("OVER", "two")]);
    fake.put(&secret("sec"), [("S", "secret"), ("DUP", "secret")]);
    let pod = pod_of(json!({
        "envFrom": [
            {"configMapRef": {"name": "one"}},
            {"prefix": "P_", "configMapRef": {"name": "one"}},
            {"configMapRef": {"name": "two"}},
            {"secretRef": {"name": "sec"}},
            {"prefix": "2x", "configMapRef": {"name": "two"}},
        ],
        "env": [{"name": "OVER", "value": "env"}, {"name": "USES", "value": "$(K) $(S) $(P_K)"}],
        "command": ["env"],
    }));
    let resolver = resolver(&fake);
    let ready = resolver.resolve(&pod).await.unwrap();
    let a = &ready.containers[0];
    let got: BTreeMap<String, String> =
        env(a).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let expected = pairs([
        ("1digit", "d"),
        ("2xDUP", "two"),
        ("2xOVER", "two"),
        ("DUP", "secret"),
        ("K", "one"),
        ("OVER", "env"),
        ("P_1digit", "d"),
        ("P_DUP", "one"),
        ("P_K", "one"),
        ("P_REF", "$(K)"),
        ("P_with-dash", "d"),
        ("P_with.dot", "d"),
        ("REF", "$(K)"),
        ("S", "secret"),
        ("USES", "one secret one"),
        ("with-dash", "d"),
        ("with.dot", "d"),
    ]);
    assert_eq!(got, expected);
    assert_eq!(var(a, "DUP").origin, Origin::Secret { name: "sec".into(), key: "DUP".into() });
    assert_eq!(var(a, "P_K").origin, Origin::ConfigMap { name: "one".into(), key: "K".into() });
    assert_eq!(var(a, "OVER").origin, Origin::Literal);
    let mut calls = fake.calls();
    calls.sort();
    assert_eq!(calls, ["Cached one", "Cached sec", "Cached two"], "each object is read once");
    assert_eq!(resolver.events(), []);
}

#[tokio::test]
async fn names_that_cannot_be_variables_are_skipped_with_one_event() {
    let fake = Fake::default();
    fake.put(&map("odd"), [("k", "v"), ("z", "v")]);
    let pod = pod_of(json!({"envFrom": [
        {"prefix": "a=", "configMapRef": {"name": "odd"}}, {"configMapRef": {"name": "odd"}},
    ]}));
    let resolver = resolver(&fake);
    let ready = resolver.resolve(&pod).await.unwrap();
    assert_eq!(env(&ready.containers[0]), [("k", "v"), ("z", "v")]);
    let text = "keys [a=k, a=z] from configmap ns/odd were skipped since they are invalid as environment \
                variable names";
    assert_eq!(resolver.events(), [(Reason::InvalidEnvironmentVariableNames, text.to_owned(), None)]);
}

#[tokio::test]
async fn fields_of_the_pod_become_variables_and_can_be_referred_to() {
    // Oracle case env-field-refs.
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let pod = pod_of(json!({"env": [
        field("NAME", "metadata.name"),
        field("LABEL", "metadata.labels['app']"),
        field("LABEL_ABSENT", "metadata.labels['absent']"),
        field("ANNOTATION", "metadata.annotations['example.test/a']"),
        field("NODE", "spec.nodeName"),
        field("SA", "spec.serviceAccountName"),
        field("HOST_IPS", "status.hostIPs"),
        field("POD_IP", "status.podIP"),
        {"name": "DERIVED", "value": "http://$(POD_IP):8080/$(LABEL)"},
    ]}));
    let resolver = resolver(&Fake::default()).with_host_ips(["192.0.2.1".parse().unwrap()]);
    let late = LateBound { pod_ips: vec!["10.0.0.7".parse().unwrap()], host_ips: vec![] };
    let ready = resolver.resolve_with(&pod, &late).await.unwrap();
    let expected = [
        ("NAME", "pod"),
        ("LABEL", "x"),
        ("LABEL_ABSENT", ""),
        ("ANNOTATION", "q\"uote"),
        ("NODE", "node"),
        ("SA", "default"),
        ("HOST_IPS", "192.0.2.1"),
        ("POD_IP", "10.0.0.7"),
        ("DERIVED", "http://10.0.0.7:8080/x"),
    ];
    assert_eq!(env(&ready.pod.containers[0]), expected);
    assert_eq!(var(&ready.pod.containers[0], "NODE").origin, Origin::Field("spec.nodeName".into()));
}

#[tokio::test]
async fn resources_become_variables_with_the_nodes_allocatable_for_what_is_unset() {
    let resource = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}});
    let pod = pod_of(json!({
        "resources": {"limits": {"memory": "64Mi"}},
        "env": [resource("MEM", "limits.memory"), resource("CPU", "limits.cpu")],
    }));
    let resolver = resolver(&Fake::default());
    resolver.set_allocatable([("cpu".to_owned(), Quantity("1900m".into()))].into());
    let ready = resolver.resolve(&pod).await.unwrap();
    assert_eq!(env(&ready.containers[0]), [("MEM", "67108864"), ("CPU", "2")]);
    assert_eq!(var(&ready.containers[0], "CPU").origin, Origin::Resource("limits.cpu".into()));
}

#[tokio::test]
async fn every_kind_of_container_is_resolved_in_its_order() {
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "v")]);
    let env = json!([{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]);
    let pod = pod(json!({
        "initContainers": [
            {"name": "init", "image": "i", "env": env},
            {"name": "side", "image": "s", "restartPolicy": "Always", "env": env},
        ],
        "containers": [{"name": "app", "image": "a", "env": env}],
        "ephemeralContainers": [{"name": "debug", "image": "d", "env": env, "args": ["$(K)"]}],
    }));
    let ready = resolved(&fake, &pod).await;
    let kinds: Vec<_> =
        ready.containers.iter().map(|c| (c.name.as_str(), c.kind, c.image.as_str())).collect();
    let expected = [
        ("init", ContainerKind::Init, "i"),
        ("side", ContainerKind::Sidecar, "s"),
        ("app", ContainerKind::App, "a"),
        ("debug", ContainerKind::Ephemeral, "d"),
    ];
    assert_eq!(kinds, expected);
    assert!(ready.containers.iter().all(|container| var(container, "K").value.expose() == "v"));
    assert_eq!(words(&ready.containers[3].args), ["v"]);
    assert_eq!(fake.calls(), ["Cached cm"]);
}

#[tokio::test]
async fn secrets_stay_secret_wherever_they_are_expanded_into() {
    let fake = Fake::default();
    fake.put(&secret("db"), [("password", "hunter2")]);
    let pod = pod_of(json!({
        "env": [
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
            {"name": "URL", "value": "postgres://u:$(PASSWORD)@db"},
            {"name": "PLAIN", "value": "x"},
        ],
        "command": ["run", "--url=$(URL)"],
        "args": ["--plain=$(PLAIN)", "$(PASSWORD)"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }));
    let mut pod = Pod::clone(&pod);
    pod.spec.as_mut().unwrap().volumes =
        Some(vec![serde_json::from_value(json!({"name": "v", "secret": {"secretName": "db"}})).unwrap()]);
    let resolver = resolver(&fake);
    let ready = resolver.resolve(&Arc::new(pod)).await.unwrap();
    let a = &ready.containers[0];
    let secret: Vec<_> = a.env.iter().map(|var| (var.name.as_str(), var.value.is_secret())).collect();
    assert_eq!(secret, [("PASSWORD", true), ("URL", true), ("PLAIN", false)]);
    assert_eq!(a.command.iter().map(crate::provider::Value::is_secret).collect::<Vec<_>>(), [false, true]);
    assert_eq!(a.args.iter().map(crate::provider::Value::is_secret).collect::<Vec<_>>(), [false, true]);
    assert_eq!(words(&a.command), ["run", "--url=postgres://u:hunter2@db"]);
    let shown = format!("{ready:?} {resolver:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn pods_that_can_never_be_resolved_name_the_field() {
    for (container, field, why) in [
        (
            json!({"env": [{"name": "A", "value": "a"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}),
            "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath",
            "before the containers start",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
            "spec.containers[0].env[0].valueFrom.resourceFieldRef",
            "does not say how much",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            "spec.containers[0].env[0].valueFrom",
            "no source",
        ),
        (json!({"envFrom": [{"prefix": "P"}]}), "spec.containers[0].envFrom[0]", "neither"),
    ] {
        let error = resolver(&Fake::default()).resolve(&pod_of(container)).await.unwrap_err();
        let ResolveError::Invalid { field: at, reason } = error else { panic!("{error}") };
        assert_eq!(at, field);
        assert!(reason.contains(why), "{reason}");
    }
    let nameless = Arc::new(Pod::default());
    let error = resolver(&Fake::default()).resolve(&nameless).await.unwrap_err();
    assert!(matches!(error, ResolveError::Invalid { field, .. } if field == "metadata"));
}

#[tokio::test]
async fn variables_that_double_each_other_are_refused_before_they_fill_the_memory() {
    let doubled = |i: usize| json!({"name": format!("V{i}"), "value": format!("$(V{0})$(V{0})", i - 1)});
    let mut env = vec![json!({"name": "V0", "value": "0123456789"})];
    env.extend((1..60).map(doubled));
    let error = resolver(&Fake::default()).resolve(&pod_of(json!({"env": env}))).await.unwrap_err();
    let ResolveError::Invalid { field, reason } = error else { panic!("{error}") };
    assert!(field.starts_with("spec.containers[0].env["), "{field}");
    assert!(reason.contains("16 MiB"), "{reason}");
}

#[tokio::test]
async fn the_pod_goes_to_the_backend_without_status_and_managed_fields() {
    let plain = pod_of(json!({}));
    let ready = resolved(&Fake::default(), &plain).await;
    assert!(Arc::ptr_eq(&ready.object, &plain), "nothing to remove, nothing copied");
    let mut full = Pod::clone(&plain);
    full.status = Some(serde_json::from_value(json!({"phase": "Running"})).unwrap());
    full.metadata.managed_fields = Some(vec![]);
    let ready = resolved(&Fake::default(), &Arc::new(full)).await;
    assert_eq!(*ready.object, *plain);
}
