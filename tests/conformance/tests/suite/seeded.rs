//! Providers with one mistake each: every one fails the clause that it breaks, and no other.

use std::sync::Arc;

use vk_conformance::{CLAUSES, Suite};
use vk_core::provider::Provider;

use crate::bug::Bug;
use crate::buggy::Buggy;
use crate::subjects::Mock;

async fn failed(bug: Bug) -> (Vec<String>, String) {
    let wrap = move |inner: Arc<dyn Provider>, mock: &Mock| {
        let buggy = Buggy::new(inner, bug, mock.backend.clone(), mock.neighbours_provider());
        Arc::new(buggy) as Arc<dyn Provider>
    };
    let report = Suite::new(Arc::new(Mock::wrapped(&format!("{bug:?}"), Arc::new(wrap)))).run().await;
    let failed = report.failed().into_iter().map(str::to_owned).collect();
    let reasons = report
        .outcomes
        .iter()
        .filter_map(|outcome| outcome.failure().map(|reason| format!("{}: {reason}\n", outcome.clause)));
    (failed, reasons.collect())
}

macro_rules! each_bug_breaks_one_clause {
    ($($test:ident: $bug:ident breaks $clause:ident;)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                let (failed, reasons) = failed(Bug::$bug).await;
                assert_eq!(failed, [stringify!($clause)], "{reasons}");
            }
        )+

        /// A clause that no mistake fails might be one that cannot fail.
        #[test]
        fn every_clause_is_broken_by_some_mistake() {
            let broken = [$(stringify!($clause)),+];
            let whole: Vec<_> =
                CLAUSES.iter().map(|clause| clause.name).filter(|name| !broken.contains(name)).collect();
            assert_eq!(whole, [""; 0]);
        }
    };
}

