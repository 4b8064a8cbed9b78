//! Objects and keys that are not there, optional and mandatory, and API servers that do not answer.

use super::*;
use crate::pods::resolve::fake::{map, secret};

type Event = (Reason, String, Option<String>);

fn event(reason: Reason, text: &str) -> Event {
    (reason, text.to_owned(), None)
}

fn failed(container: &str, text: &str) -> Event {
    (Reason::Failed, text.to_owned(), Some(container.to_owned()))
}

fn env_of(reference: &str, name: &str, key: &str, optional: bool) -> Json {
    json!([{"name": "A", "valueFrom": {reference: {"name": name, "key": key, "optional": optional}}}])
}

fn with_volume(volume: &Json) -> Arc<Pod> {
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    pod(json!({"containers": [{"name": "a", "volumeMounts": mount}], "volumes": [volume]}))
}

#[tokio::test]
async fn what_is_mandatory_and_missing_makes_containers_wait_with_a_kubelets_words() {
    // Messages: oracle cases config-env-*, volume-configmap-missing-then-created, volume-key-missing.
    let volume = |source: &str, name: &str, rest: Json| {
        let mut volume = json!({"name": "v", source: rest});
        volume[source][if source == "secret" { "secretName" } else { "name" }] = name.into();
        with_volume(&volume)
    };
    let items = json!({"items": [{"key": "other", "path": "p"}]});
    let mount = |message: &str| {
        event(Reason::FailedMount, &format!("MountVolume.SetUp failed for volume \"v\" : {message}"))
    };
    for (pod, waits, told) in [
        (
            pod_of(json!({"env": env_of("configMapKeyRef", "late", "k", false)})),
            Some("configmap \"late\" not found"),
            vec![event(Reason::MandatoryConfigMapNotFound, "configmap \"late\" not found")],
        ),
        (
            pod_of(json!({"env": env_of("secretKeyRef", "nope", "k", false)})),
            Some("secret \"nope\" not found"),
            vec![event(Reason::MandatorySecretNotFound, "secret \"nope\" not found")],
        ),
        (
            pod_of(json!({"envFrom": [{"secretRef": {"name": "nope"}}]})),
            Some("secret \"nope\" not found"),
            vec![event(Reason::MandatorySecretNotFound, "secret \"nope\" not found")],
        ),
        (
            pod_of(json!({"env": env_of("configMapKeyRef", "cm", "other", false)})),
            Some("couldn't find key other in ConfigMap ns/cm"),
            vec![event(Reason::MandatoryConfigMapKeyNotFound, "key \"other\" not found in configmap \"cm\"")],
        ),
        (
            pod_of(json!({"env": env_of("secretKeyRef", "s", "other", false)})),
            Some("couldn't find key other in Secret ns/s"),
            vec![event(Reason::MandatorySecretKeyNotFound, "key \"other\" not found in secret \"s\"")],
        ),
        (
            pod_of(json!({"env": env_of("secretKeyRef", "s", "binary", false)})),
            Some("the value of key binary in Secret ns/s is not UTF-8 text"),
            vec![event(
                Reason::FailedToReadMandatorySecret,
                "key \"binary\" of secret \"s\" is not UTF-8 text",
            )],
        ),
        (
            volume("configMap", "late", json!({})),
            None,
            vec![
                mount("configmap \"late\" not found"),
                event(Reason::MandatoryConfigMapNotFound, "configmap \"late\" not found"),
            ],
        ),
        (
            volume("secret", "nope", json!({})),
            None,
            vec![
                mount("secret \"nope\" not found"),
                event(Reason::MandatorySecretNotFound, "secret \"nope\" not found"),
            ],
        ),
        (
            volume("configMap", "cm", items.clone()),
            None,
            vec![
                mount("configmap references non-existent config key: other"),
                event(Reason::MandatoryConfigMapKeyNotFound, "key \"other\" not found in configmap \"cm\""),
            ],
        ),
        (
            volume("secret", "s", items),
            None,
            vec![
                mount("references non-existent secret key: other"),
                event(Reason::MandatorySecretKeyNotFound, "key \"other\" not found in secret \"s\""),
            ],
        ),
    ] {
        let fake = Fake::default();
        fake.put(&map("cm"), [("k", "v")]);
        fake.put(&secret("s"), [("k", &b"v"[..]), ("binary", &b"\xff\xfe"[..])]);
        let resolver = resolver(&fake);
        let error = resolver.resolve(&pod).await.unwrap_err();
        let ResolveError::Missing { waiting, missing } = error else { panic!("{error}") };
        let expected = waits.map(|message| {
            let reason = "CreateContainerConfigError".to_owned();
            ("a".to_owned(), WaitingFor { reason, message: message.to_owned() })
        });
        assert_eq!(waiting, expected.into_iter().collect());
        assert_eq!(missing.len(), 1);
        let mut told = told;
        told.extend(waits.map(|message| failed("a", &format!("Error: {message}"))));
        told.sort();
        assert_eq!(resolver.events(), told);
    }
}

