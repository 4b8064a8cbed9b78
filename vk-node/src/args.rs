//! The command line.

pub(crate) mod golang;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::args::golang::GoFlags;
use crate::config::LogFormat;
use crate::config::scalar::{
    Address, Amount, FieldPath, LabelKey, LabelValue, NodeName, OperatingSystem, Period, Ratio, Socket, Text,
    Url, parse_pair, parse_switch,
};
use crate::fault::{Fault, one_line};

/// Joins a Kubernetes cluster as a node and runs its pods at a provider.
#[derive(Debug, Parser)]
#[command(
    name = "vk-node",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    after_help = AFTER_HELP
)]
pub(crate) struct Cli {
    /// What to do; `run` where nothing is said.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// `run`'s flags.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

const AFTER_HELP: &str = "\
Settings come from three places, the later one wins: the file, the flags, the environment. Every flag has a \
variable: --log-level is VK_LOG_LEVEL, and lists are separated by commas. KUBECONFIG and DEFAULT_NODE_NAME are \
only used where neither of the three says anything.

Go Virtual Kubelet's flags and variables are accepted. One line in the log names ours where it differs, or says \
that it does nothing here.

Exit codes: 0 after a drain, 1 when the node failed or another daemon has its name, 2 when a flag, a file, the \
cluster or its permissions are not as they should be (for check: whatever it finds), 130 and 143 after a second \
SIGINT or SIGTERM.";

/// What the daemon can be asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the nodes (what happens without a command too)
    Run(RunArgs),
    /// Say what would stop the nodes, and how to put it right: configuration, ports, certificates, provider, cluster, permissions
    Check(CheckArgs),
    /// A whole cluster in one process: in-memory API server, mock node, hello-world
    #[cfg(feature = "quickstart")]
    Quickstart(crate::quickstart::QuickstartArgs),
    /// Judge a running node of any make from outside, or the configured provider by the provider contract
    #[cfg(feature = "conformance")]
    Conformance(Box<crate::conformance::ConformanceArgs>),
    /// The backends this build has, and what each can do
    Providers {
        /// One of them
        name: Option<String>,
        /// Every field of a pod, also those that are honoured
        #[arg(long)]
        fields: bool,
    },
    /// This build's version, and what is in it
    Version,
    /// A completion script for a shell, to standard output
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The manual page, roff, to standard output; vk-node man | man -l -
    Man {
        /// Of one command
        command: Option<String>,
    },
    /// A support bundle; not built yet, and says so
    Debug,
}

