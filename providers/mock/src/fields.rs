//! What the mock does with the fields of pods: it takes all of them, as no container of it is real.

use std::sync::LazyLock;

use vk_core::provider::FieldSupport;

use crate::provider;

static OF_PODS: LazyLock<FieldSupport> = LazyLock::new(|| {
    let unseen = "what it names is read and has to be there, but no command sees the files";
    FieldSupport::of_pods("mock", provider::native())
        .native("spec")
        .partly("spec.volumes[].configMap", unseen)
        .partly("spec.volumes[].downwardAPI", unseen)
        .partly("spec.volumes[].projected", unseen)
        .partly("spec.volumes[].secret", unseen)
});

static OF_CONTAINERS: LazyLock<FieldSupport> =
    LazyLock::new(|| FieldSupport::of_containers("mock").native("spec"));

/// What [`MockProvider`](crate::MockProvider) does with each field of a pod: it takes all of them, in the sense of the
/// play. What the script of a pod says happens, whatever its fields ask for.
#[must_use]
pub fn fields() -> &'static FieldSupport {
    &OF_PODS
}

/// What [`MockContainers`](crate::MockContainers) does with each field of a pod, under `PodRunner`.
#[must_use]
pub fn fields_of_containers() -> &'static FieldSupport {
    &OF_CONTAINERS
}
