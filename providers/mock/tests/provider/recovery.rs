//! The state file: pods outlive the process.

use std::fs;
use std::path::Path;

use vk_core::clock::Clock;
use vk_core::provider::{Health, Provider};
use vk_mock::{MockBackend, MockConfig, MockProvider};

use crate::support::{Bench, GRACE, epoch, pod, runtime, seconds, summary};

/// A backend on the file, in a world whose time goes on.
fn open(file: &Path, clock: &Clock) -> Result<MockBackend, vk_mock::ConfigError> {
    let mut config = MockConfig::default();
    config.state_file = Some(file.to_owned());
    MockBackend::new(config, clock.clone())
}

async fn bench(file: &Path, clock: &Clock) -> Bench {
    Bench::on(open(file, clock).expect("the file can be used")).await
}

#[tokio::test(start_paused = true)]
async fn pods_are_back_after_a_restart_exactly_as_they_were() {
    let home = tempfile::tempdir().unwrap();
    let (file, clock) = (home.path().join("pods"), Clock::virtual_from(epoch()));
    let first = bench(&file, &clock).await;
    let script = [("log", "hello"), ("exit-code.first", "1,0"), ("termination-exit-code", "5")];
    let web = first.create(&pod("web", "u1", &script).init(&["first", "side"])).await;
    first.create(&pod("job", "u2", &[("exit-code", "3")]).restart("Never")).await;
    let gone = first.create(&pod("gone", "u3", &[])).await;
    first.provider.delete_pod(&gone, GRACE).await.unwrap();
    let mut before = first.listed().await;
    drop(first);

    let mut second = bench(&file, &clock).await;
    let mut after = second.listed().await;
    before.sort_by_key(|pod| pod.pod.uid.clone());
    after.sort_by_key(|pod| pod.pod.uid.clone());
    assert_eq!(before, after);
    assert_eq!(second.backend.ledger().started, 0, "nothing is started again");
    second.create(&pod("web", "u1", &script).init(&["first", "side"])).await;
    second.nothing_now().await;
    second.provider.delete_pod(&web, GRACE).await.unwrap();
    assert_eq!(summary(&second.gone().await), "gone first=0×1 side=5 a=5");
}

