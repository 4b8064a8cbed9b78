//! The Services of a namespace as environment variables.
//!
//! Names and values are those of `pkg/kubelet/envvars/envvars.go`; which Services a pod gets is decided as in
//! `getServiceEnvVarMap` of `pkg/kubelet/kubelet_pods.go`: those of its namespace unless it sets
//! `enableServiceLinks: false`, and `default/kubernetes` always (oracle cases env-*).

use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodSpec, Service};

use super::findings::Findings;
use super::object::{Detail, ObjectKind, ObjectRef};
use crate::provider::{EnvVar, Origin, Value};

/// Where the API server's own Service is, and what it is called.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// What the environment tells of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    name: String,
    address: String,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: Option<String>,
    protocol: String,
    number: i32,
}

impl ServiceFacts {
    /// `None` for a Service without an address of its own.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let address = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
        let ports = spec.ports.iter().flatten().map(|port| Port {
            name: port.name.clone().filter(|name| !name.is_empty()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.port,
        });
        let ports: Vec<_> = ports.collect();
        let name = service.metadata.name.clone()?;
        (!ports.is_empty()).then(|| Self { name, address: address.to_owned(), ports })
    }

    fn variables(&self) -> Vec<(String, String)> {
        let Some(first) = self.ports.first() else { return Vec::new() };
        let base = variable(&self.name);
        let mut all = vec![
            (format!("{base}_SERVICE_HOST"), self.address.clone()),
            (format!("{base}_SERVICE_PORT"), first.number.to_string()),
        ];
        for port in &self.ports {
            if let Some(name) = &port.name {
                all.push((format!("{base}_SERVICE_PORT_{}", variable(name)), port.number.to_string()));
            }
        }
        // As Docker's links named them.
        all.push((format!("{base}_PORT"), self.url(first)));
        for port in &self.ports {
            let prefix = format!("{base}_PORT_{}_{}", port.number, port.protocol.to_uppercase());
            all.push((format!("{prefix}_PROTO"), port.protocol.to_lowercase()));
            all.push((format!("{prefix}_PORT"), port.number.to_string()));
            all.push((format!("{prefix}_ADDR"), self.address.clone()));
            all.push((prefix, self.url(port)));
        }
        all
    }

    fn url(&self, port: &Port) -> String {
        let mut url = format!("{}://", port.protocol.to_lowercase());
        let v6 = self.address.contains(':');
        let written = if v6 { write!(url, "[{}]", self.address) } else { write!(url, "{}", self.address) };
        let written = written.and_then(|()| write!(url, ":{}", port.number));
        debug_assert!(written.is_ok(), "a string takes all");
        url
    }
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The variables that Services give every container of a pod, as far as they have been read.
pub(super) fn variables(spec: &PodSpec, namespace: &str, findings: &mut Findings<'_>) -> Vec<EnvVar> {
    let mut facts: Vec<ServiceFacts> = Vec::new();
    let mut take = |object: &ObjectRef| {
        if let Some(Detail::Services(found)) = findings.peek(object).map(|object| object.detail.clone()) {
            for service in found {
                if facts.iter().all(|known| known.name != service.name) {
                    facts.push(service);
                }
            }
        }
    };
    if spec.enable_service_links != Some(false) {
        let (namespace, name) = (Arc::from(namespace), Arc::from(""));
        take(&ObjectRef { kind: ObjectKind::Services, namespace, name });
    }
    if spec.enable_service_links == Some(false) || namespace != MASTER.0 {
        // One of that name in the pod's own namespace comes first.
        take(&ObjectRef { kind: ObjectKind::Service, namespace: MASTER.0.into(), name: MASTER.1.into() });
    }
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    let of = |service: &ServiceFacts| {
        let origin = Origin::Service(service.name.clone());
        let variables = service.variables().into_iter();
        variables
            .map(move |(name, text)| EnvVar { name, value: Value::plain(text), origin: origin.clone() })
            .collect::<Vec<_>>()
    };
    facts.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(address: &str, ports: serde_json::Value) -> Option<ServiceFacts> {
        let mut service = json!({"metadata": {"name": "my-web"}, "spec": {"clusterIP": address}});
        service["spec"]["ports"] = ports;
        ServiceFacts::of(&serde_json::from_value(service).unwrap())
    }

    #[test]
    fn a_service_is_told_in_both_of_the_kubelets_ways() {
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]);
        let mut all = facts("10.96.0.7", ports).unwrap().variables();
        all.sort();
        let expected = [
            ("MY_WEB_PORT", "tcp://10.96.0.7:80"),
            ("MY_WEB_PORT_53_UDP", "udp://10.96.0.7:53"),
            ("MY_WEB_PORT_53_UDP_ADDR", "10.96.0.7"),
            ("MY_WEB_PORT_53_UDP_PORT", "53"),
            ("MY_WEB_PORT_53_UDP_PROTO", "udp"),
            ("MY_WEB_PORT_80_TCP", "tcp://10.96.0.7:80"),
            ("MY_WEB_PORT_80_TCP_ADDR", "10.96.0.7"),
            ("MY_WEB_PORT_80_TCP_PORT", "80"),
            ("MY_WEB_PORT_80_TCP_PROTO", "tcp"),
            ("MY_WEB_SERVICE_HOST", "10.96.0.7"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_SERVICE_PORT_DNS_UDP", "53"),
            ("MY_WEB_SERVICE_PORT_HTTP", "80"),
        ];
        assert_eq!(all, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn addresses_of_the_other_family_are_bracketed_in_urls() {
        let all = facts("fd00::7", json!([{"port": 80}])).unwrap().variables();
        assert!(all.contains(&("MY_WEB_PORT".to_owned(), "tcp://[fd00::7]:80".to_owned())), "{all:?}");
        assert!(all.contains(&("MY_WEB_SERVICE_HOST".to_owned(), "fd00::7".to_owned())));
    }

    #[test]
    fn a_service_without_an_address_is_not_told() {
        assert_eq!(facts("None", json!([{"port": 80}])), None);
        assert_eq!(facts("", json!([{"port": 80}])), None);
    }
}
