//! What this identity may do, asked before anything is done (SelfSubjectAccessReview).

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    FieldSelectorAttributes, ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use crate::cluster::Cluster;
use crate::config::settings::{NodeSettings, Settings};
use crate::fault::{Fault, chain};

/// How many questions are under way at once.
const CONCURRENCY: usize = 16;

/// One right.
#[derive(Clone, Copy, Debug)]
struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: Scope,
    /// What happens without it; `None` where nothing works without it.
    without: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The node's own object.
    ThisNode,
    /// The pods bound to the node, wherever they are.
    ItsPods,
    /// Anything, in one namespace.
    Namespace(&'static str),
    /// Anything, anywhere.
    Cluster,
    /// The node's own object, if it is to be deleted at the end.
    ThisNodeIfDeregistered,
}

const fn right(verb: &'static str, resource: &'static str, subresource: &'static str, scope: Scope) -> Right {
    Right { verb, group: "", resource, subresource, scope, without: None }
}

const fn wish(right: Right, without: &'static str) -> Right {
    Right { without: Some(without), ..right }
}

const fn of_leases(verb: &'static str) -> Right {
    of_group("coordination.k8s.io", right(verb, "leases", "", Scope::Namespace("kube-node-lease")))
}

const fn of_group(group: &'static str, right: Right) -> Right {
    Right { group, ..right }
}

const NO_NODE_WATCH: &str = "what others change about the node is noticed with its next status only";
const SLOWER_HEARTBEAT: &str = "the node reports by its status instead of a lease";
const NO_EVENTS: &str = "kubectl describe shows no events of this node";
const NO_FILES: &str = "pods that refer to them do not start";
const NO_NEWS: &str = "pods that wait for them, or have them as files, learn of changes late";
const NO_POD_TOKENS: &str = "pods whose files hold a token do not start";
const NO_TOKENS: &str = "the kubelet API knows callers by client certificate only";

const SUBJECT_ACCESS_REVIEWS: &str = "subjectaccessreviews";

/// What `manifests/rbac.yaml` grants.
const RIGHTS: &[Right] = &[
    right("create", "nodes", "", Scope::Cluster),
    right("get", "nodes", "", Scope::ThisNode),
    wish(right("list", "nodes", "", Scope::ThisNode), NO_NODE_WATCH),
    wish(right("watch", "nodes", "", Scope::ThisNode), NO_NODE_WATCH),
    right("patch", "nodes", "", Scope::ThisNode),
    right("patch", "nodes", "status", Scope::ThisNode),
    right("list", "pods", "", Scope::ItsPods),
    right("watch", "pods", "", Scope::ItsPods),
    right("delete", "pods", "", Scope::Cluster),
    right("patch", "pods", "status", Scope::Cluster),
    wish(right("delete", "nodes", "", Scope::ThisNodeIfDeregistered), "the Node object stays behind"),
    wish(right("get", "configmaps", "", Scope::Cluster), NO_FILES),
    wish(right("list", "configmaps", "", Scope::Cluster), NO_NEWS),
    wish(right("watch", "configmaps", "", Scope::Cluster), NO_NEWS),
    wish(right("get", "secrets", "", Scope::Cluster), NO_FILES),
    wish(right("list", "secrets", "", Scope::Cluster), NO_NEWS),
    wish(right("watch", "secrets", "", Scope::Cluster), NO_NEWS),
    right("list", "services", "", Scope::Cluster),
    right("get", "services", "", Scope::Cluster),
    wish(right("get", "persistentvolumeclaims", "", Scope::Cluster), NO_FILES),
    wish(right("get", "persistentvolumes", "", Scope::Cluster), NO_FILES),
    wish(right("create", "serviceaccounts", "token", Scope::Cluster), NO_POD_TOKENS),
    wish(right("create", "events", "", Scope::Cluster), NO_EVENTS),
    wish(
        right("patch", "events", "", Scope::Cluster),
        "an event that repeats is shown once, without a count",
    ),
    wish(of_leases("create"), SLOWER_HEARTBEAT),
    wish(of_leases("get"), SLOWER_HEARTBEAT),
    wish(of_leases("update"), SLOWER_HEARTBEAT),
    wish(of_group("authentication.k8s.io", right("create", "tokenreviews", "", Scope::Cluster)), NO_TOKENS),
    wish(
        of_group("authorization.k8s.io", right("create", SUBJECT_ACCESS_REVIEWS, "", Scope::Cluster)),
        "the kubelet API answers nobody but callers it is told to trust",
    ),
];

