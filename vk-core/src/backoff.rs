//! How long to wait after failures.
//!
//! A provider is left alone for up to [`NodeConfig::max_backoff`], minutes by default: its trouble is one pod's, or
//! a region's. The API server is asked again at least every [`API_CEILING`]: its trouble is the whole cluster's, and
//! once it is over nothing should hang on it any longer. A kubelet writes its statuses that often too (`syncPeriod`
//! of its status manager).

use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

use crate::config::NodeConfig;

/// The longest pause between two attempts at the API server, before jitter.
const API_CEILING: Duration = Duration::from_secs(10);
/// A watch that held for so long has recovered: the next failure begins with the shortest pause again.
const CALM: Duration = Duration::from_secs(30);

/// The pause after so many failures in a row at the provider: doubled each time, with a fifth of jitter, up to the
/// maximum.
pub(crate) fn backoff(config: &NodeConfig, failures: u32) -> Duration {
    doubled(config.min_backoff, config.max_backoff, failures)
}

/// The same for the API server.
pub(crate) fn api_backoff(config: &NodeConfig, failures: u32) -> Duration {
    doubled(config.min_backoff, config.max_backoff.min(API_CEILING), failures)
}

fn doubled(first: Duration, most: Duration, failures: u32) -> Duration {
    let pause = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    pause.min(most).mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// The pauses of a watch. client-go's and `kube`'s own grow to a minute: for so long a node would not see what
/// it is to do, after an API server was away that long.
#[derive(Debug)]
pub(crate) struct WatchBackoff {
    first: Duration,
    most: Duration,
    failures: u32,
    last: Option<Instant>,
}

impl WatchBackoff {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self { first: config.min_backoff, most: config.max_backoff.min(API_CEILING), failures: 0, last: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_none_or(|last| last.elapsed() > CALM) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last = Some(Instant::now());
        Some(doubled(self.first, self.most, self.failures))
    }
}

impl Backoff for WatchBackoff {
    /// Each new attempt announces itself as a success of a kind; only time tells whether it is one.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(pause: Duration, middle: Duration) -> bool {
        pause >= middle.mul_f64(0.79) && pause <= middle.mul_f64(1.21)
    }

    #[test]
    fn a_provider_is_left_alone_for_longer_than_the_api_server() {
        let config = NodeConfig::new("n");
        for (failures, provider, api) in [(1, 1, 1), (2, 2, 2), (4, 8, 8), (5, 16, 10), (30, 300, 10)] {
            assert!(within(backoff(&config, failures), Duration::from_secs(provider)), "{failures}");
            assert!(within(api_backoff(&config, failures), Duration::from_secs(api)), "{failures}");
        }
        let config = NodeConfig { max_backoff: Duration::from_secs(2), ..config };
        assert!(within(api_backoff(&config, 9), Duration::from_secs(2)), "a lower maximum holds here too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_keeps_failing_is_tried_ever_more_seldom_until_it_has_held() {
        let mut pauses = WatchBackoff::new(&NodeConfig::new("n"));
        for seconds in [1, 2, 4, 8, 10, 10] {
            let pause = pauses.next().expect("it never gives up");
            assert!(within(pause, Duration::from_secs(seconds)), "{pause:?} is not about {seconds} s");
            pauses.reset();
            tokio::time::advance(pause).await;
        }
        tokio::time::advance(CALM).await;
        let pause = pauses.next().expect("it never gives up");
        assert!(within(pause, Duration::from_secs(1)), "{pause:?}");
    }
}
