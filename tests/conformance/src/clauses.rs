//! The clauses, one public function each, under the headings of the contract in [`vk_core::provider`].
//!
//! Each is given a [`Bench`] with a connection of its own and makes the pods that it needs. [`CLAUSES`] lists them all,
//! with what they cost.

use futures::future::BoxFuture;

use crate::bench::Bench;
use crate::check::Check;

pub mod absence;
pub mod attach;
pub mod cancellation;
pub mod concurrency;
pub mod deletion;
pub mod errors;
pub mod exec;
pub mod forward;
pub mod idempotence;
pub mod identity;
pub mod logs;
pub mod node;
pub mod ordering;
pub mod prepare;
pub mod restart;
pub mod stats;
pub mod status;
pub mod tenancy;
pub mod update;
pub mod watch;

/// A clause of the contract.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Clause {
    /// Its name, unique: that of its function.
    pub name: &'static str,
    /// The part of the contract that it belongs to.
    pub group: &'static str,
    /// How many pods it makes at most.
    pub pods: usize,
    /// What it demands: the first lines of its function's documentation.
    pub demand: &'static str,
    run: for<'a> fn(&'a Bench) -> BoxFuture<'a, Check>,
}

impl std::fmt::Debug for Clause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clause").field("name", &self.name).field("group", &self.group).finish_non_exhaustive()
    }
}

impl Clause {
    /// The clause of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        CLAUSES.iter().find(|clause| clause.name == name)
    }

    pub(crate) fn run<'a>(&self, bench: &'a Bench) -> BoxFuture<'a, Check> {
        (self.run)(bench)
    }
}

