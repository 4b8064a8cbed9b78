//! Idempotence: what is said twice is done once.

use std::time::Duration;

use vk_core::provider::PodRef;

use crate::bench::Bench;
use crate::check::{Check, demand};
use crate::journal::MAIN;
use crate::pods::{NAMESPACE, uid, unique};
use crate::subject::Work;

/// What changes when a pod is started anew.
pub(super) fn run_of(bench: &Bench, pod: &PodRef, since: usize) -> Option<(Option<String>, String)> {
    let sights = bench.sights(pod, since);
    let runtime = sights.running().next_back()?;
    let main = runtime.container(MAIN)?;
    Some((main.container_id.clone(), format!("{:?}, restarted {} times", main.state, main.restart_count)))
}

/// `create_pod` of a UID that exists is `Ok`.
pub async fn create_again_is_ok(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    bench.create_again(&pod).await
}

/// `create_pod` of a UID that exists starts nothing.
pub async fn create_again_starts_nothing(bench: &Bench) -> Check {
    let pod = bench.running(Work::Forever).await?;
    let provider = bench.provider();
    let before = run_of(bench, &pod.pod, 0);
    // A container that was started at the same moment would look the same.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let since = bench.mark();
    // Whether that is `Ok` is another clause's.
    let _ = bench.attempt("create_pod of a UID that exists", provider.create_pod(&pod)).await?;
    bench.quiet().await;
    let listed = bench.list().await?;
    let times = listed.iter().filter(|found| found.pod.uid == pod.pod.uid).count();
    demand!(times <= 1, "created again, the pod is listed {times} times");
    let after = run_of(bench, &pod.pod, since).or_else(|| before.clone());
    demand!(
        before == after,
        "created again, its container was started again: {before:?} before, {after:?} after"
    );
    Ok(())
}

/// `delete_pod` of a UID that was never there is `Ok`.
pub async fn delete_of_an_unknown_pod_is_ok(bench: &Bench) -> Check {
    let pod = PodRef::new(NAMESPACE, unique("nobody"), uid());
    bench.delete(&pod, Duration::from_secs(30)).await?;
    bench.delete(&pod, Duration::ZERO).await.map(drop)
}

/// `delete_pod` of a pod that is being stopped is `Ok`.
pub async fn delete_again_is_ok(bench: &Bench) -> Check {
    let pod = bench.running(Work::Farewell { seconds: 3, code: 0 }).await?;
    let grace = Duration::from_mins(1);
    bench.delete(&pod.pod, grace).await?;
    bench.delete(&pod.pod, grace).await.map(drop)
}
