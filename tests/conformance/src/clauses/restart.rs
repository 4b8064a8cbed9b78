//! Restart of the daemon: the backend's pods are found again, and nothing happens to them.

use std::time::Duration;

use vk_core::provider::ExitStatus;

use super::idempotence::run_of;
use crate::bench::Bench;
use crate::check::{Check, demand, fail};
use crate::journal::Sight;
use crate::pods::Plan;
use crate::subject::Work;

/// A new daemon's listing has the pods of the one before.
pub async fn a_new_daemon_finds_its_pods(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    bench.restart().await?;
    let listed = bench.list().await?;
    demand!(
        listed.iter().any(|found| found.pod.uid == pod.pod.uid),
        "after a restart of the daemon its {} pods are not the one that it had",
        listed.len()
    );
    Ok(())
}

/// A new daemon that creates a pod which is there starts nothing.
pub async fn a_new_daemon_starts_nothing_twice(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let before = run_of(bench, &pod.pod, 0);
    // A container that was started at the same moment would look the same.
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.restart().await?;
    let since = bench.mark();
    bench.create_again(&pod).await?;
    bench
        .until(&pod.pod, since, bench.patience().start, "that it runs", |s| s.running().next().is_some())
        .await?;
    bench.quiet().await;
    let after = run_of(bench, &pod.pod, since);
    demand!(before == after, "a restart of the daemon restarted its pod: {before:?} before, {after:?} after");
    Ok(())
}

/// A new daemon can delete a pod of the one before, first thing.
pub async fn a_new_daemon_can_delete(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    bench.restart().await?;
    bench.unwatch().await;
    let since = bench.delete(&pod.pod, Duration::ZERO).await?;
    bench.watch_again().await;
    bench.until_over(&pod.pod, since, bench.patience().stop).await.map(drop).or_else(|_| {
        fail("after a restart of the daemon a deletion was accepted, and the pod is still there")
    })
}

/// How a pod ended is known to the next daemon.
pub async fn an_end_outlives_the_daemon(bench: &Bench) -> Check {
    let pod = bench.draft(&Plan::of(Work::Exit(7)))?;
    bench.create(&pod).await?;
    bench.until_ended(&pod.pod, 0).await?;
    bench.restart().await?;
    let since = bench.mark();
    bench.adopt().await?;
    let within = bench.patience().tell;
    let ended =
        |sights: &crate::journal::Sights| sights.ends().any(|end| matches!(end.exit, ExitStatus::Code(_)));
    bench.until(&pod.pod, since, within, "how it ended, to the next daemon", ended).await.map(drop)
}

/// A pod that was deleted is not there for the next daemon either, or is there as gone.
pub async fn a_deletion_outlives_the_daemon(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let since = bench.delete(&pod.pod, Duration::ZERO).await?;
    bench.until_over(&pod.pod, since, bench.patience().stop).await?;
    bench.restart().await?;
    let since = bench.mark();
    bench.quiet().await;
    let sights = bench.sights(&pod.pod, since);
    let there = sights.0.iter().find(|(_, sight)| match sight {
        Sight::Exists => true,
        Sight::Is(runtime) => runtime.may_run(),
        Sight::Gone(_) | Sight::Absent => false,
    });
    demand!(
        there.is_none(),
        "it was deleted and gone, and the next daemon was told of it: {}",
        sights.last()
    );
    Ok(())
}
