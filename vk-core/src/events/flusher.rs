//! Writes events: the one place that does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Recorded;
use super::budget::{SpamFilter, TokenBucket};
use super::counts::Counters;
use super::reason::Severity;
use super::series::{Key, Memory, Series, Subject};
use crate::clock::Clock;
use crate::config::NodeConfig;

/// Calls under way at once. Events are worth a few of the API server's, and never all.
const WRITERS: usize = 4;
/// Series that wait to be written; beyond it news are dropped, and beyond twice as many everything is.
const WAITING: usize = 1024;
/// Warnings per second, and their burst. Enough for every pod of a node of 250 to fail at once.
const WARNINGS_PER_SECOND: f64 = 25.0;
const WARNINGS_BURST: u32 = 250;
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last events may take at shutdown.
const LAST_CALLS: Duration = Duration::from_secs(3);

/// Writes what a [`Recorder`](super::Recorder) records.
#[derive(Debug)]
#[must_use = "events are written only while `run` is polled"]
pub struct EventFlusher {
    writer: Writer,
    receiver: mpsc::Receiver<Recorded>,
    counters: Arc<Counters>,
    memory: Memory,
    waiting: VecDeque<Key>,
    spam: SpamFilter<Subject>,
    normal: TokenBucket,
    warnings: TokenBucket,
    clock: Clock,
    serial: u64,
}

#[derive(Clone)]
struct Writer {
    client: kube::Client,
    node: Arc<str>,
}

/// What became of one write.
struct Written {
    key: Key,
    outcome: Outcome,
}

enum Outcome {
    /// The API server has this count now.
    Count(i32),
    /// The name was taken; another one is needed.
    NameTaken,
    /// The event to be raised is gone, as events are after an hour.
    Expired,
    GivenUp,
}

enum Attempt {
    Done,
    /// The object to be raised is not there, or the name to be created is.
    WrongName,
    Again,
    GivenUp,
}

impl EventFlusher {
    pub(super) fn new(
        client: kube::Client,
        config: &NodeConfig,
        clock: Clock,
        receiver: mpsc::Receiver<Recorded>,
        counters: Arc<Counters>,
    ) -> Self {
        let now = Instant::now();
        let rate = config.normal_events_per_second;
        Self {
            writer: Writer { client, node: Arc::from(config.name.as_str()) },
            receiver,
            counters,
            memory: Memory::default(),
            waiting: VecDeque::new(),
            spam: SpamFilter::new(),
            normal: TokenBucket::new(f64::from(rate), rate.saturating_mul(5), now),
            warnings: TokenBucket::new(WARNINGS_PER_SECOND, WARNINGS_BURST, now),
            clock,
            serial: 0,
        }
    }

