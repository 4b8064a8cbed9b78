//! Whole runs, their bounds, and the decorators' transparency.

use std::sync::Arc;
use std::time::Duration;

use vk_conformance::report::{Report, Verdict};
use vk_conformance::{CLAUSES, Subject, Suite};
use vk_core::metrics::Metrics;
use vk_core::provider::{Delayed, Delays, Faults, Faulty, Limited, Limits, Provider};

use crate::subjects::{Mock, Runner, delayed, faulty, limited, metered, mock};

fn not_applicable(report: &Report) -> Vec<&str> {
    let skipped = report.outcomes.iter().filter(|o| matches!(o.verdict, Verdict::NotApplicable { .. }));
    skipped.map(|outcome| outcome.clause.as_str()).collect()
}

#[test]
fn clauses_have_names_of_their_own() {
    let mut names: Vec<_> = CLAUSES.iter().map(|clause| clause.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CLAUSES.len());
    assert!(CLAUSES.iter().all(|clause| clause.demand.ends_with('.')));
}

/// What is said to have been kept has been tried: nothing is passed over in silence.
#[tokio::test(start_paused = true)]
async fn everything_applies_to_the_mock_and_leaves_nothing_behind() {
    let subject = Arc::new(mock());
    let report = Suite::new(Arc::clone(&subject) as Arc<dyn Subject>).run().await;
    assert!(report.passed(), "{}", report.to_text());
    assert_eq!(not_applicable(&report), [""; 0]);
    assert_eq!((subject.backend.pod_count(), subject.other.pod_count()), (0, 0));
    assert_eq!(subject.backend.ledger().started_twice(), []);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_apply_to_the_runner_is_named_with_its_reason() {
    let report = Suite::new(Arc::new(Runner::new())).run().await;
    assert!(report.passed(), "{}", report.to_text());
    for (clause, why) in [
        ("a_listing_that_fails_is_an_error", "the backend cannot be made to fail (Subject::faults)"),
        ("what_is_written_reaches_the_process", "the provider attaches to nothing (Provider::attach)"),
        ("counters_never_go_back", "the provider measures nothing (Provider::stats)"),
        ("what_can_never_run_is_rejected", "the backend refuses no pod for good (Subject::spoil)"),
    ] {
        let outcome = report.outcomes.iter().find(|outcome| outcome.clause == clause).unwrap();
        assert_eq!(outcome.verdict, Verdict::not_applicable(why), "{clause}");
    }
    assert_eq!(not_applicable(&report).len(), 19, "{}", report.to_text());
}

#[tokio::test(start_paused = true)]
async fn a_run_keeps_within_what_it_said_it_would_cost() {
    let subject = Arc::new(mock());
    let suite = Suite::new(Arc::clone(&subject) as Arc<dyn Subject>);
    let cost = suite.cost();
    let report = suite.run().await;
    let started = subject.backend.ledger().started + subject.other.ledger().started;
    assert!(started <= cost.pods as u64, "{started} pods were made; said were {cost}");
    assert!(report.seconds <= cost.time.as_secs_f64());
    assert_eq!(report.facts["bounds"], cost.to_string());
    assert_eq!(report.facts["capabilities"], "prepare, update, logs, exec, attach, port_forward, stats");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_out_of_time_says_which_clauses_it_has_not_tried() {
    let report = Suite::new(Arc::new(mock())).within(Duration::ZERO).run().await;
    assert_eq!(report.counts().failed, CLAUSES.len());
    assert_eq!(report.outcomes[0].failure(), Some("not run: the 0ns of this run are over"));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_deletes_what_the_clause_under_way_has_made() {
    let subject = Arc::new(mock());
    let suite = Suite::new(Arc::clone(&subject) as Arc<dyn Subject>)
        .only(&["deleting_a_pod_leaves_its_namesake", "Node"])
        .unwrap();
    let mut told = Vec::new();
    let stop = tokio::time::sleep(Duration::from_secs(1));
    let report = suite.run_until(stop, |outcome| told.push(outcome.clause.clone())).await;
    assert_eq!(report.outcomes[0].failure(), Some("the run was stopped"));
    assert!(
        report.outcomes[1..].iter().all(|outcome| outcome.failure() == Some("not run: the run was stopped"))
    );
    assert_eq!(told.len(), report.outcomes.len());
    assert_eq!(subject.backend.pod_count(), 0);
    assert_eq!(subject.backend.ledger().started, 2);
}

#[test]
fn a_clause_that_does_not_exist_is_no_clause() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let suite = runtime.block_on(async { Suite::new(Arc::new(mock())).only(&["nonsense"]) });
    assert_eq!(suite.unwrap_err(), "\"nonsense\" is neither a clause nor a group of clauses");
}

#[tokio::test(start_paused = true)]
async fn decorators_change_nothing_of_what_a_provider_says_of_itself() {
    let plain = mock().connect().await.unwrap();
    let node = plain.node_info().await.unwrap();
    let decorated: [(&str, Mock); 4] =
        [("limited", limited()), ("delayed", delayed()), ("faulty", faulty()), ("metered", metered())];
    for (what, subject) in decorated {
        let provider = subject.connect().await.unwrap();
        assert_eq!(provider.name(), plain.name(), "{what}");
        assert_eq!(provider.native(), plain.native(), "{what}");
        assert_eq!(provider.fields(), plain.fields(), "{what}");
        assert_eq!(provider.node_info().await.unwrap(), node, "{what}");
        assert_eq!(capabilities(&*provider), capabilities(&*plain), "{what}");
    }
}

/// A decorator may take a capability over, but neither lose one nor make one up.
#[tokio::test(start_paused = true)]
async fn decorators_offer_what_a_provider_offers() {
    let plain = Runner::new().connect().await.unwrap();
    let (less, all) = (capabilities(&*plain), capabilities(&*mock().connect().await.unwrap()));
    assert!(less.contains(&false) && !all.contains(&false), "{less:?} {all:?}");
    let decorated: [Arc<dyn Provider>; 4] = [
        Arc::new(Limited::new(Arc::clone(&plain), Limits::default())),
        Arc::new(Delayed::new(Arc::clone(&plain), Delays::default())),
        Arc::new(Faulty::new(Arc::clone(&plain), Faults::default())),
        vk_core::provider::metered(plain, Metrics::new("virtual-1")),
    ];
    for provider in decorated {
        assert_eq!(capabilities(&*provider), less, "{provider:?}");
    }
}

fn capabilities(provider: &dyn Provider) -> [bool; 7] {
    [
        provider.prepare().is_some(),
        provider.update().is_some(),
        provider.logs().is_some(),
        provider.exec().is_some(),
        provider.attach().is_some(),
        provider.port_forward().is_some(),
        provider.stats().is_some(),
    ]
}
