//! Errors: what they tell the node to do, and what they never tell anybody.

use std::time::Duration;

use vk_core::provider::{Error, LogOptions, PodRef, Retry, Verb};

use crate::bench::Bench;
use crate::check::{Check, demand, fail, skip};
use crate::pods::{NAMESPACE, Plan, uid, unique};
use crate::subject::Work;

/// A creation that the backend fails for a time is an error that says to try again.
pub async fn a_passing_failure_may_be_retried(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    let provider = bench.provider();
    faults.fail_rate(Verb::Create, 1.0);
    let answer = bench.attempt("create_pod", provider.create_pod(&pod)).await;
    faults.fail_rate(Verb::Create, 0.0);
    match answer? {
        Ok(()) => skip("the provider accepts a pod without asking the backend"),
        Err(error) if error.retry() == Retry::Never => {
            fail(format!("the backend was away, and the node is told never to try again: {}", error.chain()))
        }
        Err(_) => bench.create_again(&pod).await,
    }
}

/// A creation whose answer was lost is settled by repeating it: one pod, not two.
pub async fn a_lost_answer_makes_one_pod(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let pod = bench.draft(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    let provider = bench.provider();
    faults.lose_next(Verb::Create, 1);
    let _ = bench.attempt("create_pod", provider.create_pod(&pod)).await?;
    faults.lose_next(Verb::Create, 0);
    bench.create_again(&pod).await?;
    bench.until_running(&pod.pod).await?;
    let listed = bench.list().await?;
    let times = listed.iter().filter(|found| found.pod.uid == pod.pod.uid).count();
    demand!(times <= 1, "the answer to a creation was lost, and now there are {times} pods of that UID");
    Ok(())
}

/// A deletion that fails is an error, not `Ok`.
pub async fn a_deletion_that_fails_is_an_error(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let pod = bench.running(Work::Forever).await?;
    let provider = bench.provider();
    faults.fail_rate(Verb::Delete, 1.0);
    let answer = bench.attempt("delete_pod", provider.delete_pod(&pod.pod, Duration::ZERO)).await;
    faults.fail_rate(Verb::Delete, 0.0);
    if answer?.is_err() {
        return Ok(());
    }
    let over = bench.until_over(&pod.pod, bench.mark(), bench.patience().stop).await;
    demand!(over.is_ok(), "the backend failed to delete, delete_pod is Ok, and the pod stays");
    skip("the provider accepts a deletion before it asks the backend")
}

/// A node whose backend does not answer is an error.
pub async fn a_node_that_cannot_be_asked_is_an_error(bench: &Bench) -> Check {
    let faults = bench.faults()?;
    let provider = bench.provider();
    faults.fail_rate(Verb::NodeInfo, 1.0);
    let answer = bench.attempt("node_info", provider.node_info()).await;
    faults.fail_rate(Verb::NodeInfo, 0.0);
    match answer? {
        Ok(info) if info.health == vk_core::provider::Health::Healthy => {
            fail("the backend does not answer, and node_info says that all is well")
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A pod that can never run here is rejected, with the field that is to blame.
pub async fn what_can_never_run_is_rejected(bench: &Bench) -> Check {
    let (pod, blamed) = bench.spoilt(&Plan::of(Work::Forever))?;
    bench.remember(&pod);
    let provider = bench.provider();
    match bench.attempt("create_pod", provider.create_pod(&pod)).await? {
        Err(Error::Rejected { field, .. }) => {
            demand!(field == blamed, "{blamed} is to blame, and the error says {field:?}");
            Ok(())
        }
        Err(error) => {
            fail(format!("refused for good, and the error is {}: {}", error.reason(), error.chain()))
        }
        Ok(()) => fail(format!("{blamed} can't be honoured, and the pod was accepted")),
    }
}

/// No error has a secret of the pod in its text, whichever way it is printed.
pub async fn no_secret_is_in_an_errors_text(bench: &Bench) -> Check {
    let secret = unique("canary");
    let plan = Plan::of(Work::Forever).knowing(&secret);
    let mut errors: Vec<Error> = Vec::new();
    let provider = bench.provider();
    if let Ok((pod, _)) = bench.spoilt(&plan) {
        bench.remember(&pod);
        errors.extend(bench.attempt("create_pod", provider.create_pod(&pod)).await?.err());
    }
    let pod = bench.draft(&plan)?;
    bench.remember(&pod);
    if let Ok(faults) = bench.faults() {
        for verb in [Verb::Create, Verb::Delete] {
            faults.fail_rate(verb, 1.0);
        }
        let created = bench.attempt("create_pod", provider.create_pod(&pod)).await;
        let deleted = bench.attempt("delete_pod", provider.delete_pod(&pod.pod, Duration::ZERO)).await;
        for verb in [Verb::Create, Verb::Delete] {
            faults.fail_rate(verb, 0.0);
        }
        errors.extend(created?.err());
        errors.extend(deleted?.err());
    }
    bench.create_again(&pod).await?;
    if let Some(logs) = provider.logs() {
        let nobody = pod.pod.container("nobody");
        let options = LogOptions::default();
        errors.extend(bench.attempt("container_logs", logs.container_logs(&nobody, &options)).await?.err());
    }
    if let Some(update) = provider.update() {
        let mut stranger = pod.clone();
        stranger.pod = PodRef::new(NAMESPACE, unique("nobody"), uid());
        errors.extend(bench.attempt("update_pod", update.update_pod(&stranger)).await?.err());
    }
    if errors.is_empty() {
        return skip("no call could be made to fail");
    }
    for error in errors {
        let text = format!("{error} {error:?} {}", error.chain());
        demand!(!text.contains(&secret), "a secret is in the text of {}", error.reason());
    }
    Ok(())
}

/// The provider's own `Debug` output has no secret of its pods in it.
pub async fn no_secret_is_in_debug_output(bench: &Bench) -> Check {
    let secret = unique("canary");
    bench.run(&Plan::of(Work::Forever).knowing(&secret)).await?;
    let shown = format!("{:?}", bench.provider());
    demand!(!shown.contains(&secret), "a secret is in the provider's Debug output");
    Ok(())
}

/// What is told of a pod has no secret of it.
pub async fn no_secret_is_in_what_is_told(bench: &Bench) -> Check {
    let secret = unique("canary");
    let pod = bench.run(&Plan::of(Work::Last(1)).knowing(&secret)).await?;
    bench.until_ended(&pod.pod, 0).await?;
    bench.look().await;
    let shown = format!("{:?} {:?}", bench.sights(&pod.pod, 0), bench.watch_items(0));
    demand!(!shown.contains(&secret), "a secret is in what is told of its pod");
    Ok(())
}
