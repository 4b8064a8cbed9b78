//! The pretended cloud: it has the pods, runs them by the clock, and outlives those who connect to it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vk_core::clock::Clock;
use vk_core::provider::{
    Error, Faults, Health, ObservedPod, PodEvent, PodRef, PodUid, ResolvedPod, Result, Verb,
};

use crate::addresses::Addresses;
use crate::alarms::Alarms;
use crate::config::{ConfigError, MockConfig};
use crate::journal::Journal;
use crate::ledger::{Act, Ledger};
use crate::pod::Pod;
use crate::script::Scripts;
use crate::streams::FileStore;
use crate::time::between;
use crate::watch::Signal;

mod control;

/// Further ahead than anything is waited for.
const FAR: Duration = Duration::from_hours(24 * 365);

/// How many due pods are attended to before other tasks get a turn.
const BATCH: usize = 256;
/// For how many pods failed attempts are remembered; beyond it the count of some pod begins anew.
const ATTEMPTS_REMEMBERED: usize = 65_536;

/// A pretended cloud with the pods of one node. Clones share it.
///
/// It is apart from [`MockProvider`](crate::MockProvider), the connection to it, so that a test can drop
/// provider and node and connect a new node to the same pods. It has controls for tests:
/// [`vanish`](Self::vanish), [`exit`](Self::exit), [`faults`](Self::faults), … and a [`ledger`](Self::ledger).
#[derive(Clone, Debug)]
pub struct MockBackend(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: MockConfig,
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    state: Mutex<State>,
    events: broadcast::Sender<Signal>,
    /// Tells the driver that an earlier alarm has been set.
    rearm: Arc<Notify>,
    driver: Mutex<Option<JoinHandle<()>>>,
    pub(crate) files: FileStore,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let driver = self.driver.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = driver.take() {
            driver.abort();
        }
    }
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) pods: HashMap<PodUid, Pod>,
    alarms: Alarms,
    addresses: Addresses,
    /// Addresses given out before the pod was created.
    reserved: HashMap<PodUid, IpAddr>,
    attempts: HashMap<PodUid, Attempts>,
    scripts: Scripts,
    node_address: Option<IpAddr>,
    journal: Option<Journal>,
    pub(crate) ledger: Ledger,
    health: Health,
    /// Processor time of containers that run no more.
    pub(crate) retired_cpu_nanos: u64,
    pub(crate) since: Timestamp,
    /// Go with their pods.
    files: FileStore,
}

/// Scripted failures used up so far.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    create: u32,
    delete: u32,
}

