//! What the daemon runs with: the file, the flags and the environment put together and checked.
//!
//! A later layer wins: file, flags, environment. `KUBECONFIG` and `DEFAULT_NODE_NAME` are no layer but
//! defaults, as in kubectl and in Go Virtual Kubelet: a kubeconfig named in a flag is the one that is used.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use vk_core::api::Limits;
use vk_core::api::stream::StreamLimits;
use vk_core::config::NodeConfig;

use crate::args::{Flags, RunArgs};
use crate::config::document::Document;
use crate::config::{File, LogFormat, ProviderSection, load, merge};
use crate::env::Environment;
use crate::fault::Faults;

/// Everything, decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Which API server, and as whom.
    pub(crate) cluster: ClusterSettings,
    /// How the kubelet API is served.
    pub(crate) kubelet_api: KubeletApiSettings,
    /// Where the daemon tells about itself.
    pub(crate) admin: Option<SocketAddr>,
    /// What is logged.
    pub(crate) log: LogSettings,
    /// Where traces go; `None` is nowhere.
    pub(crate) tracing: Option<TracingSettings>,
    /// Who this daemon is; `None` is this process.
    pub(crate) instance: Option<String>,
    /// The nodes, at least one.
    pub(crate) nodes: Vec<NodeSettings>,
    /// The file the settings come from, for faults.
    pub(crate) source: String,
    /// Lines to be logged once there is a log.
    pub(crate) notes: Vec<String>,
}

/// See [`Cluster`](super::Cluster).
#[derive(Clone, Debug)]
pub(crate) struct ClusterSettings {
    /// A kubeconfig somebody named; `None` looks where kubectl looks, then for a service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context in it.
    pub(crate) context: Option<String>,
    /// How to become `system:node:NAME`; `None` is the kubeconfig's user or the service account.
    pub(crate) bootstrap: Option<BootstrapSettings>,
    /// A URL instead of its server.
    pub(crate) server: Option<http::Uri>,
    /// How long the API server may take to answer at start.
    pub(crate) connect_timeout: Duration,
    /// How long the nodes may take to become Ready; `None` is for ever.
    pub(crate) startup_timeout: Option<Duration>,
}

/// How a node gets an identity of its own.
#[derive(Clone, Debug)]
pub(crate) struct BootstrapSettings {
    /// The kubeconfig that may ask for it.
    pub(crate) kubeconfig: PathBuf,
    /// Where certificate and key are kept.
    pub(crate) cert_dir: PathBuf,
}

/// See [`KubeletApi`](super::KubeletApi).
#[derive(Clone, Debug)]
pub(crate) struct KubeletApiSettings {
    /// The address to listen on.
    pub(crate) listen: IpAddr,
    /// Where a serving certificate that the cluster signs is kept, if there is to be one.
    pub(crate) requested_in: Option<PathBuf>,
    /// Serving certificate and key; `None` is a self-signed one.
    pub(crate) serving: Option<(PathBuf, PathBuf)>,
    /// Who signs the API server's client certificate.
    pub(crate) client_ca: Option<PathBuf>,
    /// Whose client certificates may do anything.
    pub(crate) trusted_clients: Vec<String>,
    /// Whether the two metrics routes are open.
    pub(crate) anonymous_metrics: bool,
    /// Whether everything is open.
    pub(crate) insecure_allow_anonymous: bool,
    /// What the port bears.
    pub(crate) limits: Limits,
    /// What exec, attach and port-forward may cost.
    pub(crate) streams: StreamLimits,
}

/// See [`Log`](super::Log).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// Directives of `tracing-subscriber`.
    pub(crate) level: String,
    /// Text or JSON.
    pub(crate) format: LogFormat,
}

/// See [`Tracing`](super::Tracing).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TracingSettings {
    /// An OTLP receiver, without `/v1/traces`.
    pub(crate) endpoint: http::Uri,
    /// The share of pods that are traced.
    pub(crate) sample_ratio: f64,
    /// `service.name`
    pub(crate) service_name: String,
    /// Further attributes of the resource.
    pub(crate) attributes: BTreeMap<String, String>,
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    /// The library's settings, but for addresses that are found out and the port that is bound.
    pub(crate) config: NodeConfig,
    /// Its backend.
    pub(crate) provider: ProviderSection,
    /// `linux` or `windows`, where the backend leaves that open.
    pub(crate) os: Option<String>,
    /// A file in the backend's own format.
    pub(crate) provider_file: Option<PathBuf>,
    /// Where its provider section stands, for faults.
    #[cfg_attr(not(feature = "mock"), allow(dead_code, reason = "for backends, and none is built in"))]
    pub(crate) provider_path: String,
}

impl Settings {
    /// Reads the file, and puts everything together. What is wrong is all of it: in the file, and between its
    /// keys.
    pub(crate) fn read(args: &RunArgs, environment: Environment) -> Result<Self, Faults> {
        let Some(path) = Self::file(args, &environment) else {
            return Self::merge(File::default(), "the flags".to_owned(), args.flags.clone(), environment);
        };
        let text = load::read(&path, "the configuration file")?;
        Self::read_text(&text, path.display().to_string(), args, environment)
    }

