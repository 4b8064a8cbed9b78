//! All checks, and what each costs.

use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::bed::Bed;
use crate::checks;
use crate::settings::{Glob, Settings};
use crate::stop::Checked;

/// A check.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Check {
    /// Its group, a module of [`checks`].
    pub group: &'static str,
    /// Its name, a function of that module.
    pub name: &'static str,
    /// What it demands, in a sentence.
    pub demand: &'static str,
    /// What it costs.
    pub cost: Cost,
    run: for<'a> fn(&'a Bed) -> LocalBoxFuture<'a, Checked>,
}

/// What a check costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// How many pods it makes, at the same time at most.
    pub pods: u32,
    /// For how many changes of pods it waits, each as long as [`Settings::patience`] at most.
    pub waits: u32,
    /// What it takes besides, in seconds at most.
    pub seconds: u32,
}

impl Cost {
    /// How long the check may take, its cleaning up left out.
    #[must_use]
    pub fn at_most(self, settings: &Settings) -> Duration {
        settings.patience * self.waits + Duration::from_secs(self.seconds.into())
    }
}

impl Check {
    /// `group/name`
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Whether it makes anything at all, and needs a namespace for it.
    #[must_use]
    pub fn makes_something(&self) -> bool {
        self.cost.pods > 0
    }

    /// Runs it.
    #[must_use]
    pub fn run<'a>(&self, bed: &'a Bed) -> LocalBoxFuture<'a, Checked> {
        (self.run)(bed)
    }
}

/// The checks that a run's patterns name, in their order.
#[must_use]
pub fn selected(only: &[Glob]) -> Vec<Check> {
    let chosen = |check: &&Check| {
        only.is_empty() || only.iter().any(|glob| glob.fits(&check.path()) || glob.fits(check.name))
    };
    ALL.iter().filter(chosen).copied().collect()
}

macro_rules! checks {
    ($($group:ident { $($name:ident [$pods:literal pods, $waits:literal waits, $seconds:literal s] $demand:literal;)+ })+) => {
        /// Every check there is, in the order in which they run.
        pub const ALL: &[Check] = &[$($(Check {
            group: stringify!($group),
            name: stringify!($name),
            demand: $demand,
            cost: Cost { pods: $pods, waits: $waits, seconds: $seconds },
            run: |bed| Box::pin(checks::$group::$name(bed)),
        },)+)+];
    };
}

