//! What becomes of the fields of pods: what processes of this machine can honour without a runtime.

use std::sync::LazyLock;

use vk_core::provider::FieldSupport;

static FIELDS: LazyLock<FieldSupport> = LazyLock::new(|| {
    let support = FieldSupport::of_containers("process");
    pods(refusals(containers(volumes(support))))
});

/// What the process provider does with each field of a pod.
#[must_use]
pub fn fields() -> &'static FieldSupport {
    &FIELDS
}

fn pods(support: FieldSupport) -> FieldSupport {
    support
        .all_native(&[
            "spec.dnsConfig",
            "spec.dnsPolicy",
            "spec.hostAliases",
            "spec.hostNetwork",
            "spec.hostname",
            "spec.hostnameOverride",
            "spec.securityContext.fsGroup",
            "spec.securityContext.runAsGroup",
            "spec.securityContext.runAsUser",
            "spec.securityContext.supplementalGroups",
            // Groups of the image's are never added, which is what `Strict` asks for.
            "spec.securityContext.supplementalGroupsPolicy",
            "spec.setHostnameAsFQDN",
            "spec.subdomain",
        ])
        .partly("spec.imagePullSecrets", "nothing is fetched, so nobody is shown them")
        .partly("spec.resources.limits", "of the pod as a whole nothing is limited")
        .partly("spec.resources.requests", "nothing is reserved")
        .partly("spec.runtimeClassName", "as on a node without that handler: the sandbox is not made")
}

fn containers(support: FieldSupport) -> FieldSupport {
    let limits = "memory is looked after from outside, and nothing else is limited";
    let host_port = "not forwarded: only a pod on the machine's network has its ports there";
    let mut support = support
        .all_native(&[
            "*.args",
            "*.command",
            "*.env[].name",
            "*.env[].value",
            "*.image",
            "*.securityContext.readOnlyRootFilesystem",
            "*.securityContext.runAsGroup",
            "*.securityContext.runAsUser",
            "*.stdin",
            "*.stdinOnce",
            "*.tty",
            "*.volumeMounts[].mountPath",
            "*.volumeMounts[].name",
            "*.volumeMounts[].readOnly",
            "*.volumeMounts[].subPath",
            "*.volumeMounts[].subPathExpr",
            "*.workingDir",
        ])
        .only("*.securityContext.seccompProfile.type", &["Localhost"], "no profile is applied; leave it out")
        .partly(
            "*.securityContext.seccompProfile.localhostProfile",
            "as on a node without that profile: the container is not created",
        )
        .partly(
            "spec.ephemeralContainers[].targetContainerName",
            "its processes are its own: it does not see the target's",
        );
    for kind in ["spec.containers[]", "spec.initContainers[]"] {
        support = support
            .native(&format!("{kind}.lifecycle.stopSignal"))
            .native(&format!("{kind}.ports[].protocol"))
            .partly(&format!("{kind}.ports[].hostIP"), host_port)
            .partly(&format!("{kind}.ports[].hostPort"), host_port)
            .partly(&format!("{kind}.resources.limits"), limits)
            .partly(&format!("{kind}.resources.requests"), "nothing is reserved");
    }
    support
}

fn volumes(support: FieldSupport) -> FieldSupport {
    let claims = "the process provider mounts no claims; use an emptyDir or a hostPath";
    support
        .native("spec.volumes[].emptyDir.medium")
        .native("spec.volumes[].emptyDir")
        .refused("spec.volumes[].emptyDir.mode", "everybody may write to an emptyDir here; use fsGroup")
        .native("spec.volumes[].hostPath")
        .only(
            "spec.volumes[].hostPath.type",
            &["DirectoryOrCreate"],
            "nothing is checked of a hostPath or made but a folder; leave the type out",
        )
        .native("spec.volumes[].image")
        .refused("spec.volumes[].persistentVolumeClaim", claims)
        .refused("spec.volumes[].ephemeral", claims)
}

/// In better words than the plain ones.
fn refusals(support: FieldSupport) -> FieldSupport {
    let rights = "a process here has the daemon's own rights, no more and no fewer; leave it out";
    let mut support = support
        .refused("spec.hostUsers", "there are no user namespaces here; leave it out")
        .refused("spec.securityContext.sysctls", "no sysctl is set here; set it on the machine")
        .refused("spec.securityContext.seccompProfile", "no profile is applied; leave it out")
        .refused("spec.shareProcessNamespace", "each container sees its own processes alone; leave it out");
    for field in ["allowPrivilegeEscalation", "capabilities", "privileged", "procMount"] {
        support = support.refused(&format!("*.securityContext.{field}"), rights);
    }
    support
}