#[tokio::test(start_paused = true)]
async fn what_happened_meanwhile_has_happened_at_its_time() {
    let home = tempfile::tempdir().unwrap();
    let (file, clock) = (home.path().join("pods"), Clock::virtual_from(epoch()));
    let first = bench(&file, &clock).await;
    first.create(&pod("job", "u1", &[("run-duration", "10s"), ("exit-code", "2")]).restart("Never")).await;
    first.create(&pod("lost", "u2", &[("disappear-after", "10s")])).await;
    let dying = first.create(&pod("dying", "u3", &[("termination-latency", "10s")])).await;
    first.provider.delete_pod(&dying, GRACE).await.unwrap();
    first.create(&pod("later", "u4", &[("run-duration", "100s")]).restart("Never")).await;
    drop(first);
    tokio::time::sleep(seconds(60.0)).await;

    let mut second = bench(&file, &clock).await;
    let mut pods = second.listed().await;
    pods.sort_by_key(|pod| pod.pod.uid.clone());
    let seen: Vec<String> = pods.into_iter().map(|pod| summary(&runtime(pod))).collect();
    assert_eq!(seen, ["gone a=2", "ready a=ready"]);
    let end = second.changed().await;
    let vk_core::provider::ContainerState::Terminated(end) = &end.containers[0].state else {
        panic!("ended")
    };
    let lasted = end.finished_at.unwrap().duration_since(epoch());
    assert_eq!(lasted.as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn addresses_in_use_are_not_given_out_again() {
    let home = tempfile::tempdir().unwrap();
    let (file, clock) = (home.path().join("pods"), Clock::virtual_from(epoch()));
    let first = bench(&file, &clock).await;
    first.create(&pod("web", "u1", &[])).await;
    first.create(&pod("web", "u2", &[])).await;
    drop(first);
    let mut second = bench(&file, &clock).await;
    second.create(&pod("web", "u3", &[])).await;
    assert_eq!(second.changed().await.ips[0].to_string(), "10.88.0.3");
}

#[tokio::test(start_paused = true)]
async fn a_torn_last_line_is_left_out_and_a_bad_line_elsewhere_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let (file, clock) = (home.path().join("pods"), Clock::virtual_from(epoch()));
    let first = bench(&file, &clock).await;
    for uid in ["u1", "u2"] {
        first.create(&pod("web", uid, &[])).await;
    }
    drop(first);
    let whole = fs::read(&file).unwrap();
    let second_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in [second_line + 1, second_line + 40, whole.len() - 1] {
        // A cut that leaves whole JSON leaves the whole pod.
        let expected = if cut == whole.len() - 1 { 2 } else { 1 };
        fs::write(&file, &whole[..cut]).unwrap();
        assert_eq!(bench(&file, &clock).await.listed().await.len(), expected, "cut at {cut}");
    }
    fs::write(&file, &whole[second_line / 2..]).unwrap();
    let error = open(&file, &clock).unwrap_err().to_string();
    assert!(error.starts_with("stateFile: ") && error.contains("line 1 is not a line"), "{error}");
    assert!(error.contains(&file.display().to_string()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_used_by_one_process_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let (file, clock) = (home.path().join("pods"), Clock::virtual_from(epoch()));
    let first = open(&file, &clock).unwrap();
    let error = open(&file, &clock).unwrap_err().to_string();
    assert!(error.ends_with("another process uses it"), "{error}");
    drop(first);
    open(&file, &clock).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_file_stays_short_however_many_pods_come_and_go() {
    let home = tempfile::tempdir().unwrap();
    let (file, clock) = (home.path().join("pods"), Clock::virtual_from(epoch()));
    let bench = bench(&file, &clock).await;
    bench.create(&pod("stays", "stays", &[])).await;
    for n in 0..1500 {
        let web = bench.create(&pod("web", &format!("u{n}"), &[])).await;
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
    }
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().count() < 2100, "{} lines", text.lines().count());
    drop(bench);
    let backend = open(&file, &clock).unwrap();
    assert_eq!(backend.running().iter().map(|pod| &*pod.name).collect::<Vec<_>>(), ["stays"]);
}

#[tokio::test(start_paused = true)]
async fn every_node_has_its_own_file_and_a_bad_path_is_told() {
    let home = tempfile::tempdir().unwrap();
    let mut config = MockConfig::default();
    config.state_file = Some(home.path().join("{node}.pods"));
    let clock = Clock::virtual_from(epoch());
    let one = MockProvider::start(config.clone(), "one", clock.clone()).unwrap();
    let two = MockProvider::start(config.clone(), "two", clock.clone()).unwrap();
    one.create_pod(&pod("web", "u1", &[]).build()).await.unwrap();
    assert_eq!((one.backend().pod_count(), two.backend().pod_count()), (1, 0));
    assert!(home.path().join("one.pods").exists() && home.path().join("two.pods").exists());

    config.state_file = Some(home.path().join("missing/pods"));
    let error = MockProvider::start(config, "one", clock).unwrap_err();
    assert_eq!(error.key, "stateFile");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_written_makes_the_node_unhealthy_until_it_can() {
    let home = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (home.path().join("folder"), home.path().join("elsewhere"));
    fs::create_dir(&folder).unwrap();
    let (file, clock) = (folder.join("pods"), Clock::virtual_from(epoch()));
    let bench = bench(&file, &clock).await;
    let health = async || bench.provider.node_info().await.unwrap().health;
    assert_eq!(health().await, Health::Healthy);

    // The open file goes with the folder; the file that is to replace it when it is long has no place.
    fs::rename(&folder, &elsewhere).unwrap();
    for n in 0..1500 {
        let web = bench.create(&pod("web", &format!("u{n}"), &[])).await;
        bench.provider.delete_pod(&web, GRACE).await.unwrap();
    }
    let sick = health().await;
    assert!(
        matches!(sick, Health::Unhealthy { ref reason, .. } if reason == "StateFileNotWritable"),
        "{sick:?}"
    );

    fs::rename(&elsewhere, &folder).unwrap();
    tokio::time::sleep(seconds(2.0)).await;
    bench.create(&pod("web", "last", &[])).await;
    assert_eq!(health().await, Health::Healthy);
    drop(bench);
    assert_eq!(open(&file, &clock).unwrap().pod_count(), 1);
}