each_bug_breaks_one_clause! {
    deletes_by_name: DeletesByName breaks deleting_a_pod_leaves_its_namesake;
    creates_by_name: CreatesByName breaks two_pods_of_one_name_run_side_by_side;
    shares_addresses: SharesAddresses breaks two_pods_of_one_name_share_nothing;
    loses_namespace: LosesNamespace breaks a_pod_is_listed_under_its_own_names;
    refuses_a_second_create: RefusesASecondCreate breaks create_again_is_ok;
    creates_twice: CreatesTwice breaks create_again_starts_nothing;
    unknown_cannot_be_deleted: UnknownCannotBeDeleted breaks delete_of_an_unknown_pod_is_ok;
    refuses_a_second_delete: RefusesASecondDelete breaks delete_again_is_ok;
    lists_the_first_page: ListsTheFirstPage breaks a_listing_names_every_pod;
    list_error_is_absence: ListErrorIsAbsence breaks a_listing_that_fails_is_an_error;
    watch_error_is_absence: WatchErrorIsAbsence breaks a_watch_does_not_take_a_failure_for_an_end;
    lists_the_deleted: ListsTheDeleted breaks a_deleted_pod_leaves_the_listing;
    repeats_old_events: RepeatsOldEvents breaks events_come_in_order;
    lists_from_a_stale_replica: ListsFromAStaleReplica breaks a_listing_never_goes_back;
    dropped_create_leaks: DroppedCreateLeaks breaks a_dropped_create_can_be_repeated;
    dropped_delete_leaks: DroppedDeleteLeaks breaks a_dropped_delete_can_be_repeated;
    dropped_delete_ends_others: DroppedDeleteEndsOthers breaks a_dropped_call_leaves_other_pods_alone;
    forgets_all_but_one: ForgetsAllButOne breaks pods_created_at_once_all_run;
    one_create_at_a_time: OneCreateAtATime breaks a_hanging_create_holds_up_no_other;
    one_call_at_a_time: OneCallAtATime breaks a_hanging_create_holds_up_no_question;
    blocks_the_thread: BlocksTheThread breaks no_call_blocks_its_thread;
    passing_failure_is_final: PassingFailureIsFinal breaks a_passing_failure_may_be_retried;
    retries_under_another_name: RetriesUnderAnotherName breaks a_lost_answer_makes_one_pod;
    swallows_delete_errors: SwallowsDeleteErrors breaks a_deletion_that_fails_is_an_error;
    swallows_node_errors: SwallowsNodeErrors breaks a_node_that_cannot_be_asked_is_an_error;
    refusal_looks_passing: RefusalLooksPassing breaks what_can_never_run_is_rejected;
    secret_in_errors: SecretInErrors breaks no_secret_is_in_an_errors_text;
    secret_in_debug: SecretInDebug breaks no_secret_is_in_debug_output;
    secret_in_status: SecretInStatus breaks no_secret_is_in_what_is_told;
    sandbox_is_never_ready: SandboxIsNeverReady breaks an_accepted_pod_runs;
    exit_code_is_always_zero: ExitCodeIsAlwaysZero breaks an_exit_code_is_kept;
    finished_pods_stay_ready: FinishedPodsStayReady breaks a_finished_pod_is_gone;
    addresses_get_lost: AddressesGetLost breaks an_address_is_kept;
    restarts_are_not_counted: RestartsAreNotCounted breaks a_restart_is_counted;
    former_run_is_forgotten: FormerRunIsForgotten breaks the_end_before_a_restart_is_kept;
    skips_init_containers: SkipsInitContainers breaks init_containers_come_first;
    failed_init_is_forgiven: FailedInitIsForgiven breaks a_failed_init_container_ends_the_pod;
    never_ready: NeverReady breaks a_container_that_runs_is_ready;
    ends_when_it_began: EndsWhenItBegan breaks a_run_has_its_own_times;
    restarts_successes: RestartsSuccesses breaks a_success_is_not_restarted;
    restarts_no_failures: RestartsNoFailures breaks a_failure_is_restarted;
    restarts_once: RestartsOnce breaks a_second_end_is_restarted_too;
    gone_with_the_first: GoneWithTheFirst breaks a_pod_lasts_until_all_have_ended;
    sidecars_keep_their_pods: SidecarsKeepTheirPods breaks a_sidecar_does_not_keep_its_pod;
    deadline_is_no_outcome: DeadlineIsNoOutcome breaks a_deadline_ends_the_pod;
    ignores_grace: IgnoresGrace breaks the_grace_period_is_granted;
    never_kills: NeverKills breaks the_grace_period_ends;
    zero_grace_is_the_default: ZeroGraceIsTheDefault breaks no_grace_kills_at_once;
    ignores_a_shorter_grace: IgnoresAShorterGrace breaks a_shorter_grace_is_heeded;
    ends_without_last_words: EndsWithoutLastWords breaks the_last_exit_code_is_told;
    gone_too_early: GoneTooEarly breaks nothing_runs_after_the_end;
    revives_the_deleted: RevivesTheDeleted breaks a_deleted_pod_does_not_come_back;
    back_off_outlives_deletion: BackOffOutlivesDeletion breaks a_pod_between_two_runs_can_be_deleted;
    sidecars_go_first: SidecarsGoFirst breaks sidecars_end_last;
    stops_one_by_one: StopsOneByOne breaks containers_end_side_by_side;
    watch_without_listing: WatchWithoutListing breaks a_watch_begins_with_a_listing;
    loses_events: LosesEvents breaks every_change_is_watched;
    loses_deletions: LosesDeletions breaks a_deletion_is_watched;
    watches_once: WatchesOnce breaks a_watch_can_be_begun_again;
    loses_restarts: LosesRestarts breaks a_restart_is_watched;
    forgets_on_restart: ForgetsOnRestart breaks a_new_daemon_finds_its_pods;
    starts_again_after_restart: StartsAgainAfterRestart breaks a_new_daemon_starts_nothing_twice;
    deletes_only_what_it_knows: DeletesOnlyWhatItKnows breaks a_new_daemon_can_delete;
    forgets_ends_on_restart: ForgetsEndsOnRestart breaks an_end_outlives_the_daemon;
    forgets_deletions_on_restart: ForgetsDeletionsOnRestart breaks a_deletion_outlives_the_daemon;
    lists_others: ListsOthers breaks pods_of_others_are_not_listed;
    watches_others: WatchesOthers breaks pods_of_others_are_not_watched;
    deletes_others: DeletesOthers breaks pods_of_others_are_not_deleted;
    name_is_a_title: NameIsATitle breaks the_name_is_a_label;
    capacity_lacks_pods: CapacityLacksPods breaks capacity_is_complete;
    allocates_more_than_there_is: AllocatesMoreThanThereIs breaks allocatable_is_within_capacity;
    capacity_lies: CapacityLies breaks capacity_can_be_used;
    prepares_anew: PreparesAnew breaks preparing_again_gives_the_same_addresses;
    breaks_its_promise: BreaksItsPromise breaks a_promised_address_is_kept;
    promises_the_next_free: PromisesTheNextFree breaks two_pods_are_promised_two_addresses;
    update_restarts: UpdateRestarts breaks an_update_without_a_change_changes_nothing;
    updates_nobody: UpdatesNobody breaks an_update_of_an_unknown_pod_is_not_found;
    adds_nothing: AddsNothing breaks an_added_container_runs;
    log_lacks_a_line: LogLacksALine breaks a_log_has_what_was_printed;
    log_never_ends: LogNeverEnds breaks a_log_that_is_not_followed_ends;
    log_ignores_tail: LogIgnoresTail breaks a_tail_is_the_last_lines;
    log_ignores_start: LogIgnoresStart breaks a_start_leaves_out_what_is_older;
    log_ignores_ages: LogIgnoresAges breaks a_start_may_be_an_age;
    log_is_all_errors: LogIsAllErrors breaks what_was_printed_is_on_standard_output;
    log_ignores_follow: LogIgnoresFollow breaks a_followed_log_goes_on;
    followed_log_never_ends: FollowedLogNeverEnds breaks a_followed_log_ends_with_its_container;
    log_ends_with_the_run: LogEndsWithTheRun breaks a_log_outlives_its_container;
    previous_is_present: PreviousIsPresent breaks a_previous_log_is_that_of_the_run_before;
    previous_is_empty: PreviousIsEmpty breaks a_previous_log_needs_a_run_before;
    log_of_nobody_is_empty: LogOfNobodyIsEmpty breaks a_log_of_an_unknown_container_is_not_found;
    exec_always_succeeds: ExecAlwaysSucceeds breaks a_commands_exit_code_is_its_own;
    exec_loses_output: ExecLosesOutput breaks a_commands_output_arrives;
    exec_merges_outputs: ExecMergesOutputs breaks a_commands_outputs_are_kept_apart;
    exec_splits_arguments: ExecSplitsArguments breaks a_commands_arguments_are_kept;
    exec_has_no_environment: ExecHasNoEnvironment breaks a_command_has_its_containers_environment;
    exec_loses_input: ExecLosesInput breaks a_commands_input_reaches_it;
    exec_never_ends_input: ExecNeverEndsInput breaks the_end_of_a_commands_input_reaches_it;
    exec_in_nobody_succeeds: ExecInNobodySucceeds breaks a_command_in_an_unknown_container_is_not_found;
    dropped_exec_goes_on: DroppedExecGoesOn breaks a_dropped_exec_ends_its_command;
    exec_outlives_its_container: ExecOutlivesItsContainer breaks a_command_ends_with_its_container;
    attach_loses_input: AttachLosesInput breaks what_is_written_reaches_the_process;
    dropped_attach_kills: DroppedAttachKills breaks a_dropped_attach_leaves_the_process;
    attach_never_ends: AttachNeverEnds breaks an_attach_ends_with_the_process;
    attach_to_nobody_succeeds: AttachToNobodySucceeds breaks an_attach_to_an_unknown_container_is_not_found;
    forward_waits_for_the_end: ForwardWaitsForTheEnd breaks a_connection_reaches_its_port;
    forward_is_never_half_closed: ForwardIsNeverHalfClosed breaks a_half_closed_connection_ends;
    half_close_is_close: HalfCloseIsClose breaks an_answer_outlives_the_clients_half;
    closed_port_is_open: ClosedPortIsOpen breaks a_closed_port_refuses;
    unknown_pod_has_ports: UnknownPodHasPorts breaks a_port_of_an_unknown_pod_is_an_error;
    counters_go_back: CountersGoBack breaks counters_never_go_back;
    unknown_is_zero: UnknownIsZero breaks what_is_unknown_is_not_zero;
    parts_are_more: PartsAreMore breaks no_part_of_memory_is_more_than_all;
    measures_twice: MeasuresTwice breaks each_pod_is_measured_once;
    measures_no_container: MeasuresNoContainer breaks a_container_that_runs_is_measured;
    node_counts_the_living: NodeCountsTheLiving breaks a_nodes_counter_outlives_its_pods;
}
