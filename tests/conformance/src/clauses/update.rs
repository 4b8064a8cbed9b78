//! Update: the whole desired pod is given, and the backend compares.

use vk_core::provider::{ContainerState, Error, PodUpdate, Provider};

use super::idempotence::run_of;
use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::journal::Sights;
use crate::pods::{ADDED, Plan};
use crate::subject::Work;

fn capability(provider: &dyn Provider) -> Check<&dyn PodUpdate> {
    provider.update().map_or_else(|| skip("the provider updates nothing (Provider::update)"), Ok)
}

/// A pod that is given again as it is goes on as it does.
pub async fn an_update_without_a_change_changes_nothing(bench: &Bench) -> Check {
    let provider = bench.provider();
    let update = capability(&*provider)?;
    let pod = bench.running(Work::Forever).await?;
    let before = run_of(bench, &pod.pod, 0);
    // A container that was started at the same moment would look the same.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let since = bench.mark();
    bench.call("update_pod", || update.update_pod(&pod)).await?;
    bench.quiet().await;
    let sights = bench.sights(&pod.pod, since);
    demand!(!sights.is_over(), "given again as it is, the pod came to its end: {}", sights.last());
    let after = run_of(bench, &pod.pod, since).or_else(|| before.clone());
    demand!(
        before == after,
        "given again as it is, its container was started again: {before:?}, then {after:?}"
    );
    Ok(())
}

/// An update of a pod that is not there is `NotFound`, and makes none.
pub async fn an_update_of_an_unknown_pod_is_not_found(bench: &Bench) -> Check {
    let provider = bench.provider();
    let update = capability(&*provider)?;
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    match bench.attempt("update_pod", update.update_pod(&pod)).await? {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => {
            fail(format!("there is no such pod, and the error is {}: {}", error.reason(), error.chain()))
        }
        Ok(()) => fail("there is no such pod, and update_pod is Ok"),
    }
}

/// A container that is added to a pod that runs is started, and the one that is there goes on as it does.
pub async fn an_added_container_runs(bench: &Bench) -> Check {
    let provider = bench.provider();
    let update = capability(&*provider)?;
    let pod = bench.running(Work::Forever).await?;
    let before = run_of(bench, &pod.pod, 0);
    let more = bench.with_added(&pod, &Work::Forever)?;
    let since = bench.mark();
    bench.call("update_pod", || update.update_pod(&more)).await?;
    let runs = |sights: &Sights| {
        let mut added = sights.runtimes().filter_map(|runtime| runtime.container(ADDED));
        added.any(|added| matches!(added.state, ContainerState::Running { .. }))
    };
    let within = bench.patience().start + bench.patience().tell;
    let what = "that the container runs that was added";
    bench.until_watched(&pod.pod, since, within, what, runs).await?;
    bench.look().await;
    let after = run_of(bench, &pod.pod, since);
    demand!(before == after, "a container was added, and the other is another: {before:?}, then {after:?}");
    Ok(())
}
