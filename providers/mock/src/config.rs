//! The mock provider's settings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::addresses::Cidr;
use crate::quantity;
use crate::script::{self, Script};

mod go;

/// Settings of a mock backend. Embedded in the daemon's configuration under `provider: {mock: …}`; every
/// key may be left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct MockConfig {
    /// Resources of every node, by name. They replace the defaults one by one: `cpu: 20`,
    /// `memory: 100Gi`, `ephemeral-storage: 100Gi`, `pods: 20000`.
    pub capacity: BTreeMap<String, Amount>,
    /// What differs from [`capacity`](Self::capacity) on single nodes, by node name.
    pub nodes: BTreeMap<String, NodeCapacity>,
    /// Labels the backend adds to the node.
    pub labels: BTreeMap<String, String>,
    /// `linux` (default) or `windows`.
    pub operating_system: String,
    /// Go's name of the architecture. Default `amd64`.
    pub architecture: String,
    /// A script for every pod: the keys of the [annotations](crate#annotations) without their prefix. A
    /// pod's own annotations override them key by key.
    pub defaults: Defaults,
    /// The share of calls, from 0 to 1, that fail with `Unavailable`. Default 0.
    pub failures: PerVerb<f64>,
    /// How long the backend thinks before each call takes effect. Default 0.
    pub latency: PerVerb<Latency>,
    /// Where pod addresses come from. Default `10.88.0.0/16`. Nodes share nothing: with one range for
    /// several nodes each begins at a place of its own in it, which makes two pods with one address
    /// unlikely; ranges of their own exclude it.
    pub pod_cidr: Cidr,
    /// The address of pods with `hostNetwork: true`. Without one they report none, and the node fills in
    /// its own.
    pub node_address: Option<IpAddr>,
    /// Keeps the pods in this file, so that they are still there after a restart of the daemon. `{node}`
    /// in it stands for the node's name. Default none: the pods end with the process.
    pub state_file: Option<PathBuf>,
    /// From which random failures follow. Default 0.
    pub seed: u64,
    /// How many events a watcher may be behind before it is given a fresh listing instead. Default 1024.
    pub watch_buffer: usize,
    /// How many calls the ledger remembers. Default 1024.
    pub ledger_size: usize,
    /// Where in the range addresses begin.
    #[serde(skip)]
    pub(crate) first_address: u64,
}

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            capacity: BTreeMap::new(),
            nodes: BTreeMap::new(),
            labels: BTreeMap::new(),
            operating_system: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            defaults: Defaults::default(),
            failures: PerVerb::default(),
            latency: PerVerb::default(),
            pod_cidr: Cidr::default(),
            node_address: None,
            state_file: None,
            seed: 0,
            watch_buffer: 1024,
            ledger_size: 1024,
            first_address: 0,
        }
    }
}

/// A node's resources, in the shape of the Go mock provider's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeCapacity {
    /// Default 20.
    pub cpu: Amount,
    /// Default 100Gi.
    pub memory: Amount,
    /// Default 1000.
    pub pods: Amount,
    /// Any other resource.
    pub others: BTreeMap<String, Amount>,
    /// `spec.providerID`. Default `mock://<node>`.
    #[serde(rename = "providerID")]
    pub provider_id: Option<String>,
}

/// A quantity as written; checked by [`MockConfig::validate`], which can say where it stands. Empty means
/// the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amount(String);

/// One value for each of the provider's calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PerVerb<T> {
    /// `node_info`
    pub node_info: T,
    /// `create_pod`
    pub create: T,
    /// `delete_pod`
    pub delete: T,
    /// `list_pods`, and the listing at the start of a watch
    pub list: T,
}

/// A duration such as `250ms`, `10s` or `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Latency(pub Duration);

/// The script of every pod, checked as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults(BTreeMap<String, String>);

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    /// The setting, as a path from the mock's section.
    pub key: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl MockConfig {
    /// Reads the Go mock provider's file: a JSON object of node names, each with
    /// `{"cpu": …, "memory": …, "pods": …, "others": {…}, "providerID": …}`. A node without an entry, and
    /// what an entry leaves out, has the defaults.
    ///
    /// # Errors
    /// Names node, key and value.
    pub fn from_go_json(text: &str) -> Result<Self, ConfigError> {
        let config = Self { nodes: go::nodes(text)?, ..Self::default() };
        config.validate()?;
        Ok(config)
    }

    /// Checks everything that the types leave open.
    ///
    /// # Errors
    /// The first setting that makes no sense, by its path.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (name, amount) in &self.capacity {
            amount.check(|| format!("capacity.{name}"))?;
        }
        for (node, entry) in &self.nodes {
            entry.check(node)?;
        }
        for (verb, rate) in self.failures.named() {
            if !(0.0..=1.0).contains(&rate) {
                let reason = format!("{rate} is not a share from 0 to 1");
                return Err(ConfigError::new(format!("failures.{verb}"), reason));
            }
        }
        if !["linux", "windows"].contains(&self.operating_system.as_str()) {
            let reason = format!("{:?} is neither linux nor windows", self.operating_system);
            return Err(ConfigError::new("operatingSystem", reason));
        }
        for (key, value) in [("watchBuffer", self.watch_buffer), ("ledgerSize", self.ledger_size)] {
            if !(1..=1 << 24).contains(&value) {
                return Err(ConfigError::new(key, format!("{value} is not a number from 1 to 16777216")));
            }
        }
        Ok(())
    }

    /// The resources of a node.
    pub(crate) fn capacity_of(&self, node: &str) -> BTreeMap<String, Quantity> {
        let entry = self.nodes.get(node);
        let entry = entry.map(NodeCapacity::amounts).unwrap_or_default();
        let defaults =
            [("cpu", "20"), ("memory", "100Gi"), ("ephemeral-storage", "100Gi"), ("pods", "20000")];
        let mut capacity: BTreeMap<String, Quantity> =
            defaults.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into();
        let settings = self.capacity.iter().map(|(name, amount)| (name.as_str(), amount));
        let given = settings.chain(entry).filter(|(_, amount)| !amount.0.is_empty());
        capacity.extend(given.map(|(name, amount)| (name.to_owned(), Quantity(amount.0.clone()))));
        capacity
    }

    /// Sets a default of the [script](crate#annotations) of every pod.
    ///
    /// # Errors
    /// An unknown key, or a value that makes no sense for it.
    pub fn with_default(mut self, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.defaults.insert(key, value)?;
        Ok(self)
    }
}