/// What `run` takes.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// The configuration file, YAML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Settings as flags.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// What `check` takes.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CheckArgs {
    /// Ask no cluster
    #[arg(long)]
    pub(crate) offline: bool,
    /// What `run` would be given.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Every setting that has a flag. `None` and an empty list say nothing.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// URL of the API server, instead of the kubeconfig's
    #[arg(long, value_name = "URL", help_heading = "Cluster")]
    pub(crate) server: Option<Url>,
    /// Kubeconfig that may ask for a node's client certificate; the node is then its own user, system:node:NAME, and --kubeconfig is written
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    /// Where the certificates that the cluster signs are kept [default: /var/lib/vk-node/pki]
    #[arg(long, value_name = "DIRECTORY", help_heading = "Cluster")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// How long the API server may take to answer at start [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Cluster")]
    pub(crate) connect_timeout: Option<Period>,
    /// How long the nodes may take to become Ready; 0 is for ever [default: 0]
    #[arg(long, value_name = "DURATION", help_heading = "Cluster")]
    pub(crate) startup_timeout: Option<Period>,

    /// The backend that runs the pods; `vk-node providers` lists them
    #[arg(long, value_name = "NAME", help_heading = "Provider")]
    pub(crate) provider: Option<String>,
    /// The backend's own configuration file
    #[arg(long, value_name = "FILE", help_heading = "Provider")]
    pub(crate) provider_config: Option<PathBuf>,

    /// The node's name [default: $DEFAULT_NODE_NAME, or virtual-kubelet]
    #[arg(long, visible_alias = "node-name", value_name = "NAME", help_heading = "Node")]
    pub(crate) nodename: Option<NodeName>,
    /// The node's operating system, linux or windows [default: the provider's]
    #[arg(long, value_name = "OS", help_heading = "Node")]
    pub(crate) os: Option<OperatingSystem>,
    /// The node's InternalIP [default: the address this machine reaches the API server from]
    #[arg(long, value_name = "IP", value_delimiter = ',', help_heading = "Node")]
    pub(crate) node_ip: Vec<Address>,
    /// A label of the node
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_pair::<LabelKey, LabelValue>, help_heading = "Node")]
    pub(crate) label: Vec<(LabelKey, LabelValue)>,
    /// An annotation of the node
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_pair::<LabelKey, Text>, help_heading = "Node")]
    pub(crate) annotation: Vec<(LabelKey, Text)>,
    /// A taint of the node [default: virtual-kubelet.io/provider=PROVIDER:NoSchedule]
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', help_heading = "Node")]
    pub(crate) taint: Vec<String>,
    /// No taint at all [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Node")]
    pub(crate) disable_taint: Option<bool>,
    /// Capacity of the node instead of the provider's, such as cpu=16
    #[arg(long, value_name = "RESOURCE=QUANTITY", value_delimiter = ',', value_parser = parse_pair::<LabelKey, Amount>, help_heading = "Node")]
    pub(crate) capacity: Vec<(LabelKey, Amount)>,
    /// How many pods are worked on at once [default: 64]
    #[arg(long, value_name = "N", help_heading = "Node")]
    pub(crate) pod_workers: Option<usize>,
    /// How often all pods are compared with the backend's listing [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) drift_check_interval: Option<Period>,
    /// Version the node reports [default: the API server's, with ours added]
    #[arg(long, value_name = "VERSION", help_heading = "Node")]
    pub(crate) kubelet_version: Option<String>,
    /// How many creations are under way at the provider at once; updates and deletions have as many each [default: 256]
    #[arg(long, value_name = "N", help_heading = "Node")]
    pub(crate) provider_calls: Option<usize>,
    /// How long a creation, update, deletion or listing may take before it is dropped and repeated later [default: 2m]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) provider_timeout: Option<Period>,
    /// How often the provider is asked for its health and capacity [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) ping_interval: Option<Period>,
    /// How long that may take before the node is not Ready [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) ping_timeout: Option<Period>,
    /// How often an unchanged node status is written all the same [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) status_report_interval: Option<Period>,
    /// How long the node's lease lasts, in whole seconds; it is renewed at a quarter of it [default: 40s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) lease_duration: Option<Period>,
    /// First pause after a failed provider call [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) min_backoff: Option<Period>,
    /// Longest pause between attempts [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) max_backoff: Option<Period>,
    /// How long a created pod may be missing from the provider's listing before it counts as gone [default: 1m]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) creation_grace: Option<Period>,
    /// How long past its grace period an accepted deletion may take before it is sent again [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) deletion_slack: Option<Period>,
    /// How long a start may take before ContainerCreating is written [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) pending_status_delay: Option<Period>,
    /// The share of pods, in percent, above which a listing that lacks them is not believed [default: 50]
    #[arg(long, value_name = "PERCENT", help_heading = "Node")]
    pub(crate) mass_absence_percent: Option<u8>,
    /// Fewer missing pods than this are always believed [default: 5]
    #[arg(long, value_name = "N", help_heading = "Node")]
    pub(crate) mass_absence_floor: Option<usize>,
    /// Events about things going well, per second; 0 is warnings only [default: 10]
    #[arg(long, value_name = "N", help_heading = "Node")]
    pub(crate) normal_events_per_second: Option<u32>,
    /// What variables get that refer to a pod IP which nobody knows yet: fail, empty, node-ip [default: fail]
    #[arg(long, value_name = "POLICY", help_heading = "Node")]
    pub(crate) late_bound_fields: Option<vk_core::config::LateBoundPolicy>,
    /// Fields of pods to pass over, with a warning, where the provider does not honour them [default: such pods are refused]
    #[arg(long, value_name = "PATH", value_delimiter = ',', help_heading = "Node")]
    pub(crate) ignored_fields: Vec<FieldPath>,
    /// Who this daemon is among daemons of one node, such as its pod's UID [default: this process]
    #[arg(long, value_name = "ID", help_heading = "Node")]
    pub(crate) instance: Option<String>,
    /// Let the API server send exec, attach and port-forward as WebSockets to the kubelet API [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Node")]
    pub(crate) websocket_streams: Option<bool>,
    /// Delete the Node object when shutting down [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Node")]
    pub(crate) deregister: Option<bool>,
    /// Stop the node's pods at the backend when shutting down [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Node")]
    pub(crate) drain: Option<bool>,
    /// How long last statuses, calls under way and stopping pods may take at the daemon's end [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Node")]
    pub(crate) drain_timeout: Option<Period>,

    /// Address the kubelet API listens on [default: 0.0.0.0]
    #[arg(long, value_name = "IP", help_heading = "Kubelet API")]
    pub(crate) listen: Option<Address>,
    /// Port of the kubelet API [default: 10250]
    #[arg(long, value_name = "PORT", help_heading = "Kubelet API")]
    pub(crate) port: Option<u16>,
    /// Serving certificate, PEM [default: self-signed, made at start]
    #[arg(long, value_name = "FILE", help_heading = "Kubelet API")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Private key of the serving certificate, PEM
    #[arg(long, value_name = "FILE", help_heading = "Kubelet API")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
    /// Ask the cluster for the serving certificate, keep it in --cert-dir and renew it; the cluster signs for a node's own identity alone, and somebody has to approve [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Kubelet API")]
    pub(crate) rotate_server_certificates: Option<bool>,
    /// Certificate authority of the API server's client certificate, PEM [default: the cluster's, from kube-system/extension-apiserver-authentication]
    #[arg(long, value_name = "FILE", help_heading = "Kubelet API")]
    pub(crate) client_ca_file: Option<PathBuf>,
    /// Common name of a client certificate that may call everything, such as the API server's
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Kubelet API")]
    pub(crate) trusted_client: Vec<String>,
    /// Open /stats/summary and /metrics/resource to callers without credentials [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Kubelet API")]
    pub(crate) anonymous_metrics: Option<bool>,
    /// Open the whole kubelet API to everyone who can reach it [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch, help_heading = "Kubelet API")]
    pub(crate) insecure_allow_anonymous: Option<bool>,
    /// Connections to the kubelet API at once; beyond it, one whose caller was not let in makes way for a new one [default: 4096]
    #[arg(long, value_name = "N", help_heading = "Kubelet API")]
    pub(crate) max_connections: Option<usize>,
    /// How long a connection of exec, attach or port-forward may carry nothing at all [default: 4h]
    #[arg(long, value_name = "DURATION", help_heading = "Kubelet API")]
    pub(crate) streaming_connection_idle_timeout: Option<Period>,
    /// How long a client may take to open the streams of an exec, attach or port-forward [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Kubelet API")]
    pub(crate) stream_creation_timeout: Option<Period>,
    /// Execs, attachments and port-forward connections of one node at once; one more gets 429 [default: 2000]
    #[arg(long, value_name = "N", help_heading = "Kubelet API")]
    pub(crate) max_stream_sessions: Option<usize>,
    /// Streams of one of them; a forwarded connection needs two [default: 4096]
    #[arg(long, value_name = "N", help_heading = "Kubelet API")]
    pub(crate) max_streams_per_session: Option<usize>,

    /// Address and port of /metrics, /livez and /readyz, plain HTTP [default: none]
    #[arg(long, value_name = "IP:PORT", help_heading = "Observability")]
    pub(crate) admin_listen: Option<Socket>,
    /// error, warn, info, debug, trace, or directives such as info,vk_core=debug [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Observability")]
    pub(crate) log_level: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", ignore_case = true, help_heading = "Observability")]
    pub(crate) log_format: Option<LogFormat>,
    /// OTLP receiver's URL, to which /v1/traces is added [default: $OTEL_EXPORTER_OTLP_ENDPOINT, or none]
    #[arg(long, value_name = "URL", help_heading = "Observability")]
    pub(crate) otlp_endpoint: Option<Url>,
    /// The share of pods that are traced, 0 to 1 [default: 1]
    #[arg(long, value_name = "RATIO", help_heading = "Observability")]
    pub(crate) trace_sample_ratio: Option<Ratio>,
    /// The traces' service.name [default: vk-node]
    #[arg(long, value_name = "NAME", help_heading = "Observability")]
    pub(crate) trace_service_name: Option<String>,
    /// An attribute of the traces' resource
    #[arg(long, visible_alias = "trace-tag", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_pair::<Text, Text>, help_heading = "Observability")]
    pub(crate) trace_attribute: Vec<(Text, Text)>,

    /// Go Virtual Kubelet's own.
    #[command(flatten)]
    pub(crate) go: GoFlags,
    /// `VK_CONFIG`, where these flags were read from the environment.
    #[arg(skip)]
    pub(crate) config_from_environment: Option<PathBuf>,
}

