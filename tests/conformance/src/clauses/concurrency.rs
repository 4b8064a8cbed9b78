//! Concurrency: calls for different pods overlap, and none holds up its thread.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{join_all, poll_fn};
use vk_core::provider::Verb;

use crate::bench::Bench;
use crate::check::{Check, demand, fail};
use crate::pods::Plan;
use crate::subject::Work;

/// Pods that are created at the same time all run.
pub async fn pods_created_at_once_all_run(bench: &Bench) -> Check {
    let pods: Vec<_> = (0..3).map(|_| bench.draft(&Plan::of(Work::Forever))).collect::<Check<_>>()?;
    for created in join_all(pods.iter().map(|pod| bench.create(pod))).await {
        created?;
    }
    for running in join_all(pods.iter().map(|pod| bench.until_running(&pod.pod))).await {
        running?;
    }
    Ok(())
}

/// A creation that hangs at the backend does not keep another pod from being created.
pub async fn a_hanging_create_holds_up_no_other(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let (stuck, other) = (bench.draft(&Plan::of(Work::Forever))?, bench.draft(&Plan::of(Work::Forever))?);
    bench.remember(&stuck);
    let provider = bench.provider();
    faults.hang(Verb::Create, true);
    let mut hanging = pin!(provider.create_pod(&stuck));
    let hangs = tokio::time::timeout(bench.patience().poll, hanging.as_mut()).await.is_err();
    faults.hang(Verb::Create, false);
    if !hangs {
        return crate::check::skip("the provider does not wait for the backend when it creates a pod");
    }
    bench.create(&other).await
}

/// No call holds up the thread that it runs on.
pub async fn no_call_blocks_its_thread(bench: &Bench) -> Check {
    let provider = bench.provider();
    let pods: Vec<_> = (0..3).map(|_| bench.draft(&Plan::of(Work::Forever))).collect::<Check<_>>()?;
    for pod in &pods {
        bench.remember(pod);
    }
    let most = bench.patience().block;
    let judge = |what: &str, shortest: Duration| {
        if shortest < most {
            return Ok(());
        }
        fail(format!("{what} held up its thread for {shortest:?}; {most:?} would be long"))
    };
    judge("node_info", shortest(3, |_| provider.node_info()).await)?;
    judge("create_pod", shortest(3, |n| provider.create_pod(&pods[n])).await)?;
    judge("list_pods", shortest(3, |_| provider.list_pods()).await)?;
    let within = bench.patience().tell;
    let watch = |_| {
        let provider = std::sync::Arc::clone(&provider);
        // That it says something at all is another clause's.
        async move { tokio::time::timeout(within, provider.watch_pods().next()).await.map(drop) }
    };
    judge("watch_pods", shortest(3, watch).await)?;
    if let Some(stats) = provider.stats() {
        judge("usage", shortest(3, |_| stats.usage()).await)?;
    }
    judge("delete_pod", shortest(3, |n| provider.delete_pod(&pods[n].pod, Duration::ZERO)).await)
}

/// The longest hold-up of a call, and the shortest such of so many calls.
async fn shortest<F: Future>(times: usize, call: impl Fn(usize) -> F) -> Duration {
    let mut shortest = Duration::MAX;
    for n in 0..times {
        shortest = shortest.min(longest_poll(call(n)).await);
    }
    shortest
}

/// Runs a call to its end and returns the longest time that one look at it took, by the wall's clock.
async fn longest_poll(call: impl Future) -> Duration {
    let mut call = pin!(call);
    let mut longest = Duration::ZERO;
    poll_fn(|context| {
        #[expect(clippy::disallowed_methods, reason = "paused time does not see a thread that is held up")]
        let began = std::time::Instant::now();
        let ended = call.as_mut().poll(context).is_ready();
        longest = longest.max(began.elapsed());
        if ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    longest
}

/// The node can be asked about while a creation hangs.
pub async fn a_hanging_create_holds_up_no_question(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let stuck = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&stuck);
    let provider = bench.provider();
    faults.hang(Verb::Create, true);
    let mut hanging = pin!(provider.create_pod(&stuck));
    let hangs = tokio::time::timeout(bench.patience().poll, hanging.as_mut()).await.is_err();
    faults.hang(Verb::Create, false);
    demand!(
        !hangs || bench.call("node_info", || provider.node_info()).await.is_ok(),
        "node_info does not return while a creation hangs"
    );
    bench.list().await.map(drop)
}
