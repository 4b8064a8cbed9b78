//! Kernel parameters that a pod may set: those that are the pod's own and touch no other (`pkg/kubelet/sysctl`).

use k8s_openapi::api::core::v1::PodSpec;

use super::{Ground, Refusal};

/// Whose a parameter is, in the kubelet's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The safe ones. Some came with kernels up to 5.17; a node of this day has them all.
const SAFE: [(&str, Namespace); 14] = [
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
    ("net.ipv4.tcp_slow_start_after_idle", Namespace::Net),
    ("net.ipv4.tcp_notsent_lowat", Namespace::Net),
];

/// Whether the pod sets none but safe ones of its own namespaces.
pub(super) fn check(spec: &PodSpec, operating_system: &str) -> Result<(), Refusal> {
    let context = spec.security_context.as_ref();
    for sysctl in context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten() {
        let name = normal(&sysctl.name);
        let safe = SAFE.iter().filter(|_| operating_system == "linux").find(|(safe, _)| *safe == name);
        let wrong = match safe {
            Some((_, Namespace::Ipc)) if spec.host_ipc == Some(true) => "not allowed with host IPC enabled",
            Some((_, Namespace::Net)) if spec.host_network == Some(true) => {
                "not allowed with host Net enabled"
            }
            Some(_) => continue,
            None => "not allowlisted",
        };
        let message = format!("forbidden sysctl: {name:?} {wrong}");
        return Err(Refusal::new("SysctlForbidden", message, Ground::Pod));
    }
    Ok(())
}

/// With dots: `net/ipv4/tcp_rmem` is `net.ipv4.tcp_rmem`. What separates first is the separator, so that an interface
/// with a dot in its name can be named.
fn normal(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name[at..].starts_with('.')) {
        return name.to_owned();
    }
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}
