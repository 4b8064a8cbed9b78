//! What the backend was asked to do and what it did: for tests, which compare it with what the node says.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use std::time::Duration;
use vk_core::provider::PodUid;

/// A record of the backend's past. A snapshot: it does not change after it was taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ledger {
    /// The calls and their effects, oldest first. Bounded by
    /// [`MockConfig::ledger_size`](crate::MockConfig::ledger_size): see [`is_complete`](Self::is_complete).
    pub entries: VecDeque<Entry>,
    /// `create_pod` calls that reached the backend.
    pub creates: u64,
    /// `delete_pod` calls that reached the backend.
    pub deletes: u64,
    /// Pods that were started.
    pub started: u64,
    /// Pods that came to an end, whichever way.
    pub stopped: u64,
    limit: usize,
    dropped: u64,
}

/// One line of the [`Ledger`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// When, by the backend's clock.
    pub at: Timestamp,
    /// Which pod.
    pub uid: PodUid,
    /// What.
    pub act: Act,
}

/// What was asked, or what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act {
    /// `create_pod` was called for a UID that the backend does not have, and accepted.
    Created,
    /// `create_pod` was called for a UID that the backend has: nothing was started.
    CreatedAgain,
    /// `create_pod` was called and refused or failed by script.
    CreateFailed,
    /// `delete_pod` was called.
    Deleted {
        /// The grace period.
        grace: Duration,
        /// Whether the backend had the pod.
        known: bool,
    },
    /// Nothing of the pod runs any more.
    Stopped,
    /// The pod was lost without a trace.
    Vanished,
}

impl Ledger {
    pub(crate) fn new(limit: usize) -> Self {
        let entries = VecDeque::new();
        Self { entries, creates: 0, deletes: 0, started: 0, stopped: 0, limit, dropped: 0 }
    }

    pub(crate) fn note(&mut self, at: Timestamp, uid: &PodUid, act: Act) {
        match act {
            Act::Created => (self.creates, self.started) = (self.creates + 1, self.started + 1),
            Act::CreatedAgain | Act::CreateFailed => self.creates += 1,
            Act::Deleted { .. } => self.deletes += 1,
            Act::Stopped | Act::Vanished => self.stopped += 1,
        }
        if self.entries.len() == self.limit {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(Entry { at, uid: uid.clone(), act });
    }

    /// Whether no entry has been dropped for want of room. What follows from absence in
    /// [`entries`](Self::entries) holds only then.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.dropped == 0
    }

    /// The acts on one pod, in order.
    #[must_use]
    pub fn of(&self, uid: &PodUid) -> Vec<Act> {
        self.entries.iter().filter(|entry| entry.uid == *uid).map(|entry| entry.act).collect()
    }

    /// Pods that were started more than once: always a fault of the node.
    #[must_use]
    pub fn started_twice(&self) -> Vec<PodUid> {
        let mut starts: BTreeMap<&PodUid, u32> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.act == Act::Created) {
            *starts.entry(&entry.uid).or_default() += 1;
        }
        starts.into_iter().filter(|(_, count)| *count > 1).map(|(uid, _)| uid.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_counted_by_kind_and_by_pod_for_as_long_as_there_is_room() {
        let (one, other) = (PodUid::new("1"), PodUid::new("2"));
        let mut ledger = Ledger::new(8);
        let deleted = Act::Deleted { grace: Duration::ZERO, known: true };
        let acts = [Act::Created, Act::CreatedAgain, Act::CreateFailed, deleted, Act::Stopped];
        for act in acts {
            ledger.note(Timestamp::UNIX_EPOCH, &one, act);
        }
        ledger.note(Timestamp::UNIX_EPOCH, &other, Act::Created);
        ledger.note(Timestamp::UNIX_EPOCH, &other, Act::Vanished);
        assert_eq!((ledger.creates, ledger.deletes, ledger.started, ledger.stopped), (4, 1, 2, 2));
        assert_eq!((ledger.of(&one), ledger.of(&other)), (acts.to_vec(), vec![Act::Created, Act::Vanished]));
        assert_eq!(ledger.started_twice(), []);
        ledger.note(Timestamp::UNIX_EPOCH, &other, Act::Created);
        assert_eq!(ledger.started_twice(), std::slice::from_ref(&other));
        assert!(ledger.is_complete());
        ledger.note(Timestamp::UNIX_EPOCH, &other, deleted);
        assert_eq!((ledger.is_complete(), ledger.entries.len(), ledger.deletes), (false, 8, 2));
        ledger.note(Timestamp::UNIX_EPOCH, &other, deleted);
        assert_eq!((ledger.is_complete(), ledger.entries.len()), (false, 8));
    }
}