impl MockBackend {
    /// An empty backend, or the one kept in the [state file](MockConfig::state_file).
    ///
    /// Timestamps come from `clock`; in tests with paused time that is [`Clock::virtual_from`].
    ///
    /// # Errors
    /// A setting that makes no sense, or a state file that cannot be used.
    pub fn new(config: MockConfig, clock: Clock) -> Result<Self, ConfigError> {
        config.validate()?;
        let scripts = Scripts::new(config.defaults.pairs().clone())
            .map_err(|(key, reason)| ConfigError::new(format!("defaults.{key}"), reason))?;
        let faults = Faults::seeded(config.seed);
        let rates = &config.failures;
        for (verb, rate) in [
            (Verb::NodeInfo, rates.node_info),
            (Verb::Create, rates.create),
            (Verb::Delete, rates.delete),
            (Verb::List, rates.list),
        ] {
            faults.fail_rate(verb, rate);
        }
        let files = FileStore::default();
        let mut state = State {
            pods: HashMap::new(),
            alarms: Alarms::default(),
            addresses: Addresses::new(config.pod_cidr, config.first_address),
            reserved: HashMap::new(),
            attempts: HashMap::new(),
            scripts,
            node_address: config.node_address,
            journal: None,
            ledger: Ledger::new(config.ledger_size),
            health: Health::Healthy,
            retired_cpu_nanos: 0,
            since: clock.now(),
            files: files.clone(),
        };
        if let Some(path) = &config.state_file {
            let fault =
                |reason: String| ConfigError::new("stateFile", format!("{}: {reason}", path.display()));
            let (mut journal, pods) = Journal::open(path).map_err(fault)?;
            state.restore(pods, clock.now()).map_err(|error| fault(error.chain()))?;
            journal.rewrite(state.pods.values()).map_err(|error| fault(error.to_string()))?;
            state.journal = Some(journal);
        }
        let (events, _) = broadcast::channel(config.watch_buffer);
        let shared = Shared {
            config,
            clock,
            faults,
            state: Mutex::new(state),
            events,
            rearm: Arc::default(),
            driver: Mutex::default(),
            files,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// The switches that make calls fail, hang or lose their answers.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Waits as configured, then makes the call or lets it fail.
    pub(crate) async fn call<T>(&self, verb: Verb, effect: impl FnOnce() -> Result<T>) -> Result<T> {
        let latency = &self.0.config.latency;
        let latency = match verb {
            Verb::NodeInfo => latency.node_info,
            Verb::Create => latency.create,
            Verb::Delete => latency.delete,
            Verb::List => latency.list,
        };
        if !latency.0.is_zero() {
            tokio::time::sleep(latency.0).await;
        }
        self.0.faults.apply(verb, async { effect() }).await
    }

    pub(crate) fn create(&self, pod: &ResolvedPod) -> Result<()> {
        self.0.ensure_driver();
        let now = self.0.clock.now();
        self.0.with(|state, out| state.create(pod, now, out))
    }

    pub(crate) fn update(&self, pod: &ResolvedPod) -> Result<()> {
        self.0.ensure_driver();
        let now = self.0.clock.now();
        self.0.with(|state, out| state.update(pod, now, out))
    }

    pub(crate) fn delete(&self, pod: &PodRef, grace: Duration) -> Result<()> {
        self.0.ensure_driver();
        let now = self.0.clock.now();
        self.0.with(|state, out| state.delete(pod, grace, now, out))
    }

    /// The address that a pod has, or will have.
    pub(crate) fn reserve(&self, pod: &PodRef) -> Result<Vec<IpAddr>> {
        self.0.with(|state, _| {
            if let Some(pod) = state.pods.get(&pod.uid) {
                return Ok(pod.ip.into_iter().collect());
            }
            if let Some(address) = state.reserved.get(&pod.uid) {
                return Ok(vec![*address]);
            }
            let address = state.addresses.take().ok_or_else(no_address)?;
            state.reserved.insert(pod.uid.clone(), address);
            Ok(vec![address])
        })
    }

    pub(crate) fn list(&self) -> Vec<ObservedPod> {
        self.0.ensure_driver();
        self.0.state().pods.values().map(Pod::observe).collect()
    }

    /// The listing and everything that comes after it.
    pub(crate) fn subscribe(&self) -> (Vec<ObservedPod>, broadcast::Receiver<Signal>) {
        self.0.ensure_driver();
        // Events are sent under the same lock, so that nothing falls between the two.
        let state = self.0.state();
        let events = self.0.events.subscribe();
        (state.pods.values().map(Pod::observe).collect(), events)
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, tells the watchers about it in the order of the changes, and sets the alarms.
    fn with<T>(&self, change: impl FnOnce(&mut State, &mut Changes) -> T) -> T {
        let mut state = self.state();
        let before = state.alarms.earliest();
        let mut changes = Changes::default();
        let result = change(&mut state, &mut changes);
        let (instant, now) = (Instant::now(), self.clock.now());
        for uid in changes.touched {
            state.set_alarm(&uid, instant, now);
        }
        for event in changes.events {
            // Without a watcher there is nobody to tell.
            let _ = self.events.send(Signal::Event(Arc::new(event)));
        }
        let earliest = state.alarms.earliest();
        drop(state);
        if earliest.is_some() && earliest != before {
            self.rearm.notify_one();
        }
        result
    }

    /// Ends all watch streams' present lives: each yields an error, then a fresh listing.
    fn cut_watches(&self) {
        let _state = self.state();
        let _ = self.events.send(Signal::Cut);
    }

    /// Whether pods can be started, and what is wrong if not.
    pub(crate) fn health(&self) -> Health {
        let state = self.state();
        match state.journal.as_ref().and_then(Journal::failure) {
            Some(failure) => Health::Unhealthy {
                reason: "StateFileNotWritable".to_owned(),
                message: format!("the mock provider's state file cannot be written: {failure}"),
            },
            None => state.health.clone(),
        }
    }

    /// Starts the task that runs the pods, unless it runs. It lives in the runtime of whoever came first;
    /// when that runtime is gone, the next caller's takes over.
    fn ensure_driver(self: &Arc<Self>) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if driver.as_ref().is_none_or(JoinHandle::is_finished) {
            self.with(|state, out| out.touched.extend(state.pods.keys().cloned()));
            *driver = Some(tokio::spawn(drive(Arc::downgrade(self), Arc::clone(&self.rearm))));
        }
    }

    /// Attends to some of the pods for which something is due. Returns when to come back.
    fn run_due(&self) -> Next {
        let instant = Instant::now();
        let now = self.clock.now();
        let more = self.with(|state, out| {
            for _ in 0..BATCH {
                let Some((uid, due)) = state.alarms.pop_due(instant) else { return false };
                // Where the wall clock does not follow the timers, the timers win.
                state.advance(&uid, now.max(due), out);
            }
            true
        });
        if more {
            return Next::Again;
        }
        self.state().alarms.earliest().map_or(Next::Idle, Next::At)
    }
}

/// When the driver has something to do next.
enum Next {
    Again,
    At(Instant),
    Idle,
}

async fn drive(shared: Weak<Shared>, rearm: Arc<Notify>) {
    loop {
        let Some(next) = shared.upgrade().map(|shared| shared.run_due()) else { return };
        match next {
            Next::Again => tokio::task::yield_now().await,
            Next::Idle => rearm.notified().await,
            Next::At(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = rearm.notified() => {}
                }
            }
        }
    }
}

/// What a change of the state brings with it.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    touched: Vec<PodUid>,
    events: Vec<PodEvent>,
}

