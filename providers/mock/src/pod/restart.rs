//! Restart policies and back-off, as a kubelet applies them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use serde::{Deserialize, Serialize};
use vk_core::provider::ContainerKind;

/// The first back-off; each further one is twice as long. Figures of the kubelet
/// (`pkg/kubelet/kubelet.go`: `backOffPeriod`, `MaxCrashLoopBackOff`). A kubelet stretches them by up to a
/// half; here they are exact.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// The longest back-off.
const MAX_BACKOFF: Duration = Duration::from_mins(5);
/// A run this long clears the back-off.
const FORGIVEN_AFTER: Duration = Duration::from_mins(10);
/// For how long `CrashLoopBackOff` shows before the container runs again: a kubelet shows the end of the
/// last run until the back-off is over.
pub(crate) const CRASH_LOOP_SHOWN: Duration = Duration::from_millis(200);

/// Whether a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

impl Policy {
    /// A `restartPolicy` as written; the API server's default is `Always`.
    pub(crate) fn of(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// The policy of one container of a pod with policy `pod`.
    fn of_container(spec: Option<&Container>, kind: ContainerKind, pod: Self) -> Self {
        // A container may have a policy of its own (KEP-5307); a sidecar is an init container with Always.
        let own = spec.and_then(|spec| spec.restart_policy.as_deref()).map(|text| Self::of(Some(text)));
        match (kind, own.unwrap_or(pod)) {
            (ContainerKind::Sidecar, _) => Self::Always,
            // An init container that succeeded is done.
            (ContainerKind::Init, Self::Always) => Self::OnFailure,
            (ContainerKind::Ephemeral, _) => Self::Never,
            (_, policy) => policy,
        }
    }

    fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// When a container is started again after it ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restarts {
    policy: Policy,
    /// Rules that come before the policy (KEP-5307).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules: Option<Box<[Rule]>>,
}

/// Restarts on some exit codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    /// Whether the codes are those that do not count.
    except: bool,
    codes: Box<[i32]>,
}

impl Restarts {
    /// What holds for a container of a pod with policy `pod`.
    ///
    /// # Errors
    /// The path below the container of what this backend cannot do, and why.
    pub(crate) fn of(
        spec: Option<&Container>,
        kind: ContainerKind,
        pod: Policy,
    ) -> Result<Self, (String, &'static str)> {
        let mut rules = Vec::new();
        for (index, rule) in
            spec.and_then(|spec| spec.restart_policy_rules.as_ref()).iter().copied().flatten().enumerate()
        {
            if rule.action != "Restart" {
                let reason = "the mock provider knows the action Restart only";
                return Err((format!("restartPolicyRules[{index}].action"), reason));
            }
            let Some(on) = &rule.exit_codes else { continue };
            let codes = on.values.clone().unwrap_or_default().into();
            rules.push(Rule { except: on.operator == "NotIn", codes });
        }
        let rules = (!rules.is_empty()).then(|| rules.into());
        Ok(Self { policy: Policy::of_container(spec, kind, pod), rules })
    }

    pub(crate) fn after(&self, code: i32) -> bool {
        let mut rules = self.rules.iter().flatten();
        rules.any(|rule| rule.codes.contains(&code) != rule.except) || self.policy.restarts(code)
    }
}

/// How long a container waits for its next start after a run, and how many back-offs that makes.
///
/// The first restart is immediate, then come 10 s, 20 s, 40 s, … up to 5 min.
pub(crate) fn backoff(so_far: u32, ran: Duration) -> (Duration, u32) {
    let so_far = if ran >= FORGIVEN_AFTER { 0 } else { so_far };
    let delay = match so_far.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_BACKOFF.saturating_mul(1 << doublings.min(16)).min(MAX_BACKOFF),
    };
    (delay, so_far + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_is_immediate_then_doubles_from_ten_seconds_to_five_minutes() {
        let mut so_far = 0;
        let delays: Vec<u64> = (0..8)
            .map(|_| {
                let (delay, next) = backoff(so_far, Duration::from_secs(1));
                so_far = next;
                delay.as_secs()
            })
            .collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff(so_far, Duration::from_mins(10)), (Duration::ZERO, 1));
    }

    #[test]
    fn policies_decide_by_kind_and_exit_code() {
        use ContainerKind::{App, Init, Sidecar};
        let restarts = |kind, pod| {
            let policy = Policy::of_container(None, kind, pod);
            (policy.restarts(0), policy.restarts(1))
        };
        assert_eq!(restarts(App, Policy::Always), (true, true));
        assert_eq!(restarts(App, Policy::OnFailure), (false, true));
        assert_eq!(restarts(App, Policy::Never), (false, false));
        assert_eq!(restarts(Init, Policy::Always), (false, true));
        assert_eq!(restarts(Init, Policy::Never), (false, false));
        assert_eq!(restarts(Sidecar, Policy::Never), (true, true));
        let own = Container { restart_policy: Some("Never".into()), ..Container::default() };
        assert!(!Policy::of_container(Some(&own), App, Policy::Always).restarts(1));
    }
}
