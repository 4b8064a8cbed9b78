//! The end of a pod: what is said of containers whose own end was not seen.

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec, PodStatus};

use super::containers::{
    Lists, UNKNOWN_MESSAGE, View, ended, is_running, last_ended, terminated, unknown_end, was_started,
};

/// Says of every container that was or may have been started that it has ended: 137 where its end was
/// not seen (`TerminatePod` in `pkg/kubelet/status/status_manager.go`).
pub(super) fn settle(lists: &mut Lists, spec: &PodSpec) {
    settle_lists(spec, &mut lists.init, &mut lists.main, &mut lists.ephemeral);
}

fn settle_lists(
    spec: &PodSpec,
    init: &mut [ContainerStatus],
    main: &mut [ContainerStatus],
    ephemeral: &mut [ContainerStatus],
) {
    // The init containers behind the last one that started were never due, nor were the main ones if
    // initialization was not finished.
    let initialized = match (init.last(), spec.init_containers.iter().flatten().next_back()) {
        (Some(last), Some(c)) if c.restart_policy.as_deref() == Some("Always") => last.started == Some(true),
        (Some(last), _) => [ended(last), last_ended(last)].into_iter().flatten().any(|e| e.exit_code == 0),
        (None, _) => true,
    };
    if initialized || main.iter().any(was_started) {
        main.iter_mut().for_each(end_unseen);
    }
    let due = init.iter().rposition(was_started).map_or(init.len().min(1), |i| i + 1);
    init[..due].iter_mut().for_each(end_unseen);
    ephemeral.iter_mut().filter(|s| is_running(s)).for_each(end_unseen);
}

fn end_unseen(status: &mut ContainerStatus) {
    if ended(status).is_none() {
        status.state = Some(terminated(unknown_end(UNKNOWN_MESSAGE)));
        status.ready = false;
        status.started = status.started.map(|_| false);
    }
}

/// In a pod whose phase is terminal already: how those containers ended that it does not yet say so of.
pub(super) fn close(status: &mut PodStatus, view: &View<'_>) {
    let open = |list: &Option<Vec<ContainerStatus>>| list.iter().flatten().any(|s| ended(s).is_none());
    if !open(&status.init_container_statuses)
        && !open(&status.container_statuses)
        && !open(&status.ephemeral_container_statuses)
    {
        return;
    }
    let fresh = Lists::of(view);
    let take = |list: &mut Option<Vec<ContainerStatus>>, fresh: &[ContainerStatus]| {
        for old in list.iter_mut().flatten().filter(|s| ended(s).is_none()) {
            if let Some(new) = fresh.iter().find(|s| s.name == old.name && ended(s).is_some()) {
                old.clone_from(new);
            }
        }
    };
    take(&mut status.init_container_statuses, &fresh.init);
    take(&mut status.container_statuses, &fresh.main);
    take(&mut status.ephemeral_container_statuses, &fresh.ephemeral);
    if view.gone {
        settle_lists(
            view.spec,
            status.init_container_statuses.as_deref_mut().unwrap_or_default(),
            status.container_statuses.as_deref_mut().unwrap_or_default(),
            status.ephemeral_container_statuses.as_deref_mut().unwrap_or_default(),
        );
    }
}
