//! A pod with everything its backend needs: what it refers to has been read and put in place.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeSpec, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::identity::PodRef;

/// A pod ready to be run elsewhere.
///
/// `Debug` shows no value that came from a Secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolvedPod {
    /// Which pod.
    pub pod: PodRef,
    /// The API object as scheduled, without status and managed fields. Its `env` and `envFrom` are as
    /// written; the resolved ones are in [`containers`](Self::containers).
    pub object: Arc<Pod>,
    /// Init containers in their order, then app containers in theirs, then ephemeral ones.
    pub containers: Vec<ResolvedContainer>,
    /// The pod's volumes, in the order of the specification.
    pub volumes: Vec<ResolvedVolume>,
    /// What the pod's images may be pulled with: the entries of its `imagePullSecrets` that match one of its
    /// images, the most specific first.
    pub pull_credentials: Vec<PullCredential>,
}

/// A registry's credentials, from a Secret of type `kubernetes.io/dockerconfigjson` or
/// `kubernetes.io/dockercfg`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullCredential {
    /// The registry, or repository prefix, as the Secret has it: `registry.example`,
    /// `*.registry.example/team`, `https://index.docker.io/v1/`.
    pub registry: String,
    /// The user; empty with an [`identity_token`](Self::identity_token).
    pub username: String,
    /// The password.
    pub password: Value,
    /// A token to be used in place of user and password.
    pub identity_token: Option<Value>,
    /// A bearer token for the registry.
    pub registry_token: Option<Value>,
    /// The images of the pod that it is for, as written in the pod.
    pub images: Vec<String>,
    /// The Secret it came from.
    pub secret: String,
}

/// A container with its environment resolved and its command line expanded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolvedContainer {
    /// Its name, unique in the pod.
    pub name: String,
    /// What kind of container it is.
    pub kind: ContainerKind,
    /// The image asked for.
    pub image: String,
    /// `command`, with `$(VAR)` expanded; empty means the image's entry point.
    pub command: Vec<Value>,
    /// `args`, with `$(VAR)` expanded; empty with an empty `command` means the image's own.
    pub args: Vec<Value>,
    /// The environment, in the order in which a kubelet would set it; names are unique.
    pub env: Vec<EnvVar>,
    /// Where its volumes go, with `subPathExpr` expanded.
    pub mounts: Vec<ResolvedMount>,
    /// Why it cannot be started for now: something that it refers to is missing. Only in pods for backends
    /// with [`Feature::PartialPods`](super::Feature::PartialPods); they are given the pod again when that
    /// has changed.
    pub blocked: Option<Blocked>,
}

/// Why a container has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// A kubelet's reason, `CreateContainerConfigError`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A volume in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedMount {
    /// The volume's name.
    pub volume: String,
    /// Where it is mounted, an absolute path.
    pub path: String,
    /// What of the volume is mounted: a file or directory below its root; `None` is all of it. A file
    /// mounted so does not follow later changes of its volume.
    pub sub_path: Option<String>,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// Init, sidecar, app or ephemeral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to completion before the next init container or the app containers.
    Init,
    /// An init container with `restartPolicy: Always`: keeps running beside the app containers (KEP-753).
    Sidecar,
    /// A member of `spec.containers`.
    App,
    /// Added to a running pod for debugging.
    Ephemeral,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Where the value came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Written in the pod; `$(VAR)` expanded.
    Literal,
    /// A key of a ConfigMap.
    ConfigMap {
        /// The ConfigMap.
        name: String,
        /// The key.
        key: String,
    },
    /// A key of a Secret.
    Secret {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// A field of the pod, by its path.
    Field(String),
    /// A container's resource, such as `limits.cpu`.
    Resource(String),
    /// A Service of the namespace.
    Service(String),
    /// A variable in a file of a volume, which is known when the container starts and not before: the value
    /// is empty until [`ResolvedPod::with_env_files`] has put it in (KEP-3721).
    File {
        /// The volume, an `emptyDir`.
        volume: String,
        /// The file, below the volume's root.
        path: String,
        /// The variable's name in the file.
        key: String,
        /// Whether file or variable may be missing; then this variable does not exist.
        optional: bool,
    },
}

/// Text that may hold a secret.
///
/// `Debug` and `Display` of a secret print a placeholder; [`expose`](Self::expose) is the only way to
/// the text, so that a search for it finds every place where a secret can leave.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    text: String,
    secret: bool,
}

impl Value {
    /// Text that anybody may see.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), secret: false }
    }

    /// Text that holds a secret, or part of one.
    #[must_use]
    pub fn secret(text: impl Into<String>) -> Self {
        Self { text: text.into(), secret: true }
    }

    /// Whether the text belongs in the backend's secure field.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.secret { f.write_str("[redacted]") } else { self.text.fmt(f) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secret { "[redacted]" } else { &self.text })
    }
}

/// A volume.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolvedVolume {
    /// Its name in the pod.
    pub name: String,
    /// What is in it.
    pub content: VolumeContent,
}

/// A volume's content.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum VolumeContent {
    /// Files to be put there: ConfigMap, Secret, projected and downward API volumes.
    Files(Vec<File>),
    /// An empty directory that lives as long as the pod.
    EmptyDir(EmptyDir),
    /// A claim, bound to a volume.
    Claim(ClaimedVolume),
    /// Any other source, as written in the pod's volume of the same name. A backend that cannot mount it
    /// rejects the pod.
    Native,
}

