//! What the shipped manifest lets a node do, given to users of a test's own; and what the API server says they did.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use serde_json::{Value, json};

use crate::wait::eventually;

const MANIFEST: &str = include_str!("../../../manifests/rbac.yaml");

/// What everything in the manifest is called.
const NAME: &str = "vk-node";

/// One verb of one resource, as roles grant it and as the audit log tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The API group; empty for the core.
    pub group: String,
    /// With its subresource: `pods/status`.
    pub resource: String,
    /// As the API server calls it.
    pub verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

/// The manifest's objects, in its order.
fn objects() -> Vec<Value> {
    serde_saphyr::from_multiple(MANIFEST).expect("the manifest is YAML")
}

/// What an object's rules grant, one by one.
fn rights_of(object: &Value) -> Vec<Right> {
    let texts = |list: &Value| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.map(|item| item.as_str().expect("a text").to_owned()).collect()
    };
    let mut rights = Vec::new();
    for rule in object["rules"].as_array().into_iter().flatten() {
        assert!(rule.get("resourceNames").is_none(), "this reader knows no names of resources: {rule}");
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.push(Right { group: group.clone(), resource: resource.clone(), verb });
                }
            }
        }
    }
    rights
}

/// Every right that the manifest grants.
#[must_use]
pub fn granted() -> Vec<Right> {
    objects().iter().flat_map(rights_of).collect()
}

/// Every right that the roles of another manifest grant, in its order.
///
/// # Panics
/// When it is no YAML.
#[must_use]
pub fn granted_by(manifest: &str) -> Vec<Right> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("the manifest is YAML");
    objects.iter().flat_map(rights_of).collect()
}

/// A service account with the manifest's roles, all under a name of its own.
#[derive(Debug)]
pub struct NodeAccount {
    /// The user that the API server knows it as.
    pub user: String,
    /// Where its token is.
    token: tempfile::NamedTempFile,
    made: Vec<(ApiResource, DynamicObject)>,
}

impl NodeAccount {
    /// Makes the manifest's objects, `without` one of the rights if that is wished, and waits until they count.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn create(client: &kube::Client, name: &str, namespace: &str, without: Option<&Right>) -> Self {
        let mut made = Vec::new();
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let mut probes = Vec::new();
        for object in objects() {
            let object = renamed(object, name, namespace, without);
            probes.extend(rights_of(&object).into_iter().next().map(|right| {
                let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
                (right, namespace)
            }));
            let object: DynamicObject = serde_json::from_value(object).expect("an object");
            let types = object.types.clone().expect("it says what it is");
            let kind = GroupVersionKind::try_from(types).expect("a kind");
            let resource = ApiResource::from_gvk(&kind);
            let api = api_of(client, &object, &resource);
            api.create(&PostParams::default(), &object).await.expect("the manifest's objects can be made");
            made.push((resource, object));
        }
        // Not of one of its own rules: the role comes with Kubernetes.
        let reads_authority =
            Right { group: String::new(), resource: "configmaps".to_owned(), verb: "get".to_owned() };
        probes.push((reads_authority, Some("kube-system".to_owned())));
        for (right, namespace) in &probes {
            until_allowed(client, &user, right, namespace.as_deref()).await;
        }
        let token = token(client, name, namespace).await;
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), token).expect("the token is written");
        Self { user, token: file, made }
    }

    /// The file its token is in.
    #[must_use]
    pub fn token_file(&self) -> &Path {
        self.token.path()
    }

    /// Removes what was made for it.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn remove(self, client: &kube::Client) {
        for (resource, object) in &self.made {
            let name = object.metadata.name.as_deref().expect("it was made with one");
            match api_of(client, object, resource).delete(name, &DeleteParams::default()).await {
                Ok(_) => {}
                // With its namespace.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => panic!("deleting {name}: {error}"),
            }
        }
    }
}

fn api_of(client: &kube::Client, object: &DynamicObject, resource: &ApiResource) -> Api<DynamicObject> {
    match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

fn renamed(mut object: Value, name: &str, namespace: &str, without: Option<&Right>) -> Value {
    let rename = |text: &mut Value| {
        let new = text.as_str().map(|old| old.replacen(NAME, name, 1));
        *text = new.map_or(Value::Null, Value::from);
    };
    rename(&mut object["metadata"]["name"]);
    if object["kind"] == "ServiceAccount" {
        object["metadata"]["namespace"] = namespace.into();
    }
    if let Some(role) = object.get_mut("roleRef") {
        rename(&mut role["name"]);
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        rename(&mut subject["name"]);
        subject["namespace"] = namespace.into();
    }
    if object["rules"].is_array() {
        let kept = rights_of(&object).into_iter().filter(|right| Some(right) != without);
        let rule = |right: Right| json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]});
        object["rules"] = kept.map(rule).collect();
    }
    object
}

