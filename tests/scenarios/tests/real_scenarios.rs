//! The same scenarios on the real control plane, twice: with nodes that have the permissions of `manifests/rbac.yaml`
//! and no other, and with nodes that have a kubelet's identity, under the Node authorizer and NodeRestriction. A
//! call that the API server's audit log says was not allowed fails the scenario. Run by `cargo xtask test real`.

use vk_scenarios::{World, scenario};

/// One test per identity and scenario.
macro_rules! real {
    ($($room:ident :: { $($name:ident),+ $(,)? }),+ $(,)?) => {
        mod with_the_shipped_role {
            $(mod $room {
                use super::super::*;
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let world = World::real_as_service_account().await;
                        scenario::$room::$name(&world).await;
                        world.clean_up().await;
                    }
                )+
            })+
        }
        mod with_a_nodes_identity {
            $(mod $room {
                use super::super::*;
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let world = World::real_as_node().await;
                        scenario::$room::$name(&world).await;
                        world.clean_up().await;
                    }
                )+
            })+
        }
    };
}

/// A node with a kubelet's identity may not delete its own object.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_told_to_deregister_takes_its_object_with_it() {
    let world = World::real_as_service_account().await;
    scenario::presence::a_node_told_to_deregister_takes_its_object_with_it(&world).await;
    world.clean_up().await;
}

real! {
    admission::{
        pods_are_let_in_as_they_were_created_while_there_is_room,
        what_runs_is_never_refused_after_a_restart,
        other_resources_are_given_when_there_is_room_for_them,
    },
    controllers::{
        a_deployment_is_scaled_rolled_and_emptied,
        a_deployment_keeps_its_pods_when_the_nodes_object_is_deleted,
        a_stateful_set_made_again_inherits_nothing,
        a_daemon_set_follows_its_nodes,
        pods_deleted_by_force_with_kubectl_are_stopped_and_replaced,
        a_deleted_namespace_leaves_nothing_running,
    },
    deletion::{
        a_pod_that_takes_its_time_to_stop_keeps_its_object,
        a_pod_that_ignores_sigterm_is_killed_after_its_grace,
        a_second_deletion_with_less_grace_shortens_the_first,
        a_forced_deletion_leaves_nothing_running,
        a_finalizer_keeps_the_object_but_not_the_pod,
        a_completed_pod_is_removed_without_being_stopped,
        a_pod_deleted_before_it_starts_goes_without_having_run,
        a_pod_deleted_while_its_creation_fails_goes,
        a_pod_deleted_while_its_creation_hangs_goes,
        a_deletion_that_fails_is_repeated_until_it_works,
        a_recreated_name_inherits_nothing_from_its_predecessor,
        a_name_reused_ten_times_is_its_last_incarnation,
    },
    disappearance::{
        a_pod_that_the_backend_lost_has_failed,
        a_mass_disappearance_is_not_taken_for_deletion,
        a_listing_that_fails_is_no_absence,
    },
    evictions::{
        a_taint_drives_out_who_does_not_tolerate_it,
        the_eviction_api_takes_pods_as_far_as_the_budget_goes,
    },
    foreign::{
        a_readiness_gate_is_others_to_open,
        what_others_wrote_into_a_pod_stays,
    },
    jobs::{
        a_job_whose_pods_succeed_is_complete,
        a_job_whose_pod_fails_has_failed_with_its_exit_code,
        a_job_restarts_its_container_until_it_succeeds,
        a_pod_failure_policy_fails_the_job_on_its_exit_code,
        a_disruption_does_not_count_against_a_job,
        a_cron_jobs_pod_runs_when_it_is_time,
    },
    lifecycle::{
        a_pod_runs_and_is_deleted_without_a_trace,
        exit_codes_reach_the_status,
        a_crashing_container_is_restarted_and_backed_off,
        readiness_follows_the_containers,
    },
    presence::{
        a_deleted_node_comes_back_and_its_pods_run_on,
        the_providers_health_is_the_nodes_readiness,
        a_provider_that_hangs_does_not_delay_the_lease,
        a_node_is_not_ready_before_its_provider_has_listed_its_pods,
        a_drained_node_is_not_ready_and_its_pods_run_on,
        a_second_daemon_of_a_name_leaves_its_pods_alone,
        a_node_told_to_drain_its_pods_stops_them_first,
        what_others_wrote_into_the_node_stays,
        a_pod_bound_during_a_drain_is_started_by_the_successor,
    },
    restarts::{
        a_killed_node_adopts_its_pods_and_writes_nothing,
        pods_deleted_while_the_node_is_dead_are_stopped_when_it_is_back,
        a_pod_changed_while_the_node_is_dead_is_changed_when_it_is_back,
        a_change_that_was_not_given_yet_is_given_by_the_next_node,
        pods_bound_while_the_node_is_dead_start_when_it_is_back,
        an_end_while_the_node_is_dead_is_told_when_it_is_back,
        a_pod_lost_while_the_node_is_dead_has_failed,
        a_node_killed_before_a_creation_was_answered_finds_the_pod,
        a_node_killed_while_a_pod_stops_finishes_the_deletion,
        a_node_killed_at_every_step_of_a_life_completes_it,
    },
    fields::{
        a_pod_is_refused_for_all_that_is_not_honoured_before_anything_is_made,
        what_a_policy_names_is_passed_over_with_a_warning,
        a_pod_that_runs_is_never_refused,
    },
    retries::{
        a_creation_that_fails_is_repeated_until_it_works,
        a_pod_that_cannot_be_created_yet_says_why,
        a_pod_whose_address_cannot_be_reserved_says_why,
        addresses_reserved_for_nothing_are_free_again,
        a_refused_pod_fails_at_once_and_is_not_tried_again,
        a_lost_answer_to_a_creation_starts_nothing_twice,
        a_lost_answer_to_a_deletion_keeps_nothing,
        a_missing_config_map_is_waited_for,
        a_missing_secret_is_waited_for,
        what_is_optional_is_not_waited_for,
        a_pod_that_waits_for_a_secret_can_be_deleted,
        a_flaky_provider_ends_in_the_right_state,
    },
}