    /// Writes events until `shutdown`, then those that were recorded before, for at most three seconds. Also
    /// ends when every recorder is dropped and everything is written.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut writes: FuturesUnordered<BoxFuture<'static, Written>> = FuturesUnordered::new();
        let mut open = true;
        let mut deadline: Option<Instant> = None;
        loop {
            while writes.len() < WRITERS
                && let Some(key) = self.waiting.pop_front()
            {
                writes.extend(self.write(key));
            }
            if !open && writes.is_empty() {
                return;
            }
            tokio::select! {
                // Cancel-safe: a finished write stays in the set until it is taken.
                Some(written) = writes.next() => self.settle(written),
                // Cancel-safe: a received event is handled at once.
                event = self.receiver.recv(), if open => match event {
                    Some(event) => self.admit(event),
                    None => open = false,
                },
                // Cancel-safe: a token stays cancelled.
                () = shutdown.cancelled(), if deadline.is_none() => {
                    self.receiver.close();
                    deadline = Some(Instant::now() + LAST_CALLS);
                }
                // Cancel-safe: the deadline is a point in time.
                () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                    let left = self.waiting.len() + writes.len();
                    tracing::warn!(events = left, "events left unwritten at shutdown");
                    return;
                }
            }
        }
    }

    fn admit(&mut self, event: Recorded) {
        let now = Instant::now();
        let key = Key::of(event);
        if !self.spam.admit(key.subject.clone(), now) {
            self.counters.dropped_spam();
            return;
        }
        let (budget, room) = match key.severity {
            Severity::Normal => (&mut self.normal, WAITING),
            Severity::Warning => (&mut self.warnings, 2 * WAITING),
        };
        if !budget.take(now) {
            self.counters.dropped_budget();
        } else if self.waiting.len() >= room {
            self.counters.dropped_full();
        } else if self.memory.count(&key, self.clock.now()) {
            self.waiting.push_back(key);
        }
    }

    /// The write that a series needs: its creation, or a raised count.
    fn write(&mut self, key: Key) -> Option<BoxFuture<'static, Written>> {
        self.serial += 1;
        let fresh_name = key.event_name(&self.writer.node, self.clock.now(), self.serial);
        let series = self.memory.get_mut(&key)?;
        if series.written == 0 {
            series.name = fresh_name;
        }
        Some(Box::pin(self.writer.clone().write(key, series.clone())))
    }

    fn settle(&mut self, written: Written) {
        let Written { key, outcome } = written;
        let Some(series) = self.memory.get_mut(&key) else { return };
        match outcome {
            Outcome::Count(count) => {
                self.counters.written();
                series.written = count;
            }
            Outcome::NameTaken => series.written = 0,
            Outcome::Expired => {
                series.first = series.last;
                series.count = 1;
                series.written = 0;
            }
            Outcome::GivenUp => {
                self.counters.failed();
                self.memory.forget(&key);
                return;
            }
        }
        series.pending = series.count > series.written;
        if series.pending {
            self.waiting.push_back(key);
        }
    }
}

impl Writer {
    async fn write(self, key: Key, series: Series) -> Written {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let outcome = loop {
            let create = series.written == 0;
            let done =
                if create { self.create(&key, &series).await } else { self.raise(&key, &series).await };
            match done {
                Attempt::Done => break Outcome::Count(series.count),
                // The answer to an earlier attempt was lost, not the attempt.
                Attempt::WrongName if create && attempt > 1 => break Outcome::Count(series.count),
                Attempt::WrongName if create => break Outcome::NameTaken,
                Attempt::WrongName => break Outcome::Expired,
                Attempt::GivenUp => break Outcome::GivenUp,
                Attempt::Again if attempt == ATTEMPTS => break Outcome::GivenUp,
                Attempt::Again => {
                    sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                    pause *= 2;
                    attempt += 1;
                }
            }
        };
        Written { key, outcome }
    }

    async fn create(&self, key: &Key, series: &Series) -> Attempt {
        let event = key.event(&self.node, series);
        let result = timeout(CALL_TIMEOUT, self.api(key).create(&PostParams::default(), &event)).await;
        classify(result, 409, key)
    }

    async fn raise(&self, key: &Key, series: &Series) -> Attempt {
        let patch = Patch::Merge(serde_json::json!({
            "count": series.count,
            "lastTimestamp": Time(series.last),
        }));
        let (api, params) = (self.api(key), PatchParams::default());
        let result = timeout(CALL_TIMEOUT, api.patch(&series.name, &params, &patch)).await;
        classify(result, 404, key)
    }

    fn api(&self, key: &Key) -> Api<Event> {
        Api::namespaced(self.client.clone(), key.namespace())
    }
}

