//! Watching a backend that can only list.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};

use super::{Error, PodEvent, Provider, Result};

/// How long a listing may take at the least: a backend may well be slower than it is asked.
const PATIENCE: Duration = Duration::from_mins(2);

/// Lists every `interval`, give or take a tenth of it, and yields each complete listing as
/// [`PodEvent::Listed`]; a failed listing is yielded as its error. The first listing is made at once.
///
/// The jitter keeps many nodes on one account from listing in step. A throttled backend is listed again
/// no sooner than it asked for. A listing that takes longer than two minutes, or than `interval` if that is more, is
/// given up as [`Error::Unavailable`]: one that never ends would be the last.
pub fn watch_by_polling<P: Provider + ?Sized>(
    provider: Arc<P>,
    interval: Duration,
) -> BoxStream<'static, Result<PodEvent>> {
    stream::unfold((provider, None::<Duration>), move |(provider, wait)| async move {
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        let patience = PATIENCE.max(interval);
        let listed = tokio::time::timeout(patience, provider.list_pods())
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("list pods: no answer in time")));
        let mut next = interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        if let Err(Error::Throttled { retry_after: Some(after), .. }) = &listed {
            next = next.max(*after);
        }
        Some((listed.map(PodEvent::Listed), (provider, Some(next))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::wrap::fake::Fake;
    use crate::provider::wrap::{Delayed, Delays};
    use crate::provider::{ObservedPod, PodRef};

    const MINUTE: Duration = Duration::from_mins(1);

    fn gaps(fake: &Fake) -> Vec<Duration> {
        let begun = fake.calls().begun;
        begun.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_listing_comes_at_once_and_the_others_about_an_interval_apart() {
        let fake = Arc::new(Fake::default());
        let begin = tokio::time::Instant::now();
        let events: Vec<_> = watch_by_polling(Arc::clone(&fake), MINUTE).take(200).collect().await;
        assert!(events.iter().all(|event| matches!(event, Ok(PodEvent::Listed(_)))));
        assert_eq!(fake.calls().begun[0].1, begin);
        let gaps = gaps(&fake);
        // Timers have a resolution of a millisecond.
        let allowed = Duration::from_secs(54)..=Duration::from_millis(66_002);
        assert!(gaps.iter().all(|gap| allowed.contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap < MINUTE) && gaps.iter().any(|gap| *gap > MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_listing_is_told_as_such_and_the_stream_goes_on() {
        let there = ObservedPod::existing(PodRef::new("default", "web", "u1"));
        let fake = Arc::new(Fake::default());
        fake.listings.lock().unwrap().extend([
            Ok(vec![there.clone()]),
            Err(Error::unavailable("down")),
            Ok(vec![there.clone()]),
        ]);
        let mut watch = watch_by_polling(Arc::clone(&fake), MINUTE);
        let listed = Some(PodEvent::Listed(vec![there]));
        assert_eq!(watch.next().await.and_then(Result::ok), listed);
        assert!(matches!(watch.next().await, Some(Err(Error::Unavailable { .. }))));
        assert_eq!(watch.next().await.and_then(Result::ok), listed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttling_backend_is_not_listed_before_it_allows() {
        let throttled =
            |seconds| Err(Error::Throttled { retry_after: Some(Duration::from_secs(seconds)), source: None });
        let fake = Arc::new(Fake::default());
        fake.listings.lock().unwrap().extend([throttled(600), throttled(1)]);
        let _: Vec<_> = watch_by_polling(Arc::clone(&fake), MINUTE).take(3).collect().await;
        let gaps = gaps(&fake);
        assert!(gaps[0] >= Duration::from_mins(10), "{gaps:?}");
        assert!(gaps[1] >= Duration::from_secs(54), "a short wish does not shorten the interval: {gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_never_ends_is_given_up_and_the_next_one_made() {
        let delays = Delays { list: Duration::from_hours(1), ..Delays::default() };
        let hanging = Arc::new(Delayed::new(Arc::new(Fake::default()), delays));
        let begin = tokio::time::Instant::now();
        let listings: Vec<_> = watch_by_polling(hanging, MINUTE).take(2).collect().await;
        assert!(listings.iter().all(|one| matches!(one, Err(Error::Unavailable { .. }))), "{listings:?}");
        assert!(begin.elapsed() < 6 * MINUTE, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_stream_ends_the_polling() {
        let fake = Arc::new(Fake::default());
        let mut watch = watch_by_polling(Arc::clone(&fake), MINUTE);
        watch.next().await;
        drop(watch);
        tokio::time::sleep(MINUTE * 10).await;
        assert_eq!(fake.count("list"), 1);
    }
}