impl Right {
    fn attributes(&self, node: &NodeSettings) -> Option<ResourceAttributes> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut attributes = ResourceAttributes {
            verb: Some(self.verb.to_owned()),
            group: text(self.group),
            resource: Some(self.resource.to_owned()),
            subresource: text(self.subresource),
            ..ResourceAttributes::default()
        };
        match self.scope {
            Scope::ThisNode => attributes.name = Some(node.config.name.clone()),
            Scope::ThisNodeIfDeregistered if node.config.deregister_on_shutdown => {
                attributes.name = Some(node.config.name.clone());
            }
            Scope::ThisNodeIfDeregistered => return None,
            // The Node authorizer grants a node's own identity its own pods alone, from 1.32 on by selector.
            Scope::ItsPods => {
                attributes.field_selector = Some(FieldSelectorAttributes {
                    raw_selector: Some(format!("spec.nodeName={}", node.config.name)),
                    requirements: None,
                });
            }
            Scope::Namespace(namespace) => attributes.namespace = Some(namespace.to_owned()),
            Scope::Cluster => {}
        }
        Some(attributes)
    }

    /// As `kubectl auth can-i` would be asked.
    fn described(&self, node: &NodeSettings) -> String {
        let mut text = format!("{} {}", self.verb, self.resource);
        if !self.group.is_empty() {
            text.push('.');
            text.push_str(self.group);
        }
        if !self.subresource.is_empty() {
            text.push('/');
            text.push_str(self.subresource);
        }
        match self.scope {
            Scope::ThisNode | Scope::ThisNodeIfDeregistered => format!("{text} (node {})", node.config.name),
            Scope::Namespace(namespace) => format!("{text} (namespace {namespace})"),
            Scope::ItsPods | Scope::Cluster => text,
        }
    }
}

/// What to do about missing rights.
pub(crate) const REMEDY: &str = "apply manifests/rbac.yaml, or bind such a role to this identity";

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rights {
    /// Whether callers' permissions can be asked for.
    pub(crate) review_access: bool,
    /// What this identity has to do without: the right, and what goes without it.
    pub(crate) lacking: Vec<(String, &'static str)>,
    /// Why the API server did not tell.
    pub(crate) unknown: Option<String>,
}

/// Asks for all rights. Those that are missing and needed are the fault.
pub(crate) async fn check(cluster: &Cluster, settings: &Settings) -> Result<Rights, Fault> {
    let patience = settings.cluster.connect_timeout;
    let asked = settings.nodes.iter().enumerate().flat_map(|(index, node)| {
        RIGHTS
            .iter()
            // What does not depend on the node is asked once.
            .filter(move |right| index == 0 || !matches!(right.scope, Scope::Cluster | Scope::Namespace(_)))
            .filter_map(move |right| Some((right, node, right.attributes(node)?)))
    });
    let answers =
        futures::stream::iter(asked)
            .map(|(right, node, attributes)| async move {
                (right, node, ask(cluster, attributes, patience).await)
            })
            .buffered(CONCURRENCY)
            .collect::<Vec<_>>()
            .await;

    let mut missing = Vec::new();
    let mut rights = Rights { review_access: true, ..Rights::default() };
    for (right, node, answer) in answers {
        match (answer, right.without) {
            (Ok(true), _) => {}
            (Ok(false), None) => missing.push(right.described(node)),
            // The Node authorizer grants those that pods of this node refer to, one by one.
            (Ok(false), Some(NO_FILES | NO_NEWS | NO_POD_TOKENS)) if cluster.identity.is_some() => {}
            (Ok(false), Some(without)) => {
                rights.review_access &= right.resource != SUBJECT_ACCESS_REVIEWS;
                rights.lacking.push((right.described(node), without));
            }
            // Whoever may not even ask this is told by the first call that is refused.
            (Err(error), _) => {
                rights.unknown = Some(error);
                break;
            }
        }
    }
    if missing.is_empty() {
        return Ok(rights);
    }
    missing.extend(rights.lacking.into_iter().map(|(right, _)| right));
    Err(Fault::new(
        format!("not allowed to {}", missing.join(", ")),
        format!("at {}", cluster.server),
        REMEDY,
    ))
}

/// Who the API server takes us for; empty where it does not tell (before 1.28).
pub(crate) async fn user(cluster: &Cluster, patience: Duration) -> String {
    let api: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let asked = api.create(&params, &question);
    let Ok(Ok(answer)) = tokio::time::timeout(patience, asked).await else { return String::new() };
    let info = answer.status.and_then(|status| status.user_info);
    info.and_then(|info| info.username).unwrap_or_default()
}

/// Asks whether this identity may ask for a node's.
pub(crate) async fn check_bootstrap(cluster: &Cluster, settings: &Settings) -> Result<(), Fault> {
    let right =
        of_group("certificates.k8s.io", right("create", "certificatesigningrequests", "", Scope::Cluster));
    let node = &settings.nodes[0];
    let attributes = right.attributes(node).unwrap_or_default();
    match ask(cluster, attributes, settings.cluster.connect_timeout).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::new(
            format!("not allowed to {}", right.described(node)),
            format!("at {}", cluster.server),
            "bind ClusterRole system:node-bootstrapper to the bootstrap kubeconfig's user",
        )),
        Err(error) => Err(Fault::new(
            "cannot ask the API server for our permissions",
            format!("at {}", cluster.server),
            error,
        )),
    }
}

