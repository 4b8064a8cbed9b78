//! When something is due for which pod: one ordered set instead of a timer for each pod.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;
use vk_core::provider::PodUid;

/// The key of a pod's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm {
    at: Instant,
    /// Keeps the order of entries for one moment the order in which they were made.
    sequence: u64,
}

/// The alarms that are set, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    set: BTreeMap<Alarm, (PodUid, Timestamp)>,
    sequence: u64,
}

impl Alarms {
    /// Sets an alarm for what is due at `due` by the wall clock, which is `at` by the timers.
    pub(crate) fn set(&mut self, at: Instant, pod: PodUid, due: Timestamp) -> Alarm {
        self.sequence += 1;
        let alarm = Alarm { at, sequence: self.sequence };
        self.set.insert(alarm, (pod, due));
        alarm
    }

    /// Takes an alarm back.
    pub(crate) fn cancel(&mut self, alarm: Alarm) {
        self.set.remove(&alarm);
    }

    /// When the next alarm goes off.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.set.keys().next().map(|alarm| alarm.at)
    }

    /// Takes the next alarm out if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(PodUid, Timestamp)> {
        let entry = self.set.first_entry()?;
        (entry.key().at <= now).then(|| entry.remove())
    }
}
