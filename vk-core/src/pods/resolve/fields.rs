//! The downward API: fields and resources of the pod as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceFieldSelector, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::findings::Findings;
use super::quantity::Amount;
use super::{LateBound, LateBoundPolicy, ResolveOptions};

/// What a pod is resolved with, beside the objects it refers to.
pub(super) struct Context<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) namespace: &'a str,
    pub(super) late: &'a LateBound,
    pub(super) node: &'a NodeFacts,
    pub(super) options: &'a ResolveOptions,
}

/// What pods may ask of their node.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeFacts {
    /// The node's addresses.
    pub(super) host_ips: Vec<IpAddr>,
    /// `status.allocatable`, the limit of containers without one.
    pub(super) allocatable: BTreeMap<String, Quantity>,
}

impl Context<'_> {
    /// A field that the environment may refer to. The error says why not.
    pub(super) fn env_field(&self, findings: &mut Findings<'_>, path: &str) -> Result<String, String> {
        match path {
            "spec.nodeName" | "spec.host" => Ok(self.spec.node_name.clone().unwrap_or_default()),
            "spec.serviceAccountName" => Ok(self.spec.service_account_name.clone().unwrap_or_default()),
            "status.hostIP" => Ok(first(&self.host_ips()?)),
            "status.hostIPs" => Ok(self.host_ips()?.join(",")),
            "status.podIP" => self.late_bound(findings, path).map(|ips| first(&ips)),
            "status.podIPs" => self.late_bound(findings, path).map(|ips| ips.join(",")),
            // Only files can hold a whole map.
            "metadata.labels" | "metadata.annotations" => {
                Err(format!("{path} as a whole fits a downwardAPI volume only; name one key"))
            }
            _ => self.metadata(path),
        }
    }

    /// A field that a downward API volume may refer to. The error says why not.
    pub(super) fn file_field(&self, path: &str) -> Result<String, String> {
        let meta = &self.pod.metadata;
        match path {
            "metadata.labels" => Ok(map_lines(meta.labels.as_ref())),
            "metadata.annotations" => Ok(map_lines(meta.annotations.as_ref())),
            _ => self.metadata(path),
        }
    }

    fn metadata(&self, path: &str) -> Result<String, String> {
        let meta = &self.pod.metadata;
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.labels" => meta.labels.as_ref(),
                "metadata.annotations" => meta.annotations.as_ref(),
                _ => return Err(format!("{map} has no keys")),
            };
            // An absent key is an empty value (oracle case env-field-refs).
            return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
        }
        match path {
            "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
            "metadata.namespace" => Ok(self.namespace.to_owned()),
            "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
            _ => Err(format!("{path:?} is not a field that a pod can refer to here")),
        }
    }

    fn host_ips(&self) -> Result<Vec<String>, String> {
        let status = self.pod.status.as_ref();
        let observed = || {
            let ips = status.and_then(|status| status.host_ips.as_ref());
            ips.into_iter().flatten().map(|ip| ip.ip.clone()).collect::<Vec<_>>()
        };
        let known = [&self.late.host_ips, &self.node.host_ips].into_iter().find(|ips| !ips.is_empty());
        let ips = known.map_or_else(observed, |ips| ips.iter().map(ToString::to_string).collect());
        if ips.is_empty() { Err("the node has no address yet".into()) } else { Ok(ips) }
    }

    fn pod_ips(&self) -> Result<Vec<String>, String> {
        if !self.late.pod_ips.is_empty() {
            return Ok(self.late.pod_ips.iter().map(ToString::to_string).collect());
        }
        // A pod that was given its address before (this daemon was restarted meanwhile) keeps it.
        let status = self.pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
        let ips: Vec<String> = status.into_iter().flatten().map(|ip| ip.ip.clone()).collect();
        if !ips.is_empty() {
            return Ok(ips);
        }
        if self.spec.host_network == Some(true) {
            return self.host_ips();
        }
        Err("this backend does not know the pod's address before the containers start; \
             read it at run time instead"
            .into())
    }

    /// The pod's addresses, or what the node's policy puts in their place.
    fn late_bound(&self, findings: &mut Findings<'_>, path: &str) -> Result<Vec<String>, String> {
        let (ips, instead) = match (self.pod_ips(), self.options.late_bound) {
            (Ok(ips), _) => return Ok(ips),
            (Err(reason), LateBoundPolicy::Fail) => return Err(reason),
            (Err(_), LateBoundPolicy::Empty) => (Vec::new(), "an empty value"),
            (Err(_), LateBoundPolicy::NodeIp) => (self.host_ips()?, "the node's address"),
        };
        findings.late_bound.insert(path.to_owned(), instead.to_owned());
        Ok(ips)
    }

    /// `resourceFieldRef`. The error says why not.
    ///
    /// A limit that is unset or zero is the node's allocatable; a request that is unset is the limit, or
    /// zero (oracle case env-resource-field-refs).
    pub(super) fn resource(
        &self,
        own_container: Option<&str>,
        selector: &ResourceFieldSelector,
    ) -> Result<String, String> {
        let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let container = named.or(own_container).ok_or("containerName is needed here")?;
        let resources = self.resources_of(container)?;
        let (side, resource) = selector.resource.split_once('.').unwrap_or_default();
        let sized = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
        if !sized && !resource.starts_with("hugepages-") {
            return Err(format!("{:?} is not a resource that a pod can refer to", selector.resource));
        }
        let limit = amount(resources.and_then(|all| all.limits.as_ref()), resource)?;
        let value = match side {
            "requests" => {
                amount(resources.and_then(|all| all.requests.as_ref()), resource)?.or(limit).unwrap_or(Amount::ZERO)
            }
            "limits" => match limit.filter(|limit| *limit != Amount::ZERO) {
                Some(limit) => limit,
                None if sized => amount(Some(&self.node.allocatable), resource)?.ok_or_else(|| {
                    format!("container {container:?} has no {resource} limit and the node does not say how much it has")
                })?,
                None => Amount::ZERO,
            },
            _ => return Err(format!("{:?} begins with neither limits nor requests", selector.resource)),
        };
        let divisor = match &selector.divisor {
            Some(divisor) => {
                Amount::parse(divisor).ok_or_else(|| format!("divisor {:?} is no quantity", divisor.0))?
            }
            None => Amount::ONE,
        };
        if divisor < Amount::ZERO {
            return Err("the divisor is negative".into());
        }
        Ok(value.in_units_of(divisor, resource == "cpu").to_string())
    }

    fn resources_of(&self, container: &str) -> Result<Option<&ResourceRequirements>, String> {
        let all = self.spec.containers.iter().chain(self.spec.init_containers.iter().flatten());
        all.into_iter()
            .find(|candidate| candidate.name == container)
            .map(|found| found.resources.as_ref())
            .ok_or_else(|| format!("the pod has no container {container:?}"))
    }
}