/// The table of clauses, for other macros: calls `$callback! { … }` with what is given, and the rows after it.
#[doc(hidden)]
#[macro_export]
macro_rules! with_clauses {
    ($callback:path { $($given:tt)* }) => {
        $callback! { { $($given)* }
            identity two_pods_of_one_name_run_side_by_side 2
                "Two incarnations of one name run side by side.";
            identity two_pods_of_one_name_share_nothing 2
                "The two incarnations have addresses and containers of their own.";
            identity deleting_a_pod_leaves_its_namesake 2
                "Deleting one incarnation leaves the other running.";
            identity a_pod_is_listed_under_its_own_names 1
                "Observations name a pod as it was created: UID, namespace and name.";
            idempotence create_again_is_ok 1
                "`create_pod` of a UID that exists is `Ok`.";
            idempotence create_again_starts_nothing 1
                "`create_pod` of a UID that exists starts nothing.";
            idempotence delete_of_an_unknown_pod_is_ok 0
                "`delete_pod` of a UID that was never there is `Ok`.";
            idempotence delete_again_is_ok 1
                "`delete_pod` of a pod that is being stopped is `Ok`.";
            absence a_listing_names_every_pod 4
                "A listing names every pod that was accepted.";
            absence a_listing_that_fails_is_an_error 1
                "A listing that the backend cannot make is an error, not an empty or shorter one.";
            absence a_watch_does_not_take_a_failure_for_an_end 1
                "A watch whose backend cannot list for a time never says that the pods are gone.";
            absence a_deleted_pod_leaves_the_listing 1
                "An accepted deletion takes the pod out of the listing, or leaves it there as gone.";
            ordering events_come_in_order 1
                "The events about a pod come in the order in which things happened.";
            ordering a_listing_never_goes_back 1
                "No listing shows a pod in an earlier state than the listing before it.";
            cancellation a_dropped_create_can_be_repeated 1
                "A creation that was dropped halfway can be repeated, and there is one pod then.";
            cancellation a_dropped_delete_can_be_repeated 1
                "A deletion that was dropped halfway can be repeated, and the pod is gone then.";
            cancellation a_dropped_call_leaves_other_pods_alone 2
                "Dropping a call about one pod does nothing to another.";
            concurrency pods_created_at_once_all_run 3
                "Pods that are created at the same time all run.";
            concurrency a_hanging_create_holds_up_no_other 2
                "A creation that hangs at the backend does not keep another pod from being created.";
            concurrency no_call_blocks_its_thread 3
                "No call holds up the thread that it runs on.";
            concurrency a_hanging_create_holds_up_no_question 1
                "The node can be asked about while a creation hangs.";
            errors a_passing_failure_may_be_retried 1
                "A creation that the backend fails for a time is an error that says to try again.";
            errors a_lost_answer_makes_one_pod 1
                "A creation whose answer was lost is settled by repeating it: one pod, not two.";
            errors a_deletion_that_fails_is_an_error 1
                "A deletion that fails is an error, not `Ok`.";
            errors a_node_that_cannot_be_asked_is_an_error 0
                "A node whose backend does not answer is an error.";
            errors what_can_never_run_is_rejected 0
                "A pod that can never run here is rejected, with the field that is to blame.";
            errors no_secret_is_in_an_errors_text 1
                "No error has a secret of the pod in its text, whichever way it is printed.";
            errors no_secret_is_in_debug_output 1
                "The provider's own `Debug` output has no secret of its pods in it.";
            errors no_secret_is_in_what_is_told 1
                "What is told of a pod has no secret of it.";
            status an_accepted_pod_runs 1
                "An accepted pod runs: its container is told to, and its sandbox to be ready.";
            status an_exit_code_is_kept 1
                "The exit code of a container is kept, whatever it is.";
            status a_finished_pod_is_gone 1
                "Once every container of a pod that is not restarted has ended, its sandbox is told to be gone.";
            status an_address_is_kept 1
                "A pod that runs keeps its addresses: once told, they are in everything that is told of it.";
            status a_restart_is_counted 1
                "A container that ends and may be restarted is, and the restart is counted.";
            status the_end_before_a_restart_is_kept 1
                "How the run before a restart ended is kept.";
            status init_containers_come_first 1
                "Init containers run to their ends before the others are started.";
            status a_failed_init_container_ends_the_pod 1
                "An init container that fails for good is the end of its pod: the others are not started.";
            status a_container_that_runs_is_ready 1
                "A container that runs and has no probes is ready and started, if there is a word on that.";
            status a_run_has_its_own_times 1
                "The times that are told of a run that has ended are those at which it began and ended.";
            status a_success_is_not_restarted 1
                "With the policy `OnFailure`, a container that ends well is not started again.";
            status a_failure_is_restarted 1
                "With the policy `OnFailure`, a container that fails is started again.";
            status a_second_end_is_restarted_too 1
                "A container that ends again is started again.";
            status a_pod_lasts_until_all_have_ended 1
                "A pod with two containers lasts until both have ended.";
            status a_sidecar_does_not_keep_its_pod 1
                "A pod comes to its end when its app containers have ended; its sidecars are stopped then.";
            status a_deadline_ends_the_pod 1
                "A pod is stopped when its `activeDeadlineSeconds` are over and no sooner, and is told to have been ended so. Its processes have their grace period.";
            deletion the_grace_period_is_granted 1
                "A process that takes a part of its grace period to end is let.";
            deletion the_grace_period_ends 1
                "A process that does not end is killed when its grace period is over.";
            deletion no_grace_kills_at_once 1
                "A grace period of zero kills at once.";
            deletion a_shorter_grace_is_heeded 1
                "A second deletion with a shorter grace period shortens the first.";
            deletion the_last_exit_code_is_told 1
                "The exit code of a process that was asked to end, and took its time, is told.";
            deletion nothing_runs_after_the_end 1
                "Once a pod is told to be gone, nothing of it runs.";
            deletion a_deleted_pod_does_not_come_back 1
                "A deleted pod does not come back, whatever its restart policy.";
            deletion a_pod_between_two_runs_can_be_deleted 1
                "A pod whose container waits to be started again is gone at once when it is deleted, and nothing is started.";
            deletion sidecars_end_last 1
                "When a pod is stopped, its sidecars outlast the others.";
            deletion containers_end_side_by_side 1
                "The containers of a pod are asked to end at the same time, not one after the other.";
            watch a_watch_begins_with_a_listing 1
                "The first thing that a watch tells is a complete listing.";
            watch every_change_is_watched 1
                "A start and an end are told by the watch, to a node that never lists.";
            watch a_deletion_is_watched 1
                "A deletion is told by the watch, to a node that never lists.";
            watch a_watch_can_be_begun_again 1
                "A watch that was dropped can be begun again, and tells what came after as well.";
            watch a_restart_is_watched 1
                "A restart of a container is told by the watch, to a node that never lists.";
            restart a_new_daemon_finds_its_pods 1
                "A new daemon's listing has the pods of the one before.";
            restart a_new_daemon_starts_nothing_twice 1
                "A new daemon that creates a pod which is there starts nothing.";
            restart a_new_daemon_can_delete 1
                "A new daemon can delete a pod of the one before, first thing.";
            restart an_end_outlives_the_daemon 1
                "How a pod ended is known to the next daemon.";
            restart a_deletion_outlives_the_daemon 1
                "A pod that was deleted is not there for the next daemon either, or is there as gone.";
            tenancy pods_of_others_are_not_listed 1
                "Pods of others are not listed.";
            tenancy pods_of_others_are_not_watched 1
                "Pods of others are not watched.";
            tenancy pods_of_others_are_not_deleted 1
                "Deleting a pod of others, as a node may that takes it for its own, leaves it running.";
            node the_name_is_a_label 0
                "The backend's name is the same every time, and fit to be a label's value.";
            node capacity_is_complete 0
                "The node's capacity names processors, memory and pods, and there are some of each.";
            node allocatable_is_within_capacity 0
                "No more may be asked for than there is.";
            node capacity_can_be_used 6
                "As many pods as the node says it has room for can be created, as far as this is tried.";
            prepare preparing_again_gives_the_same_addresses 0
                "A pod that is prepared again gets the same addresses.";
            prepare a_promised_address_is_kept 1
                "A pod has the addresses that it was promised.";
            prepare two_pods_are_promised_two_addresses 0
                "Two pods are not promised one address.";
            update an_update_without_a_change_changes_nothing 1
                "A pod that is given again as it is goes on as it does.";
            update an_update_of_an_unknown_pod_is_not_found 0
                "An update of a pod that is not there is `NotFound`, and makes none.";
            update an_added_container_runs 1
                "A container that is added to a pod that runs is started, and the one that is there goes on as it does.";
            logs a_log_has_what_was_printed 1
                "A log has the lines that were printed, in order, each whole.";
            logs a_log_that_is_not_followed_ends 1
                "A log that is not followed ends, though its container runs.";
            logs a_tail_is_the_last_lines 1
                "`tail` is the last so many lines, and none for zero.";
            logs a_start_leaves_out_what_is_older 1
                "A log that begins at a moment has the lines from that moment on, and no others.";
            logs a_start_may_be_an_age 1
                "A log that begins some time ago has the lines that are no older, and no others.";
            logs what_was_printed_is_on_standard_output 1
                "Lines that were printed on standard output are told to be of it.";
            logs a_followed_log_goes_on 1
                "A followed log has lines that were printed after it was opened.";
            logs a_followed_log_ends_with_its_container 1
                "A followed log ends when its container has.";
            logs a_log_outlives_its_container 1
                "The log of a container that has ended can be read for as long as its pod is there.";
            logs a_previous_log_is_that_of_the_run_before 1
                "`previous` is the log of the run before the present one.";
            logs a_previous_log_needs_a_run_before 1
                "`previous` is `NotFound` for a container that has not been restarted.";
            logs a_log_of_an_unknown_container_is_not_found 1
                "The log of a container that the pod does not have is `NotFound`.";
            exec a_commands_exit_code_is_its_own 1
                "A command's exit code is its own, also if it is not zero.";
            exec a_commands_output_arrives 1
                "A command's output has arrived when exec says that it has ended.";
            exec a_commands_outputs_are_kept_apart 1
                "Standard output and standard error are kept apart.";
            exec a_commands_arguments_are_kept 1
                "A command's arguments reach it as they are.";
            exec a_command_has_its_containers_environment 1
                "A command has the environment of its container, secrets among it.";
            exec a_commands_input_reaches_it 1
                "What is written to a command's input reaches it at once, before the input ends.";
            exec the_end_of_a_commands_input_reaches_it 1
                "The end of a command's input reaches it, and its output is whole all the same.";
            exec a_command_in_an_unknown_container_is_not_found 1
                "A command in a container that the pod does not have is `NotFound`.";
            exec a_dropped_exec_ends_its_command 1
                "A command whose exec was dropped ends.";
            exec a_command_ends_with_its_container 1
                "A command ends with its container.";
            attach what_is_written_reaches_the_process 1
                "What is written reaches the process, and what that prints comes back.";
            attach a_dropped_attach_leaves_the_process 1
                "Dropping an attach leaves the process running.";
            attach an_attach_ends_with_the_process 1
                "An attach ends when its process has.";
            attach an_attach_to_an_unknown_container_is_not_found 1
                "An attach to a container that the pod does not have is `NotFound`.";
            forward a_connection_reaches_its_port 1
                "A connection reaches the process that listens on the port.";
            forward a_half_closed_connection_ends 1
                "When the client has no more to say the server hears of it, and what it still says arrives: the connection ends by itself then.";
            forward an_answer_outlives_the_clients_half 1
                "What a server says after the client has closed its half arrives.";
            forward a_closed_port_refuses 1
                "A port on which nothing listens refuses: an error, or a connection that ends without a byte.";
            forward a_port_of_an_unknown_pod_is_an_error 1
                "A port of a pod that is not there is an error.";
            stats counters_never_go_back 1
                "What is counted never goes back while a container runs, and neither do the times of the samples.";
            stats what_is_unknown_is_not_zero 1
                "A figure that is not known is absent: nothing that runs has zero bytes of memory or has used no processor time.";
            stats no_part_of_memory_is_more_than_all 1
                "What cannot be reclaimed, and what is anonymous, are parts of the memory in use.";
            stats each_pod_is_measured_once 1
                "Figures are of this node's pods only, each of them once.";
            stats a_container_that_runs_is_measured 1
                "Every container that runs has figures, under its name.";
            stats a_nodes_counter_outlives_its_pods 1
                "The node's own counter does not go back when a pod goes.";
        }
    };
}

