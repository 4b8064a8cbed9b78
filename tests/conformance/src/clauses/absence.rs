//! Absence: only a complete listing shows it.

use vk_core::provider::{PodEvent, Verb};

use crate::bench::Bench;
use crate::check::{Check, demand};
use crate::subject::Work;

/// A listing names every pod that was accepted.
pub async fn a_listing_names_every_pod(bench: &Bench) -> Check {
    let mut pods = Vec::new();
    for _ in 0..4 {
        pods.push(bench.running(Work::Forever).await?);
    }
    let listed = bench.list().await?;
    let missing: Vec<_> =
        pods.iter().filter(|pod| listed.iter().all(|found| found.pod.uid != pod.pod.uid)).collect();
    demand!(missing.is_empty(), "{} of {} pods that run are not listed", missing.len(), pods.len());
    Ok(())
}

/// A listing that the backend cannot make is an error, not an empty or shorter one.
pub async fn a_listing_that_fails_is_an_error(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let pod = bench.running(Work::Forever).await?;
    bench.unwatch().await;
    let provider = bench.provider();
    // More often than a provider may try on its own account.
    faults.fail_rate(Verb::List, 1.0);
    let answer = bench.attempt("list_pods", provider.list_pods()).await;
    faults.fail_rate(Verb::List, 0.0);
    if let Ok(listed) = answer? {
        let has = listed.iter().any(|found| found.pod.uid == pod.pod.uid);
        demand!(has, "the backend failed to list, and list_pods is Ok with {} pods", listed.len());
        return crate::check::skip("the provider lists without asking the backend");
    }
    Ok(())
}

/// A watch whose backend cannot list for a time never says that the pods are gone.
pub async fn a_watch_does_not_take_a_failure_for_an_end(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let pod = bench.running(Work::Forever).await?;
    bench.unwatch().await;
    let since = bench.mark();
    faults.fail_rate(Verb::List, 1.0);
    bench.watch_again().await;
    tokio::time::sleep(bench.patience().quiet).await;
    faults.fail_rate(Verb::List, 0.0);
    let listed =
        |items: &[Result<PodEvent, String>]| items.iter().any(|item| matches!(item, Ok(PodEvent::Listed(_))));
    let deadline = tokio::time::Instant::now() + bench.patience().tell;
    while !listed(&bench.watch_items(since)) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(bench.patience().poll).await;
    }
    let sights = bench.watched(&pod.pod, since);
    demand!(
        !sights.is_over(),
        "the backend failed to list, and the watch says of a pod that runs: {}",
        sights.last()
    );
    Ok(())
}

/// An accepted deletion takes the pod out of the listing, or leaves it there as gone.
pub async fn a_deleted_pod_leaves_the_listing(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    bench.delete(&pod.pod, std::time::Duration::ZERO).await?;
    let deadline = tokio::time::Instant::now() + bench.patience().stop;
    loop {
        let listed = bench.list().await?;
        let Some(found) = listed.iter().find(|found| found.pod.uid == pod.pod.uid) else { return Ok(()) };
        if found.runtime.as_ref().is_some_and(|runtime| !runtime.may_run()) {
            return Ok(());
        }
        let waited = bench.patience().stop;
        demand!(
            tokio::time::Instant::now() < deadline,
            "{waited:?} after its deletion the pod is still listed"
        );
        tokio::time::sleep(bench.patience().poll).await;
    }
}
