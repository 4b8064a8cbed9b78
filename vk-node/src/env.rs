//! The environment: a variable for every flag, and Go Virtual Kubelet's variables.

use std::collections::BTreeMap;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Flags, explain};
use crate::config::scalar::{TaintSpec, Url};
use crate::fault::{Fault, Faults, nearest};

/// The prefix of our own variables: `--log-level` is `VK_LOG_LEVEL`.
const PREFIX: &str = "VK_";

/// The environment, read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// Settings that win over file and flags, in the order they are applied.
    pub(crate) layers: Vec<Flags>,
    /// What Go Virtual Kubelet's `VKUBELET_TAINT_*` say about the provider's taint.
    pub(crate) taint: TaintParts,
    /// `KUBECONFIG`, used where nothing else names a kubeconfig.
    pub(crate) default_kubeconfig: Option<String>,
    /// `DEFAULT_NODE_NAME`, used where nothing else names the node.
    pub(crate) default_node_name: Option<String>,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, used where nothing else names a receiver of traces.
    pub(crate) default_otlp_endpoint: Option<Url>,
    /// Lines to be logged: what is deprecated, what does nothing.
    pub(crate) notes: Vec<String>,
}

/// Parts of the taint; what is left out keeps its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaintParts {
    /// Instead of `virtual-kubelet.io/provider`.
    pub(crate) key: Option<String>,
    /// Instead of the provider's name.
    pub(crate) value: Option<String>,
    /// Instead of `NoSchedule`.
    pub(crate) effect: Option<String>,
}

/// Go's variables that are a flag of ours.
const GO_VARIABLES: [(&str, &str); 6] = [
    ("KUBELET_PORT", "port"),
    ("VKUBELET_POD_IP", "node-ip"),
    ("APISERVER_CERT_LOCATION", "tls-cert-file"),
    ("APISERVER_KEY_LOCATION", "tls-private-key-file"),
    ("APISERVER_CA_CERT_LOCATION", "client-ca-file"),
    ("MASTER_URI", "server"),
];

/// Go's variables about exporters that are no more.
const GO_TRACE_VARIABLES: [&str; 7] = [
    "JAEGER_COLLECTOR_ENDPOINT",
    "JAEGER_AGENT_ENDPOINT",
    "JAEGER_USER",
    "JAEGER_PASSWORD",
    "OCAGENT_ENDPOINT",
    "OCAGENT_INSECURE",
    "ZPAGES_PORT",
];

/// OpenTelemetry's own variable, read as a default.
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Flags that have no variable: they say where to read from, or are Go's.
const NO_VARIABLE: [&str; 2] = ["help", "version"];

impl Environment {
    /// The variables of this process.
    pub(crate) fn of_process() -> Result<Self, Faults> {
        Self::read(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Reads variables. An empty value is no value.
    pub(crate) fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Faults> {
        let variables: BTreeMap<String, String> =
            variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut environment = Self::default();
        let mut faults = Faults::default();

        let flags = flag_names();
        for (name, flag) in GO_VARIABLES {
            if let Some(value) = variables.get(name) {
                if is_service_link(value) {
                    environment
                        .notes
                        .push(format!("{name} is ignored: {value} is a Service's address, not a setting"));
                    continue;
                }
                environment
                    .notes
                    .push(format!("{name} is deprecated: use {} or --{flag}", variable_of(flag)));
                environment.layers.extend(faults.keep(layer(name, flag, value)));
            }
        }
        for name in GO_TRACE_VARIABLES {
            if variables.contains_key(name) {
                environment.notes.push(format!(
                    "{name} does nothing here: traces go out by OTLP alone, see --otlp-endpoint"
                ));
            }
        }
        faults.keep(environment.read_taint(&variables));
        environment.default_kubeconfig = variables.get("KUBECONFIG").cloned();
        environment.default_node_name = variables.get("DEFAULT_NODE_NAME").cloned();
        if let Some(url) = variables.get(OTLP_ENDPOINT) {
            let read = url.parse().map_err(|message: String| {
                Fault::of_scalar(&message, format!("in the variable {OTLP_ENDPOINT}"))
            });
            environment.default_otlp_endpoint = faults.keep(read);
        }
        if let (None, Some(name)) = (&environment.default_node_name, variables.get("DEFAULTNODE_NAME")) {
            environment.notes.push("DEFAULTNODE_NAME is deprecated: use DEFAULT_NODE_NAME".to_owned());
            environment.default_node_name = Some(name.clone());
        }

        for (name, value) in &variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let flag = rest.to_lowercase().replace('_', "-");
            if flags.contains(&flag) && !is_service_link(value) {
                environment.layers.extend(faults.keep(layer(name, &flag, value)));
            } else if !is_service_link(value) && !is_service_variable(rest) {
                // Others may use the prefix too; only what looks like a typing error is worth a line.
                let near = nearest(&flag, flags.iter().map(String::as_str)).map(variable_of);
                environment.notes.extend(near.map(|near| {
                    format!("{name} is ignored: no setting has that name; did you mean {near}?")
                }));
            }
        }
        for layer in &mut environment.layers {
            environment.notes.extend(layer.translate());
        }
        faults.or(environment)
    }

    fn read_taint(&mut self, variables: &BTreeMap<String, String>) -> Result<(), Fault> {
        let part = |name: &str| variables.get(name).cloned();
        self.taint = TaintParts {
            key: part("VKUBELET_TAINT_KEY"),
            value: part("VKUBELET_TAINT_VALUE"),
            effect: part("VKUBELET_TAINT_EFFECT"),
        };
        if self.taint == TaintParts::default() {
            return Ok(());
        }
        TaintSpec::new(
            self.taint.key.as_deref().unwrap_or("virtual-kubelet.io/provider"),
            self.taint.value.as_deref(),
            self.taint.effect.as_deref().unwrap_or("NoSchedule"),
        )
        .map_err(|message| Fault::of_scalar(&message, "in the variables VKUBELET_TAINT_*"))?;
        self.notes.push(
            "VKUBELET_TAINT_KEY, _VALUE and _EFFECT are deprecated: use VK_TAINT or --taint KEY=VALUE:EFFECT"
                .to_owned(),
        );
        Ok(())
    }
}

/// The long names of `run`'s flags.
pub(crate) fn flag_names() -> Vec<String> {
    Cli::command()
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| argument.get_long())
        .filter(|name| !NO_VARIABLE.contains(name))
        .map(str::to_owned)
        .collect()
}