    /// The same from a text that is at hand.
    pub(crate) fn read_text(
        text: &str,
        source: String,
        args: &RunArgs,
        environment: Environment,
    ) -> Result<Self, Faults> {
        let document = Document::parse(text, &source)?;
        Self::merge(File::of(&document)?, source, args.flags.clone(), environment)
    }

    /// The file that flags or environment name.
    pub(crate) fn file(args: &RunArgs, environment: &Environment) -> Option<PathBuf> {
        let from_environment =
            environment.layers.iter().rev().find_map(|layer| layer.config_from_environment.clone());
        from_environment.or_else(|| args.config.clone())
    }

    /// Puts file, flags and environment together.
    pub(crate) fn merge(
        file: File,
        source: String,
        flags: Flags,
        environment: Environment,
    ) -> Result<Self, Faults> {
        merge::merge(file, source, flags, environment)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::args::{Parsed, parse};

    fn merge(yaml: &str, words: &[&str], variables: &[(&str, &str)]) -> Result<Settings, Faults> {
        let file = File::of(&Document::parse(yaml, "vk.yaml")?)?;
        let line = std::iter::once("vk-node").chain(words.iter().copied()).map(str::to_owned);
        let Parsed::Run(cli, _) = parse(line)? else { panic!("{words:?} is help") };
        let environment = Environment::read(
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )?;
        Settings::merge(file, "vk.yaml".to_owned(), cli.run.flags, environment)
    }

    fn good(yaml: &str, words: &[&str], variables: &[(&str, &str)]) -> Settings {
        merge(yaml, words, variables).unwrap_or_else(|fault| panic!("{fault}"))
    }

    #[test]
    fn the_environment_wins_over_flags_and_flags_over_the_file() {
        let yaml =
            "provider: mock\nlog: {level: warn}\nkubeletApi: {port: 1}\nnodes: [{name: file, port: 1}]\n";
        let flags = ["--log-level=info", "--port=2", "--nodename=flag"];
        let variables = [("VK_LOG_LEVEL", "debug"), ("VK_PORT", "3"), ("VK_NODENAME", "variable")];
        let table = [
            (false, false, ("warn", 1, "file")),
            (true, false, ("info", 2, "flag")),
            (false, true, ("debug", 3, "variable")),
            (true, true, ("debug", 3, "variable")),
        ];
        for (with_flags, with_variables, expected) in table {
            let flags = if with_flags { &flags[..] } else { &[] };
            let variables = if with_variables { &variables[..] } else { &[] };
            let settings = good(yaml, flags, variables);
            let node = &settings.nodes[0].config;
            assert_eq!(
                (settings.log.level.as_str(), node.port, node.name.as_str()),
                expected,
                "{flags:?} {variables:?}"
            );
        }
    }

    #[test]
    fn ours_wins_over_gos_variable_for_the_same_setting() {
        let settings = good("provider: mock", &[], &[("KUBELET_PORT", "1"), ("VK_PORT", "2")]);
        assert_eq!(settings.nodes[0].config.port, 2);
    }

    #[test]
    fn kubeconfig_and_default_node_name_are_defaults_and_no_layer() {
        let variables = [("KUBECONFIG", "/variable"), ("DEFAULT_NODE_NAME", "variable")];
        let table: &[(&str, &[&str], &str, &str)] = &[
            ("provider: mock", &[], "/variable", "variable"),
            ("provider: mock", &["--kubeconfig=/flag", "--nodename=flag"], "/flag", "flag"),
            ("provider: mock\ncluster: {kubeconfig: /file}\nnodes: [{name: file}]", &[], "/file", "file"),
        ];
        for (yaml, flags, kubeconfig, name) in table {
            let settings = good(yaml, flags, &variables);
            assert_eq!(settings.cluster.kubeconfig.as_deref(), Some(Path::new(kubeconfig)));
            assert_eq!(settings.nodes[0].config.name, *name);
        }
        assert_eq!(good("provider: mock", &[], &[]).nodes[0].config.name, "virtual-kubelet");
    }

    #[test]
    fn nodes_share_defaults_and_keep_what_is_their_own() {
        let settings = good(
            "provider: mock\n\
             nodeDefaults: {labels: {zone: a, tier: one}, capacity: {cpu: 4}, taints: [], podWorkers: 3}\n\
             nodes:\n\
             - {name: a, labels: {zone: b}}\n\
             - {name: b, capacity: {cpu: 500m}, taints: ['k=v:NoExecute'], provider: other}\n\
             - {name: c, port: 9999}\n",
            &["--label=tier=two"],
            &[],
        );
        let nodes: Vec<&NodeConfig> = settings.nodes.iter().map(|node| &node.config).collect();
        assert_eq!(nodes.iter().map(|node| node.port).collect::<Vec<_>>(), [10250, 10251, 9999]);
        assert_eq!(nodes[0].labels["zone"], "b");
        assert_eq!(nodes[1].labels["zone"], "a");
        assert!(nodes.iter().all(|node| node.labels["tier"] == "two" && node.pod_workers == 3));
        assert_eq!((nodes[0].capacity["cpu"].0.as_str(), nodes[1].capacity["cpu"].0.as_str()), ("4", "500m"));
        assert_eq!(nodes[0].taints.as_ref().map(Vec::len), Some(0));
        assert_eq!(nodes[1].taints.as_ref().unwrap()[0].effect, "NoExecute");
        let providers: Vec<&str> = settings.nodes.iter().map(|node| node.provider.name.as_str()).collect();
        assert_eq!(providers, ["mock", "other", "mock"]);
        assert_eq!(settings.nodes[1].provider_path, "nodes[1].provider.other");
    }

    #[test]
    fn a_provider_flag_keeps_the_settings_of_that_very_provider() {
        let yaml = "provider: {mock: {seed: 1}}";
        assert_eq!(good(yaml, &["--provider=mock"], &[]).nodes[0].provider.settings["seed"], 1);
        assert!(good(yaml, &["--provider=other"], &[]).nodes[0].provider.settings.get("seed").is_none());
    }

    #[test]
    fn taints_can_be_given_in_each_of_the_ways_there_are() {
        let taint = |words: &[&str], variables: &[(&str, &str)]| {
            let settings = good("provider: mock", words, variables);
            settings.nodes[0].config.taints.as_ref().map(|taints| {
                taints
                    .iter()
                    .map(|t| format!("{}={}:{}", t.key, t.value.as_deref().unwrap_or_default(), t.effect))
                    .collect::<Vec<_>>()
                    .join(",")
            })
        };
        assert_eq!(taint(&[], &[]), None);
        assert_eq!(taint(&["--disable-taint"], &[]).as_deref(), Some(""));
        assert_eq!(
            taint(&["--taint=a=b:NoExecute,c:NoSchedule"], &[]).as_deref(),
            Some("a=b:NoExecute,c=:NoSchedule")
        );
        assert_eq!(
            taint(&["--taint=example.com/key"], &[]).as_deref(),
            Some("example.com/key=mock:NoSchedule")
        );
        let parts = [("VKUBELET_TAINT_VALUE", "v"), ("VKUBELET_TAINT_EFFECT", "NoExecute")];
        assert_eq!(taint(&["--taint=k"], &parts).as_deref(), Some("k=v:NoExecute"));
        assert_eq!(
            taint(&["--disable-taint"], &parts).as_deref(),
            Some(""),
            "there is no taint to have parts"
        );
        assert_eq!(
            taint(&[], &[("VKUBELET_TAINT_EFFECT", "NoExecute")]).as_deref(),
            Some("virtual-kubelet.io/provider=mock:NoExecute")
        );
        assert_eq!(
            taint(&[], &[("VKUBELET_TAINT_KEY", "k"), ("VKUBELET_TAINT_VALUE", "v")]).as_deref(),
            Some("k=v:NoSchedule")
        );
    }

    #[test]
    fn settings_that_do_not_go_together_are_named_with_their_place() {
        let table: &[(&str, &[&str], &str)] = &[
            (
                "",
                &[],
                "no provider in vk.yaml (provider): add provider: mock to the file, or --provider mock",
            ),
            (
                "provider: mock\nkubeletApi: {certFile: /c}",
                &[],
                "certFile without keyFile in vk.yaml (kubeletApi): add keyFile, or --tls-private-key-file",
            ),
            (
                "provider: mock\nnodes: [{name: a}, {name: a}]",
                &[],
                "two nodes called \"a\" in vk.yaml (nodes[1].name): give each a name of its own",
            ),
            (
                "provider: mock\nnodes: [{name: a}, {name: b, port: 10250}]",
                &[],
                "port 10250 for two nodes in vk.yaml (nodes[1].port): give each a port of its own, or leave the port out",
            ),
            (
                "provider: mock\nnodes: [{name: a}, {name: b}]",
                &["--nodename=c"],
                "one node name, \"c\", for 2 nodes in --nodename, beside vk.yaml: name the nodes in the file alone",
            ),
            (
                "provider: mock\nnodeDefaults: {minBackoff: 10m}",
                &[],
                "minBackoff of 600s beside a maxBackoff of 300s in vk.yaml (nodeDefaults.minBackoff): make it the smaller one",
            ),
            (
                "provider: mock\nnodeDefaults: {pingInterval: 0s}",
                &[],
                "pingInterval of 0 in vk.yaml (nodeDefaults.pingInterval): give it a length, such as 10s",
            ),
            (
                "provider: mock\nnodeDefaults: {leaseDuration: 1500ms}",
                &[],
                "leaseDuration of 1.5s in vk.yaml (nodeDefaults.leaseDuration): a lease has whole seconds, at least 1",
            ),
            (
                "provider: mock\ncluster: {server: here}",
                &[],
                "bad URL \"here\" in vk.yaml:2 (cluster.server): write it like https://192.0.2.1:6443",
            ),
            (
                "provider: mock",
                &["--taint=a=b"],
                "bad taint \"a=b\" in --taint: write it like key=value:NoSchedule",
            ),
        ];
        for (yaml, words, line) in table {
            assert_eq!(merge(yaml, words, &[]).unwrap_err().to_string(), *line);
        }
    }
}
