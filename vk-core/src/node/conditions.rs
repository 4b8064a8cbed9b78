//! The node's conditions: a pure function.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether the node takes pods, for its `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    NotReady { reason: String, message: String },
}

impl Readiness {
    pub(crate) fn not_ready(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::NotReady { reason: reason.into(), message: message.into() }
    }
}

const READY: &str = "Ready";
const NETWORK: &str = "NetworkUnavailable";
const NETWORK_REASON: &str = "ProviderNetwork";
/// Longest message of a condition, in bytes: a provider's error may carry a page of somebody's HTML.
const MESSAGE: usize = 1024;

/// Our conditions in the kubelet's order, `Ready` last. Transition times are taken over from `live` where
/// the status is the same, so they survive a restart.
///
/// `NetworkUnavailable` is left to a route controller or network plugin that has set it; a node on which it
/// is absent counts as connected, but some dashboards ask for it.
pub(crate) fn conditions(
    live: &[NodeCondition],
    readiness: &Readiness,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        let before = live.iter().find(|c| c.type_ == type_ && c.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let sufficient = "kubelet has sufficient";
    let mut ours = vec![
        condition(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            &format!("{sufficient} memory available"),
        ),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", &format!("{sufficient} PID available")),
    ];
    // The node controller sets Unknown in our stead when it has not heard of us; that is not foreign.
    let foreign = |c: &NodeCondition| {
        c.type_ == NETWORK
            && c.status != "Unknown"
            && c.reason.as_deref().is_some_and(|reason| !reason.is_empty() && reason != NETWORK_REASON)
    };
    if !live.iter().any(foreign) {
        ours.push(condition(NETWORK, "False", NETWORK_REASON, "the provider connects the pods"));
    }
    ours.push(match readiness {
        Readiness::Ready => condition(READY, "True", "KubeletReady", "kubelet is posting ready status"),
        Readiness::NotReady { reason, message } => condition(READY, "False", reason, cut(message)),
    });
    ours
}

/// Whether what `live` says differs from `ours` in anything but heartbeats.
pub(crate) fn differ(live: &[NodeCondition], ours: &[NodeCondition]) -> bool {
    ours.iter().any(|our| {
        !live.iter().any(|theirs| {
            theirs.type_ == our.type_
                && theirs.status == our.status
                && theirs.reason == our.reason
                && theirs.message == our.message
        })
    })
}

/// Whether `Ready` is `True`.
pub(crate) fn is_ready(conditions: &[NodeCondition]) -> bool {
    conditions.iter().any(|c| c.type_ == READY && c.status == "True")
}

fn cut(message: &str) -> &str {
    let end = (0..=MESSAGE.min(message.len())).rev().find(|&end| message.is_char_boundary(end));
    message.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_ready_node_says_what_a_kubelet_says() {
        let ours = conditions(&[], &Readiness::Ready, at(5));
        insta::assert_snapshot!(serde_saphyr::to_string(&ours).unwrap());
    }

    #[test]
    fn transition_times_change_only_with_the_status() {
        let first = conditions(&[], &Readiness::Ready, at(5));
        let second = conditions(&first, &Readiness::Ready, at(10));
        let third = conditions(&second, &Readiness::not_ready("ProviderUnavailable", "down"), at(20));
        let fourth = conditions(&third, &Readiness::not_ready("ProviderDenied", "no"), at(30));
        for (conditions, heartbeat, ready, memory) in
            [(&second, 10, 5, 5), (&third, 20, 20, 5), (&fourth, 30, 20, 5)]
        {
            let memory_pressure = conditions.first().unwrap();
            let ready_condition = conditions.last().unwrap();
            assert_eq!(ready_condition.last_heartbeat_time, Some(Time(at(heartbeat))));
            assert_eq!(ready_condition.last_transition_time, Some(Time(at(ready))));
            assert_eq!(memory_pressure.last_transition_time, Some(Time(at(memory))));
        }
    }

    #[test]
    fn a_heartbeat_alone_is_no_difference() {
        let first = conditions(&[], &Readiness::Ready, at(5));
        assert!(!differ(&first, &conditions(&first, &Readiness::Ready, at(60))));
        assert!(differ(&first, &conditions(&first, &Readiness::not_ready("X", "y"), at(60))));
        assert!(differ(&first[..2], &first));
    }

    #[test]
    fn unknown_by_the_node_controller_is_answered() {
        let mut live = conditions(&[], &Readiness::Ready, at(5));
        for condition in &mut live {
            condition.status = "Unknown".to_owned();
            condition.reason = Some("NodeStatusUnknown".to_owned());
        }
        let ours = conditions(&live, &Readiness::Ready, at(60));
        assert_eq!(ours.len(), 5);
        assert!(differ(&live, &ours));
        assert_eq!(ours.last().unwrap().last_transition_time, Some(Time(at(60))));
    }

    #[test]
    fn a_route_controllers_condition_is_left_to_it() {
        let theirs = NodeCondition {
            type_: NETWORK.to_owned(),
            status: "True".to_owned(),
            reason: Some("NoRouteCreated".to_owned()),
            ..NodeCondition::default()
        };
        let ours = conditions(&[theirs], &Readiness::Ready, at(5));
        assert!(ours.iter().all(|c| c.type_ != NETWORK));
    }

    #[test]
    fn a_long_message_is_cut() {
        let ours = conditions(&[], &Readiness::not_ready("X", "ü".repeat(1000)), at(5));
        assert_eq!(ours.last().unwrap().message.as_ref().unwrap().len(), 1024);
    }
}