impl State {
    fn create(&mut self, pod: &ResolvedPod, now: Timestamp, out: &mut Changes) -> Result<()> {
        let uid = &pod.pod.uid;
        if self.pods.contains_key(uid) {
            self.ledger.note(now, uid, Act::CreatedAgain);
            return Ok(());
        }
        let record = self.new_pod(pod, now);
        let mut record = match record {
            Ok(record) => record,
            Err(error) => {
                self.ledger.note(now, uid, Act::CreateFailed);
                return Err(error);
            }
        };
        self.ledger.note(now, uid, Act::Created);
        self.attempts.remove(uid);
        record.advance(now);
        self.pods.insert(uid.clone(), record);
        self.settle(uid, now, true, out);
        Ok(())
    }

    fn new_pod(&mut self, pod: &ResolvedPod, now: Timestamp) -> Result<Pod> {
        let mut record = Pod::new(pod, &self.scripts, now)?;
        if let Some(field) = &record.script.reject_create {
            return Err(Error::rejected(field, "the mock provider was told to refuse it"));
        }
        if let Some(failure) = record.script.fail_create {
            let attempts = self.attempts_of(&pod.pod.uid);
            let attempt = attempts.create;
            attempts.create = attempt.saturating_add(1);
            if let Some(error) = failure.error(attempt, "create the pod") {
                return Err(error);
            }
        }
        let on_host = pod.object.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        if on_host {
            record.ip = self.node_address;
            return Ok(record);
        }
        let reserved = self.reserved.remove(&pod.pod.uid);
        let address = match record.script.pod_ip {
            Some(scripted) => {
                if let Some(reserved) = reserved {
                    self.addresses.free(reserved);
                }
                self.addresses.claim(scripted).then_some(scripted)
            }
            None => reserved.or_else(|| self.addresses.take()),
        };
        record.ip = Some(address.ok_or_else(no_address)?);
        record.pooled = true;
        Ok(record)
    }

    fn update(&mut self, pod: &ResolvedPod, now: Timestamp, out: &mut Changes) -> Result<()> {
        let uid = &pod.pod.uid;
        let record = self.pods.get_mut(uid).ok_or_else(|| Error::not_found(format!("pod {}", pod.pod)))?;
        let before = record.glimpse();
        let updated = record.update(pod, now);
        let visible = record.glimpse() != before;
        self.settle(uid, now, visible, out);
        updated
    }

    fn attempts_of(&mut self, uid: &PodUid) -> &mut Attempts {
        if self.attempts.len() >= ATTEMPTS_REMEMBERED && !self.attempts.contains_key(uid) {
            let some = self.attempts.keys().next().cloned();
            some.map(|uid| self.attempts.remove(&uid));
        }
        self.attempts.entry(uid.clone()).or_default()
    }

