//! All clauses, one after the other, within bounds that are known before.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use vk_core::provider::{Feature, Provider};

use crate::bench::Bench;
use crate::check::{Check, Stop};
use crate::clauses::{CLAUSES, Clause};
use crate::report::{Outcome, Report, Verdict};
use crate::subject::Subject;

/// A run of the suite against one subject.
///
/// Clauses run one at a time, each with a connection of its own, and what a clause has made is deleted before the next
/// begins: whether it was kept, failed, or took too long.
#[derive(Debug)]
pub struct Suite {
    subject: Arc<dyn Subject>,
    clauses: Vec<&'static Clause>,
    most: Duration,
}

/// What a run costs at most. Most of it is for backends that answer nothing; where all goes well, a clause takes
/// about as long as its pods take to start and to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// How many clauses are run.
    pub clauses: usize,
    /// How many pods are made in all. None of them runs longer than its clause takes.
    pub pods: usize,
    /// How many pods there are at once.
    pub at_once: usize,
    /// How long it takes, if everything takes as long as it may.
    pub time: Duration,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.time.as_secs().div_ceil(60);
        write!(
            f,
            "{} clauses, at most {} pods in all and {} at once, at most {minutes} minutes",
            self.clauses, self.pods, self.at_once
        )
    }
}

/// Every feature, the ones between node and backend included.
const FEATURES: [Feature; 16] = [
    Feature::Restarts,
    Feature::InitOrder,
    Feature::Sidecars,
    Feature::LivenessProbes,
    Feature::ReadinessProbes,
    Feature::StartupProbes,
    Feature::PostStart,
    Feature::PreStop,
    Feature::ActiveDeadline,
    Feature::TerminationMessages,
    Feature::PartialPods,
    Feature::Files,
    Feature::FileUpdates,
    Feature::Adoption,
    Feature::Resize,
    Feature::Events,
];

impl Suite {
    /// All clauses against this subject.
    #[must_use]
    pub fn new(subject: Arc<dyn Subject>) -> Self {
        Self { subject, clauses: CLAUSES.iter().collect(), most: Duration::from_hours(3) }
    }

    /// Only the clauses whose name, or whose group, is among these.
    ///
    /// # Errors
    /// A name that neither a clause nor a group has.
    pub fn only(mut self, names: &[&str]) -> Result<Self, String> {
        let is = |clause: &Clause, name: &str| clause.name == name || clause.group == name;
        if let Some(stranger) = names.iter().find(|name| !CLAUSES.iter().any(|clause| is(clause, name))) {
            return Err(format!("{stranger:?} is neither a clause nor a group of clauses"));
        }
        self.clauses.retain(|clause| names.iter().any(|name| is(clause, name)));
        Ok(self)
    }

    /// Begins no clause after this time; those that were not begun count as failed. Default 3 hours.
    #[must_use]
    pub fn within(mut self, most: Duration) -> Self {
        self.most = most;
        self
    }

    /// What a run costs at most: to be looked at before it.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let patience = self.subject.patience();
        let each = patience.clause() + patience.cleanup();
        let all = each.saturating_mul(u32::try_from(self.clauses.len()).unwrap_or(u32::MAX));
        Cost {
            clauses: self.clauses.len(),
            pods: self.clauses.iter().map(|clause| clause.pods).sum(),
            at_once: self.clauses.iter().map(|clause| clause.pods).max().unwrap_or(0),
            time: all.min(self.most.saturating_add(each)),
        }
    }

    /// Runs the clauses.
    pub async fn run(&self) -> Report {
        self.run_until(std::future::pending(), |_| {}).await
    }

    /// Runs the clauses, telling each outcome as it comes. When `stop` comes first, the clause under way is dropped,
    /// what it has made is deleted, and the others count as failed.
    pub async fn run_until(&self, stop: impl Future<Output = ()>, mut tell: impl FnMut(&Outcome)) -> Report {
        let began = Instant::now();
        let mut report = Report::new("provider", self.subject.name(), Timestamp::now())
            .with_fact("bounds", self.cost().to_string());
        if let Ok(provider) = self.subject.connect().await {
            report = declared(report, &*provider);
        }
        let mut stop = pin!(stop.fuse());
        let mut over = None;
        for clause in &self.clauses {
            if began.elapsed() >= self.most {
                over.get_or_insert_with(|| format!("not run: the {:?} of this run are over", self.most));
            }
            let begun = Instant::now();
            let verdict = if let Some(why) = &over {
                Verdict::failed(why.clone())
            } else {
                let (verdict, stopped) = judge(&self.subject, clause, stop.as_mut()).await;
                if stopped {
                    over = Some("not run: the run was stopped".to_owned());
                }
                verdict
            };
            let outcome = Outcome::new(clause.name, clause.group, clause.demand, verdict, begun.elapsed());
            tell(&outcome);
            report.outcomes.push(outcome);
        }
        report.seconds = began.elapsed().as_secs_f64();
        report
    }
}

