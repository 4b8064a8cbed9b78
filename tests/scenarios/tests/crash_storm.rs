//! `kill -9` at 200 random moments, on the in-memory API server, in paused time.
//!
//! `VK_STORM_SEED=N` runs one storm of that seed instead; `VK_STORM_COUNT=N` so many storms from it on.

use std::time::Duration;

use vk_apiserver::{Config, Fault, Rule};
use vk_scenarios::World;
use vk_scenarios::scenario::storm::{Storm, blows_over};
use vk_scenarios::world::NODE_USER;

async fn blows_over_in_memory(seed: u64) {
    let world = World::in_memory_with(Config { seed: Some(seed), ..Config::default() }).await;
    // As far away as an API server usually is, so that there are moments to be killed at.
    let delay =
        |millis| Rule::new(Fault::Delay(Duration::from_millis(millis))).user(NODE_USER).probability(0.5);
    world.server().faults().add(delay(1));
    world.server().faults().add(delay(3));
    blows_over(&world, Storm { seed, kills: 50, life: Duration::from_millis(120), changes: 3 }).await;
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn two_hundred_kills_start_nothing_twice_and_lose_and_leak_nothing() {
    let first = number("VK_STORM_SEED");
    let count = number("VK_STORM_COUNT").unwrap_or(if first.is_some() { 1 } else { 4 });
    let first = first.unwrap_or(1);
    for seed in first..first + count {
        blows_over_in_memory(seed).await;
    }
}
