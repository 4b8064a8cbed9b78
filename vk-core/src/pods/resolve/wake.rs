//! Waking pods when what they lack appears: one watch per missing object, for as long as a pod waits.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::object::ObjectRef;
use super::reader::{ObjectReader, Sighting};
use crate::provider::PodUid;

/// How many objects are watched at once. Each watch is a connection; the others are looked at now and then until
/// a watch ends.
const MAX_WATCHES: usize = 128;
/// How often objects are looked at that have no watch, with a third of jitter.
const LOOK_INTERVAL: Duration = Duration::from_secs(90);
/// How long a listing of one object may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// The first and the longest pause after a watch that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A watch that held this long did not fail.
const GOOD_WATCH: Duration = Duration::from_secs(10);

/// Called with the pod to be worked on again. Must not block.
pub(super) type Wake = Arc<dyn Fn(&PodUid) + Send + Sync>;

/// Pods that wait, and the watches kept for them.
#[derive(Debug)]
pub(super) struct Wakes<R> {
    inner: Arc<Inner<R>>,
}

#[derive(Debug)]
struct Inner<R> {
    reader: Arc<R>,
    table: Mutex<Table>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Table {
    watches: HashMap<ObjectRef, Watch>,
    pods: HashMap<PodUid, Interest>,
}

/// What one pod waits for: objects, each beyond the version that was not enough, if there was one.
struct Interest {
    wake: Wake,
    objects: HashMap<ObjectRef, Sighting>,
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interest").field(&self.objects).finish()
    }
}

#[derive(Debug)]
struct Watch {
    waiting: HashSet<PodUid>,
    /// The last thing heard, while the watch is up.
    seen: Option<Sighting>,
    /// Asks the task to look again.
    look_again: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether what is there is more than what was not enough.
fn is_news(seen: &Sighting, beyond: &Sighting) -> bool {
    match (seen, beyond) {
        (None, _) => false,
        (Some(_), None) => true,
        // Versions of one resource are ordered (KEP-5504); where they are not numbers, any other is news.
        (Some(seen), Some(beyond)) => match (seen.parse::<u128>(), beyond.parse::<u128>()) {
            (Ok(seen), Ok(beyond)) => seen > beyond,
            _ => seen != beyond,
        },
    }
}

impl<R: ObjectReader> Wakes<R> {
    pub(super) fn new(reader: Arc<R>) -> Self {
        let (table, places) = (Mutex::default(), Arc::new(Semaphore::new(MAX_WATCHES)));
        Self { inner: Arc::new(Inner { reader, table, places }) }
    }

    /// Wakes the pod once, as soon as one of the objects is there in a version beyond the given one.
    /// Replaces what the pod waited for before.
    pub(super) fn wait(&self, uid: &PodUid, objects: HashMap<ObjectRef, Sighting>, wake: Wake) {
        let mut table = self.inner.table();
        let mut news = false;
        for (object, beyond) in &objects {
            let watch = table.watches.entry(object.clone()).or_insert_with(|| self.inner.start(object));
            watch.waiting.insert(uid.clone());
            match (&watch.seen, beyond) {
                // Either it came after the pod was resolved, or the watch has yet to hear that it went.
                (Some(Some(_)), None) => watch.look_again.notify_one(),
                (Some(seen), beyond) => news |= is_news(seen, beyond),
                (None, _) => {}
            }
        }
        let interest = Interest { wake, objects };
        if let Some(before) = table.pods.insert(uid.clone(), interest) {
            for object in before.objects.into_keys() {
                if !table.pods.get(uid).is_some_and(|now| now.objects.contains_key(&object)) {
                    table.leave(uid, &object);
                }
            }
        }
        let wake = if news { table.forget(uid) } else { None };
        drop(table);
        if let Some(wake) = wake {
            wake(uid);
        }
    }

    /// The pod waits for nothing any more.
    pub(super) fn forget(&self, uid: &PodUid) {
        self.inner.table().forget(uid);
    }

    /// How many objects are watched, or wait for a place.
    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        self.inner.table().watches.len()
    }
}

