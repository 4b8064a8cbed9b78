//! `kill -9` of the daemon's process on the in-memory API server, in real time.

use std::time::Duration;

use vk_scenarios::World;
use vk_scenarios::scenario::storm::{Storm, blows_over_a_process};

#[tokio::test(flavor = "multi_thread")]
async fn five_kills_of_the_process_start_nothing_twice_and_lose_and_leak_nothing() {
    let world = World::in_memory().await;
    let serving = world.server().serve_tls(([127, 0, 0, 1], 0).into()).await.expect("it is served");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kubeconfig = folder.path().join("kubeconfig");
    serving.write_kubeconfig(&kubeconfig).expect("the kubeconfig is written");
    let storm = Storm { seed: fastrand::u64(..), kills: 5, life: Duration::from_secs(2), changes: 8 };
    blows_over_a_process(&world, &kubeconfig, storm).await;
    serving.stop().await;
}
