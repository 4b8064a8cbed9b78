//! The in-memory API server against the real one: the same requests to both, and the same answers, or a reason why
//! not.
//!
//! A [`Case`](case::Case) is a short conversation in a namespace of its own. Both servers hear it, word for word but for
//! what is taken from their own earlier answers (a UID, a version), and the answers are compared whole: code, body,
//! warnings. What cannot be equal, such as UIDs and times, is named first ([`normal`]); what differs otherwise must
//! stand in [`argued::ARGUED`] with its reason, and what stands there must differ.
//!
//! Run by `cargo xtask test real`.

#![expect(clippy::needless_pass_by_value, reason = "requests are put together from literals")]

mod argued;
mod case;
mod compare;
mod conversation;
mod normal;

mod accounts;
mod apply;
mod config;
mod deletions;
mod evictions;
mod forms;
mod lists;
mod namespaces;
mod nodes;
mod patches;
mod pods;
mod refusals;
mod statuses;
mod updates;
mod versions;
mod watches;
mod workloads;

use vk_scenarios::{World, virtual_node};

use crate::case::Case;
use crate::compare::Report;

/// A client of the real API server that takes the first answer, be it 429 or 504.
async fn plain_client() -> kube::Client {
    let mut config = kube::Config::infer().await.expect("KUBECONFIG names the control plane");
    config.default_retry = false;
    kube::Client::try_from(config).expect("a client")
}

/// Holds every case of a subject against both servers.
async fn compare(subject: &'static str, cases: Vec<Case>) {
    let (ours, real) = (World::in_memory().await, World::real().await);
    let client = plain_client().await;
    let mut report = Report::new(subject);
    conversation::park(&ours.client()).await;
    conversation::park(&client).await;
    for (number, case) in cases.iter().enumerate() {
        // The same name on both, so that it needs no normalising, and a new one each time.
        let namespace = format!("{subject}-{number}-{}", real.namespace);
        let (ours, real) = tokio::join!(
            conversation::hold(ours.client(), &namespace, case),
            conversation::hold(client.clone(), &namespace, case)
        );
        report.compare(case, &ours, &real);
    }
    virtual_node::delete_object(&real, case::PARKED).await;
    real.clean_up().await;
    report.judge(argued::ARGUED);
}

/// One test per subject.
macro_rules! subjects {
    ($($subject:ident: $name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            compare(stringify!($subject), $subject::cases()).await;
        }
    )+};
}

subjects! {
    accounts: service_accounts_tokens_and_reviews_are_answered_alike,
    apply: applying_is_answered_alike,
    config: config_maps_and_secrets_are_answered_alike,
    deletions: deletions_are_answered_alike,
    evictions: evictions_and_bindings_are_answered_alike,
    forms: forms_and_discovery_are_answered_alike,
    lists: lists_are_answered_alike,
    namespaces: namespaces_are_answered_alike,
    nodes: nodes_leases_and_events_are_answered_alike,
    patches: patches_are_answered_alike,
    pods: new_pods_are_answered_alike,
    refusals: bad_requests_are_refused_alike,
    statuses: status_writes_are_answered_alike,
    updates: updates_are_answered_alike,
    versions: resource_versions_mean_the_same,
    watches: watches_tell_the_same,
    workloads: workloads_and_services_are_answered_alike,
}
