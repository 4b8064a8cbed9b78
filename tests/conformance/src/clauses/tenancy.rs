//! Tenancy: what others have at the same backend is none of this node's business.

use std::time::Duration;

use crate::bench::Bench;
use crate::check::{Check, demand};
use crate::journal::Sight;
use crate::pods::Plan;
use crate::subject::Work;

/// Pods of others are not listed.
pub async fn pods_of_others_are_not_listed(bench: &Bench) -> Check {
    let neighbour = bench.neighbour().await?;
    let theirs = bench.draft(&Plan::of(Work::Forever))?;
    bench.create_at(&neighbour, &theirs).await?;
    tokio::time::sleep(bench.patience().quiet).await;
    let listed = bench.list().await?;
    let found = listed.iter().any(|found| found.pod.uid == theirs.pod.uid);
    demand!(!found, "a pod of another node is listed as one of ours");
    Ok(())
}

/// Pods of others are not watched.
pub async fn pods_of_others_are_not_watched(bench: &Bench) -> Check {
    let neighbour = bench.neighbour().await?;
    let theirs = bench.draft(&Plan::of(Work::Forever))?;
    let since = bench.mark();
    bench.create_at(&neighbour, &theirs).await?;
    tokio::time::sleep(bench.patience().quiet).await;
    let sights = bench.watched(&theirs.pod, since);
    let told = sights.0.iter().any(|(_, sight)| *sight != Sight::Absent);
    demand!(!told, "a pod of another node is told by our watch: {}", sights.last());
    Ok(())
}

/// Deleting a pod of others, as a node may that takes it for its own, leaves it running.
pub async fn pods_of_others_are_not_deleted(bench: &Bench) -> Check {
    let neighbour = bench.neighbour().await?;
    let theirs = bench.draft(&Plan::of(Work::Forever))?;
    bench.create_at(&neighbour, &theirs).await?;
    tokio::time::sleep(bench.patience().quiet).await;
    let provider = bench.provider();
    // Refusing it is as good as ignoring it.
    let _ = bench.attempt("delete_pod", provider.delete_pod(&theirs.pod, Duration::ZERO)).await?;
    tokio::time::sleep(bench.patience().quiet).await;
    let listed = bench.call("list_pods (the neighbour's)", || neighbour.list_pods()).await?;
    let found = listed.iter().find(|found| found.pod.uid == theirs.pod.uid);
    let lives =
        found.is_some_and(|found| found.runtime.as_ref().is_none_or(vk_core::provider::PodRuntime::may_run));
    demand!(lives, "we deleted a pod of another node");
    Ok(())
}
