//! Who may do what.
//!
//! Without `Config::rbac` every authenticated caller may do anything. With it, roles and bindings decide as
//! in plugin/pkg/auth/authorizer/rbac; nodes are let through, as the Node authorizer is not played.

use serde_json::Value;

use crate::ApiServer;
use crate::identity::Identity;
use crate::request::Target;
use crate::resources::{self, Resource};
use crate::store::Scope;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// Plural, with its subresource behind a slash.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Path of a request that is about no resource.
    pub(crate) path: String,
}

impl Attributes {
    pub(crate) fn of_target(target: &Target, method: &http::Method) -> Self {
        let resource = if target.subresource.is_empty() {
            target.resource.plural.to_owned()
        } else {
            format!("{}/{}", target.resource.plural, target.subresource)
        };
        // Streams are authorized by the method they begin with.
        let verb = match (target.verb, method) {
            (crate::Verb::Connect, &http::Method::GET | &http::Method::HEAD) => "get",
            (crate::Verb::Connect, &http::Method::PUT) => "update",
            (crate::Verb::Connect, &http::Method::DELETE) => "delete",
            (crate::Verb::Connect, &http::Method::PATCH) => "patch",
            (crate::Verb::Connect, _) => "create",
            (verb, _) => verb.as_str(),
        };
        Self {
            verb: verb.to_owned(),
            group: target.resource.group.to_owned(),
            resource,
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            path: String::new(),
        }
    }

    pub(crate) fn of_review(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let about = &spec["resourceAttributes"];
        if about.is_object() {
            let mut resource = text(&about["resource"]);
            let subresource = text(&about["subresource"]);
            if !subresource.is_empty() {
                resource = format!("{resource}/{subresource}");
            }
            return Self {
                verb: text(&about["verb"]),
                group: text(&about["group"]),
                resource,
                namespace: text(&about["namespace"]),
                name: text(&about["name"]),
                path: String::new(),
            };
        }
        let about = &spec["nonResourceAttributes"];
        Self { verb: text(&about["verb"]), path: text(&about["path"]), ..Self::default() }
    }

    /// The end of a 403's message, such as `User "a" cannot list resource "pods" in API group "" ...`.
    pub(crate) fn refusal(&self, user: &str) -> String {
        if !self.path.is_empty() {
            return format!("User \"{user}\" cannot {} path \"{}\"", self.verb, self.path);
        }
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        format!(
            "User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            self.verb, self.resource, self.group
        )
    }
}

/// Allows with a reason, or refuses with one.
pub(crate) fn decide(
    server: &ApiServer,
    caller: &Identity,
    attributes: &Attributes,
) -> Result<String, String> {
    let is_in = |group: &str| caller.groups.iter().any(|g| g == group);
    if is_in("system:masters") {
        return Ok(String::new());
    }
    let public = ["/healthz", "/readyz", "/livez", "/version"];
    if public.iter().any(|p| attributes.path.starts_with(p)) {
        return Ok(String::new());
    }
    if !is_in("system:authenticated") {
        return Err(String::new());
    }
    if !server.config().rbac || is_in("system:nodes") {
        return Ok(String::new());
    }
    // Discovery, and questions about oneself.
    if attributes.path.starts_with("/api") || attributes.path.starts_with("/openapi") {
        return Ok(String::new());
    }
    if attributes.resource.starts_with("selfsubject") {
        return Ok(String::new());
    }
    let store = server.store();
    let bindings = |plural| resources::find("rbac.authorization.k8s.io", "v1", plural);
    let scopes: [(&str, Option<Scope>); 2] = [
        ("clusterrolebindings", Some(Scope::all())),
        (
            "rolebindings",
            (!attributes.namespace.is_empty()).then(|| Scope::in_namespace(&attributes.namespace)),
        ),
    ];
    for (plural, scope) in scopes {
        let (Some(resource), Some(scope)) = (bindings(plural), scope) else { continue };
        for binding in store.all(resource, &scope) {
            let for_caller =
                binding["subjects"].as_array().into_iter().flatten().any(|s| is_subject(s, caller));
            if for_caller && role_allows(server, &binding, attributes) {
                let name = binding["metadata"]["name"].as_str().unwrap_or("");
                return Ok(format!("RBAC: allowed by {} \"{name}\"", kind_of(resource)));
            }
        }
    }
    Err(String::new())
}

fn kind_of(resource: &Resource) -> &'static str {
    resource.kind
}

fn is_subject(subject: &Value, caller: &Identity) -> bool {
    let name = subject["name"].as_str().unwrap_or("");
    match subject["kind"].as_str() {
        Some("User") => caller.user == name,
        Some("Group") => caller.groups.iter().any(|g| g == name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or("");
            caller.user == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn role_allows(server: &ApiServer, binding: &Value, attributes: &Attributes) -> bool {
    let reference = &binding["roleRef"];
    let name = reference["name"].as_str().unwrap_or("");
    let (plural, namespace) = match reference["kind"].as_str() {
        Some("Role") => ("roles", binding["metadata"]["namespace"].as_str().unwrap_or("")),
        _ => ("clusterroles", ""),
    };
    let role = resources::find("rbac.authorization.k8s.io", "v1", plural)
        .and_then(|r| server.store().get(r, &crate::store::Key::new(namespace, name)));
    role.is_some_and(|role| {
        role["rules"].as_array().into_iter().flatten().any(|rule| rule_allows(rule, attributes))
    })
}

fn rule_allows(rule: &Value, attributes: &Attributes) -> bool {
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().into_iter().flatten().any(|v| v == "*" || v == wanted)
    };
    if !attributes.path.is_empty() {
        let path = rule["nonResourceURLs"].as_array().into_iter().flatten().any(|url| {
            let url = url.as_str().unwrap_or("");
            url.strip_suffix('*').map_or(url == attributes.path, |start| attributes.path.starts_with(start))
        });
        return path && has("verbs", &attributes.verb);
    }
    let any_of_subresource = attributes.resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
    let names = rule["resourceNames"]
        .as_array()
        .is_none_or(|n| n.is_empty() || n.iter().any(|n| n == attributes.name.as_str()));
    has("verbs", &attributes.verb)
        && has("apiGroups", &attributes.group)
        && (has("resources", &attributes.resource)
            || any_of_subresource.is_some_and(|wanted| has("resources", &wanted)))
        && names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_names_verbs_groups_resources_and_names() {
        let rule = json!({"verbs": ["get", "patch"], "apiGroups": [""], "resources": ["pods", "pods/status"],
                          "resourceNames": ["a"]});
        let asked = |verb: &str, resource: &str, name: &str| Attributes {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        assert!(rule_allows(&rule, &asked("patch", "pods/status", "a")));
        assert!(!rule_allows(&rule, &asked("patch", "pods/status", "b")));
        assert!(!rule_allows(&rule, &asked("delete", "pods", "a")));
        assert!(!rule_allows(&rule, &asked("get", "secrets", "a")));
    }

    #[test]
    fn a_refusal_reads_like_the_real_one() {
        let attributes = Attributes {
            verb: "list".to_owned(),
            resource: "pods".to_owned(),
            namespace: "ns".to_owned(),
            ..Attributes::default()
        };
        assert_eq!(
            attributes.refusal("jane"),
            "User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"ns\""
        );
    }
}
