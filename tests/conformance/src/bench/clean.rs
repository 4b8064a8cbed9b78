//! What is left of a clause, taken away.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use vk_core::provider::{PodRef, Provider, Verb};

use super::{Bench, Made, lock};
use crate::check::Check;
use crate::journal::{Sight, Sights};

impl Bench {
    /// Kills what the clause has made, and waits until it is gone. Returns what could not be cleaned up, and why.
    pub async fn clean_up(&self) -> Vec<String> {
        if let Some(faults) = self.subject.faults() {
            for verb in [Verb::NodeInfo, Verb::Create, Verb::Delete, Verb::List] {
                faults.fail_next(verb, 0);
                faults.lose_next(verb, 0);
                faults.fail_rate(verb, 0.0);
                faults.hang(verb, false);
                faults.hang_after(verb, false);
            }
        }
        if lock(&self.link).is_none() && self.connect(false).await.is_err() {
            return self.made().iter().map(|made| format!("{}: no connection", made.pod.pod.uid)).collect();
        }
        if lock(&self.link).as_ref().is_some_and(|link| link.watch.is_none()) {
            self.watch_again().await;
        }
        let removals = self.made().into_iter().map(|made| async move {
            let left = self.remove(&made).await.err()?;
            Some(format!("pod {}: {left}", made.pod.pod.uid))
        });
        join_all(removals).await.into_iter().flatten().collect()
    }

    async fn remove(&self, made: &Made) -> Result<(), String> {
        let owner = made.owner.clone().unwrap_or_else(|| self.provider());
        let pod = &made.pod.pod;
        let deadline = Instant::now() + self.patience.cleanup();
        let mut last = String::from("never deleted");
        while Instant::now() < deadline {
            let within = match timeout(self.patience.call, owner.delete_pod(pod, Duration::ZERO)).await {
                Ok(Ok(())) => {
                    last = format!("deleted with no grace, and still there after {:?}", self.patience.stop);
                    self.patience.stop
                }
                // It may be gone all the same.
                Ok(Err(error)) => {
                    last = error.chain();
                    self.patience.poll
                }
                Err(_) => {
                    last = format!("delete_pod has not returned within {:?}", self.patience.call);
                    self.patience.poll
                }
            };
            let gone = match &made.owner {
                None => self.until_gone(pod, self.journal.len(), within).await.is_ok(),
                Some(owner) => self.left(owner, pod, within).await,
            };
            if gone {
                return Ok(());
            }
        }
        Err(last)
    }

    /// Waits until a pod was told to be gone, be it before `since`, or is missing from a listing after it.
    async fn until_gone(&self, pod: &PodRef, since: usize, within: Duration) -> Check<Sights> {
        let told = |sights: &Sights| {
            sights.0.iter().any(|(_, sight)| matches!(sight, Sight::Gone(_)))
                || self.journal.sights(&pod.uid, since).is_over()
        };
        self.until(pod, 0, within, "its end", told).await
    }

    /// Whether a pod leaves somebody else's listing.
    async fn left(&self, owner: &Arc<dyn Provider>, pod: &PodRef, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            if let Ok(Ok(listed)) = timeout(self.patience.call, owner.list_pods()).await {
                let found = listed.iter().find(|found| found.pod.uid == pod.uid);
                if found.is_none_or(|found| found.runtime.as_ref().is_some_and(|runtime| !runtime.may_run()))
                {
                    return true;
                }
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(self.patience.poll).await;
        }
    }
}