impl Table {
    fn forget(&mut self, uid: &PodUid) -> Option<Wake> {
        let interest = self.pods.remove(uid)?;
        for object in interest.objects.keys() {
            self.leave(uid, object);
        }
        Some(interest.wake)
    }

    /// One pod less for this object; the last one ends its watch.
    fn leave(&mut self, uid: &PodUid, object: &ObjectRef) {
        let Some(watch) = self.watches.get_mut(object) else { return };
        watch.waiting.remove(uid);
        if watch.waiting.is_empty() {
            self.watches.remove(object);
        }
    }
}

/// Why a watch came to its end.
enum End {
    /// Nobody waits any more.
    Done,
    /// The server ended it, as it does from time to time.
    Closed,
    /// Somebody needs to know the present state.
    LookAgain,
}

impl<R: ObjectReader> Inner<R> {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, object: &ObjectRef) -> Watch {
        let look_again = Arc::new(Notify::new());
        let follower = Follower {
            // Weak: the table ends its tasks when it goes, so no task may keep it.
            inner: Arc::downgrade(self),
            reader: Arc::clone(&self.reader),
            object: object.clone(),
            look_again: Arc::clone(&look_again),
        };
        let task = tokio::spawn(follower.run(Arc::clone(&self.places))).abort_handle();
        Watch { waiting: HashSet::new(), seen: None, look_again, task }
    }

    /// Notes what was seen and wakes whom it concerns. `false` if nobody waits for the object any more.
    fn hear(&self, object: &ObjectRef, seen: Option<Sighting>) -> bool {
        let mut table = self.table();
        let Some(watch) = table.watches.get_mut(object) else { return false };
        watch.seen = seen;
        let mut ready = Vec::new();
        if let Some(watch) = table.watches.get(object)
            && let Some(seen) = &watch.seen
        {
            for uid in &watch.waiting {
                let beyond = table.pods.get(uid).and_then(|interest| interest.objects.get(object));
                if beyond.is_some_and(|beyond| is_news(seen, beyond)) {
                    ready.push(uid.clone());
                }
            }
        }
        let wakes: Vec<_> = ready.into_iter().filter_map(|uid| Some((table.forget(&uid)?, uid))).collect();
        let wanted = table.watches.contains_key(object);
        drop(table);
        for (wake, uid) in wakes {
            wake(&uid);
        }
        wanted
    }
}

/// The task behind one watch.
struct Follower<R> {
    inner: Weak<Inner<R>>,
    reader: Arc<R>,
    object: ObjectRef,
    look_again: Arc<Notify>,
}

impl<R: ObjectReader> Follower<R> {
    /// Keeps watching until nobody waits.
    async fn run(self, places: Arc<Semaphore>) {
        let _place = loop {
            let wait = LOOK_INTERVAL.mul_f64(0.67 + 0.66 * fastrand::f64());
            match tokio::time::timeout(wait, places.acquire()).await {
                Ok(Ok(place)) => break place,
                // Never closed.
                Ok(Err(_)) => return,
                Err(_) => {
                    let look = tokio::time::timeout(LOOK_TIMEOUT, self.reader.look(&self.object)).await;
                    let wanted = match look {
                        // Only a moment's sight: the table must not take it for a watch's.
                        Ok(Ok((seen, _))) => self.hear(Some(seen)) && self.hear(None),
                        Ok(Err(_)) | Err(_) => self.hear(None),
                    };
                    if !wanted {
                        return;
                    }
                }
            }
        };
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let outcome = self.once().await;
            if began.elapsed() >= GOOD_WATCH {
                failures = 0;
            }
            match outcome {
                Ok(End::Done) => return,
                Ok(End::LookAgain) => continue,
                Ok(End::Closed) if failures == 0 && began.elapsed() >= GOOD_WATCH => continue,
                Ok(End::Closed) => {}
                Err(error) => {
                    let object = &self.object;
                    tracing::debug!(%object, %error, "the watch for a missing object failed; it is tried again");
                }
            }
            // What was seen is not kept up to date any more.
            if !self.hear(None) {
                return;
            }
            tokio::time::sleep(pause(failures)).await;
            failures = failures.saturating_add(1);
        }
    }

    async fn once(&self) -> Result<End, kube::Error> {
        let look = self.reader.look(&self.object);
        let look = tokio::time::timeout(LOOK_TIMEOUT, look).await;
        let (seen, version) = look.map_err(|elapsed| kube::Error::Service(Box::new(elapsed)))??;
        if !self.hear(Some(seen)) {
            return Ok(End::Done);
        }
        let mut changes = self.reader.watch(&self.object, &version).await?;
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = self.look_again.notified() => return Ok(End::LookAgain),
            };
            let Some(seen) = change else { return Ok(End::Closed) };
            if !self.hear(Some(seen?)) {
                return Ok(End::Done);
            }
        }
    }

    fn hear(&self, seen: Option<Sighting>) -> bool {
        self.inner.upgrade().is_some_and(|inner| inner.hear(&self.object, seen))
    }
}