impl NodeCapacity {
    fn amounts(&self) -> Vec<(&str, &Amount)> {
        let named = [("cpu", &self.cpu), ("memory", &self.memory), ("pods", &self.pods)];
        named.into_iter().chain(self.others.iter().map(|(name, amount)| (name.as_str(), amount))).collect()
    }

    fn check(&self, node: &str) -> Result<(), ConfigError> {
        for (name, amount) in self.amounts() {
            amount.check(|| format!("nodes.{node}.{name}"))?;
        }
        Ok(())
    }
}

impl Amount {
    /// A quantity as it is written.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn check(&self, key: impl FnOnce() -> String) -> Result<(), ConfigError> {
        if self.0.is_empty() || quantity::parse(&self.0).is_some() {
            return Ok(());
        }
        Err(ConfigError::new(key(), format!("{:?} is not a quantity such as 20, 500m or 100Gi", self.0)))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Scalar::deserialize(deserializer).map(|scalar| Self(scalar.to_string()))
    }
}

impl PerVerb<f64> {
    fn named(&self) -> [(&'static str, f64); 4] {
        [("nodeInfo", self.node_info), ("create", self.create), ("delete", self.delete), ("list", self.list)]
    }
}

impl Defaults {
    fn insert(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let single = [(key.to_owned(), value.to_owned())].into();
        Script::build(&single, &BTreeMap::new())
            .map_err(|(key, reason)| ConfigError::new(format!("defaults.{key}"), reason))?;
        self.0.extend(single);
        Ok(())
    }

    pub(crate) fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Defaults {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut defaults = Self::default();
        for (key, value) in BTreeMap::<String, Scalar>::deserialize(deserializer)? {
            defaults.insert(&key, &value.to_string()).map_err(D::Error::custom)?;
        }
        Ok(defaults)
    }
}

/// Text, or a number that a file's author need not quote.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Whole(i64),
    Number(f64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl TryFrom<Scalar> for Latency {
    type Error = String;
    fn try_from(scalar: Scalar) -> Result<Self, String> {
        script::duration(&scalar.to_string()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<MockConfig, String> {
        let config: MockConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.validate().map(|()| config).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_need_no_quotes_and_what_is_left_out_keeps_its_default() {
        let config = read(
            r#"{"capacity": {"cpu": 4, "memory": "8Gi"}, "nodes": {"vk": {"pods": 7, "others": {"gpu": 1}}},
                "defaults": {"log-rate": 0.5, "exit-code": 3}, "latency": {"create": "20ms", "list": 0}}"#,
        )
        .unwrap();
        let capacity: Vec<_> = config.capacity_of("vk").into_iter().map(|(name, q)| (name, q.0)).collect();
        let expected =
            [("cpu", "4"), ("ephemeral-storage", "100Gi"), ("gpu", "1"), ("memory", "8Gi"), ("pods", "7")];
        assert_eq!(capacity, expected.map(|(name, amount)| (name.to_owned(), amount.to_owned())));
        assert_eq!(config.latency.create.0, Duration::from_millis(20));
        assert_eq!(config.latency.list.0, Duration::ZERO);
        assert_eq!(config.watch_buffer, 1024);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        let table = [
            (r#"{"colour": 1}"#, "unknown field `colour`"),
            (r#"{"capacity": {"cpu": "four"}}"#, "capacity.cpu: \"four\" is not a quantity"),
            (r#"{"nodes": {"vk": {"memory": "-1"}}}"#, "nodes.vk.memory: \"-1\" is not a quantity"),
            (r#"{"defaults": {"exit-code": 300}}"#, "defaults.exit-code: \"300\" is not an exit code"),
            (r#"{"defaults": {"colour": "blue"}}"#, "defaults.colour: unknown key"),
            (r#"{"failures": {"create": 1.5}}"#, "failures.create: 1.5 is not a share from 0 to 1"),
            (r#"{"failures": {"watch": 1}}"#, "unknown field `watch`"),
            (r#"{"latency": {"list": "soon"}}"#, "\"soon\" is not a duration"),
            (r#"{"podCidr": "10.88.0.1/16"}"#, "\"10.88.0.1/16\": the address has bits beyond the prefix"),
            (r#"{"operatingSystem": "plan9"}"#, "operatingSystem: \"plan9\" is neither linux nor windows"),
            (r#"{"watchBuffer": 0}"#, "watchBuffer: 0 is not a number from 1"),
        ];
        for (json, expected) in table {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }
}
