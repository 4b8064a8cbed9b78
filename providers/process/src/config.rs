//! Settings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

/// Settings of a [`ProcessBackend`](crate::ProcessBackend).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ProcessConfig {
    /// That this is not for production, and that whoever may create pods here is root on this machine. Has to be
    /// `true`. Default `false`.
    pub not_for_production: bool,
    /// Where pods' files are. Created; emptied of what an earlier process left. No default.
    pub folder: PathBuf,
    /// The program whose `main` calls [`helper`](crate::helper()). Default this one.
    pub program: PathBuf,
    /// The images, by name as pods ask for them.
    pub images: BTreeMap<String, ImageConfig>,
    /// Capacity and allocatable. Default: 2 processors, 4 GiB, 110 pods.
    pub capacity: BTreeMap<String, Quantity>,
    /// The bridge that pods' networks are on; made if it is not there. Default `vk-process`.
    pub bridge: String,
    /// The addresses of pods, the first of which is the bridge's. At least a /30, IPv4. Default `10.89.0.0/16`.
    pub pod_range: String,
    /// The cluster's name servers, for `dnsPolicy: ClusterFirst`. Default none.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain. Default `cluster.local`.
    pub cluster_domain: String,
    /// The machine's resolver configuration. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The machine's hosts file, for pods on its network. Default `/etc/hosts`.
    pub hosts_file: PathBuf,
}

/// An image: a folder, and what an image's configuration says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageConfig {
    /// The root folder's content. Never written to.
    pub folder: PathBuf,
    /// The entry point.
    pub entrypoint: Vec<String>,
    /// The entry point's arguments, or the command.
    pub cmd: Vec<String>,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// User, as `user` or `user:group`, by number or name. Empty is root.
    pub user: String,
    /// The command's folder. Empty is `/`.
    pub working_dir: String,
    /// The stop signal. Empty is `SIGTERM`.
    pub stop_signal: String,
    /// Is not on the node until it is pulled.
    pub remote: bool,
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    /// The setting.
    pub key: &'static str,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}

impl Default for ProcessConfig {
    fn default() -> Self {
        let amounts = [("cpu", "2"), ("memory", "4Gi"), ("ephemeral-storage", "32Gi"), ("pods", "110")];
        Self {
            not_for_production: false,
            folder: PathBuf::new(),
            // By this name it is found even where its file has been replaced.
            program: "/proc/self/exe".into(),
            images: BTreeMap::new(),
            capacity: amounts
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into_iter()
                .collect(),
            bridge: "vk-process".to_owned(),
            pod_range: "10.89.0.0/16".to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts_file: "/etc/hosts".into(),
        }
    }
}

impl ProcessConfig {
    /// Checks what can be checked without changing anything.
    ///
    /// # Errors
    /// The setting that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.not_for_production {
            return Err(ConfigError::new(
                "notForProduction",
                "the process provider runs pods as processes of this machine, without isolation: for tests only; \
                 set notForProduction: true to say that you know",
            ));
        }
        if self.folder.as_os_str().is_empty() || !self.folder.is_absolute() {
            return Err(ConfigError::new("folder", "give an absolute path for pods' files"));
        }
        // The helper's socket lies below it, and a socket's path has 108 bytes.
        if self.folder.as_os_str().len() > 60 {
            return Err(ConfigError::new("folder", "give a path of at most 60 bytes"));
        }
        for (name, image) in &self.images {
            if !image.folder.is_dir() {
                let reason = format!("{name}: {} is no folder", image.folder.display());
                return Err(ConfigError::new("images", reason));
            }
        }
        Ok(())
    }
}
