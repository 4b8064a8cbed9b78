//! `kill -9` of the daemon's process at 20 random moments, on the real control plane.
//! Run by `cargo xtask test real`.

use std::time::Duration;

use vk_scenarios::World;
use vk_scenarios::scenario::storm::{Storm, blows_over_a_process};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_start_nothing_twice_and_lose_and_leak_nothing() {
    let world = World::real().await;
    // Its moments are the clock's, so no seed would bring them back: each run has others.
    let storm = Storm { seed: fastrand::u64(..), kills: 20, life: Duration::from_secs(2), changes: 8 };
    let kubeconfig = world.real_plane().kubeconfig();
    blows_over_a_process(&world, &kubeconfig, storm).await;
    world.clean_up().await;
}