async fn ask(cluster: &Cluster, attributes: ResourceAttributes, patience: Duration) -> Result<bool, String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    match tokio::time::timeout(patience, api.create(&PostParams::default(), &review)).await {
        Ok(Ok(answer)) => Ok(answer.status.is_some_and(|status| status.allowed)),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::PolicyRule;

    use super::*;

    /// The rules of the roles in the manifest: those of the cluster, and those of a namespace.
    fn granted() -> Vec<(Option<String>, Vec<PolicyRule>)> {
        let text = include_str!("../../manifests/rbac.yaml");
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).unwrap();
        documents
            .into_iter()
            .filter(|document| document["rules"].is_array())
            .map(|document| {
                let namespace = document["metadata"]["namespace"].as_str().map(str::to_owned);
                (namespace, serde_json::from_value(document["rules"].clone()).unwrap())
            })
            .collect()
    }

    fn resource_of(right: &Right) -> String {
        match right.subresource {
            "" => right.resource.to_owned(),
            subresource => format!("{}/{subresource}", right.resource),
        }
    }

    #[test]
    fn the_manifest_grants_nothing_that_is_not_asked_for() {
        for (_, rules) in granted() {
            for rule in rules {
                let groups = rule.api_groups.unwrap_or_default();
                for resource in rule.resources.unwrap_or_default() {
                    for verb in &rule.verbs {
                        let asked = RIGHTS.iter().any(|right| {
                            resource_of(right) == resource
                                && right.verb == verb
                                && groups.iter().any(|group| group == right.group)
                        });
                        assert!(asked, "{verb} {resource}: check would not miss it");
                    }
                }
            }
        }
    }

    #[test]
    fn the_manifest_grants_every_right_that_is_asked_for() {
        let roles = granted();
        for right in RIGHTS {
            let resource = resource_of(right);
            let allows = |rule: &PolicyRule| {
                let has = |list: &Option<Vec<String>>, wanted: &str| {
                    list.as_ref().is_some_and(|list| list.iter().any(|item| item == wanted))
                };
                has(&rule.api_groups, right.group)
                    && has(&rule.resources, &resource)
                    && rule.verbs.iter().any(|verb| verb == right.verb)
            };
            let reaches = |namespace: &Option<String>| match (namespace, right.scope) {
                (None, _) => true,
                (Some(namespace), Scope::Namespace(wanted)) => namespace == wanted,
                (Some(_), _) => false,
            };
            assert!(
                roles.iter().any(|(namespace, rules)| reaches(namespace) && rules.iter().any(allows)),
                "{} {resource}",
                right.verb
            );
        }
    }

    #[test]
    fn the_manifest_grants_no_right_to_everything() {
        let texts = granted().into_iter().flat_map(|(_, rules)| rules).flat_map(|rule| {
            [rule.verbs, rule.resources.unwrap_or_default(), rule.api_groups.unwrap_or_default()].concat()
        });
        assert!(texts.into_iter().all(|text| text != "*"));
    }
}
