//! The files of a pod's network that every container has in `/etc`.

use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};
use vk_core::provider::ResolvedPod;

use crate::config::ProcessConfig;

/// The longest host name the kernel takes, less one.
const LONGEST_NAME: usize = 63;

/// What a pod is called in its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// The host name.
    pub host: String,
    /// The same with the pod's subdomain, if it has one.
    pub full: Option<String>,
    /// What the kernel says: one of the two.
    pub kernel: String,
}

impl Name {
    /// A pod's name (`GeneratePodHostNameAndDomain` in the kubelet).
    pub(crate) fn of(pod: &ResolvedPod, domain: &str) -> Self {
        let spec = pod.object.spec.clone().unwrap_or_default();
        if let Some(name) = spec.hostname_override.filter(|name| !name.is_empty()) {
            return Self { host: name.clone(), full: None, kernel: name };
        }
        let mut host =
            spec.hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| pod.pod.name.to_string());
        if host.len() > LONGEST_NAME {
            host.truncate(LONGEST_NAME);
            host.truncate(host.trim_end_matches(['-', '.']).len());
        }
        let namespace = &pod.pod.namespace;
        let full = spec
            .subdomain
            .filter(|name| !name.is_empty())
            .map(|subdomain| format!("{host}.{subdomain}.{namespace}.svc.{domain}"));
        let kernel = match &full {
            Some(full) if spec.set_hostname_as_fqdn == Some(true) => full.clone(),
            _ => host.clone(),
        };
        Self { host, full, kernel }
    }
}

/// `/etc/hosts`: the machine's own for a pod on its network.
pub(crate) fn hosts(pod: &ResolvedPod, name: &Name, address: Option<IpAddr>, own: Option<&str>) -> String {
    let mut text = match own {
        Some(own) => format!("# Kubernetes-managed hosts file (host network).\n{own}"),
        None => "# Kubernetes-managed hosts file.\n\
                 127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\n\
                 fe00::0\tip6-mcastprefix\n\
                 fe00::1\tip6-allnodes\n\
                 fe00::2\tip6-allrouters\n"
            .to_owned(),
    };
    if own.is_none()
        && let Some(address) = address
    {
        // Writing to a string cannot fail.
        let _ = match &name.full {
            Some(full) => writeln!(text, "{address}\t{full}\t{}", name.host),
            None => writeln!(text, "{address}\t{}", name.host),
        };
    }
    let aliases = pod.object.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

/// A resolver's configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// `/etc/resolv.conf` by the pod's policy; `own` is the machine's.
pub(crate) fn resolv_conf(pod: &ResolvedPod, config: &ProcessConfig, own: &str) -> String {
    let spec = pod.object.spec.clone().unwrap_or_default();
    let own = Resolver::parse(own);
    let mut resolver = match policy(&spec) {
        "None" => Resolver::default(),
        "ClusterFirst" if !config.cluster_dns.is_empty() => {
            let domain = &config.cluster_domain;
            let mut searches =
                vec![format!("{}.svc.{domain}", pod.pod.namespace), format!("svc.{domain}"), domain.clone()];
            searches.extend(own.searches);
            Resolver {
                servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => own,
    };
    if let Some(more) = spec.dns_config {
        resolver.add(more);
    }
    resolver.to_string()
}

/// The policy in force: a pod on the machine's network uses its resolver unless it insists.
fn policy(spec: &PodSpec) -> &str {
    match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if spec.host_network == Some(true) => "Default",
        "ClusterFirstWithHostNet" => "ClusterFirst",
        policy => policy,
    }
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                "nameserver" => resolver.servers.extend(words.take(1)),
                "search" => resolver.searches = words.collect(),
                "options" => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }

    /// Adds a pod's own configuration; an option that is there already gets the pod's value.
    fn add(&mut self, more: PodDNSConfig) {
        fn extend(list: &mut Vec<String>, more: Option<Vec<String>>) {
            for each in more.into_iter().flatten() {
                if !list.contains(&each) {
                    list.push(each);
                }
            }
        }
        extend(&mut self.servers, more.nameservers);
        extend(&mut self.searches, more.searches);
        for option in more.options.into_iter().flatten() {
            let Some(name) = option.name else { continue };
            self.options.retain(|known| known.split(':').next() != Some(name.as_str()));
            self.options.push(match option.value.filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
}

impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    const OWN: &str = "search example.test\nnameserver 198.51.100.53\noptions timeout:1\n";

    fn pod(spec: Value) -> ResolvedPod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let object = json!({"metadata": {"name": "pod", "namespace": "ns", "uid": "u"}, "spec": spec});
        ResolvedPod::literal(serde_json::from_value::<Pod>(object).unwrap()).unwrap()
    }

    #[test]
    fn a_resolver_is_what_a_kubelet_writes() {
        let config =
            ProcessConfig { cluster_dns: vec!["10.96.0.10".parse().unwrap()], ..ProcessConfig::default() };
        let table = [
            (
                json!({}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local example.test\nnameserver 10.96.0.10\n\
                 options ndots:5\n",
            ),
            (json!({"hostNetwork": true}), OWN),
            (
                json!({"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["1.2.3.4"], "searches": ["a.test"],
                    "options": [{"name": "timeout", "value": "9"}]}}),
                "search example.test a.test\nnameserver 198.51.100.53\nnameserver 1.2.3.4\noptions timeout:9\n",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"], "options": [{"name": "edns0"}]}}),
                "nameserver 1.2.3.4\noptions edns0\n",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(resolv_conf(&pod(spec.clone()), &config, OWN), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_has_the_names_a_kubelet_gives_it() {
        let name = |spec: Value| {
            let name = Name::of(&pod(spec), "cluster.local");
            (name.host, name.full.unwrap_or_default(), name.kernel)
        };
        let names =
            |host: &str, full: &str, kernel: &str| (host.to_owned(), full.to_owned(), kernel.to_owned());
        assert_eq!(name(json!({})), names("pod", "", "pod"));
        let full = "h.sub.ns.svc.cluster.local";
        assert_eq!(name(json!({"hostname": "h", "subdomain": "sub"})), names("h", full, "h"));
        let qualified = json!({"hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true});
        assert_eq!(name(qualified), names("h", full, full));
        assert_eq!(name(json!({"hostnameOverride": "o.test"})), names("o.test", "", "o.test"));
        let long = format!("{}-x", "a".repeat(62));
        assert_eq!(name(json!({"hostname": long})).0, "a".repeat(62));
    }

    #[test]
    fn a_hosts_file_names_the_pod_and_its_aliases() {
        let aliased = pod(json!({"hostAliases": [{"ip": "10.1.2.3", "hostnames": ["a.test", "b.test"]}]}));
        let name = Name::of(&aliased, "cluster.local");
        let text = hosts(&aliased, &name, Some("10.89.0.2".parse().unwrap()), None);
        assert!(
            text.ends_with("10.89.0.2\tpod\n\n# Entries added by HostAliases.\n10.1.2.3\ta.test\tb.test\n")
        );
        let text = hosts(&aliased, &name, None, Some("127.0.0.1 box\n"));
        assert!(
            text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 box\n\n#"),
            "{text}"
        );
    }
}
