//! Who is connected, and who has to go when there are too many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// How many callers that have not been let in are borne at once, whatever the port bears of others: what they cost
/// is an attacker's to choose.
const STRANGERS: usize = 1024;

/// The connections of a port.
#[derive(Clone, Debug)]
pub(super) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Connections whose caller has not been let in, oldest first, with what ends them.
    strangers: BTreeMap<u64, CancellationToken>,
    /// How many have been.
    admitted: usize,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    number: u64,
    evicted: CancellationToken,
}

impl Crowd {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit: limit.max(1), state: Mutex::default() }))
    }

    /// A place for a new connection, and whether somebody lost one: the oldest stranger, or, if there is none,
    /// whoever came.
    pub(super) fn enter(&self) -> (Option<Place>, bool) {
        let mut state = self.lock();
        let strangers = state.strangers.len();
        let crowded = strangers + state.admitted >= self.0.limit || strangers >= STRANGERS;
        if crowded {
            let Some((_, oldest)) = state.strangers.pop_first() else { return (None, true) };
            oldest.cancel();
        }
        state.next += 1;
        let (number, evicted) = (state.next, CancellationToken::new());
        state.strangers.insert(number, evicted.clone());
        drop(state);
        (Some(Place { crowd: self.clone(), number, evicted }), crowded)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Cancelled when it has to go.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// Its caller was let in. Once is enough.
    pub(super) fn admit(&self) {
        let mut state = self.crowd.lock();
        if state.strangers.remove(&self.number).is_some() {
            state.admitted += 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.crowd.lock();
        if state.strangers.remove(&self.number).is_none() && !self.evicted.is_cancelled() {
            state.admitted -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(crowd: &Crowd) -> (usize, usize) {
        let state = crowd.lock();
        (state.strangers.len(), state.admitted)
    }

    #[test]
    fn strangers_have_a_bound_of_their_own() {
        let crowd = Crowd::new(STRANGERS * 4);
        let mut places: Vec<Place> = (0..STRANGERS).map(|_| crowd.enter().0.unwrap()).collect();
        let (newest, crowded) = crowd.enter();
        assert!(crowded && places[0].evicted().is_cancelled());
        places.extend(newest);
        places.iter().skip(1).for_each(Place::admit);
        assert!(!crowd.enter().1, "those that were let in leave room");
    }

    #[test]
    fn the_oldest_stranger_makes_way_and_those_that_were_let_in_never_do() {
        let crowd = Crowd::new(3);
        let enter = || crowd.enter().0;
        let (known, old, young) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
        known.admit();
        let (newest, crowded) = crowd.enter();
        assert!(crowded && newest.is_some());
        assert!(
            old.evicted().is_cancelled()
                && !young.evicted().is_cancelled()
                && !known.evicted().is_cancelled()
        );
        // It was being let in just then: too late.
        old.admit();
        assert_eq!(size(&crowd), (2, 1));
        young.admit();
        newest.as_ref().unwrap().admit();
        let (nobody, crowded) = crowd.enter();
        assert!(crowded && nobody.is_none());
        drop((known, old, young, newest));
        assert_eq!(size(&crowd), (0, 0));
    }
}