/// A flag's variable.
pub(crate) fn variable_of(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// One variable, read as the flag it stands for.
fn layer(name: &str, flag: &str, value: &str) -> Result<Flags, Fault> {
    Cli::try_parse_from(["vk-node", &format!("--{flag}={value}")])
        .map(|cli| {
            let mut flags = cli.run.flags;
            // Where the file is read from is not a setting in it.
            flags.config_from_environment = cli.run.config;
            flags
        })
        .map_err(|error| explain(&error, &format!("in the variable {name}")))
}

/// A Service called `kubelet` or `vk` puts `KUBELET_PORT=tcp://10.0.0.1:443` into its namespace's pods.
fn is_service_link(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

/// The other variables of such a Service.
fn is_service_variable(rest: &str) -> bool {
    rest.contains("SERVICE_") || rest.starts_with("PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        Environment::read(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))).unwrap()
    }

    #[test]
    fn every_flag_has_a_variable() {
        for flag in flag_names() {
            assert_eq!(
                variable_of(&flag).strip_prefix(PREFIX).unwrap().to_lowercase().replace('_', "-"),
                flag
            );
        }
        let environment = read(&[("VK_LOG_LEVEL", "debug"), ("VK_LABEL", "a=b,c=d")]);
        assert_eq!(environment.layers.iter().find_map(|l| l.log_level.clone()), Some("debug".to_owned()));
        assert_eq!(environment.layers.iter().map(|l| l.label.len()).sum::<usize>(), 2);
        assert!(environment.notes.is_empty(), "{:?}", environment.notes);
    }

    #[test]
    fn go_variables_set_our_flags_and_say_so() {
        let environment = read(&[("KUBELET_PORT", "10350"), ("VKUBELET_POD_IP", "192.0.2.7")]);
        assert_eq!(environment.layers[0].port, Some(10350));
        assert_eq!(environment.layers[1].node_ip.len(), 1);
        assert_eq!(
            environment.notes,
            [
                "KUBELET_PORT is deprecated: use VK_PORT or --port",
                "VKUBELET_POD_IP is deprecated: use VK_NODE_IP or --node-ip",
            ]
        );
    }

    #[test]
    fn a_service_link_is_not_a_port() {
        let environment = read(&[("KUBELET_PORT", "tcp://10.0.0.1:443"), ("VK_PORT", "tcp://10.0.0.2:443")]);
        assert!(environment.layers.is_empty());
        let environment = read(&[("VK_SERVICE_HOST", "10.0.0.2"), ("VK_PORT_443_TCP_PROTO", "tcp")]);
        assert!(environment.notes.is_empty(), "{:?}", environment.notes);
    }

    #[test]
    fn a_variable_of_ours_with_a_typing_error_is_named() {
        let environment = read(&[("VK_LOG_LEVL", "debug")]);
        assert_eq!(
            environment.notes,
            ["VK_LOG_LEVL is ignored: no setting has that name; did you mean VK_LOG_LEVEL?"]
        );
        assert!(read(&[("VK_CONTROL_PLANE_DIR", "/x")]).notes.is_empty(), "it is somebody else's");
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        let read = |name: &str, value: &str| {
            Environment::read([(name.to_owned(), value.to_owned())]).unwrap_err().to_string()
        };
        assert_eq!(
            read("VK_DRAIN_TIMEOUT", "20"),
            "bad duration \"20\" in the variable VK_DRAIN_TIMEOUT: it has no unit; write 20s, 20m or 20ms"
        );
        let line = read("KUBELET_PORT", "http");
        assert!(line.contains("in the variable KUBELET_PORT"), "{line}");
        assert!(
            read("VKUBELET_TAINT_EFFECT", "Never").contains("in the variables VKUBELET_TAINT_*"),
            "the variable is named"
        );
    }
}
