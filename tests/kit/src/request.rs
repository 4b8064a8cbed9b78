//! What a node asks a provider for: pods with everything resolved, for tests that call a provider without a node.

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use vk_core::provider::{
    ContainerKind, EnvVar, File, Origin, PodRef, ResolvedContainer, ResolvedMount, ResolvedPod,
    ResolvedVolume, Value, VolumeContent,
};

/// A request for a pod, of which nothing has to be looked up any more.
///
/// ```
/// use vk_testkit::PodRequest;
///
/// let pod = PodRequest::new("web", "uid-1")
///     .container("app", "registry.example/web:1")
///     .args(["--verbose"])
///     .env("MODE", "test")
///     .secret_env("PASSWORD", "hunter2")
///     .file("/etc/app", "settings.yaml", "a: b")
///     .build();
/// assert_eq!(pod.containers[0].env.len(), 2);
/// assert!(!format!("{pod:?}").contains("hunter2"));
/// ```
#[derive(Clone, Debug)]
#[must_use = "call build"]
pub struct PodRequest {
    object: Pod,
    pod: PodRef,
    containers: Vec<ResolvedContainer>,
    volumes: Vec<ResolvedVolume>,
}

impl PodRequest {
    /// A pod of that name and UID in namespace `default`, without containers so far.
    pub fn new(name: &str, uid: &str) -> Self {
        let mut object = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        object.metadata.namespace = Some("default".to_owned());
        object.metadata.name = Some(name.to_owned());
        object.metadata.uid = Some(uid.to_owned());
        let pod = PodRef::new("default", name, uid);
        Self { object, pod, containers: Vec::new(), volumes: Vec::new() }
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.object.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets `restartPolicy`.
    pub fn restart_policy(mut self, policy: &str) -> Self {
        self.spec().restart_policy = Some(policy.to_owned());
        self
    }

    /// Adds an app container. What follows is about it, up to the next one.
    pub fn container(self, name: &str, image: &str) -> Self {
        self.with_container(name, image, ContainerKind::App)
    }

    /// Adds an init container. What follows is about it, up to the next one.
    pub fn init_container(self, name: &str, image: &str) -> Self {
        self.with_container(name, image, ContainerKind::Init)
    }

    fn with_container(mut self, name: &str, image: &str, kind: ContainerKind) -> Self {
        let written =
            Container { name: name.to_owned(), image: Some(image.to_owned()), ..Container::default() };
        if kind == ContainerKind::Init {
            self.spec().init_containers.get_or_insert_default().push(written);
        } else {
            self.spec().containers.push(written);
        }
        let resolved = ResolvedContainer::new(name, kind, image, Vec::new(), Vec::new(), Vec::new());
        self.containers.push(resolved);
        self
    }

    /// Sets the container's command.
    pub fn command<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.last().command = words.into_iter().map(Value::plain).collect();
        self
    }

    /// Sets the container's arguments.
    pub fn args<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.last().args = words.into_iter().map(Value::plain).collect();
        self
    }

    /// Gives the container a variable as written in the pod.
    pub fn env(self, name: &str, value: &str) -> Self {
        self.variable(name, Value::plain(value), Origin::Literal)
    }

    /// Gives the container a variable from a Secret.
    pub fn secret_env(self, name: &str, value: &str) -> Self {
        let origin = Origin::Secret { name: "secret".to_owned(), key: name.to_owned() };
        self.variable(name, Value::secret(value), origin)
    }

    fn variable(mut self, name: &str, value: Value, origin: Origin) -> Self {
        self.last().env.push(EnvVar { name: name.to_owned(), value, origin });
        self
    }

    /// Gives the container a volume with one file.
    pub fn file(self, folder: &str, path: &str, content: &str) -> Self {
        self.mounted(folder, path, content, false)
    }

    /// The same with a file that came from a Secret.
    pub fn secret_file(self, folder: &str, path: &str, content: &str) -> Self {
        self.mounted(folder, path, content, true)
    }

    fn mounted(mut self, folder: &str, path: &str, content: &str, secret: bool) -> Self {
        let name = format!("volume-{}", self.volumes.len());
        let content = Bytes::from(content.to_owned());
        let file = File { path: path.to_owned(), mode: 0o644, content, secret };
        self.last().mounts.push(ResolvedMount::new(name.as_str(), folder));
        self.volumes.push(ResolvedVolume::new(name, VolumeContent::Files(vec![file])));
        self
    }

    /// The request.
    #[must_use]
    pub fn build(self) -> ResolvedPod {
        ResolvedPod::new(self.pod, Arc::new(self.object), self.containers, self.volumes)
    }

    fn spec(&mut self) -> &mut PodSpec {
        self.object.spec.get_or_insert_default()
    }

    /// # Panics
    /// Before there is a container: the test has an error.
    fn last(&mut self) -> &mut ResolvedContainer {
        self.containers.last_mut().expect("container() or init_container() comes first")
    }
}