/// `wrong_name` is the code with which the API server says that the name does not serve.
fn classify(
    result: Result<Result<Event, kube::Error>, tokio::time::error::Elapsed>,
    wrong_name: u16,
    key: &Key,
) -> Attempt {
    match result {
        Ok(Ok(_)) => Attempt::Done,
        Ok(Err(kube::Error::Api(status))) if status.code == wrong_name => Attempt::WrongName,
        Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
            // A namespace that is being deleted takes no events, and a role may not allow any.
            tracing::debug!(reason = %key.reason, code = status.code, %status, "event refused");
            Attempt::GivenUp
        }
        Ok(Err(error)) => {
            tracing::debug!(reason = %key.reason, %error, "event not written");
            Attempt::Again
        }
        Err(_) => {
            tracing::debug!(reason = %key.reason, "event not written in time");
            Attempt::Again
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("node", &self.node).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use jiff::Timestamp;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::events::{EventCounts, PodEventRecord, Reason, Recorder};
    use crate::provider::PodRef;

    type Calls = Arc<Mutex<Vec<(Method, String, Value)>>>;

    /// A client whose API server answers every call with what `answer` says: a status, or never.
    fn client(answer: impl Fn(usize) -> Option<u16> + Send + Sync + 'static) -> (kube::Client, Calls) {
        let calls = Calls::default();
        let kept = Arc::clone(&calls);
        let answer = Arc::new(answer);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let sent: Value = serde_json::from_slice(&body)?;
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push((parts.method, parts.uri.path().to_owned(), sent.clone()));
                    kept.len() - 1
                };
                let Some(status) = answer(number) else { std::future::pending().await };
                let body = if status < 300 {
                    serde_json::json!({"metadata": {}, "involvedObject": {}})
                } else {
                    serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "reason": "", "message": "no", "code": status})
                };
                let response =
                    Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, tower::BoxError>(response?)
            }
        });
        (kube::Client::new(service, "default"), calls)
    }

    fn pod(uid: &str) -> PodRef {
        PodRef::new("default", "web", uid)
    }

    fn failed(message: &str) -> PodEventRecord {
        PodEventRecord::new(Reason::Failed, message)
    }

    /// Records, lets the flusher write everything, and tells what came of it.
    async fn flushed(
        client: kube::Client,
        config: &NodeConfig,
        record: impl FnOnce(&Recorder),
    ) -> EventCounts {
        let (recorder, flusher) = Recorder::new(client, config, Clock::virtual_from(Timestamp::UNIX_EPOCH));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(flusher.run(shutdown.clone()));
        record(&recorder);
        // Paused time moves on only when nothing else can: everything written by then is all there will be.
        sleep(Duration::from_mins(5)).await;
        shutdown.cancel();
        running.await.unwrap();
        recorder.counts()
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_again_raises_the_count_of_the_first_event() {
        let (client, calls) = client(|_| Some(201));
        let (recorder, flusher) =
            Recorder::new(client, &NodeConfig::new("n"), Clock::virtual_from(Timestamp::UNIX_EPOCH));
        let running = tokio::spawn(flusher.run(CancellationToken::new()));
        for _ in 0..3 {
            recorder.pod(&pod("u1"), failed("again"));
            sleep(Duration::from_secs(10)).await;
        }
        recorder.pod(&pod("u2"), failed("again"));
        drop(recorder);
        running.await.unwrap();
        let calls = calls.lock().unwrap();
        let methods: Vec<_> = calls.iter().map(|(method, ..)| method.as_str()).collect();
        assert_eq!(methods, ["POST", "PATCH", "PATCH", "POST"]);
        let name = calls[0].2["metadata"]["name"].as_str().unwrap();
        assert_eq!(calls[1].1, format!("/api/v1/namespaces/default/events/{name}"));
        assert_eq!(calls[2].2, serde_json::json!({"count": 3, "lastTimestamp": "1970-01-01T00:00:20Z"}));
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_during_a_write_cost_one_call_together() {
        let (client, calls) = client(|_| Some(201));
        let counts = flushed(client, &NodeConfig::new("n"), |recorder| {
            for _ in 0..20 {
                recorder.pod(&pod("u1"), failed("again"));
            }
        })
        .await;
        let calls = calls.lock().unwrap();
        assert!(calls.len() <= 2, "{} calls", calls.len());
        assert_eq!(calls.last().unwrap().2["count"], 20);
        assert_eq!(counts.written, calls.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn news_beyond_the_budget_are_dropped_and_counted_and_warnings_are_not() {
        let (client, calls) = client(|_| Some(201));
        let mut config = NodeConfig::new("n");
        config.normal_events_per_second = 2;
        let counts = flushed(client, &config, |recorder| {
            for n in 0..100 {
                recorder.pod(&pod(&n.to_string()), PodEventRecord::new(Reason::Started, "started"));
                recorder.pod(&pod(&n.to_string()), failed("failed"));
            }
        })
        .await;
        assert_eq!(counts, EventCounts { written: 110, dropped_budget: 90, ..EventCounts::default() });
        assert_eq!(calls.lock().unwrap().len(), 110);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_of_nothing_writes_warnings_alone() {
        let (client, _) = client(|_| Some(201));
        let mut config = NodeConfig::new("n");
        config.normal_events_per_second = 0;
        let counts = flushed(client, &config, |recorder| {
            recorder.pod(&pod("u1"), PodEventRecord::new(Reason::Started, "started"));
            recorder.pod(&pod("u1"), failed("failed"));
        })
        .await;
        assert_eq!((counts.written, counts.dropped_budget), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_pod_that_fails_in_ever_new_ways_does_not_use_up_the_nodes_budget() {
        let (client, _) = client(|_| Some(201));
        let counts = flushed(client, &NodeConfig::new("n"), |recorder| {
            for n in 0..200 {
                recorder.pod(&pod("noisy"), failed(&n.to_string()));
            }
            recorder.pod(&pod("quiet"), failed("once"));
        })
        .await;
        assert_eq!((counts.written, counts.dropped_spam), (26, 175));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_api_server_is_tried_again_a_little_and_then_the_event_is_given_up() {
        let (client, calls) = client(|_| Some(503));
        let counts = flushed(client, &NodeConfig::new("n"), |recorder| {
            recorder.pod(&pod("u1"), failed("x"));
        })
        .await;
        assert_eq!(calls.lock().unwrap().len(), ATTEMPTS as usize);
        assert_eq!(counts, EventCounts { failed: 1, ..EventCounts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_event_is_not_tried_again() {
        let (client, calls) = client(|_| Some(403));
        let counts = flushed(client, &NodeConfig::new("n"), |recorder| {
            recorder.pod(&pod("u1"), failed("x"));
        })
        .await;
        assert_eq!(calls.lock().unwrap().len(), 1);
        assert_eq!(counts.failed, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_event_is_made_anew() {
        let (client, calls) = client(|call| Some(if call == 1 { 404 } else { 201 }));
        let (recorder, flusher) =
            Recorder::new(client, &NodeConfig::new("n"), Clock::virtual_from(Timestamp::UNIX_EPOCH));
        let running = tokio::spawn(flusher.run(CancellationToken::new()));
        recorder.pod(&pod("u1"), failed("x"));
        sleep(Duration::from_hours(2)).await;
        recorder.pod(&pod("u1"), failed("x"));
        drop(recorder);
        running.await.unwrap();
        let calls = calls.lock().unwrap();
        let methods: Vec<_> = calls.iter().map(|(method, ..)| method.as_str()).collect();
        assert_eq!(methods, ["POST", "PATCH", "POST"]);
        assert_eq!(calls[2].2["count"], 1);
        assert_eq!(calls[2].2["firstTimestamp"], "1970-01-01T02:00:00Z");
        assert_ne!(calls[2].2["metadata"]["name"], calls[0].2["metadata"]["name"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_name_is_replaced_and_a_lost_answer_is_not_a_second_event() {
        let (client, calls) = client(|call| Some([409, 500, 409][call.min(2)]));
        let counts = flushed(client, &NodeConfig::new("n"), |recorder| {
            recorder.pod(&pod("u1"), failed("x"));
        })
        .await;
        let calls = calls.lock().unwrap();
        let names: Vec<_> = calls.iter().map(|call| call.2["metadata"]["name"].clone()).collect();
        assert_eq!(names.len(), 3);
        assert_ne!(names[0], names[1]);
        assert_eq!(names[1], names[2]);
        assert_eq!(counts.written, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_api_server_delays_shutdown_by_three_seconds_and_no_recorder() {
        let (client, _) = client(|_| None);
        let (recorder, flusher) =
            Recorder::new(client, &NodeConfig::new("n"), Clock::virtual_from(Timestamp::UNIX_EPOCH));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(flusher.run(shutdown.clone()));
        for n in 0..20_000 {
            recorder.pod(&pod(&n.to_string()), failed("x"));
        }
        sleep(Duration::from_secs(1)).await;
        assert!(recorder.counts().dropped_full > 0);
        shutdown.cancel();
        let asked = Instant::now();
        running.await.unwrap();
        assert!(asked.elapsed() <= Duration::from_millis(3001), "{:?}", asked.elapsed());
    }
}
