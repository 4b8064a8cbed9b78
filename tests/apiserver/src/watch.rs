//! A watch as the client reads it: one JSON line per event, bookmarks between, an error at the end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use crate::ApiServer;
use crate::error::ApiError;
use crate::form::Form;
use crate::resources::Resource;
use crate::store::{Change, Event, Object, Scope, Subscription};

/// How the client wants its events.
#[derive(Debug)]
pub(crate) struct WatchOptions {
    pub(crate) server: ApiServer,
    pub(crate) resource: &'static Resource,
    pub(crate) scope: Scope,
    pub(crate) bookmarks: bool,
    /// Sends the initial objects, then a bookmark that says so.
    pub(crate) mark_initial: bool,
    pub(crate) timeout: Duration,
    pub(crate) form: Form,
}

struct Lines {
    subscription: Subscription,
    options: WatchOptions,
    deadline: Instant,
    bookmarks: Interval,
    /// Revision of the newest event this watcher has been told of, or could have been.
    seen: u64,
    initial_mark_due: bool,
    /// A table was sent, and with it the columns.
    has_columns: bool,
    ended: bool,
}

/// Time between bookmarks; the real server sends them about once a minute.
const BOOKMARK_PERIOD: Duration = Duration::from_mins(1);

/// Turns a subscription into the response's body.
pub(crate) fn stream(
    subscription: Subscription,
    options: WatchOptions,
) -> impl Stream<Item = Result<Bytes, axum::BoxError>> + Send + 'static {
    let now = Instant::now();
    let mut bookmarks = interval_at(now + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Lines {
        deadline: now + options.timeout,
        bookmarks,
        seen: subscription.revision,
        initial_mark_due: options.mark_initial,
        has_columns: false,
        ended: false,
        subscription,
        options,
    };
    futures::stream::unfold(state, |mut state| async move {
        let line = state.next().await?;
        Some((Ok(line), state))
    })
}

/// A watch that says one error and ends, as the real server tells an expired revision.
pub(crate) fn error_line(error: &ApiError) -> Bytes {
    let mut line = json!({"type": "ERROR", "object": error.status()}).to_string();
    line.push('\n');
    line.into()
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut stalled = self.subscription.control.stalled.clone();
        // Cancel-safe: the stream is polled to its next line or dropped whole.
        while *stalled.borrow_and_update() {
            tokio::select! {
                changed = stalled.changed() => changed.ok()?,
                () = self.subscription.control.cut.cancelled() => return None,
                () = sleep_until(self.deadline) => return None,
            }
        }
        while let Some(event) = self.subscription.backlog.pop_front() {
            if let Some(line) = self.line(&event) {
                return Some(line);
            }
        }
        if std::mem::take(&mut self.initial_mark_due) {
            return Some(self.bookmark(true));
        }
        loop {
            // Cancel-safe: a received event is turned into a line at once; timers keep their deadlines.
            tokio::select! {
                biased;
                () = self.subscription.control.cut.cancelled() => return None,
                changed = stalled.changed() => {
                    changed.ok()?;
                    return Box::pin(self.next()).await;
                }
                event = self.subscription.queue.recv() => {
                    let event = event?;
                    self.seen = self.seen.max(event.revision);
                    if let Some(line) = self.line(&event) {
                        return Some(line);
                    }
                }
                _ = self.bookmarks.tick(), if self.options.bookmarks => return Some(self.bookmark(false)),
                () = sleep_until(self.deadline) => {
                    self.ended = true;
                    return self.options.bookmarks.then(|| self.bookmark(false));
                }
            }
        }
    }

    /// An object as the client wants it; of tables only the first says what its columns are.
    fn encode(&mut self, kind: &str, object: &Arc<Object>) -> Bytes {
        let options = &self.options;
        let body = options.form.one(options.resource, object, options.server.clock().now());
        if !matches!(options.form, Form::Table(_)) || !std::mem::replace(&mut self.has_columns, true) {
            return frame(kind, &body);
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(mut table) => {
                table["columnDefinitions"] = Value::Null;
                frame(kind, table.to_string().as_bytes())
            }
            Err(_) => frame(kind, &body),
        }
    }

    /// What this watcher is told of an event: an object that starts or stops matching is added or deleted.
    fn line(&mut self, event: &Event) -> Option<Bytes> {
        let scope = &self.options.scope;
        let before = event.before.as_deref().is_some_and(|o| scope.matches(o));
        let matches = scope.matches(&event.object);
        let (kind, object) = match event.change {
            Change::Deleted if before => ("DELETED", event.object.clone()),
            Change::Added | Change::Modified if matches && !before => ("ADDED", event.object.clone()),
            Change::Modified if matches => ("MODIFIED", event.object.clone()),
            Change::Modified if before => ("DELETED", last_match(event)),
            _ => return None,
        };
        Some(self.encode(kind, &object))
    }

    fn bookmark(&mut self, initial_events_end: bool) -> Bytes {
        if let (Some(revision), false) = (self.subscription.caught_up_to(), initial_events_end) {
            self.seen = self.seen.max(revision);
        }
        let resource = self.options.resource;
        let mut metadata = json!({"resourceVersion": self.seen.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
        frame("BOOKMARK", object.to_string().as_bytes())
    }
}

/// The last version that matched, under the revision at which it stopped.
fn last_match(event: &Event) -> Arc<Object> {
    let before = event.before.as_ref().unwrap_or(&event.object);
    let mut last = Value::clone(before);
    last["metadata"]["resourceVersion"] = event.revision.to_string().into();
    Arc::new(Object::new(last))
}

fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(kind.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}