#[tokio::test]
async fn what_is_optional_and_missing_is_told_and_left_out() {
    let optional_from = json!([{"configMapRef": {"name": "gone", "optional": true}}, {"secretRef": {"name": "gone", "optional": true}}]);
    for (container, told) in [
        (
            json!({"env": env_of("configMapKeyRef", "gone", "k", true)}),
            vec![event(Reason::OptionalConfigMapNotFound, "configmap \"gone\" not found")],
        ),
        (
            json!({"env": env_of("configMapKeyRef", "cm", "other", true)}),
            vec![event(Reason::OptionalConfigMapKeyNotFound, "key \"other\" not found in configmap \"cm\"")],
        ),
        (
            json!({"env": env_of("secretKeyRef", "gone", "k", true)}),
            vec![event(Reason::OptionalSecretNotFound, "secret \"gone\" not found")],
        ),
        (
            json!({"env": env_of("secretKeyRef", "s", "other", true)}),
            vec![event(Reason::OptionalSecretKeyNotFound, "key \"other\" not found in secret \"s\"")],
        ),
        (
            json!({"envFrom": optional_from}),
            vec![
                event(Reason::OptionalConfigMapNotFound, "configmap \"gone\" not found"),
                event(Reason::OptionalSecretNotFound, "secret \"gone\" not found"),
            ],
        ),
    ] {
        let fake = Fake::default();
        fake.put(&map("cm"), [("k", "v")]);
        fake.put(&secret("s"), [("k", "v")]);
        let resolver = resolver(&fake);
        let ready = resolver.resolve(&pod_of(container)).await.unwrap();
        assert_eq!(ready.containers[0].env, [], "the variable does not exist");
        assert_eq!(resolver.events(), told);
    }
}

#[tokio::test]
async fn an_optional_value_that_is_missing_leaves_an_earlier_one_of_its_name() {
    let fake = Fake::default();
    let pod = pod_of(json!({"env": [
        {"name": "A", "value": "default"},
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}},
    ]}));
    let ready = resolver(&fake).resolve(&pod).await.unwrap();
    assert_eq!(ready.containers[0].env[0].value.expose(), "default");
}

#[tokio::test]
async fn only_the_containers_that_lack_something_wait_for_it() {
    // Oracle case config-env-key-missing: b starts without its optional key.
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "v")]);
    let pod = pod(json!({"containers": [
        {"name": "a", "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "other"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}},
        ]},
        {"name": "b", "env": env_of("configMapKeyRef", "cm", "other", true)},
    ]}));
    let error = resolver(&fake).resolve(&pod).await.unwrap_err();
    assert_eq!(error.to_string(), "missing: ConfigMap ns/cm, Secret ns/nope");
    let ResolveError::Missing { waiting, missing } = error else { panic!("{error}") };
    let texts: Vec<_> = waiting.iter().map(|(name, waits)| (name.as_str(), waits.message.as_str())).collect();
    assert_eq!(texts, [("a", "couldn't find key other in ConfigMap ns/cm")], "the first of each container");
    assert_eq!(missing, [map("cm"), secret("nope")], "all of it is waited for");
}

#[tokio::test]
async fn every_event_comes_once_for_each_pod_until_the_pod_is_forgotten() {
    let resolver = resolver(&Fake::default());
    let events = || {
        let one = PodEventRecord::new(Reason::Failed, "Error: x");
        vec![one.clone(), one.clone().about("a"), one.about("b")]
    };
    let uid = PodUid::new("u-1");
    assert_eq!(resolver.untold(&uid, events()), events());
    assert_eq!(resolver.untold(&uid, events()), []);
    assert_eq!(resolver.untold(&PodUid::new("u-2"), events()), events());
    resolver.forget(&uid);
    assert_eq!(resolver.untold(&uid, events()), events());
}

