//! Service-account tokens: asked for, kept, and asked for again before they end.
//!
//! Source: `pkg/kubelet/token/token_manager.go`; KEP-1205. A token is bound to its pod: the API server takes it
//! for invalid once the pod is gone, so nothing has to be revoked here beyond forgetting it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// The longest that a token is used, whatever its life.
const LONGEST_USE: Duration = Duration::from_hours(24);
/// The most by which a refresh comes early, so that pods made together do not ask together.
const JITTER: Duration = Duration::from_secs(10);

/// A token that a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenAsk {
    /// The ServiceAccount, in the pod's namespace.
    pub account: String,
    /// Whom the token is for; empty is the API server.
    pub audience: String,
    /// The life asked for.
    pub seconds: i64,
}

/// A token as the API server gave it.
///
/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub text: Bytes,
    /// The life given to it, which may differ from the one asked for.
    pub life: Duration,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("life", &self.life).finish_non_exhaustive()
    }
}

/// The tokens of one pod. Bounded by the projections of its volumes.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    held: HashMap<TokenAsk, Held>,
}

#[derive(Debug)]
struct Held {
    token: Arc<Token>,
    /// When the next one is asked for.
    due: Instant,
    ends: Instant,
}

impl Tokens {
    /// The token, unless it is time for another.
    pub(super) fn fresh(&self, ask: &TokenAsk, now: Instant) -> Option<Arc<Token>> {
        self.held.get(ask).filter(|held| now < held.due).map(|held| Arc::clone(&held.token))
    }

    /// The token, as long as it is valid, for when another is not to be had.
    pub(super) fn valid(&self, ask: &TokenAsk, now: Instant) -> Option<Arc<Token>> {
        self.held.get(ask).filter(|held| now < held.ends).map(|held| Arc::clone(&held.token))
    }

    pub(super) fn keep(&mut self, ask: TokenAsk, token: Arc<Token>, now: Instant) {
        let jitter = JITTER.min(token.life / 20).mul_f64(fastrand::f64());
        let due = now + (token.life * 4 / 5).min(LONGEST_USE) - jitter;
        let ends = now + token.life;
        self.held.insert(ask, Held { token, due, ends });
    }

    /// Keeps only the tokens that the pod still has a use for.
    pub(super) fn retain(&mut self, used: impl Fn(&TokenAsk) -> bool) {
        self.held.retain(|ask, _| used(ask));
    }

    /// When the first of them is to be replaced.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.values().map(|held| held.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> TokenAsk {
        TokenAsk { account: "default".into(), audience: String::new(), seconds: 3600 }
    }

    fn token(seconds: u64) -> Arc<Token> {
        Arc::new(Token { text: "hunter2".into(), life: Duration::from_secs(seconds) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_at_four_fifths_of_its_life_or_up_to_ten_seconds_before() {
        let begin = Instant::now();
        for _ in 0..100 {
            let mut tokens = Tokens::default();
            tokens.keep(ask(), token(3600), begin);
            let due = tokens.due().unwrap() - begin;
            assert!((Duration::from_secs(2870)..=Duration::from_mins(48)).contains(&due), "{due:?}");
            let (early, late) = (begin + Duration::from_secs(2869), begin + Duration::from_mins(48));
            assert!(tokens.fresh(&ask(), early).is_some());
            assert!(tokens.fresh(&ask(), late).is_none());
            assert!(tokens.valid(&ask(), late).is_some());
            assert!(tokens.valid(&ask(), begin + Duration::from_hours(1)).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_token_is_used_for_more_than_a_day() {
        let mut tokens = Tokens::default();
        tokens.keep(ask(), token(365 * 86_400), Instant::now());
        assert!(tokens.due().unwrap() <= Instant::now() + LONGEST_USE);
    }

    #[test]
    fn debug_output_of_a_token_does_not_show_it() {
        assert!(!format!("{:?}", token(600)).contains("hunter2"));
    }
}
