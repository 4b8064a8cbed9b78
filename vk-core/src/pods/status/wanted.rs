//! What is wanted of a container: the part of its spec that a status depends on.

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerStateTerminated, EphemeralContainer, PodSpec,
    ResourceRequirements, VolumeMount,
};

/// The action of a restart rule (KEP-5532), and the reason with which a kubelet says that it was taken.
const RESTART_ALL: &str = "RestartAllContainers";
const RESTARTING_ALL: &str = "RestartingAllContainers";

/// The part a container has in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Sidecar,
    Main,
    Ephemeral,
}

/// What the status needs of a container's spec, whichever of the API's two types it has.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) image: Option<&'a str>,
    pub(super) resources: Option<&'a ResourceRequirements>,
    pub(super) mounts: Option<&'a Vec<VolumeMount>>,
    policy: Option<&'a str>,
    rules: &'a [ContainerRestartRule],
    pub(super) kind: Kind,
}

impl<'a> Wanted<'a> {
    pub(super) fn container(container: &'a Container, init: bool) -> Self {
        let policy = container.restart_policy.as_deref();
        Self {
            name: &container.name,
            image: container.image.as_deref(),
            resources: container.resources.as_ref(),
            mounts: container.volume_mounts.as_ref(),
            policy,
            rules: container.restart_policy_rules.as_deref().unwrap_or_default(),
            kind: match (init, policy) {
                (true, Some("Always")) => Kind::Sidecar,
                (true, _) => Kind::Init,
                (false, _) => Kind::Main,
            },
        }
    }

    pub(super) fn ephemeral(container: &'a EphemeralContainer) -> Self {
        Self {
            name: &container.name,
            image: container.image.as_deref(),
            resources: container.resources.as_ref(),
            mounts: container.volume_mounts.as_ref(),
            policy: None,
            rules: &[],
            kind: Kind::Ephemeral,
        }
    }

    pub(super) fn is_sidecar(&self) -> bool {
        self.kind == Kind::Sidecar
    }
}

/// Whether a container that ended so is started again, by its own rules and policy or else by the pod's.
pub(super) fn restarts(container: &Wanted<'_>, spec: &PodSpec, ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some(RESTARTING_ALL)
        || restarts_after(container.policy, container.rules, spec.restart_policy.as_deref(), ended.exit_code)
}

/// Whether a container is started again after this exit code: by its own rules (KEP-5532), its own policy, or else
/// the pod's.
pub(crate) fn restarts_after(
    own: Option<&str>,
    rules: &[ContainerRestartRule],
    pod: Option<&str>,
    code: i32,
) -> bool {
    if own.is_some() && matching(rules, code).is_some() {
        return true;
    }
    match own.or(pod) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

/// The restart rule for an exit code. There are no actions but the two that restart.
fn matching(rules: &[ContainerRestartRule], code: i32) -> Option<&ContainerRestartRule> {
    rules.iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|on| {
            let listed = on.values.iter().flatten().any(|v| *v == code);
            match on.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether this end has all of the pod's containers run again.
pub(super) fn restarts_all(container: &Wanted<'_>, ended: &ContainerStateTerminated) -> bool {
    restarts_all_after(container.rules, ended.exit_code)
}

/// Whether this exit code has all of the pod's containers run again, by the container's own rules (KEP-5532).
pub(crate) fn restarts_all_after(rules: &[ContainerRestartRule], code: i32) -> bool {
    matching(rules, code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether any container may have all of the pod's containers run again.
pub(super) fn may_restart_all(spec: &PodSpec) -> bool {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(|c| c.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == RESTART_ALL)
}