#[tokio::test]
async fn a_cache_that_is_behind_is_no_evidence_of_absence() {
    let fake = Fake::default();
    fake.put(&map("new"), [("k", "v")]);
    fake.lag(&map("new"));
    let resolver = resolver(&fake);
    for optional in [false, true] {
        let pod = pod_of(json!({"env": env_of("configMapKeyRef", "new", "k", optional)}));
        let ready = resolver.resolve(&pod).await.unwrap();
        assert_eq!(ready.containers[0].env[0].value.expose(), "v");
        assert_eq!(fake.calls(), ["Cached new", "Current new"]);
    }
    assert_eq!(resolver.events(), [], "nobody was alarmed");
}

#[tokio::test]
async fn an_api_server_that_fails_is_not_absence_whether_optional_or_not() {
    for (optional, reason) in
        [(true, Reason::FailedToReadOptionalSecret), (false, Reason::FailedToReadMandatorySecret)]
    {
        let fake = Fake::default();
        fake.fail(&secret("s"), 503);
        let resolver = resolver(&fake);
        let pod = pod_of(json!({"env": env_of("secretKeyRef", "s", "k", optional)}));
        let error = resolver.resolve(&pod).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot read Secret ns/s: the fake says no (503)");
        assert!(matches!(&error, ResolveError::Read { object, .. } if *object == secret("s")));
        assert_eq!(resolver.events(), [event(reason, "failed to read secret \"s\"")]);
        fake.put(&secret("s"), [("k", "v")]);
        fake.fail(&secret("s"), 0);
        assert!(resolver.resolve(&pod).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn many_pods_that_read_one_object_at_the_same_moment_share_the_call() {
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "v")]);
    let resolver = resolver(&fake);
    let pod = pod_of(json!({"env": env_of("configMapKeyRef", "cm", "k", false)}));
    let all = futures::future::join_all((0..50).map(|_| resolver.resolve(&pod))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(fake.calls(), ["Cached cm"]);
    fake.put(&map("cm"), [("k", "new")]);
    let ready = resolver.resolve(&pod).await.unwrap();
    assert_eq!(ready.containers[0].env[0].value.expose(), "new", "nothing is kept");
    assert_eq!(fake.calls(), ["Cached cm"]);
}

#[tokio::test(start_paused = true)]
async fn a_shared_call_outlives_the_pod_that_began_it() {
    let fake = Fake::default();
    fake.put(&map("cm"), [("k", "v")]);
    let resolver = resolver(&fake);
    let pod = pod_of(json!({"env": env_of("configMapKeyRef", "cm", "k", false)}));
    let mut first = Box::pin(resolver.resolve(&pod));
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(resolver.resolve(&pod));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(fake.calls(), ["Cached cm"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_woken_by_the_object_it_lacked_and_then_resolves() {
    let fake = Fake::default();
    let resolver = resolver(&fake);
    let pod = pod_of(json!({"env": env_of("configMapKeyRef", "cm", "k", false)}));
    let id = PodRef::of(&pod).unwrap();
    let (sender, mut woken) = tokio::sync::mpsc::unbounded_channel();
    let wake: Arc<dyn Fn(&PodUid) + Send + Sync> =
        Arc::new(move |uid: &PodUid| sender.send(uid.clone()).unwrap());
    // First the object is absent, then it is there and lacks the key, then it has it.
    let ResolveError::Missing { missing, .. } = resolver.resolve(&pod).await.unwrap_err() else { panic!() };
    resolver.wake_when_present(&id, &missing, Arc::clone(&wake));
    fake.watches(1).await;
    fake.put(&map("cm"), [("other", "v")]);
    assert_eq!(woken.recv().await.unwrap(), id.uid);
    let ResolveError::Missing { missing, .. } = resolver.resolve(&pod).await.unwrap_err() else { panic!() };
    resolver.wake_when_present(&id, &missing, wake);
    fake.watches(1).await;
    assert!(woken.try_recv().is_err(), "the object as it was before is no news");
    fake.put(&map("cm"), [("k", "v")]);
    assert_eq!(woken.recv().await.unwrap(), id.uid);
    assert!(resolver.resolve(&pod).await.is_ok());
    fake.watches(0).await;
    resolver.forget(&id.uid);
    assert!(resolver.memory().is_empty());
}
