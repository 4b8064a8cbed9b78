//! Starting a run of a container: its image, its configuration, the container itself.
//!
//! Source: `startContainer` in `pkg/kubelet/kuberuntime` and `EnsureImageExists` in `pkg/kubelet/images`; texts as in
//! the oracle cases image-*, config-*, command-missing*.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::shared::Shared;
use crate::containers::backend::{ContainerRun, ContainerSpec, Image};
use crate::containers::words::{duration, whose};
use crate::events::{PodEventRecord, Reason};
use crate::provider::{ContainerKind, EnvVar, Error, Origin, ResolvedContainer, ResolvedPod, Value};

/// The most that a file of variables may hold, in bytes (KEP-3721), and one more to see that it holds more.
const LONGEST_ENV_FILE: usize = (64 << 10) + 1;

/// A run to be started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Arc<ResolvedPod>,
    pub(super) kind: ContainerKind,
    pub(super) spec: Arc<Container>,
    pub(super) attempt: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Launched {
    /// It was started.
    Started,
    /// It waits, for this reason, and is tried again later.
    Held { reason: &'static str, message: String },
    /// It was created, and did not start.
    Failed { message: String },
}

impl Launch {
    pub(super) async fn run(self) -> Launched {
        match self.try_run().await {
            Ok(()) => Launched::Started,
            Err(other) => other,
        }
    }

    async fn try_run(&self) -> Result<(), Launched> {
        let name = self.spec.image.clone().unwrap_or_default();
        let image = self.image(&name, self.spec.image_pull_policy.as_deref(), true).await?;
        self.image_volumes().await?;
        let spec = match self.configure(&image).await {
            Ok(spec) => spec,
            Err(message) => return Err(self.hold("CreateContainerConfigError", message)),
        };
        let clean = |message| without_secrets(message, &spec.command, &spec.args, &spec.env);
        let backend = &self.shared.backend;
        match backend.create_container(&spec).await {
            Ok(()) => {}
            Err(Error::Rejected { reason, .. }) => {
                return Err(self.hold("CreateContainerConfigError", clean(reason)));
            }
            Err(error) => {
                return Err(self.hold("CreateContainerError", clean(error.chain())));
            }
        }
        self.tell(Reason::Created, "Container created");
        if let Err(error) = backend.start_container(&spec.run).await {
            let message = match error {
                Error::Rejected { reason, .. } => reason,
                error => error.chain(),
            };
            let message = clean(message);
            self.tell(Reason::Failed, format!("Error: {message}"));
            return Err(Launched::Failed { message });
        }
        self.tell(Reason::Started, "Container started");
        Ok(())
    }

    fn tell(&self, reason: Reason, message: impl Into<String>) {
        let event = PodEventRecord::new(reason, message).about_kind(self.kind, self.spec.name.clone());
        self.shared.tell(&self.pod.pod, event);
    }

    fn hold(&self, reason: &'static str, message: String) -> Launched {
        self.tell(Reason::Failed, format!("Error: {message}"));
        Launched::Held { reason, message }
    }

    /// Tells of the container, or of the pod as a whole.
    fn tell_of(&self, own: bool, reason: Reason, message: impl Into<String>) {
        if own {
            return self.tell(reason, message);
        }
        self.shared.tell(&self.pod.pod, PodEventRecord::new(reason, message));
    }

    /// The images that it has mounted, each with the first container that has it (KEP-4639).
    async fn image_volumes(&self) -> Result<(), Launched> {
        let Some(spec) = &self.pod.object.spec else { return Ok(()) };
        let mounts = |container: &Container, volume: &str| {
            container.volume_mounts.iter().flatten().any(|mount| mount.name == volume)
        };
        for volume in spec.volumes.iter().flatten() {
            let Some(source) = &volume.image else { continue };
            let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
            if all.find(|each| mounts(each, &volume.name)).is_some_and(|first| first.name == self.spec.name) {
                let name = source.reference.as_deref().unwrap_or_default();
                self.image(name, source.pull_policy.as_deref(), false).await?;
            }
        }
        Ok(())
    }

    /// An image, fetched if need be: the container's own, or one that it has mounted.
    async fn image(&self, name: &str, policy: Option<&str>, own: bool) -> Result<Image, Launched> {
        let backend = &self.shared.backend;
        let always = match policy {
            Some(policy) => policy == "Always",
            None => is_latest(name),
        };
        let found = if always { Ok(None) } else { backend.find_image(name).await };
        match found {
            Ok(Some(image)) => {
                let message = format!(
                    "Container image \"{name}\" already present on machine and can be accessed by the pod"
                );
                self.tell_of(own, Reason::Pulled, message);
                return Ok(image);
            }
            Ok(None) if policy == Some("Never") => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                self.tell_of(own, Reason::ErrImageNeverPull, message.clone());
                self.tell_of(own, Reason::Failed, "Error: ErrImageNeverPull");
                return Err(Launched::Held { reason: "ErrImageNeverPull", message });
            }
            Ok(None) => {}
            Err(error) => return Err(self.no_image(name, own, error)),
        }
        self.tell_of(own, Reason::Pulling, format!("Pulling image \"{name}\""));
        let began = Instant::now();
        let credentials: Vec<_> = self
            .pod
            .pull_credentials
            .iter()
            .filter(|credential| credential.images.iter().any(|image| image == name))
            .cloned()
            .collect();
        match backend.pull_image(name, &credentials).await {
            Ok(image) => {
                let took = duration(std::time::Duration::from_millis(
                    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                ));
                let mut message =
                    format!("Successfully pulled image \"{name}\" in {took} ({took} including waiting).");
                if let Some(size) = image.size {
                    let _ = write!(message, " Image size: {size} bytes.");
                }
                self.tell_of(own, Reason::Pulled, message);
                Ok(image)
            }
            Err(error) => Err(self.no_image(name, own, error)),
        }
    }

    fn no_image(&self, name: &str, own: bool, error: Error) -> Launched {
        if let Error::Rejected { reason, .. } = error {
            self.tell_of(own, Reason::InspectFailed, reason.clone());
            self.tell_of(own, Reason::Failed, "Error: InvalidImageName");
            return Launched::Held { reason: "InvalidImageName", message: reason };
        }
        let message = error.chain();
        self.tell_of(own, Reason::Failed, format!("Failed to pull image \"{name}\": {message}"));
        self.tell_of(own, Reason::Failed, "Error: ErrImagePull");
        Launched::Held { reason: "ErrImagePull", message }
    }

    /// Everything the backend needs to know of the run.
    async fn configure(&self, image: &Image) -> Result<ContainerSpec, String> {
        let name = &self.spec.name;
        let resolved = self.pod.containers.iter().find(|container| container.name == *name);
        let resolved = resolved.ok_or_else(|| format!("container {name:?} was not resolved"))?;
        if let Some(blocked) = &resolved.blocked {
            return Err(blocked.message.clone());
        }
        let resolved = self.with_env_files(resolved).await?;
        let run = ContainerRun::new(self.pod.pod.container(name.as_str()), self.attempt);
        let mut spec = ContainerSpec::new(run, self.kind, self.spec.image.as_deref().unwrap_or_default());
        spec.image_id.clone_from(&image.id);
        spec.command = resolved.command;
        spec.args = resolved.args;
        spec.env = resolved.env;
        spec.mounts = resolved.mounts;
        spec.working_dir.clone_from(&self.spec.working_dir);
        spec.security.clone_from(&self.spec.security_context);
        if let Some(path) = self.spec.termination_message_path.as_ref().filter(|path| !path.is_empty()) {
            spec.termination_message_path.clone_from(path);
        }
        spec.stop_signal = self.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
        spec.resources = self.spec.resources.clone().unwrap_or_default();
        spec.stdin = self.spec.stdin.unwrap_or_default();
        spec.stdin_once = self.spec.stdin_once.unwrap_or_default();
        spec.tty = self.spec.tty.unwrap_or_default();
        self.identify(&mut spec, image)?;
        Ok(spec)
    }

    /// Whom it runs as; the container's wish stands above the pod's.
    fn identify(&self, spec: &mut ContainerSpec, image: &Image) -> Result<(), String> {
        let pod = self.pod.object.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let own = self.spec.security_context.as_ref();
        spec.user = own.and_then(|own| own.run_as_user).or_else(|| pod?.run_as_user);
        spec.group = own.and_then(|own| own.run_as_group).or_else(|| pod?.run_as_group);
        let groups = pod.and_then(|pod| pod.supplemental_groups.clone()).unwrap_or_default();
        spec.supplemental_groups = groups.into_iter().chain(pod.and_then(|pod| pod.fs_group)).collect();
        let non_root = own.and_then(|own| own.run_as_non_root).or_else(|| pod?.run_as_non_root);
        if non_root != Some(true) {
            return Ok(());
        }
        let place = format!("(pod: \"{}\", container: {})", whose(&self.pod.pod), self.spec.name);
        match (spec.user, image.user.as_deref()) {
            (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
            (Some(_), _) => Ok(()),
            (None, None) => Err(format!(
                "container has runAsNonRoot and the image's user is not known, cannot verify user is non-root {place}"
            )),
            (None, Some(user)) => match user.split(':').next().unwrap_or_default() {
                "" | "0" => Err(format!("container has runAsNonRoot and image will run as root {place}")),
                user if user.parse::<u32>().is_ok() => Ok(()),
                user => Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is \
                     non-root {place}"
                )),
            },
        }
    }

    /// The container with the variables that come from files of its volumes.
    async fn with_env_files(&self, resolved: &ResolvedContainer) -> Result<ResolvedContainer, String> {
        let mut files = HashMap::new();
        for variable in &resolved.env {
            if let Origin::File { volume, path, .. } = &variable.origin
                && !files.contains_key(&(volume.clone(), path.clone()))
            {
                let backend = &self.shared.backend;
                let read = backend.read_volume_file(&self.pod.pod, volume, path, LONGEST_ENV_FILE).await;
                let content = read.map_err(|error| error.chain())?;
                files.insert((volume.clone(), path.clone()), content);
            }
        }
        self.pod.with_env_files(resolved, |volume, path| {
            files.get(&(volume.to_owned(), path.to_owned()))?.as_ref().map(|bytes| bytes.to_vec())
        })
    }
}

