//! What the mock does with the fields of pods: it takes all of them, as no container of it is real.

use std::sync::LazyLock;

use vk_core::provider::FieldSupport;

use crate::provider;

/// Of [`MockProvider`](crate::MockProvider): honoured in the sense of the play. What the script of a pod says happens,
/// whatever its fields ask for.
pub(crate) static OF_PODS: LazyLock<FieldSupport> = LazyLock::new(|| {
    let unseen = "what it names is read and has to be there, but no command sees the files";
    FieldSupport::of_pods("mock", provider::native())
        .native("spec")
        .partly("spec.volumes[].configMap", unseen)
        .partly("spec.volumes[].downwardAPI", unseen)
        .partly("spec.volumes[].projected", unseen)
        .partly("spec.volumes[].secret", unseen)
});

/// Of [`MockContainers`](crate::MockContainers).
pub(crate) static OF_CONTAINERS: LazyLock<FieldSupport> =
    LazyLock::new(|| FieldSupport::of_containers("mock").native("spec"));
