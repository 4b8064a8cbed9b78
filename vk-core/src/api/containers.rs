//! The containers of a pod, of every kind.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// The names of its init, app and ephemeral containers.
pub(super) fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    images(pod).map(|(name, _)| name)
}

/// The names and images of its init, app and ephemeral containers.
pub(super) fn images(pod: &Pod) -> impl Iterator<Item = (&str, Option<&str>)> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let plain = spec.init_containers.iter().flatten().chain(&spec.containers);
        let plain = plain.map(|container| (container.name.as_str(), container.image.as_deref()));
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        plain.chain(ephemeral.map(|container| (container.name.as_str(), container.image.as_deref())))
    })
}

/// The status of the container of that name, of whichever kind.
pub(super) fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}
