//! The pods of the suite.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use vk_core::provider::{EnvVar, Origin, ResolvedPod, Value as Text};

use crate::journal::MAIN;
use crate::subject::{Recipe, Work};

/// The namespace of every pod of the suite.
pub const NAMESPACE: &str = "vk-conformance";
/// The init container of a pod that has one.
pub const INIT: &str = "init";
/// The second container of a pod that has two.
pub const OTHER: &str = "other";
/// The container that is added to a pod that runs.
pub const ADDED: &str = "added";

/// The variable of a pod that has a secret in its environment.
pub const CANARY: &str = "CANARY";

/// A test pod in outline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What its one container does.
    pub work: Work,
    /// What its init container does, if it has one.
    pub init: Option<Work>,
    /// `metadata.name`; by default one of its own.
    pub name: Option<String>,
    /// `spec.restartPolicy`. Default `Never`.
    pub restart: &'static str,
    /// A secret in the environment of its container.
    pub secret: Option<String>,
    /// What its second container does, if it has one.
    pub other: Option<Work>,
    /// Whether its init container is a sidecar.
    pub sidecar: bool,
    /// `spec.activeDeadlineSeconds`
    pub deadline: Option<u32>,
}

impl Plan {
    /// A pod with one container that does this once.
    #[must_use]
    pub fn of(work: Work) -> Self {
        Self {
            work,
            init: None,
            name: None,
            restart: "Never",
            secret: None,
            other: None,
            sidecar: false,
            deadline: None,
        }
    }

    /// Of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Restarted by this policy.
    #[must_use]
    pub fn restarted(mut self, policy: &'static str) -> Self {
        self.restart = policy;
        self
    }

    /// With an init container.
    #[must_use]
    pub fn after(mut self, work: Work) -> Self {
        self.init = Some(work);
        self
    }

    /// With a sidecar.
    #[must_use]
    pub fn beside(mut self, work: Work) -> Self {
        (self.init, self.sidecar) = (Some(work), true);
        self
    }

    /// With a second container.
    #[must_use]
    pub fn and(mut self, work: Work) -> Self {
        self.other = Some(work);
        self
    }

    /// Active for so many seconds at most.
    #[must_use]
    pub fn for_seconds(mut self, deadline: u32) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// With a secret in its environment.
    #[must_use]
    pub fn knowing(mut self, secret: &str) -> Self {
        self.secret = Some(secret.to_owned());
        self
    }
}

/// Text that no run before has used, and that is in nothing by chance.
#[must_use]
pub fn unique(what: &str) -> String {
    format!("{what}-{:016x}", fastrand::u64(..))
}

/// A UID such as an API server gives: backends derive names from its form.
#[must_use]
pub fn uid() -> String {
    let (a, b) = (fastrand::u64(..), fastrand::u64(..));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

fn container(name: &str, recipe: &Recipe) -> Value {
    let mut container = json!({"name": name, "image": recipe.image, "imagePullPolicy": "IfNotPresent"});
    if !recipe.command.is_empty() {
        container["command"] = json!(recipe.command);
    }
    if let Some(answers) = &recipe.answers {
        container["ports"] = json!([{"containerPort": answers.port}]);
    }
    if recipe.stdin {
        container["stdin"] = json!(true);
    }
    container
}

pub(crate) fn build(
    plan: &Plan,
    recipe: &Recipe,
    init: Option<&Recipe>,
    other: Option<&Recipe>,
    grace: u64,
    dress: impl FnOnce(&mut Pod),
) -> ResolvedPod {
    let uid = uid();
    let name = plan.name.clone().unwrap_or_else(|| format!("conformance-{}", &uid[..8]));
    let mut annotations = recipe.annotations.clone();
    annotations.extend(other.into_iter().flat_map(|other| other.annotations.clone()));
    annotations.extend(init.into_iter().flat_map(|init| init.annotations.clone()));
    let mut spec = json!({
        "containers": [container(MAIN, recipe)],
        "restartPolicy": plan.restart,
        "terminationGracePeriodSeconds": grace,
    });
    if let (Some(other), Some(containers)) = (other, spec["containers"].as_array_mut()) {
        containers.push(container(OTHER, other));
    }
    if let Some(init) = init {
        let mut container = container(INIT, init);
        if plan.sidecar {
            container["restartPolicy"] = json!("Always");
        }
        spec["initContainers"] = json!([container]);
    }
    if let Some(deadline) = plan.deadline {
        spec["activeDeadlineSeconds"] = json!(deadline);
    }
    let object = json!({
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": uid, "annotations": annotations,
            "labels": {"app.kubernetes.io/managed-by": "vk-conformance"}},
        "spec": spec,
    });
    // Written just above, with names and UID in it.
    let mut object: Pod = serde_json::from_value(object).expect("a pod's JSON");
    dress(&mut object);
    let mut pod = ResolvedPod::literal(object).expect("a pod with an identity");
    if let Some(secret) = &plan.secret {
        let origin = Origin::Secret { name: "conformance".to_owned(), key: "canary".to_owned() };
        let variable = EnvVar { name: CANARY.to_owned(), value: Text::secret(secret), origin };
        for container in &mut pod.containers {
            container.env.push(variable.clone());
        }
        // As the API server has it: only the reference is written in the object.
        let mut object = Pod::clone(&pod.object);
        let reference = json!([{"name": CANARY, "valueFrom": {"secretKeyRef":
            {"name": "conformance", "key": "canary"}}}]);
        let containers = object.spec.iter_mut().flat_map(|spec| &mut spec.containers);
        for container in containers {
            container.env = serde_json::from_value(reference.clone()).ok();
        }
        pod.object = Arc::new(object);
    }
    pod
}

/// The pod with one more container, as `kubectl debug` adds it to one that runs.
pub(crate) fn with_added(pod: &ResolvedPod, recipe: &Recipe) -> ResolvedPod {
    let mut object = Pod::clone(&pod.object);
    object.metadata.annotations.get_or_insert_default().extend(recipe.annotations.clone());
    let added = serde_json::from_value(container(ADDED, recipe)).expect("a container's JSON");
    if let Some(spec) = &mut object.spec {
        spec.ephemeral_containers.get_or_insert_default().push(added);
    }
    let literal = ResolvedPod::literal(object).expect("a pod with an identity");
    let mut more = pod.clone();
    more.object = literal.object;
    more.containers.extend(literal.containers.into_iter().filter(|container| container.name == ADDED).map(
        |mut container| {
            container.image.clone_from(&recipe.image);
            container
        },
    ));
    more
}