/// An `emptyDir` volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmptyDir {
    /// `medium: Memory`.
    pub memory: bool,
    /// `sizeLimit`.
    pub size_limit: Option<Quantity>,
}

/// What a PersistentVolumeClaim gave the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedVolume {
    /// The claim's name.
    pub claim: String,
    /// The volume's name.
    pub volume: String,
    /// Whether the pod asks for it read-only.
    pub read_only: bool,
    /// The volume, with its source.
    pub spec: Arc<PersistentVolumeSpec>,
}

/// A file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Path below the volume's root; never absolute, never with `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The bytes.
    pub content: Bytes,
    /// Whether they came from a Secret or are a token.
    pub secret: bool,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .field("mode", &format_args!("{:o}", self.mode))
            .field("bytes", &self.content.len())
            .field("secret", &self.secret)
            .finish()
    }
}

impl ResolvedPod {
    /// A pod whose references have been resolved by the caller.
    #[must_use]
    pub fn new(
        pod: PodRef,
        object: Arc<Pod>,
        containers: Vec<ResolvedContainer>,
        volumes: Vec<ResolvedVolume>,
    ) -> Self {
        Self { pod, object, containers, volumes, pull_credentials: Vec::new() }
    }

    /// Adds what its images may be pulled with.
    #[must_use]
    pub fn with_pull_credentials(mut self, credentials: Vec<PullCredential>) -> Self {
        self.pull_credentials = credentials;
        self
    }

    /// A pod that refers to nothing: literal environment only, no volumes. For tests and tools.
    ///
    /// `None` if the object lacks namespace, name or UID.
    #[must_use]
    pub fn literal(object: Pod) -> Option<Self> {
        let pod = PodRef::of(&object)?;
        let spec = object.spec.clone().unwrap_or_default();
        let init = spec.init_containers.unwrap_or_default();
        let containers = init
            .iter()
            .map(|c| (kind_of_init(c), c))
            .chain(spec.containers.iter().map(|c| (ContainerKind::App, c)))
            .map(|(kind, c)| ResolvedContainer::literal(kind, c));
        // They have the fields that are taken over, and no others are.
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| {
            let (name, command, args) = (c.name.clone(), c.command.clone(), c.args.clone());
            let c = Container { name, command, args, env: c.env.clone(), ..Container::default() };
            ResolvedContainer::literal(ContainerKind::Ephemeral, &c)
        });
        let containers = containers.chain(ephemeral).collect();
        Some(Self::new(pod, Arc::new(object), containers, Vec::new()))
    }

    /// The container as written in the specification; `None` for ephemeral containers.
    #[must_use]
    pub fn container_spec(&self, name: &str) -> Option<&Container> {
        let spec = self.object.spec.as_ref()?;
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
    }

    /// An annotation's value.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// Whether an init container is a sidecar.
fn kind_of_init(container: &Container) -> ContainerKind {
    if container.restart_policy.as_deref() == Some("Always") {
        ContainerKind::Sidecar
    } else {
        ContainerKind::Init
    }
}

impl ResolvedContainer {
    /// A container from its parts.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        kind: ContainerKind,
        image: impl Into<String>,
        command: Vec<Value>,
        args: Vec<Value>,
        env: Vec<EnvVar>,
    ) -> Self {
        let (mounts, blocked) = (Vec::new(), None);
        Self { name: name.into(), kind, image: image.into(), command, args, env, mounts, blocked }
    }

    /// Adds where its volumes go.
    #[must_use]
    pub fn with_mounts(mut self, mounts: Vec<ResolvedMount>) -> Self {
        self.mounts = mounts;
        self
    }

    fn literal(kind: ContainerKind, container: &Container) -> Self {
        let values = |texts: &Option<Vec<String>>| texts.iter().flatten().map(Value::plain).collect();
        let env = container.env.iter().flatten().map(|var| EnvVar {
            name: var.name.clone(),
            value: Value::plain(var.value.clone().unwrap_or_default()),
            origin: Origin::Literal,
        });
        Self::new(
            container.name.clone(),
            kind,
            container.image.clone().unwrap_or_default(),
            values(&container.command),
            values(&container.args),
            env.collect(),
        )
    }
}

impl ResolvedMount {
    /// A whole volume, writable.
    #[must_use]
    pub fn new(volume: impl Into<String>, path: impl Into<String>) -> Self {
        Self { volume: volume.into(), path: path.into(), sub_path: None, read_only: false }
    }
}

impl ResolvedVolume {
    /// A volume from its parts.
    #[must_use]
    pub fn new(name: impl Into<String>, content: VolumeContent) -> Self {
        Self { name: name.into(), content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_never_shows_a_secret() {
        let var = EnvVar {
            name: "PASSWORD".into(),
            value: Value::secret("hunter2"),
            origin: Origin::Secret { name: "db".into(), key: "password".into() },
        };
        let file = File { path: "token".into(), mode: 0o600, content: "hunter2".into(), secret: true };
        let shown = format!("{var:?} {} {file:?}", var.value);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("[redacted]"), "{shown}");
    }
}
