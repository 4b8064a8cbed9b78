//! The parts of a control plane and their command lines.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Error, bail};

use crate::addresses;
use crate::module::{Module, Version};
use crate::pki::{FRONT_PROXY, Pki};

/// A part of the control plane that runs as a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// etcd.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
}

impl Component {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler];

    /// The binary's name, also the name in logs and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    /// Whether it is part of a control plane of that version.
    #[must_use]
    pub const fn runs(self, version: Version) -> bool {
        match self {
            Self::Etcd | Self::ApiServer => true,
            Self::ControllerManager | Self::Scheduler => version.has_controllers(),
        }
    }

    /// The module its binary comes from.
    #[must_use]
    pub const fn module(self, version: Version) -> Module {
        match self {
            Self::Etcd => Module::Etcd,
            Self::ApiServer | Self::ControllerManager | Self::Scheduler => Module::Kubernetes(version),
        }
    }

    /// Its health endpoint inside the namespace.
    #[must_use]
    pub fn health(self) -> String {
        match self {
            // etcd's own endpoint needs no TLS, and the API server's readiness covers it.
            Self::Etcd | Self::ApiServer => {
                format!("https://{}:{}/readyz", addresses::API_SERVER, addresses::API_SERVER_PORT)
            }
            Self::ControllerManager => "https://127.0.0.1:10257/healthz".to_owned(),
            Self::Scheduler => "https://127.0.0.1:10259/healthz".to_owned(),
        }
    }

    /// Its arguments for the instance in `folder`.
    #[must_use]
    pub fn arguments(self, folder: &Path, pki: &Pki, durable: bool) -> Vec<String> {
        match self {
            Self::Etcd => etcd(folder, durable),
            Self::ApiServer => api_server(folder, pki),
            Self::ControllerManager => controller_manager(folder, pki),
            Self::Scheduler => scheduler(folder),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Component {
    type Err = Error;

    /// Takes the binary's name, with or without `kube-`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|component| {
            let name = component.name();
            text == name || Some(text) == name.strip_prefix("kube-")
        });
        let Some(component) = found else {
            bail!("there is no component {text}; there are {}", Self::ALL.map(Self::name).join(", "));
        };
        Ok(component)
    }
}

const ETCD_CLIENTS: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

fn etcd(folder: &Path, durable: bool) -> Vec<String> {
    let mut arguments = vec![
        "--name=default".to_owned(),
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={ETCD_CLIENTS}"),
        format!("--advertise-client-urls={ETCD_CLIENTS}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        format!("--initial-cluster=default={ETCD_PEERS}"),
        // A storm of 10,000 pods and their events passes the default 2 GiB before a compaction.
        "--quota-backend-bytes=8589934592".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    if !durable {
        arguments.push("--unsafe-no-fsync".to_owned());
    }
    arguments
}

fn api_server(folder: &Path, pki: &Pki) -> Vec<String> {
    let serving = pki.pair("apiserver");
    let kubelet_client = pki.pair("kubelet-client");
    let front_proxy = pki.pair("front-proxy-client");
    let authority = pki.authority();
    let authority = authority.display();
    vec![
        format!("--etcd-servers={ETCD_CLIENTS}"),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={}", addresses::API_SERVER),
        format!("--secure-port={}", addresses::API_SERVER_PORT),
        format!("--tls-cert-file={}", serving.certificate.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
        format!("--client-ca-file={authority}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--enable-bootstrap-token-auth=true".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki.service_account_public_key().display()),
        format!("--service-account-signing-key-file={}", pki.service_account_key().display()),
        format!("--service-cluster-ip-range={}", addresses::SERVICE_RANGE),
        format!("--kubelet-client-certificate={}", kubelet_client.certificate.display()),
        format!("--kubelet-client-key={}", kubelet_client.key.display()),
        format!("--kubelet-certificate-authority={authority}"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // The aggregation layer.
        format!("--requestheader-client-ca-file={authority}"),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", front_proxy.certificate.display()),
        format!("--proxy-client-key-file={}", front_proxy.key.display()),
        format!("--audit-policy-file={}", folder.join(AUDIT_POLICY).display()),
        format!("--audit-log-path={}", folder.join(AUDIT_LOG).display()),
        // In one file, whatever a storm adds to it.
        "--audit-log-maxsize=10000".to_owned(),
    ]
}

/// What the controller manager and the scheduler have in common: who they are, and that they are alone.
fn client(folder: &Path, kubeconfig: &str) -> Vec<String> {
    let kubeconfig = folder.join(kubeconfig);
    let kubeconfig = kubeconfig.display();
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

fn controller_manager(folder: &Path, pki: &Pki) -> Vec<String> {
    let mut arguments = client(folder, CONTROLLER_MANAGER_KUBECONFIG);
    arguments.extend([
        format!("--root-ca-file={}", pki.authority().display()),
        format!("--service-account-private-key-file={}", pki.service_account_key().display()),
        "--use-service-account-credentials=true".to_owned(),
        format!("--cluster-signing-cert-file={}", pki.authority().display()),
        format!("--cluster-signing-key-file={}", pki.authority_key().display()),
    ]);
    arguments
}

fn scheduler(folder: &Path) -> Vec<String> {
    client(folder, SCHEDULER_KUBECONFIG)
}

/// The API server's audit policy, in the instance's folder.
pub(crate) const AUDIT_POLICY: &str = "audit-policy.yaml";

/// The API server's audit log, in the instance's folder. Not called a log: it goes with the instance.
pub(crate) const AUDIT_LOG: &str = "audit.jsonl";

/// What nodes and service accounts ask for and whether they may; no contents. Neither the administrators nor the
/// control plane's own parts.
pub(crate) const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: [\"system:serviceaccounts:kube-system\"]
- level: Metadata
  userGroups: [\"system:nodes\", \"system:serviceaccounts\"]
- level: None
";

/// The controller manager's kubeconfig, in the instance's folder.
pub(crate) const CONTROLLER_MANAGER_KUBECONFIG: &str = "controller-manager.kubeconfig";

/// The scheduler's kubeconfig, in the instance's folder.
pub(crate) const SCHEDULER_KUBECONFIG: &str = "scheduler.kubeconfig";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_found_by_either_name() {
        for component in Component::ALL {
            assert_eq!(component.name().parse::<Component>().expect("its own name"), component);
        }
        assert_eq!("apiserver".parse::<Component>().expect("the short name"), Component::ApiServer);
        let error = "kubelet".parse::<Component>().expect_err("not a component").to_string();
        assert!(error.contains("kubelet") && error.contains("kube-scheduler"), "{error}");
    }

    #[test]
    fn only_a_durable_etcd_waits_for_the_disk() {
        let folder = Path::new("/x");
        let pki = Pki::at(folder);
        let unsafe_flag = "--unsafe-no-fsync".to_owned();
        assert!(Component::Etcd.arguments(folder, &pki, false).contains(&unsafe_flag));
        assert!(!Component::Etcd.arguments(folder, &pki, true).contains(&unsafe_flag));
    }

    #[test]
    fn the_api_server_reaches_nodes_with_a_certificate_and_checks_theirs() {
        let folder = Path::new("/x");
        let arguments = Component::ApiServer.arguments(folder, &Pki::at(folder), false);
        for wanted in [
            "--kubelet-client-certificate=/x/kubelet-client.crt",
            "--kubelet-certificate-authority=/x/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
        ] {
            assert!(arguments.iter().any(|argument| argument == wanted), "{wanted}");
        }
    }
}
