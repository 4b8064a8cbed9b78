//! `check`: everything that would stop a node, found before it is one. Nothing is written to the cluster, and
//! nothing is left behind.

mod certificate;
mod skew;

use std::fmt;

use vk_core::node::{Instance, present_holder};
use vk_core::provider::Health;

use crate::cluster::Cluster;
use crate::config::settings::{NodeSettings, Settings};
use crate::fault::{Fault, Faults, chain};
use crate::{backends, cluster, kubelet_api, preflight};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What would stop the daemon.
    pub(crate) faults: Faults,
    /// What would not, but costs something.
    pub(crate) notes: Vec<String>,
    /// What is in order.
    pub(crate) good: Vec<String>,
}

impl Report {
    fn good(&mut self, what: impl fmt::Display) {
        self.good.push(what.to_string());
    }
}

/// Looks at files, ports and providers, and unless `offline` at the cluster. One thing's fault does not keep the
/// others from being looked at.
pub(crate) async fn check(settings: &Settings, offline: bool) -> Report {
    let mut report = Report::default();
    let names: Vec<&str> = settings.nodes.iter().map(|node| node.config.name.as_str()).collect();
    report.good(format!("{} is valid: {} node(s): {}", settings.source, names.len(), names.join(", ")));
    report.notes.extend(settings.notes.iter().cloned());

    ports(settings, &mut report).await;
    certificates(settings, &mut report);
    for node in &settings.nodes {
        provider(node, settings, &mut report).await;
    }
    if offline {
        report.notes.push("--offline: the cluster was not asked".to_owned());
        return report;
    }
    // Nothing is asked for in a check: without an identity of its own the bootstrap kubeconfig's user is checked.
    match cluster::look(&settings.cluster, names[0]).await {
        Ok(cluster) => {
            report.good(format!("the API server at {} answers, version {}", cluster.server, cluster.version));
            ask(settings, &cluster, &mut report).await;
        }
        Err(fault) => {
            report.faults.push(fault);
            report.notes.push("not checked without a cluster: permissions, node names, clock".to_owned());
        }
    }
    report
}

async fn ports(settings: &Settings, report: &mut Report) {
    // Held until all are bound: two nodes must not have one port.
    let mut bound = Vec::new();
    for node in &settings.nodes {
        if let Some(listener) = report.faults.keep(kubelet_api::listen(&settings.kubelet_api, node).await) {
            let place = kubelet_api::place(&settings.kubelet_api, node);
            report.good(format!("node {:?}: {place} is free", node.config.name));
            bound.push(listener);
        }
    }
    if let Some(address) = settings.admin
        && let Some(listener) = report.faults.keep(crate::admin::listen(address).await)
    {
        report.good(format!("admin port: {address} is free"));
        bound.push(listener);
    }
}

fn certificates(settings: &Settings, report: &mut Report) {
    let api = &settings.kubelet_api;
    if let Some(path) = &api.client_ca
        && report.faults.keep(kubelet_api::client_ca_file(path)).is_some()
    {
        report.good(format!("client CA: {}", path.display()));
    }
    for node in &settings.nodes {
        let name = &node.config.name;
        if report.faults.keep(kubelet_api::tls(api, name, &node.config.addresses)).is_none() {
            continue;
        }
        match &api.serving {
            Some((file, _)) => {
                let addresses = &node.config.addresses;
                if let Some(until) = report.faults.keep(certificate::check(file, name, addresses)) {
                    report.good(format!("node {name:?}: serving certificate {}, until {until}", file.display()));
                }
            }
            None if api.requested_in.is_some() => report
                .notes
                .push(format!("node {name:?} has its serving certificate from the cluster, once it is approved")),
            None => report.notes.push(format!(
                "node {name:?} signs its serving certificate itself: an API server with \
                 --kubelet-certificate-authority, and metrics-server without --kubelet-insecure-tls, refuse it"
            )),
        }
    }
}

async fn provider(node: &NodeSettings, settings: &Settings, report: &mut Report) {
    let name = &node.config.name;
    let Some(provider) = report.faults.keep(backends::build(node, &settings.source)) else { return };
    let patience = node.config.ping_timeout;
    let trouble = match tokio::time::timeout(patience, provider.node_info()).await {
        Ok(Ok(info)) => match info.health {
            Health::Healthy => {
                return report.good(format!("node {name:?}: provider {} is well", provider.name()));
            }
            Health::Unhealthy { reason, message } => format!("it is unhealthy: {reason}: {message}"),
        },
        Ok(Err(error)) => error.chain(),
        Err(_) => format!("no answer within {patience:?}"),
    };
    report.faults.push(Fault::new(
        format!("provider {} is down", provider.name()),
        format!("for node {name:?}"),
        format!("check its credentials, its address and its own status page ({trouble})"),
    ));
}

async fn ask(settings: &Settings, cluster: &Cluster, report: &mut Report) {
    match skew::measure(&cluster.client).await {
        Ok(skew) => {
            if report.faults.keep(skew::judge(skew, &cluster.server)).is_some() {
                report.good(format!("clocks agree within {} s", skew.as_secs().unsigned_abs()));
            }
        }
        Err(why) => report.faults.push(Fault::new(
            "cannot compare this machine's clock with the API server's",
            format!("at {}", cluster.server),
            format!("ask it without what stands between and takes the Date from its answers ({why})"),
        )),
    }
    if settings.cluster.bootstrap.is_some() && cluster.identity.is_none() {
        if report.faults.keep(preflight::check_bootstrap(cluster, settings).await).is_some() {
            report.good("the bootstrap kubeconfig may ask for a node's identity");
            report
                .notes
                .push("the node has no identity yet: its permissions are checked once it has".to_owned());
        }
        return;
    }
    match preflight::check(cluster, settings).await {
        Ok(rights) => {
            if let Some(why) = &rights.unknown {
                report.faults.push(Fault::new(
                    "cannot find out what this identity may do",
                    format!("at {}", cluster.server),
                    format!(
                        "let it create selfsubjectaccessreviews, as ClusterRole system:basic-user does ({why})"
                    ),
                ));
            } else {
                for (right, without) in &rights.lacking {
                    report.faults.push(Fault::new(
                        format!("not allowed to {right}"),
                        format!("at {}", cluster.server),
                        format!("{}; a node starts without, but {without}", preflight::REMEDY),
                    ));
                }
                if rights.lacking.is_empty() {
                    report.good("the permissions a node needs are granted");
                }
            }
            if report
                .faults
                .keep(kubelet_api::access(&settings.kubelet_api, cluster, &rights).await)
                .is_some()
            {
                report.good("callers of the kubelet API can be told apart");
            }
        }
        Err(fault) => report.faults.push(fault),
    }
    for node in &settings.nodes {
        let name = &node.config.name;
        let instance = settings.instance.as_ref().map_or_else(Instance::of_this_process, Instance::named);
        match present_holder(&cluster.client, name, &instance).await {
            Ok(None) => report.good(format!("the name {name:?} is free")),
            Ok(Some(holder)) => report.faults.push(Fault::new(
                format!("node {name:?} is held by another live daemon ({holder})"),
                format!("at {}", cluster.server),
                "stop that one, choose another --nodename, or give --instance where it is the same daemon",
            )),
            Err(error) if error.is_forbidden() => {
                report
                    .notes
                    .push(format!("who has the name {name:?} is unknown without the right to read leases"));
            }
            Err(error) => report.faults.push(Fault::new(
                format!("cannot find out who has the name {name:?}"),
                format!("at {}", cluster.server),
                format!("see whether the API server is well ({})", chain(&error)),
            )),
        }
    }
}
