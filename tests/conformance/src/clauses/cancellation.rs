//! Cancellation: a dropped call has taken effect or not, and repeating it settles which.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt as _;
use vk_core::provider::Verb;

use super::idempotence::run_of;
use crate::bench::Bench;
use crate::check::{Check, demand};
use crate::journal::is_running;
use crate::pods::Plan;
use crate::subject::Work;

/// A creation that was dropped halfway can be repeated, and there is one pod then.
pub async fn a_dropped_create_can_be_repeated(bench: &Bench) -> Check {
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    let provider = bench.provider();
    if let Ok(faults) = bench.faults() {
        // It takes effect, and its answer never comes.
        faults.hang_after(Verb::Create, true);
        let _ = tokio::time::timeout(bench.patience().poll, provider.create_pod(&pod)).await;
        faults.hang_after(Verb::Create, false);
    } else {
        // Dropped as soon as it waits for something.
        let _ = pin!(provider.create_pod(&pod)).now_or_never();
    }
    bench.create_again(&pod).await?;
    bench.until_running(&pod.pod).await?;
    let before = run_of(bench, &pod.pod, 0);
    bench.quiet().await;
    let listed = bench.list().await?;
    let times = listed.iter().filter(|found| found.pod.uid == pod.pod.uid).count();
    demand!(times <= 1, "dropped and repeated, the creation made {times} pods of one UID");
    let after = run_of(bench, &pod.pod, 0);
    demand!(before == after, "its container was started twice: {before:?}, then {after:?}");
    Ok(())
}

/// A deletion that was dropped halfway can be repeated, and the pod is gone then.
pub async fn a_dropped_delete_can_be_repeated(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let provider = bench.provider();
    if let Ok(faults) = bench.faults() {
        // It never gets as far as the backend.
        faults.hang(Verb::Delete, true);
        let _ =
            tokio::time::timeout(bench.patience().poll, provider.delete_pod(&pod.pod, Duration::ZERO)).await;
        faults.hang(Verb::Delete, false);
    } else {
        let _ = pin!(provider.delete_pod(&pod.pod, Duration::ZERO)).now_or_never();
    }
    let since = bench.delete(&pod.pod, Duration::ZERO).await?;
    bench.until_over(&pod.pod, since, bench.patience().stop).await?;
    Ok(())
}

/// Dropping a call about one pod does nothing to another.
pub async fn a_dropped_call_leaves_other_pods_alone(bench: &Bench) -> Check {
    let other = bench.running(Work::Forever).await?;
    let pod = bench.running(Work::Forever).await?;
    let provider = bench.provider();
    let since = bench.mark();
    let _ = pin!(provider.delete_pod(&pod.pod, Duration::ZERO)).now_or_never();
    bench.quiet().await;
    let sights = bench.sights(&other.pod, since);
    demand!(
        !sights.is_over() && sights.runtimes().all(is_running),
        "a dropped deletion of another pod ended it: {}",
        sights.last()
    );
    Ok(())
}