/// What reading a command line comes to.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Do this; the lines are to be logged.
    Run(Box<Cli>, Vec<String>),
    /// Print this and end well: `--help`, `--version`.
    Print(String),
}

/// Reads a command line.
pub(crate) fn parse<I>(line: I) -> Result<Parsed, Fault>
where
    I: IntoIterator<Item = String>,
{
    let (line, notes) = golang::take_klog_flags(line);
    match Cli::try_parse_from(line) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli), notes)),
        Err(error) => match error.kind() {
            clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion => {
                Ok(Parsed::Print(error.render().to_string()))
            }
            _ => Err(explain(&error, "on the command line")),
        },
    }
}

/// clap's error, which has several lines, as one.
pub(crate) fn explain(error: &clap::Error, place: &str) -> Fault {
    use clap::error::{ContextKind, ContextValue};

    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = one_line(first.strip_prefix("error: ").unwrap_or(first));
    let remedy = match error.get(ContextKind::SuggestedArg).or(error.get(ContextKind::SuggestedSubcommand)) {
        Some(ContextValue::String(near)) => format!("did you mean {near}?"),
        Some(ContextValue::Strings(near)) if !near.is_empty() => {
            format!("did you mean {}?", near.join(" or "))
        }
        _ => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                format!("it is {}", valid.join(" or "))
            }
            _ => "see vk-node --help".to_owned(),
        },
    };
    // clap puts our scalars' own remedy after the value: `invalid value 'x' for '--y': what: remedy`.
    match first.split_once("': bad ") {
        Some((_, ours)) => {
            let (what, remedy) = ours.split_once("\": ").unwrap_or((ours, "see vk-node --help"));
            let flag = first.split("for '--").nth(1).and_then(|rest| rest.split([' ', '\'', '[']).next());
            let place = match flag {
                Some(flag) if place.starts_with("on ") => format!("in --{flag}"),
                _ => place.to_owned(),
            };
            Fault::new(format!("bad {what}\""), place, remedy)
        }
        None => Fault::new(first, place, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_a_typing_error_is_named() {
        let said = |word: &str| parse(["vk-node", word].map(str::to_owned)).unwrap_err().to_string();
        assert!(said("chek").ends_with("on the command line: did you mean check?"), "{}", said("chek"));
        assert!(said("xyzzy").ends_with("on the command line: see vk-node --help"), "{}", said("xyzzy"));
        assert!(said("--nodenam=a").ends_with("did you mean --nodename?"), "{}", said("--nodenam=a"));
    }
}
