//! The clauses of the provider contract, under their names in `vk_core::provider`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use vk_core::clock::Clock;
use vk_core::provider::{Error, PodEvent, PodUid, Provider, Retry, Sandbox, Verb};
use vk_mock::{Act, MockBackend, MockConfig, MockProvider};

use crate::support::{Bench, GRACE, epoch, pod, runtime, seconds, summary};

#[tokio::test(start_paused = true)]
async fn an_instant_pod_is_one_event_and_its_end_another() {
    let mut bench = Bench::new().await;
    let web = bench.create(&pod("web", "u1", &[])).await;
    let up = bench.changed().await;
    assert_eq!(summary(&up), "ready a=ready");
    assert_eq!(up.ips, ["10.88.0.1".parse::<std::net::IpAddr>().unwrap()]);
    bench.nothing_now().await;

    bench.provider.delete_pod(&web, GRACE).await.unwrap();
    bench.gone_without_a_word().await;
    bench.quiet().await;
    assert!(bench.listed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_scripted_is_told_with_its_exit_code_and_the_pods_address() {
    for (key, value, expected) in
        [("termination-exit-code", "0", "gone a=0"), ("termination-message", "bye", "gone a=0")]
    {
        let mut bench = Bench::new().await;
        let web = bench.create(&pod("web", "u1", &[(key, value)])).await;
        let up = bench.changed().await;
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
        let end = bench.gone().await;
        assert_eq!((&*summary(&end), &end.ips), (expected, &up.ips));
        bench.quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn identity_two_incarnations_of_one_name_share_nothing() {
    let mut bench = Bench::new().await;
    let script = [("termination-latency", "20s")];
    let old = bench.create(&pod("db-0", "old", &script)).await;
    bench.provider.delete_pod(&old, GRACE).await.unwrap();
    let new = bench.create(&pod("db-0", "new", &script)).await;
    let (first, second) = (bench.changed().await, bench.changed().await);
    assert_ne!(first.ips, second.ips);
    assert_ne!(first.containers[0].container_id, second.containers[0].container_id);
    let both: BTreeSet<_> = bench.listed().await.into_iter().map(|pod| pod.pod.uid).collect();
    assert_eq!(both, [old.uid.clone(), new.uid.clone()].into());

    assert!(matches!(bench.event().await, PodEvent::Gone { pod, .. } if pod == old));
    assert_eq!(bench.backend.running(), [new]);
}

#[tokio::test(start_paused = true)]
async fn idempotence_a_second_create_starts_nothing_and_a_second_delete_is_ok() {
    let mut bench = Bench::new().await;
    let template = pod("web", "u1", &[]);
    let web = bench.create(&template).await;
    bench.create(&template).await;
    bench.changed().await;
    bench.nothing_now().await;
    for _ in 0..2 {
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
    }
    bench.gone_without_a_word().await;
    bench.nothing_now().await;
    let deleted = |known| Act::Deleted { grace: GRACE, known };
    let expected = [Act::Created, Act::CreatedAgain, deleted(true), Act::Stopped, deleted(false)];
    assert_eq!(bench.backend.ledger().of(&web.uid), expected);
}

#[tokio::test(start_paused = true)]
async fn idempotence_a_create_while_the_pod_stops_does_not_bring_it_back() {
    let mut bench = Bench::new().await;
    let template = pod("web", "u1", &[("termination-latency", "5s")]);
    let web = bench.create(&template).await;
    bench.changed().await;
    bench.provider.delete_pod(&web, GRACE).await.unwrap();
    bench.create(&template).await;
    assert_eq!(summary(&bench.gone().await), "gone a=0");
    assert!(bench.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn absence_a_listing_is_complete_or_an_error() {
    let bench = Bench::new().await;
    for n in 0..100 {
        bench.create(&pod("web", &format!("u{n}"), &[])).await;
    }
    assert_eq!(bench.listed().await.len(), 100);
    bench.backend.fail(Verb::List, 1.0);
    assert!(matches!(bench.provider.list_pods().await, Err(Error::Unavailable { .. })));
    bench.backend.fail(Verb::List, 0.0);
    assert_eq!(bench.listed().await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn absence_a_finished_pod_stays_listed_until_it_is_deleted() {
    let mut bench = Bench::new().await;
    let job = bench.create(&pod("job", "u1", &[("exit-code", "3")]).restart("Never")).await;
    assert_eq!(summary(&bench.changed().await), "gone a=3");
    tokio::time::sleep(Duration::from_hours(10)).await;
    assert_eq!(bench.listed().await.len(), 1);
    bench.provider.delete_pod(&job, GRACE).await.unwrap();
    assert_eq!(summary(&bench.gone().await), "gone a=3");
    assert!(bench.listed().await.is_empty());
    assert_eq!(bench.backend.ledger().stopped, 1);
}

#[tokio::test(start_paused = true)]
async fn ordering_a_watcher_sees_each_pod_go_through_its_life_in_order() {
    let mut bench = Bench::new().await;
    let script = [
        ("sandbox-latency", "1s"),
        ("start-latency", "1s"),
        ("readiness-delay", "1s"),
        ("run-duration", "9s"),
    ];
    for n in 0..50 {
        bench.create(&pod("job", &format!("u{n:02}"), &script).restart("Never")).await;
    }
    let mut seen = std::collections::BTreeMap::<PodUid, Vec<String>>::new();
    for _ in 0..50 * 5 {
        let PodEvent::Changed(pod) = bench.event().await else { panic!("only changes") };
        seen.entry(pod.pod.uid.clone()).or_default().push(summary(&runtime(pod)));
    }
    bench.quiet().await;
    assert_eq!(seen.len(), 50);
    for life in seen.values() {
        assert_eq!(life, &["pending", "ready", "ready a=running", "ready a=ready", "gone a=0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn cancellation_a_dropped_create_has_taken_effect_or_not_and_the_listing_says_which() {
    let config: MockConfig = serde_json::from_str(r#"{"latency": {"create": "10s"}}"#).unwrap();
    let bench = Bench::with(config).await;
    let web = pod("web", "u1", &[]).build();
    let cut = tokio::time::timeout(seconds(5.0), bench.provider.create_pod(&web)).await;
    assert!(cut.is_err() && bench.listed().await.is_empty());

    bench.backend.faults().hang_after(Verb::Create, true);
    let cut = tokio::time::timeout(seconds(15.0), bench.provider.create_pod(&web)).await;
    assert!(cut.is_err());
    assert_eq!(bench.listed().await.len(), 1);

    bench.backend.faults().hang_after(Verb::Create, false);
    bench.provider.create_pod(&web).await.unwrap();
    assert_eq!(bench.backend.ledger().started_twice(), []);
    assert_eq!(bench.backend.ledger().started, 1);
}

#[tokio::test(start_paused = true)]
async fn concurrency_calls_for_different_pods_do_not_wait_for_each_other() {
    let config: MockConfig =
        serde_json::from_str(r#"{"latency": {"create": "1s", "delete": "1s"}}"#).unwrap();
    let bench = Bench::with(config).await;
    let pods: Vec<_> = (0..500).map(|n| pod("web", &format!("u{n}"), &[]).build()).collect();
    let begin = tokio::time::Instant::now();
    join_all(pods.iter().map(|pod| bench.provider.create_pod(pod)))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    assert_eq!(bench.listed().await.len(), 500);
    let addresses: BTreeSet<_> = bench.listed().await.into_iter().flat_map(|pod| runtime(pod).ips).collect();
    assert_eq!(addresses.len(), 500);
    let deletes = pods.iter().map(|pod| bench.provider.delete_pod(&pod.pod, GRACE));
    join_all(deletes).await.into_iter().for_each(Result::unwrap);
    assert!(bench.listed().await.is_empty());
    assert!(begin.elapsed() < seconds(2.1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn errors_say_what_to_do_next() {
    let bench = Bench::new().await;
    let table = [
        ("fail-create", "1", Retry::Backoff, "ProviderUnavailable"),
        ("fail-create", "exhausted:1", Retry::Backoff, "ProviderExhausted"),
        ("fail-create", "throttled:1", Retry::Backoff, "ProviderThrottled"),
        ("fail-create", "denied:1", Retry::Backoff, "ProviderDenied"),
        ("fail-create", "unexpected:1", Retry::Backoff, "ProviderUnexpected"),
        ("reject-create", "spec.hostPID", Retry::Never, "ProviderRejected"),
    ];
    for (key, value, retry, reason) in table {
        let web = pod("web", &format!("{key}={value}"), &[(key, value)]).build();
        let error = bench.provider.create_pod(&web).await.unwrap_err();
        assert_eq!((error.retry(), error.reason()), (retry, reason), "{key}: {value}");
        let again = bench.provider.create_pod(&web).await;
        assert_eq!(again.is_ok(), retry == Retry::Backoff, "{key}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_lags_is_given_a_listing_and_misses_nothing() {
    let config: MockConfig = serde_json::from_str(r#"{"watchBuffer": 8}"#).unwrap();
    let mut bench = Bench::with(config).await;
    let mut watch = Arc::clone(&bench.provider).watch_pods();
    assert!(matches!(watch.next().await, Some(Ok(PodEvent::Listed(pods))) if pods.is_empty()));
    let keen = tokio::spawn(async move {
        let events = watch.take(200).map(|event| matches!(event, Ok(PodEvent::Changed(_))));
        events.all(std::future::ready).await
    });
    for n in 0..200 {
        bench.create(&pod("web", &format!("u{n}"), &[])).await;
        tokio::task::yield_now().await;
    }
    let PodEvent::Listed(pods) = bench.event().await else { panic!("a listing after the gap") };
    assert_eq!(pods.len(), 200);
    bench.nothing_now().await;
    bench.create(&pod("web", "last", &[])).await;
    assert_eq!(summary(&bench.changed().await), "ready a=ready");
    assert!(keen.await.unwrap(), "a watcher that keeps up sees single changes");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_says_so_and_begins_anew_with_a_listing() {
    let mut bench = Bench::new().await;
    bench.backend.cut_watches();
    bench.create(&pod("web", "u1", &[])).await;
    assert!(matches!(bench.watch.next().await, Some(Err(Error::Unavailable { .. }))));
    assert!(matches!(bench.event().await, PodEvent::Listed(pods) if pods.len() == 1));
    bench.nothing_now().await;
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_at_the_start_of_a_watch_is_repeated() {
    let bench = Bench::new().await;
    bench.backend.faults().fail_next(Verb::List, 2);
    let mut watch = Arc::clone(&bench.provider).watch_pods();
    for _ in 0..2 {
        assert!(matches!(watch.next().await, Some(Err(Error::Unavailable { .. }))));
    }
    assert!(matches!(watch.next().await, Some(Ok(PodEvent::Listed(_)))));
}

#[tokio::test(start_paused = true)]
async fn pods_outlive_the_connection_and_the_next_one_finds_them() {
    let mut bench = Bench::new().await;
    bench.create(&pod("web", "u1", &[("run-duration", "60s")]).restart("Never")).await;
    bench.changed().await;
    let backend = bench.backend.clone();
    drop(bench);
    tokio::time::sleep(seconds(30.0)).await;
    let mut bench = Bench::on(backend).await;
    assert_eq!(bench.listed().await.len(), 1);
    assert_eq!(summary(&bench.changed().await), "gone a=0");
}

#[tokio::test(start_paused = true)]
async fn a_prepared_pod_gets_the_address_it_was_promised() {
    let mut bench = Bench::new().await;
    let provider: &MockProvider = &bench.provider;
    let prepare = provider.prepare().unwrap();
    let web = pod("web", "u1", &[]).build();
    let promised = prepare.prepare_pod(&web.pod).await.unwrap();
    assert_eq!(prepare.prepare_pod(&web.pod).await.unwrap(), promised);
    bench.create(&pod("other", "u2", &[])).await;
    assert_ne!(bench.changed().await.ips, promised);
    bench.provider.create_pod(&web).await.unwrap();
    assert_eq!(bench.changed().await.ips, promised);
    assert_eq!(bench.provider.prepare().unwrap().prepare_pod(&web.pod).await.unwrap(), promised);
}

#[tokio::test(start_paused = true)]
async fn health_and_capacity_are_the_backends() {
    let bench = Bench::new().await;
    let info = bench.provider.node_info().await.unwrap();
    assert_eq!(info.capacity["pods"].0, "20000");
    assert_eq!(info.provider_id.as_deref(), Some("mock://virtual-1"));
    assert_eq!(info.health, vk_core::provider::Health::Healthy);
    let sick = vk_core::provider::Health::Unhealthy { reason: "Fire".into(), message: "it burns".into() };
    bench.backend.set_health(sick.clone());
    assert_eq!(bench.provider.node_info().await.unwrap().health, sick);
    assert_eq!(summary(&bench_pod(&bench).await), "ready a=ready");
}

async fn bench_pod(bench: &Bench) -> vk_core::provider::PodRuntime {
    let web = bench.create(&pod("web", "u1", &[])).await;
    let observed = bench.backend.observe(&web.uid).expect("the pod is there");
    assert_eq!(observed.runtime.as_ref().map(|runtime| runtime.sandbox), Some(Sandbox::Ready));
    runtime(observed)
}

#[test]
fn a_backend_outlives_the_runtime_in_which_it_was_made() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = MockBackend::new(MockConfig::default(), Clock::system()).unwrap();
    let job = pod("job", "u1", &[("run-duration", "100ms")]).restart("Never").build();
    let create = MockProvider::new(backend.clone(), "virtual-1");
    runtime().block_on(create.create_pod(&job)).unwrap();

    let end = runtime().block_on(async {
        let mut bench = Bench::on(backend).await;
        tokio::time::timeout(seconds(30.0), bench.changed()).await
    });
    assert_eq!(summary(&end.expect("somebody runs the pods")), "gone a=0");
}

#[tokio::test(start_paused = true)]
async fn nodes_over_one_range_begin_at_places_of_their_own() {
    let mut addresses = BTreeSet::new();
    for node in ["virtual-1", "virtual-2", "virtual-3"] {
        let clock = Clock::virtual_from(epoch());
        let provider = MockProvider::start(MockConfig::default(), node, clock).unwrap();
        for n in 0..20 {
            let web = pod("web", &format!("u{n}"), &[]).build();
            provider.create_pod(&web).await.unwrap();
            addresses.extend(runtime(provider.backend().observe(&web.pod.uid).unwrap()).ips);
        }
    }
    assert_eq!(addresses.len(), 60);
}
