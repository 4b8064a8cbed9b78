//! Settings of the server.

use jiff::Timestamp;

/// Settings; the defaults are the real server's where it has them.
#[derive(Clone, Debug)]
pub struct Config {
    /// Wall clock at the start. Default: now.
    pub now: Option<Timestamp>,
    /// Seed of UIDs, generated names and fault probabilities. Default: random.
    pub seed: Option<u64>,
    /// Changes per resource kept for watches to resume from; older ones are answered 410. Default 10,000.
    pub log_limit: usize,
    /// What `/version` says. Default `v1.37.2`.
    pub version: String,
    /// Whether the serving certificates of kubelets must be signed by this server's CA. Default false, as
    /// without `--kubelet-certificate-authority`.
    pub verify_kubelets: bool,
    /// Address types tried in turn to reach a kubelet. Default `InternalIP`, `Hostname`, `ExternalIP`.
    pub kubelet_addresses: Vec<String>,
    /// Whether roles are enforced for callers outside `system:masters`. Default false: every
    /// authenticated caller may do anything.
    pub rbac: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            now: None,
            seed: None,
            log_limit: 10_000,
            version: "v1.37.2".to_owned(),
            verify_kubelets: false,
            kubelet_addresses: ["InternalIP", "Hostname", "ExternalIP"].map(str::to_owned).to_vec(),
            rbac: false,
        }
    }
}
