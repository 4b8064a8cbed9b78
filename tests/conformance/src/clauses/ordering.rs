//! Ordering: what is told of a pod is told in the order in which it happened.

use vk_core::provider::{ContainerState, PodRuntime, Sandbox};

use crate::bench::Bench;
use crate::check::{Check, demand, fail};
use crate::journal::{MAIN, Sight, Sights, Source, show};
use crate::subject::Work;

/// How far a pod has come: never less, later.
fn progress(runtime: &PodRuntime) -> (u8, i32, u8) {
    let sandbox = match runtime.sandbox {
        Sandbox::Pending => 0,
        Sandbox::Ready => 1,
        Sandbox::Gone => 2,
    };
    let main = runtime.container(MAIN);
    let state = main.map_or(0, |main| match main.state {
        ContainerState::Waiting { .. } => 0,
        ContainerState::Running { .. } => 1,
        ContainerState::Terminated(_) => 2,
    });
    (sandbox, main.map_or(0, |main| main.restart_count), state)
}

/// Each part of it for itself: a sandbox may go while a container is still shown as it was.
fn goes_back(before: &PodRuntime, after: &PodRuntime) -> bool {
    let (before, after) = (progress(before), progress(after));
    after.0 < before.0 || (after.1, after.2) < (before.1, before.2)
}

fn check(sights: &Sights, source: Source) -> Check {
    let sights = sights.by(source);
    let runtimes: Vec<&PodRuntime> = sights.runtimes().collect();
    for pair in runtimes.windows(2) {
        if goes_back(pair[0], pair[1]) {
            return fail(format!("after ({}) came ({})", show(pair[0]), show(pair[1])));
        }
    }
    let gone = sights.0.iter().position(|(_, sight)| matches!(sight, Sight::Gone(_)));
    let after = gone.map_or(0, |at| sights.0.len() - at - 1);
    let more =
        sights.0.iter().rev().take(after).any(|(_, sight)| matches!(sight, Sight::Is(_) | Sight::Exists));
    demand!(!more, "after the pod's end the {source:?} went on about it: {}", sights.last());
    Ok(())
}

/// A pod's life, from its start to its own end, as both tell it.
async fn live(bench: &Bench) -> Check<Sights> {
    let pod = bench.draft(&crate::pods::Plan::of(Work::Last(0)))?;
    bench.create(&pod).await?;
    bench.until_running(&pod.pod).await?;
    // Often, so that a listing that wavers is caught at it.
    for _ in 0..6 {
        bench.look().await;
    }
    bench.until_ended(&pod.pod, 0).await?;
    for _ in 0..6 {
        bench.look().await;
    }
    bench.quiet().await;
    Ok(bench.sights(&pod.pod, 0))
}

/// The events about a pod come in the order in which things happened.
pub async fn events_come_in_order(bench: &Bench) -> Check {
    check(&live(bench).await?, Source::Watch)
}

/// No listing shows a pod in an earlier state than the listing before it.
pub async fn a_listing_never_goes_back(bench: &Bench) -> Check {
    check(&live(bench).await?, Source::List)
}