async fn until_allowed(client: &kube::Client, user: &str, right: &Right, namespace: Option<&str>) {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource.as_str(), None),
    };
    let name = namespace.filter(|namespace| *namespace == "kube-system");
    let attributes = ResourceAttributes {
        group: Some(right.group.clone()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(right.verb.clone()),
        namespace: namespace.map(str::to_owned),
        name: name.map(|_| "extension-apiserver-authentication".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    eventually(&format!("{user} may {right}"), async || {
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
        let status = answer.status.unwrap_or_default();
        if status.allowed { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn token(client: &kube::Client, account: &str, namespace: &str) -> String {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = api.create_token_request(account, &PostParams::default(), &TokenRequest::default()).await;
    answer.expect("a token").status.expect("an answer").token.expect("a token in it")
}

/// What the API server's audit log says of some users.
#[derive(Clone, Debug)]
pub struct Audit {
    log: PathBuf,
}

/// A call that was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// What was asked for.
    pub right: Right,
    /// Of which object, and why not.
    pub why: String,
}

impl Audit {
    /// The audit log in a file, which need not be there yet.
    #[must_use]
    pub fn of(log: PathBuf) -> Self {
        Self { log }
    }

    /// The calls that these users made and were allowed to make, but for those about the cluster's own settings in
    /// `kube-system`, for which there is a role of Kubernetes'.
    ///
    /// # Panics
    /// When there is no log: the instance was brought up without one.
    #[must_use]
    pub fn allowed(&self, users: &[String]) -> BTreeSet<Right> {
        let allowed = |entry: &Value| !is_refused(entry) && entry["objectRef"]["namespace"] != "kube-system";
        self.entries(users).iter().filter(|entry| allowed(entry)).filter_map(right_of).collect()
    }

    /// The calls that these users made and were not allowed to make, by the authorizers or by admission.
    ///
    /// # Panics
    /// As [`allowed`](Self::allowed).
    #[must_use]
    pub fn refused(&self, users: &[String]) -> Vec<Refusal> {
        let refused = self.entries(users);
        let refused = refused.iter().filter(|entry| is_refused(entry));
        refused
            .filter_map(|entry| {
                let status = entry["responseStatus"]["message"].as_str().unwrap_or_default();
                let reason = entry["annotations"]["authorization.k8s.io/reason"].as_str().unwrap_or_default();
                let uri = entry["requestURI"].as_str().unwrap_or_default();
                Some(Refusal { right: right_of(entry)?, why: format!("{uri}: {status} {reason}") })
            })
            .collect()
    }

    fn entries(&self, users: &[String]) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; an instance from before there was an audit log has to be taken down first",
                self.log.display()
            )
        });
        // The last line may be half there.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let ours = lines.filter(|line| users.iter().any(|user| line.contains(&format!("\"{user}\""))));
        ours.map(|line| serde_json::from_str::<Value>(line).expect("a line of the audit log is JSON"))
            .filter(|entry| users.iter().any(|user| entry["user"]["username"] == user.as_str()))
            .collect()
    }
}

/// Not so what a namespace on its way out takes no more: that is about the namespace, not about who asks.
fn is_refused(entry: &Value) -> bool {
    let message = entry["responseStatus"]["message"].as_str().unwrap_or_default();
    entry["annotations"]["authorization.k8s.io/decision"] == "forbid"
        || (entry["responseStatus"]["code"] == 403 && !message.contains("is being terminated"))
}

fn right_of(entry: &Value) -> Option<Right> {
    let object = &entry["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut resource = text(object.get("resource")?);
    if let Some(subresource) = object["subresource"].as_str() {
        resource = format!("{resource}/{subresource}");
    }
    Some(Right { group: text(&object["apiGroup"]), resource, verb: text(&entry["verb"]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(verb: &str, resource: &str) -> Right {
        Right { group: String::new(), resource: resource.to_owned(), verb: verb.to_owned() }
    }

    #[test]
    fn a_role_without_one_right_has_all_the_others() {
        let all = granted();
        let unique: BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len(), "a right that is granted twice");
        let without = right("patch", "pods/status");
        assert!(all.contains(&without));
        let objects = objects().into_iter().map(|object| renamed(object, "a-1", "ns", Some(&without)));
        let objects: Vec<Value> = objects.collect();
        let left: Vec<Right> = objects.iter().flat_map(rights_of).collect();
        let expected: Vec<Right> = all.into_iter().filter(|right| *right != without).collect();
        assert_eq!(left, expected);
        for object in &objects {
            let name = object["metadata"]["name"].as_str().unwrap();
            assert!(name.starts_with("a-1"), "{object}");
            if let Some(subjects) = object["subjects"].as_array() {
                assert_eq!(subjects.len(), 1);
                assert_eq!((&subjects[0]["name"], &subjects[0]["namespace"]), (&"a-1".into(), &"ns".into()));
            }
        }
        let shipped_with_kubernetes = "extension-apiserver-authentication-reader";
        assert!(objects.iter().any(|object| object["roleRef"]["name"] == shipped_with_kubernetes));
    }

    #[test]
    fn a_refusal_is_told_from_a_call_that_was_allowed_and_from_another_users() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let entry = |user: &str, resource: &str, code: u16, decision: &str, message: &str| {
            let entry = json!({
                "user": {"username": user}, "verb": "get", "requestURI": "/x",
                "objectRef": {"resource": resource}, "responseStatus": {"code": code, "message": message},
                "annotations": {"authorization.k8s.io/decision": decision},
            });
            entry.to_string() + "\n"
        };
        let text = entry("a", "pods", 200, "allow", "")
            + &entry("a", "secrets", 403, "forbid", "no")
            + &entry("a", "nodes", 403, "allow", "admission says no")
            + &entry("a", "events", 403, "allow", "namespace x is being terminated")
            + &entry("b", "leases", 403, "forbid", "no \"a\"")
            + "{\"user\": {\"username\": \"a\"";
        std::fs::write(log.path(), text).unwrap();
        let (audit, users) = (Audit::of(log.path().to_owned()), ["a".to_owned()]);
        let refused: Vec<_> = audit.refused(&users).into_iter().map(|refusal| refusal.right).collect();
        assert_eq!(refused, [right("get", "secrets"), right("get", "nodes")]);
        let allowed = [right("get", "pods"), right("get", "events")];
        assert_eq!(audit.allowed(&users), allowed.into_iter().collect());
    }
}