fn first(ips: &[String]) -> String {
    ips.first().cloned().unwrap_or_default()
}

fn amount(of: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Result<Option<Amount>, String> {
    let Some(quantity) = of.and_then(|all| all.get(resource)) else { return Ok(None) };
    Amount::parse(quantity).map(Some).ok_or_else(|| format!("{resource} {:?} is no quantity", quantity.0))
}

/// `map['key']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// A map as a kubelet writes it into a file: `key="value"`, sorted, no newline at the end.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A string in Go's quotes (`%q`), which is how downward API files hold values.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::resolve::findings::Snapshot;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "pod", "namespace": "ns", "uid": "u-1",
                "labels": {"a": "one", "b": "two", "example.test/l": "v"},
                "annotations": {"k": "line1\nline2", "z": "q\"t"},
            },
            "spec": {
                "nodeName": "node", "serviceAccountName": "default",
                "containers": [
                    {"name": "a", "resources": {
                        "requests": {"cpu": "125m", "memory": "33Mi"},
                        "limits": {"cpu": "1500m", "memory": "64Mi", "ephemeral-storage": "1Gi"}}},
                    {"name": "b"},
                ],
            },
        }))
        .unwrap()
    }

    fn with<T>(pod: &Pod, late: &LateBound, node: &NodeFacts, ask: impl Fn(&Context<'_>) -> T) -> T {
        let spec = pod.spec.as_ref().unwrap();
        ask(&Context { pod, spec, namespace: "ns", late, node, options: &ResolveOptions::default() })
    }

    fn node() -> NodeFacts {
        NodeFacts {
            host_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            allocatable: [
                ("cpu".to_owned(), Quantity("2".into())),
                ("memory".to_owned(), Quantity("4Gi".into())),
            ]
            .into(),
        }
    }

    #[test]
    fn every_env_field_reads_as_a_kubelet_gives_it() {
        let late = LateBound {
            pod_ips: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            host_ips: vec![],
        };
        for (path, expected) in [
            ("metadata.name", "pod"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u-1"),
            ("metadata.labels['a']", "one"),
            ("metadata.labels['example.test/l']", "v"),
            ("metadata.labels['absent']", ""),
            ("metadata.annotations['k']", "line1\nline2"),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "default"),
            ("status.hostIP", "192.0.2.1"),
            ("status.hostIPs", "192.0.2.1,2001:db8::1"),
            ("status.podIP", "10.0.0.7"),
            ("status.podIPs", "10.0.0.7,fd00::7"),
        ] {
            assert_eq!(
                with(&pod(), &late, &node(), |c| c.env_field(&mut Findings::new(&Snapshot::default()), path))
                    .as_deref(),
                Ok(expected),
                "{path}"
            );
        }
    }

    #[test]
    fn fields_that_cannot_be_given_say_why() {
        for (path, why) in [
            ("metadata.labels", "downwardAPI volume only"),
            ("spec.restartPolicy", "not a field"),
            ("metadata.finalizers['x']", "has no keys"),
            ("status.podIP", "before the containers start"),
            ("status.hostIP", "no address yet"),
        ] {
            let answer = with(&pod(), &LateBound::default(), &NodeFacts::default(), |c| {
                c.env_field(&mut Findings::new(&Snapshot::default()), path)
            });
            assert!(answer.as_ref().is_err_and(|text| text.contains(why)), "{path}: {answer:?}");
        }
    }

    #[test]
    fn the_pods_address_comes_from_the_backend_then_the_status_then_the_host_network() {
        let mut pod = pod();
        let ask = |pod: &Pod, late: &LateBound| {
            with(pod, late, &node(), |c| {
                c.env_field(&mut Findings::new(&Snapshot::default()), "status.podIP")
            })
        };
        pod.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(ask(&pod, &LateBound::default()).as_deref(), Ok("192.0.2.1"));
        pod.status = serde_json::from_value(json!({"podIPs": [{"ip": "10.0.0.8"}]})).unwrap();
        assert_eq!(ask(&pod, &LateBound::default()).as_deref(), Ok("10.0.0.8"));
        let late = LateBound { pod_ips: vec!["10.0.0.9".parse().unwrap()], host_ips: vec![] };
        assert_eq!(ask(&pod, &late).as_deref(), Ok("10.0.0.9"));
    }

    #[test]
    fn labels_and_annotations_are_written_as_a_kubelets_files_are() {
        // Oracle case volume-downward.
        let ask = |path| with(&pod(), &LateBound::default(), &node(), |c| c.file_field(path)).unwrap();
        assert_eq!(ask("metadata.labels"), "a=\"one\"\nb=\"two\"\nexample.test/l=\"v\"");
        assert_eq!(ask("metadata.annotations"), "k=\"line1\\nline2\"\nz=\"q\\\"t\"");
        assert_eq!(ask("metadata.labels['a']"), "one");
        assert_eq!(quoted("\\\t\u{1}\u{7f}\u{85}é"), "\"\\\\\\t\\x01\\x7f\\u0085é\"");
    }

    #[test]
    fn resources_have_defaults_and_round_up_as_a_kubelets_do() {
        // Oracle case env-resource-field-refs.
        for (container, resource, divisor, expected) in [
            (None, "limits.cpu", None, "2"),
            (None, "limits.cpu", Some("1m"), "1500"),
            (None, "requests.cpu", None, "1"),
            (None, "requests.cpu", Some("1m"), "125"),
            (None, "limits.memory", Some("1M"), "68"),
            (None, "requests.memory", Some("1Ki"), "33792"),
            (None, "requests.ephemeral-storage", None, "1073741824"),
            (Some("b"), "limits.cpu", None, "2"),
            (Some("b"), "limits.memory", Some("1Gi"), "4"),
            (Some("b"), "requests.cpu", Some("1m"), "0"),
            (Some("b"), "requests.memory", None, "0"),
            (Some("b"), "limits.hugepages-2Mi", None, "0"),
        ] {
            let selector = selector(container, resource, divisor);
            let answer = with(&pod(), &LateBound::default(), &node(), |c| c.resource(Some("a"), &selector));
            assert_eq!(answer.as_deref(), Ok(expected), "{container:?} {resource} {divisor:?}");
        }
    }

    #[test]
    fn resources_that_cannot_be_given_say_why() {
        for (own, container, resource, divisor, why) in [
            (Some("a"), Some("nope"), "limits.cpu", None, "no container"),
            (None, None, "limits.cpu", None, "containerName"),
            (Some("a"), None, "limits.example.test/gpu", None, "not a resource"),
            (Some("a"), None, "cpu", None, "not a resource"),
            (Some("a"), None, "usage.cpu", None, "neither limits nor requests"),
            (Some("a"), None, "limits.cpu", Some("x"), "no quantity"),
            (Some("a"), None, "limits.cpu", Some("-1"), "negative"),
            (Some("b"), None, "limits.cpu", None, "does not say how much"),
        ] {
            let selector = selector(container, resource, divisor);
            let answer =
                with(&pod(), &LateBound::default(), &NodeFacts::default(), |c| c.resource(own, &selector));
            assert!(answer.as_ref().is_err_and(|text| text.contains(why)), "{resource}: {answer:?}");
        }
    }

    fn selector(container: Option<&str>, resource: &str, divisor: Option<&str>) -> ResourceFieldSelector {
        ResourceFieldSelector {
            container_name: container.map(Into::into),
            resource: resource.into(),
            divisor: divisor.map(|text| Quantity(text.into())),
        }
    }
}
