//! Random pods, held to the model in [`crate::model`] at every moment of their lives.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use vk_core::provider::Provider;

use crate::backend::{Act, Deed, Role};
use crate::bed::{Bed, always, pod, serves};
use crate::model::{Model, judge_gate, judge_row};
use crate::plot::{GATE, Plot, Turn, plot};

const TICK: Duration = Duration::from_millis(250);
/// Longer than any plot's horizon and grace periods.
const LONGEST: Duration = Duration::from_mins(10);

struct Play {
    bed: Bed,
    model: Model,
    begin: Instant,
    read: usize,
}

impl Play {
    async fn new(plot: &Plot) -> Self {
        let pod = pod(&plot.spec);
        let bed = Bed::new(&pod, plot.roles.clone(), plot.listing).await;
        // The pod has been created at this moment.
        let begin = Instant::now();
        let model = Model::new(&pod, begin);
        Self { bed, model, begin, read: 0 }
    }

    async fn play(&mut self, plot: &Plot) -> Result<(), String> {
        let mut turns = plot.turns.iter().peekable();
        // Not in step with what containers do, which is in whole milliseconds.
        let mut tick = self.begin + Duration::from_micros(500);
        let mut by = None;
        loop {
            if let Some((at, turn)) = turns.next_if(|(at, _)| self.begin + *at <= tick) {
                sleep_until(self.begin + *at).await;
                self.listen()?;
                if !self.bed.is_gone() {
                    self.turn(turn).await;
                }
                self.listen()?;
                if matches!(turn, Turn::Delete { .. }) {
                    by = Some(self.model.gone_by(Instant::now()));
                }
            } else {
                sleep_until(tick).await;
                self.listen()?;
                self.look()?;
                tick += TICK;
            }
            let now = Instant::now();
            if self.bed.is_gone() && turns.peek().is_none() {
                return Ok(());
            }
            if turns.peek().is_none() && by.is_some_and(|by| now > by) || now > self.begin + LONGEST {
                return Err("something is left of it".to_owned());
            }
        }
    }

    async fn turn(&mut self, turn: &Turn) {
        match turn {
            Turn::Delete { grace } => self.bed.delete(Duration::from_secs(*grace)).await,
            Turn::Gate(holds) => {
                self.model.set_gate(*holds);
                self.bed.set_condition(GATE, if *holds { "True" } else { "False" });
            }
            Turn::Crash(name) => self.bed.backend.crash(name),
            Turn::List => {
                let runner = self.bed.runner.clone();
                tokio::spawn(async move { runner.list_pods().await });
            }
            Turn::Debug => {
                let has =
                    self.bed.told.lock().unwrap().pod.spec.as_ref().unwrap().ephemeral_containers.is_some();
                if has {
                    return;
                }
                self.bed.backend.cast("debug", always(serves(Some((10, 1)))));
                self.bed.backend.note(Deed::Added { name: "debug".to_owned() });
                let added = json!([{"name": "debug", "image": "i"}]);
                self.bed
                    .update(|pod| {
                        let spec = pod.spec.as_mut().unwrap();
                        spec.ephemeral_containers = serde_json::from_value(added).unwrap();
                    })
                    .await;
            }
        }
    }

    /// Hands the model what was done since.
    fn listen(&mut self) -> Result<(), String> {
        let journal = self.bed.backend.journal();
        for (at, deed) in &journal[self.read..] {
            let after = at.saturating_duration_since(self.begin);
            self.model.hear(*at, deed).map_err(|why| format!("after {after:?}: {why}"))?;
        }
        self.read = journal.len();
        self.model.pass(Instant::now());
        Ok(())
    }

    fn look(&self) -> Result<(), String> {
        let now = Instant::now();
        if !self.model.is_calm(now) || self.bed.is_gone() {
            return Ok(());
        }
        let after = now - self.begin;
        self.model.judge(&self.bed.status(), now).map_err(|why| format!("after {after:?}: {why}"))
    }

    fn end(&self) -> Result<(), String> {
        let told = self.bed.told.lock().unwrap();
        judge_row(&told.statuses)?;
        judge_gate(&told.pod, &told.statuses)?;
        let phase = told.status().phase.clone();
        match self.model.end() {
            Some(wanted) if phase.as_deref() != Some(wanted) => Err(format!("it is {phase:?}, not {wanted}")),
            _ => Ok(()),
        }
    }
}

/// Plays a plot to its end in paused time.
fn play(plot: &Plot) -> Result<(), String> {
    // The runner spreads some of its waits; not here.
    fastrand::seed(1);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut play = Play::new(plot).await;
        let played = play.play(plot).await.and_then(|()| play.end());
        played.map_err(|why| {
            let journal = play.bed.backend.journal();
            let lines = journal.iter().map(|(at, deed)| format!("  {:?} {deed:?}", *at - play.begin));
            format!("{why}\n{}", lines.collect::<Vec<_>>().join("\n"))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_pod_lives_as_a_kubelet_would_have_it(plot in plot()) {
        if let Err(why) = play(&plot) {
            return Err(TestCaseError::fail(why));
        }
    }
}

fn job_with(sidecars: &[Act], app: Act) -> Plot {
    let mut roles = BTreeMap::from([("a0".to_owned(), always(app))]);
    let mut init = Vec::new();
    for (i, act) in sidecars.iter().enumerate() {
        let name = format!("i{i}");
        init.push(json!({"name": name, "image": "i", "restartPolicy": "Always"}));
        roles.insert(name, Role { runs: Vec::new(), then: *act, answers: BTreeMap::new() });
    }
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 4, "initContainers": init,
        "containers": [{"name": "a0", "image": "i"}]});
    Plot { spec, roles, turns: Vec::new(), listing: Duration::ZERO }
}

fn sidecar() -> impl Strategy<Value = Act> {
    let term = prop::option::weighted(0.8, (0u64..6000, 0i32..3));
    let lasts = prop::option::weighted(0.3, 100u64..9000);
    (term, lasts).prop_map(|(term, lasts)| Act {
        lasts: lasts.map(Duration::from_millis),
        code: 1,
        term: term.map(|(after, code)| (Duration::from_millis(after), code)),
        starts: true,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_sidecar_keeps_a_job_alive(
        sidecars in prop::collection::vec(sidecar(), 1..4),
        lasts in 200u64..20_000,
        code in prop_oneof![Just(0), Just(3)],
    ) {
        let plot = job_with(&sidecars, crate::bed::ends(lasts, code));
        fastrand::seed(1);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        let (phase, after) = runtime.block_on(async {
            let play = Play::new(&plot).await;
            loop {
                tokio::time::sleep(TICK).await;
                let status = play.bed.status();
                let phase = status.phase.unwrap_or_default();
                let started = play.bed.deeds(play.begin, "start").into_iter().find(|(name, _)| name == "a0");
                let after = started.map(|(_, at)| play.begin.elapsed().as_secs_f64() - at);
                if phase == "Succeeded" || phase == "Failed" || play.begin.elapsed() > LONGEST {
                    return (phase, after);
                }
            }
        });
        prop_assert_eq!(&phase, if code == 0 { "Succeeded" } else { "Failed" });
        // Its own time, one grace period for all sidecars together, the least of two seconds, and a moment.
        let most = lasts as f64 / 1000.0 + 4.0 + 2.0 + 1.5;
        prop_assert!(after.is_some_and(|after| after <= most), "{after:?} s, at most {most} s");
    }
}