macro_rules! table {
    ({} $($module:ident $name:ident $pods:literal $demand:literal;)+) => {
        /// All clauses, in the order in which a run takes them.
        pub const CLAUSES: &[Clause] = &[$(Clause {
            name: stringify!($name),
            group: heading(stringify!($module)),
            pods: $pods,
            demand: $demand,
            run: |bench| Box::pin($module::$name(bench)),
        }),+];
    };
}
with_clauses!(table {});

/// The heading of a module's clauses.
const fn heading(module: &'static str) -> &'static str {
    match module.as_bytes() {
        b"identity" => "Identity",
        b"idempotence" => "Idempotence",
        b"absence" => "Absence",
        b"ordering" => "Ordering",
        b"cancellation" => "Cancellation",
        b"concurrency" => "Concurrency",
        b"errors" => "Errors",
        b"status" => "Status",
        b"deletion" => "Deletion",
        b"watch" => "Watch",
        b"restart" => "Restart",
        b"tenancy" => "Tenancy",
        b"node" => "Node",
        b"prepare" => "Prepare",
        b"update" => "Update",
        b"logs" => "Logs",
        b"exec" => "Exec",
        b"attach" => "Attach",
        b"forward" => "PortForward",
        b"stats" => "Stats",
        _ => panic!("a module without a heading"),
    }
}
