//! Watch: what it begins with, and that nothing is missing from it.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::timeout;
use vk_core::provider::{Feature, PodEvent};

use crate::bench::Bench;
use crate::check::{Check, demand, fail};
use crate::journal::{Sights, is_running};
use crate::pods::Plan;
use crate::subject::Work;

/// The first thing that a watch tells is a complete listing.
pub async fn a_watch_begins_with_a_listing(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    bench.unwatch().await;
    let mut watch = bench.provider().watch_pods();
    let within = bench.patience().tell;
    let first = timeout(within, async {
        loop {
            match watch.next().await {
                Some(Err(_)) => {}
                other => return other,
            }
        }
    });
    match first.await {
        Ok(Some(Ok(PodEvent::Listed(pods)))) => {
            let has = pods.iter().any(|found| found.pod.uid == pod.pod.uid);
            demand!(has, "the first listing of a watch lacks a pod that runs");
            Ok(())
        }
        Ok(Some(other)) => fail(format!("the first item is {other:?}")),
        Ok(None) => fail("the watch ended before it told anything"),
        Err(_) => fail(format!("nothing was told within {within:?}")),
    }
}

/// A start and an end are told by the watch, to a node that never lists.
pub async fn every_change_is_watched(bench: &Bench) -> Check {
    let pod = bench.draft(&Plan::of(Work::Last(0)))?;
    bench.create(&pod).await?;
    let patience = bench.patience();
    let starts = |sights: &Sights| sights.running().next().is_some();
    bench
        .until_watched(&pod.pod, 0, patience.start + patience.tell, "that its container runs", starts)
        .await?;
    let ends = |sights: &Sights| sights.ends().next().is_some();
    let within = Duration::from_secs(2) + patience.tell;
    bench.until_watched(&pod.pod, 0, within, "that its container has ended", ends).await?;
    Ok(())
}

/// A deletion is told by the watch, to a node that never lists.
pub async fn a_deletion_is_watched(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let since = bench.mark();
    bench.delete(&pod.pod, Duration::from_mins(1)).await?;
    let within = bench.patience().stop + bench.patience().tell;
    bench.until_watched(&pod.pod, since, within, "its end", Sights::is_over).await?;
    Ok(())
}

/// A watch that was dropped can be begun again, and tells what came after as well.
pub async fn a_watch_can_be_begun_again(bench: &Bench) -> Check {
    bench.unwatch().await;
    bench.watch_again().await;
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.create(&pod).await?;
    let patience = bench.patience();
    let runs = |sights: &Sights| sights.runtimes().any(is_running);
    bench.until_watched(&pod.pod, 0, patience.start + patience.tell, "that it runs", runs).await?;
    Ok(())
}

/// A restart of a container is told by the watch, to a node that never lists.
pub async fn a_restart_is_watched(bench: &Bench) -> Check {
    bench.needs(Feature::Restarts)?;
    let pod = bench.draft(&Plan::of(Work::Last(3)).restarted("Always"))?;
    bench.create(&pod).await?;
    let within = bench.patience().start * 2 + bench.patience().tell;
    let again = |sights: &Sights| sights.starts().len() > 1;
    bench.until_watched(&pod.pod, 0, within, "a second run of its container", again).await?;
    Ok(())
}