    fn delete(&mut self, pod: &PodRef, grace: Duration, now: Timestamp, out: &mut Changes) -> Result<()> {
        let known = self.pods.contains_key(&pod.uid);
        self.ledger.note(now, &pod.uid, Act::Deleted { grace, known });
        if let Some(failure) = self.pods.get(&pod.uid).and_then(|pod| pod.script.fail_delete) {
            let attempts = self.attempts_of(&pod.uid);
            let attempt = attempts.delete;
            attempts.delete = attempt.saturating_add(1);
            if let Some(error) = failure.error(attempt, "delete the pod") {
                return Err(error);
            }
        }
        self.attempts.remove(&pod.uid);
        if let Some(address) = self.reserved.remove(&pod.uid) {
            self.addresses.free(address);
        }
        if let Some(record) = self.pods.get_mut(&pod.uid) {
            let before = record.glimpse();
            record.delete(now, grace);
            let visible = record.glimpse() != before;
            self.settle(&pod.uid, now, visible, out);
        }
        Ok(())
    }

    /// Does what is due for a pod.
    fn advance(&mut self, uid: &PodUid, now: Timestamp, out: &mut Changes) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.alarm = None;
        let changed = pod.advance(now);
        self.settle(uid, now, changed, out);
    }

    /// Draws the consequences of a change: watchers, journal, ledger, alarm; and removes what is over.
    fn settle(&mut self, uid: &PodUid, now: Timestamp, visible: bool, out: &mut Changes) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if pod.has_disappeared(now) {
            self.vanish(uid, now);
            return;
        }
        if visible {
            pod.wake_followers();
        }
        if pod.is_gone() {
            if std::mem::take(&mut pod.pooled) {
                pod.ip.into_iter().for_each(|address| self.addresses.free(address));
            }
            if !std::mem::replace(&mut pod.counted_out, true) {
                self.ledger.note(now, uid, Act::Stopped);
            }
        }
        if pod.is_gone() && pod.deleting {
            let last = (!pod.untold).then(|| pod.runtime());
            let event = PodEvent::Gone { pod: pod.id.clone(), last };
            out.events.push(event);
            self.forget(uid, now);
            return;
        }
        if visible {
            out.events.push(PodEvent::Changed(pod.observe()));
        }
        out.touched.push(uid.clone());
        if let Some(journal) = &mut self.journal {
            journal.put(pod);
        }
        self.compact();
    }

    /// Loses a pod without telling anybody.
    fn vanish(&mut self, uid: &PodUid, now: Timestamp) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        if pod.pooled {
            pod.ip.into_iter().for_each(|address| self.addresses.free(address));
        }
        if !pod.counted_out {
            self.ledger.note(now, uid, Act::Vanished);
        }
        self.forget(uid, now);
        true
    }

    fn forget(&mut self, uid: &PodUid, now: Timestamp) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.files.forget(uid);
        pod.wake_followers();
        self.retired_cpu_nanos =
            self.retired_cpu_nanos.saturating_add(crate::usage::lifetime_nanos(&pod, now));
        if let Some(alarm) = pod.alarm {
            self.alarms.cancel(alarm);
        }
        if let Some(journal) = &mut self.journal {
            journal.gone(uid);
        }
        self.compact();
    }

    fn compact(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.compact_if_long(self.pods.len(), || self.pods.values());
        }
    }

    /// Sets the alarm for the next thing that is due for a pod.
    fn set_alarm(&mut self, uid: &PodUid, instant: Instant, now: Timestamp) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if let Some(alarm) = pod.alarm.take() {
            self.alarms.cancel(alarm);
        }
        pod.alarm = pod.next_due().map(|due| {
            let at = instant.checked_add(between(now, due)).unwrap_or(instant + FAR);
            self.alarms.set(at, uid.clone(), due)
        });
    }

    /// Takes over the pods of an earlier process, and what has become of them meanwhile.
    fn restore(&mut self, pods: Vec<Pod>, now: Timestamp) -> Result<()> {
        for mut pod in pods {
            pod.restore_script(&self.scripts)?;
            pod.advance(now);
            if pod.has_disappeared(now) || (pod.deleting && pod.is_gone()) {
                continue;
            }
            if let (Some(address), true) = (pod.ip, pod.pooled) {
                if pod.is_gone() {
                    pod.pooled = false;
                } else {
                    self.addresses.claim(address);
                }
            }
            self.pods.insert(pod.id.uid.clone(), pod);
        }
        Ok(())
    }
}

fn no_address() -> Error {
    Error::Exhausted { resource: "pod addresses".to_owned(), source: None }
}