checks! {
    registration {
        the_node_is_ready [0 pods, 0 waits, 60 s] "the Node object has condition Ready, True, with times, a reason and a message";
        pressures_are_told [0 pods, 0 waits, 60 s] "MemoryPressure, DiskPressure and PIDPressure are there, and False while the node is Ready";
        addresses_are_usable [0 pods, 0 waits, 60 s] "status.addresses has an InternalIP or a Hostname, and every IP is one";
        capacity_holds_pods [0 pods, 0 waits, 60 s] "cpu, memory and pods are there in capacity and allocatable, which is not larger";
        node_info_is_complete [0 pods, 0 waits, 60 s] "status.nodeInfo names system, architecture and a kubelet version within the skew of the API server's";
        labels_say_what_it_is [0 pods, 0 waits, 60 s] "the labels kubernetes.io/hostname, os and arch are there and agree with nodeInfo";
        a_ready_node_is_not_tainted_as_unready [0 pods, 0 waits, 60 s] "no taint of the node controller's is left on a Ready node";
        the_kubelet_endpoint_is_told [0 pods, 0 waits, 60 s] "status.daemonEndpoints names the port of the kubelet API";
    }
    lease {
        the_lease_is_the_nodes [0 pods, 0 waits, 60 s] "the Lease in kube-node-lease is held in the node's name and owned by the Node";
        the_lease_is_renewed_in_time [0 pods, 0 waits, 120 s] "renewTime moves on within leaseDurationSeconds, under the same holder";
    }
    heartbeat {
        conditions_are_fresh [0 pods, 0 waits, 60 s] "lastHeartbeatTime of each of a kubelet's conditions is at most five minutes old";
    }
    lifecycle {
        a_pod_runs [1 pods, 1 waits, 30 s] "a pod becomes Running and Ready, with addresses, times, container ids and image";
        a_deleted_pod_goes_in_time [1 pods, 2 waits, 30 s] "a deleted pod's object is gone once its containers have ended";
        a_deletion_outlives_its_grace_by_little [1 pods, 2 waits, 30 s] "a pod that ignores SIGTERM is killed after its grace period, and goes";
        a_second_deletion_does_no_harm [1 pods, 2 waits, 30 s] "a pod that is deleted again while it stops goes all the same";
        the_same_name_again_is_a_new_pod [2 pods, 3 waits, 30 s] "a pod that has the name of one before it starts anew: other ids, no restarts";
        a_forced_deletion_frees_the_name [2 pods, 3 waits, 30 s] "after a deletion without grace a pod of the same name runs";
        an_end_is_told_before_the_object_goes [1 pods, 2 waits, 30 s] "the last status of a deleted pod is a terminal one, with every container terminated";
        a_finalizer_holds_the_object_alone [1 pods, 3 waits, 30 s] "a deleted pod with a finalizer ends, and its object stays until the finalizer goes";
        exit_codes_are_kept [2 pods, 2 waits, 60 s] "0 makes a pod Succeeded (Completed), 3 makes it Failed (Error), each with code and times";
        a_job_completes [1 pods, 2 waits, 60 s] "a Job whose pod ends with 0 is Complete";
        a_job_fails [1 pods, 2 waits, 60 s] "a Job whose pod ends with 3 and may not be repeated is Failed";
    }
    containers {
        init_containers_run_in_order [1 pods, 1 waits, 60 s] "an init container starts when the one before it has ended with 0, and the app after them";
        a_failed_init_container_fails_the_pod [1 pods, 1 waits, 60 s] "with restartPolicy Never, an init container that fails is the pod's end; the app never starts";
        always_restarts [1 pods, 2 waits, 60 s] "restartPolicy Always restarts what ended, counts it, keeps lastState, and waits in CrashLoopBackOff";
        on_failure_leaves_success_alone [1 pods, 1 waits, 60 s] "restartPolicy OnFailure does not restart what ended with 0";
    }
    configuration {
        a_missing_config_map_is_waited_for [1 pods, 2 waits, 180 s] "a pod whose ConfigMap is missing waits with CreateContainerConfigError, and starts when it is there";
        the_environment_is_resolved [1 pods, 1 waits, 60 s] "variables from ConfigMap, Secret and the pod's own fields are in the container";
    }
    status {
        conditions_are_a_kubelets [1 pods, 1 waits, 60 s] "PodScheduled, PodReadyToStartContainers, Initialized, ContainersReady and Ready are there, each with its times";
        generations_are_observed [1 pods, 2 waits, 60 s] "status and conditions carry observedGeneration, and follow a change of the specification";
        nothing_goes_backwards [1 pods, 2 waits, 60 s] "phases, restart counts and startTime never go back, and transition times move with their status alone";
        an_idle_pod_is_left_alone [1 pods, 1 waits, 120 s] "nothing is written about a pod at which nothing happens";
        the_quality_of_service_stays [3 pods, 1 waits, 60 s] "status.qosClass is what the requests and limits make it";
    }
    events {
        a_start_is_told [1 pods, 2 waits, 60 s] "events Created and Started about the container, from this node";
        a_deletion_is_told [1 pods, 3 waits, 60 s] "an event Killing when a pod is deleted";
        a_back_off_is_told [1 pods, 2 waits, 60 s] "a Warning BackOff when a container keeps failing";
    }
    refusal {
        what_it_cannot_run_is_failed_aloud [1 pods, 1 waits, 60 s] "a pod that asks for more than the node has becomes Failed with a reason and a message";
    }
    logs {
        a_log_is_whole [1 pods, 1 waits, 60 s] "what a container wrote comes back line by line";
        the_tail_is_the_tail [1 pods, 1 waits, 90 s] "tailLines gives that many last lines";
        bytes_are_limited [1 pods, 1 waits, 90 s] "limitBytes gives that many first bytes";
        timestamps_are_added [1 pods, 1 waits, 90 s] "timestamps puts an RFC 3339 time before each line";
        since_leaves_out_what_is_older [1 pods, 1 waits, 120 s] "sinceSeconds leaves out older lines and keeps younger ones";
        the_previous_log_is_kept [1 pods, 2 waits, 90 s] "previous gives the log of the run before a restart";
        a_previous_log_that_is_not_there_is_an_error [1 pods, 1 waits, 90 s] "previous of a container that was never restarted is a client's error";
        a_followed_log_ends [1 pods, 2 waits, 60 s] "follow gives what was written and ends with the container";
    }
    exec {
        exit_codes_come_back [1 pods, 1 waits, 120 s] "commands that end with 0, 7 and 127 say so";
        outputs_stay_apart [1 pods, 1 waits, 60 s] "standard output and standard error come in streams of their own";
        input_reaches_the_command [1 pods, 1 waits, 60 s] "a command reads standard input to its end";
        a_terminal_is_one [1 pods, 1 waits, 60 s] "with a terminal, lines end as on a terminal, and the exit code comes back";
    }
    attach {
        an_attached_client_talks_to_the_process [1 pods, 1 waits, 60 s] "input reaches the container's main process, and its output comes back";
    }
    forward {
        a_port_answers [1 pods, 2 waits, 60 s] "bytes to a port on which the container listens come back as its answer";
        a_closed_port_says_so [1 pods, 2 waits, 90 s] "a connection to a port on which nobody listens ends, and does not hang";
    }
    metrics {
        the_summary_has_the_pod [1 pods, 2 waits, 60 s] "/stats/summary has the node's and the pod's use of processor and memory";
        the_resource_metrics_have_the_pod [1 pods, 2 waits, 60 s] "/metrics/resource has metrics-server's families, with their labels, for node, pod and container";
        the_kubelet_api_lists_the_pod [1 pods, 2 waits, 60 s] "/pods on the kubelet API has the pod, and /healthz says ok";
    }
    security {
        strangers_are_kept_out [1 pods, 1 waits, 120 s] "the node's own port answers callers without credentials, or with false ones, with 401 or 403";
    }
    eviction {
        an_evicted_pod_goes [1 pods, 2 waits, 30 s] "a pod evicted through the API ends and goes";
    }
    many {
        twenty_pods_run_at_once [20 pods, 3 waits, 60 s] "twenty pods become ready, each with an address and ids of its own, and go";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_check_has_an_end() {
        let names: BTreeSet<&str> = ALL.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), ALL.len());
        let settings = Settings::new("n");
        assert!(ALL.iter().all(|check| check.cost.at_most(&settings) > Duration::ZERO));
        assert!(ALL.iter().all(|check| check.cost.pods <= 20));
    }

    #[test]
    fn patterns_choose_by_group_or_by_name() {
        let names = |pattern: &str| -> Vec<&str> {
            selected(&[Glob::new(pattern)]).iter().map(|check| check.name).collect()
        };
        assert_eq!(names("eviction/*"), ["an_evicted_pod_goes"]);
        assert_eq!(names("twenty*"), ["twenty_pods_run_at_once"]);
        assert_eq!(names("nothing"), Vec::<&str>::new());
        assert_eq!(selected(&[]).len(), ALL.len());
    }
}