/// What a backend says of a run that it could not start, without the values of Secrets: runtimes like to quote the
/// program, which may be one. Values of one or two bytes stay; they are in any text.
pub(super) fn without_secrets(
    mut message: String,
    command: &[Value],
    args: &[Value],
    env: &[EnvVar],
) -> String {
    let env = env.iter().map(|variable| &variable.value);
    let mut secrets: Vec<&str> = (command.iter().chain(args).chain(env))
        .filter(|value| value.is_secret() && value.expose().len() > 2)
        .map(Value::expose)
        .collect();
    // One may be part of another.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in secrets {
        if message.contains(secret) {
            message = message.replace(secret, "[redacted]");
        }
    }
    message
}

/// Whether an image without a pull policy is fetched always: its tag is `latest`, or it has none and no digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::PodRef;

    #[test]
    fn what_a_backend_quotes_is_told_without_secrets() {
        let pod = PodRef::new("ns", "pod", "uid");
        let mut spec = ContainerSpec::new(ContainerRun::new(pod.container("a"), 0), ContainerKind::App, "i");
        spec.command = vec![Value::secret("hunter2"), Value::plain("sh")];
        let variable = |value| EnvVar { name: "A".to_owned(), value, origin: Origin::Literal };
        spec.env = vec![variable(Value::secret("hunter2@db")), variable(Value::secret("sh"))];
        let message = "exec: \"hunter2\" with hunter2@db: not found by sh".to_owned();
        assert_eq!(
            without_secrets(message, &spec.command, &spec.args, &spec.env),
            "exec: \"[redacted]\" with [redacted]: not found by sh"
        );
    }
}
