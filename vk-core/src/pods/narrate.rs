//! The kubelet's events, told from two observations of a pod.

use crate::events::{PodEventRecord, Reason};
use crate::provider::{ContainerState, ObservedContainer, PodRef, PodRuntime};

/// What happened between two observations, in the kubelet's words.
pub(crate) fn narrate(pod: &PodRef, before: Option<&PodRuntime>, now: &PodRuntime) -> Vec<PodEventRecord> {
    let mut lines = Vec::new();
    for container in &now.containers {
        let old = before.and_then(|runtime| runtime.container(&container.name));
        let line = |reason, message: &str| PodEventRecord::new(reason, message).about(&*container.name);
        if run_of(container).is_some() && old.and_then(run_of) != run_of(container) {
            lines.push(line(Reason::Created, "Container created"));
            lines.push(line(Reason::Started, "Container started"));
        }
        if let Some((reason, message)) = waiting(container)
            && old.and_then(waiting).is_none_or(|(old, _)| old != reason)
        {
            match reason {
                "CrashLoopBackOff" => {
                    let message = format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        container.name, pod.name, pod.namespace, pod.uid
                    );
                    lines.push(line(Reason::BackOff, &message));
                }
                "ErrImagePull"
                | "ImagePullBackOff"
                | "InvalidImageName"
                | "ErrImageNeverPull"
                | "CreateContainerConfigError"
                | "CreateContainerError"
                | "RunContainerError" => {
                    let message = if message.is_empty() { reason } else { message };
                    lines.push(line(Reason::Failed, message));
                }
                _ => {}
            }
        }
    }
    if let Some(outcome) = &now.outcome
        && before.is_none_or(|before| before.outcome.is_none())
        && let Some(reason) =
            [Reason::Evicted, Reason::DeadlineExceeded].into_iter().find(|r| r.as_str() == outcome.reason)
    {
        lines.push(PodEventRecord::new(reason, &*outcome.message));
    }
    lines
}

/// Which run of the container is going on or was the last: its id, or how often it was restarted.
fn run_of(container: &ObservedContainer) -> Option<(Option<&str>, i32)> {
    match container.state {
        ContainerState::Waiting { .. } => None,
        ContainerState::Running { .. } | ContainerState::Terminated(_) => {
            Some((container.container_id.as_deref(), container.restart_count))
        }
    }
}

fn waiting(container: &ObservedContainer) -> Option<(&str, &str)> {
    match &container.state {
        ContainerState::Waiting { reason, message } => Some((reason, message)),
        ContainerState::Running { .. } | ContainerState::Terminated(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn runtime(state: ContainerState) -> PodRuntime {
        PodRuntime { containers: vec![ObservedContainer::new("a", state)], ..PodRuntime::default() }
    }

    fn reasons(before: Option<&PodRuntime>, now: &PodRuntime) -> Vec<Reason> {
        let pod = PodRef::new("default", "p", "u");
        narrate(&pod, before, now).into_iter().map(|line| line.reason).collect()
    }

    #[test]
    fn a_run_is_told_once() {
        let running = runtime(ContainerState::Running { started_at: Timestamp::UNIX_EPOCH });
        assert_eq!(reasons(None, &running), [Reason::Created, Reason::Started]);
        assert_eq!(reasons(Some(&running), &running), []);
    }

    #[test]
    fn a_back_off_is_told_when_it_begins() {
        let waiting =
            |reason: &str| runtime(ContainerState::Waiting { reason: reason.into(), message: String::new() });
        let (creating, looping) = (waiting("ContainerCreating"), waiting("CrashLoopBackOff"));
        assert_eq!(reasons(None, &creating), []);
        assert_eq!(reasons(Some(&creating), &looping), [Reason::BackOff]);
        assert_eq!(reasons(Some(&looping), &looping), []);
    }
}