/// The pause after so many failures: doubled each time, with a quarter of jitter.
fn pause(failures: u32) -> Duration {
    let (first, longest) = PAUSES;
    let pause = first.saturating_mul(1 << failures.min(16)).min(longest);
    pause.mul_f64(0.75 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::super::fake::{Fake, map, secret};
    use super::*;

    struct Room {
        fake: Fake,
        wakes: Wakes<Fake>,
        wake: Wake,
        woken: UnboundedReceiver<PodUid>,
    }

    fn room() -> Room {
        let fake = Fake::default();
        let (sender, woken) = unbounded_channel();
        let wake: Wake = Arc::new(move |uid: &PodUid| drop(sender.send(uid.clone())));
        Room { wakes: Wakes::new(Arc::new(fake.clone())), fake, wake, woken }
    }

    impl Room {
        fn wait(&self, uid: &str, objects: &[(ObjectRef, Option<&str>)]) {
            let objects = objects.iter().map(|(object, beyond)| (object.clone(), beyond.map(Into::into)));
            self.wakes.wait(&PodUid::new(uid), objects.collect(), Arc::clone(&self.wake));
        }

        async fn woken(&mut self) -> String {
            let next = tokio::time::timeout(Duration::from_mins(10), self.woken.recv()).await;
            next.expect("nobody was woken for ten minutes").unwrap().to_string()
        }

        /// Lets everything that can happen without outside help happen.
        async fn nobody_is_woken_for(&mut self, time: Duration) {
            tokio::time::sleep(time).await;
            assert!(self.woken.try_recv().is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_watch_serves_all_pods_and_ends_with_the_last_of_them() {
        let mut room = room();
        for uid in ["u-1", "u-2", "u-3"] {
            room.wait(uid, &[(map("cm"), None)]);
        }
        room.fake.watches(1).await;
        assert_eq!(room.fake.calls(), ["Look cm", "Watch cm"]);
        room.wakes.forget(&PodUid::new("u-3"));
        room.fake.put(&map("other"), [("k", "v")]);
        room.fake.put(&map("cm"), [("k", "v")]);
        let mut woken = [room.woken().await, room.woken().await];
        woken.sort();
        assert_eq!(woken, ["u-1", "u-2"]);
        room.fake.watches(0).await;
        assert_eq!(room.wakes.watched(), 0);
        room.fake.put(&map("cm"), [("k", "w")]);
        room.nobody_is_woken_for(Duration::from_mins(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_came_before_the_watch_wakes_too() {
        let mut room = room();
        room.fake.put(&map("cm"), [("k", "v")]);
        room.wait("u-1", &[(map("cm"), None)]);
        assert_eq!(room.woken().await, "u-1");
    }

    #[tokio::test(start_paused = true)]
    async fn any_one_of_several_objects_wakes_once() {
        let mut room = room();
        room.wait("u-1", &[(map("a"), None), (secret("b"), None)]);
        room.fake.watches(2).await;
        room.fake.put(&secret("b"), [("k", "v")]);
        assert_eq!(room.woken().await, "u-1");
        room.fake.put(&map("a"), [("k", "v")]);
        room.nobody_is_woken_for(Duration::from_mins(1)).await;
        assert_eq!(room.wakes.watched(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_was_not_enough_wakes_when_it_changes() {
        let mut room = room();
        room.fake.put(&map("cm"), [("k", "v")]);
        room.wait("u-1", &[(map("cm"), Some("1"))]);
        room.fake.watches(1).await;
        room.nobody_is_woken_for(Duration::from_mins(1)).await;
        room.fake.delete(&map("cm"));
        room.nobody_is_woken_for(Duration::from_mins(1)).await;
        room.fake.put(&map("cm"), [("k", "w")]);
        assert_eq!(room.woken().await, "u-1");
    }

    #[tokio::test(start_paused = true)]
    async fn new_interest_replaces_the_old_and_keeps_the_watches_they_share() {
        let mut room = room();
        room.wait("u-1", &[(map("a"), None), (map("b"), None)]);
        room.fake.watches(2).await;
        room.fake.calls();
        room.wait("u-1", &[(map("b"), None), (map("c"), None)]);
        room.fake.watches(2).await;
        room.fake.watches(2).await;
        assert_eq!(room.wakes.watched(), 2);
        room.fake.put(&map("a"), [("k", "v")]);
        room.nobody_is_woken_for(Duration::from_mins(1)).await;
        assert_eq!(room.fake.calls(), ["Look c", "Watch c"]);
        room.fake.put(&map("b"), [("k", "v")]);
        assert_eq!(room.woken().await, "u-1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_joins_a_watch_is_judged_by_what_the_watch_has_seen() {
        let mut room = room();
        room.fake.put(&map("cm"), [("k", "v")]);
        room.wait("u-1", &[(map("cm"), Some("1"))]);
        room.fake.watches(1).await;
        // Absent for the second pod: it looked after the watch saw the object, or before. Asked again.
        room.fake.calls();
        room.wait("u-2", &[(map("cm"), None)]);
        assert_eq!(room.woken().await, "u-2");
        assert_eq!(room.fake.calls()[0], "Look cm");
        // Already beyond what was not enough for the third: known at once.
        room.wait("u-3", &[(map("cm"), Some("0"))]);
        assert_eq!(room.woken.try_recv().unwrap(), PodUid::new("u-3"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_survives_errors_and_what_happens_meanwhile() {
        let mut room = room();
        room.fake.fail(&map("cm"), 503);
        room.wait("u-1", &[(map("cm"), None)]);
        room.nobody_is_woken_for(Duration::from_mins(10)).await;
        let calls = room.fake.calls().len();
        assert!((15..60).contains(&calls), "{calls} calls in ten minutes: backs off, never gives up");
        room.fake.fail(&map("cm"), 0);
        room.fake.watches(1).await;
        for code in [None, Some(410)] {
            room.fake.cut_watches(code);
            room.fake.watches(1).await;
        }
        room.fake.cut_watches(Some(410));
        room.fake.put(&map("cm"), [("k", "v")]);
        assert_eq!(room.woken().await, "u-1");
    }

    #[tokio::test(start_paused = true)]
    async fn watches_have_a_limit_and_what_is_beyond_it_gets_its_turn() {
        let mut room = room();
        for i in 0..=MAX_WATCHES {
            room.wait(&format!("u-{i}"), &[(map(&format!("cm-{i}")), None)]);
        }
        room.fake.watches(MAX_WATCHES).await;
        let last = format!("cm-{MAX_WATCHES}");
        room.fake.put(&map(&last), [("k", "v")]);
        room.nobody_is_woken_for(Duration::from_secs(50)).await;
        room.wakes.forget(&PodUid::new("u-0"));
        assert_eq!(room.woken().await, format!("u-{MAX_WATCHES}"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_watch_outlives_the_resolver() {
        let room = room();
        room.wait("u-1", &[(map("cm"), None)]);
        room.fake.watches(1).await;
        drop(room.wakes);
        room.fake.watches(0).await;
    }

    #[test]
    fn only_a_later_version_is_news() {
        let version = |text: &str| Some(text.to_owned());
        for (seen, beyond, news) in [
            (None, None, false),
            (None, version("7"), false),
            (version("7"), None, true),
            (version("7"), version("7"), false),
            (version("7"), version("10"), false),
            (version("10"), version("7"), true),
            (version("a"), version("7"), true),
            (version("a"), version("a"), false),
        ] {
            assert_eq!(is_news(&seen, &beyond), news, "{seen:?} {beyond:?}");
        }
    }
}