/// What the provider says that it can do.
fn declared(report: Report, provider: &dyn Provider) -> Report {
    let native = provider.native();
    let features: Vec<String> = FEATURES
        .iter()
        .filter(|feature| native.contains(**feature))
        .map(|feature| format!("{feature:?}"))
        .collect();
    let capabilities = [
        ("prepare", provider.prepare().is_some()),
        ("update", provider.update().is_some()),
        ("logs", provider.logs().is_some()),
        ("exec", provider.exec().is_some()),
        ("attach", provider.attach().is_some()),
        ("port_forward", provider.port_forward().is_some()),
        ("stats", provider.stats().is_some()),
    ];
    let has = capabilities.iter().filter(|(_, has)| *has).map(|(name, _)| *name);
    report
        .with_fact("provider", provider.name())
        .with_fact("features", features.join(", "))
        .with_fact("capabilities", has.collect::<Vec<_>>().join(", "))
}

/// Runs one clause and cleans up after it.
async fn judge(
    subject: &Arc<dyn Subject>,
    clause: &Clause,
    stop: impl Future<Output = ()>,
) -> (Verdict, bool) {
    let bench = match Bench::new(Arc::clone(subject)).await {
        Ok(bench) => bench,
        Err(stop) => return (verdict(Err(stop)), false),
    };
    let most = bench.patience().clause();
    // A provider that panics has not kept the clause, and must not keep the others from being asked.
    let run = timeout(most, AssertUnwindSafe(clause.run(&bench)).catch_unwind());
    let (check, stopped) = tokio::select! {
        // Cancel-safe: what the clause has made is known to the bench.
        () = stop => (Err(Stop::Failed("the run was stopped".to_owned())), true),
        ran = run => (match ran {
            Ok(Ok(check)) => check,
            Ok(Err(panic)) => Err(Stop::Failed(format!("a panic: {}", words(&*panic)))),
            Err(_) => Err(Stop::Failed(format!("it has not come to an end within {most:?}"))),
        }, false),
    };
    let left = bench.clean_up().await;
    let check = match (check, left.is_empty()) {
        (check, true) => check,
        (Err(Stop::Failed(why)), false) => {
            Err(Stop::Failed(format!("{why}\nleft behind: {}", left.join("; "))))
        }
        (Ok(()) | Err(Stop::NotApplicable(_)), false) => {
            Err(Stop::Failed(format!("kept, but its pods could not be deleted: {}", left.join("; "))))
        }
    };
    (verdict(check), stopped)
}

fn verdict(check: Check) -> Verdict {
    match check {
        Ok(()) => Verdict::Passed,
        Err(Stop::Failed(reason)) => Verdict::failed(reason),
        Err(Stop::NotApplicable(reason)) => Verdict::not_applicable(reason),
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}

/// The body of one test of [`conformance!`](crate::conformance).
#[doc(hidden)]
pub fn test<S: Subject>(paused: bool, make: impl FnOnce() -> S, clause: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build();
    let report = runtime.expect("a runtime").block_on(async {
        let suite = Suite::new(Arc::new(make())).only(&[clause]).expect("a clause of the table");
        suite.run().await
    });
    for outcome in &report.outcomes {
        match &outcome.verdict {
            Verdict::Passed => {}
            Verdict::NotApplicable { reason } => eprintln!("not applicable: {reason}"),
            Verdict::Failed { reason } => panic!("{}\n{reason}", outcome.demand),
        }
    }
}
