//! Random pods: what is asked for, what their containers do, and what is done to them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::backend::{Act, Role};

/// A pod's whole story but for what the runner makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) spec: Value,
    pub(crate) roles: BTreeMap<String, Role>,
    /// What is done to the pod, by when.
    pub(crate) turns: Vec<(Duration, Turn)>,
    /// How old listings are when they arrive.
    pub(crate) listing: Duration,
}

/// Something that is done to a pod.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    Delete {
        grace: u64,
    },
    /// A readiness gate's condition is set.
    Gate(bool),
    /// Something outside kills a container.
    Crash(String),
    /// The node asks for a listing.
    List,
    /// An ephemeral container is added.
    Debug,
}

/// The condition that pods with a gate wait for.
pub(crate) const GATE: &str = "example.com/gate";

fn code() -> impl Strategy<Value = i32> {
    prop_oneof![3 => Just(0), 3 => Just(1), 1 => Just(42), 1 => Just(7)]
}

fn act(may_stay: bool) -> impl Strategy<Value = Act> {
    let term = prop_oneof![
        6 => (0u64..3000, code()).prop_map(|(after, code)| Some((Duration::from_millis(after), code))),
        1 => Just(None),
    ];
    let lasts = if may_stay {
        prop_oneof![2 => (10u64..15_000).prop_map(Some), 1 => Just(None)].boxed()
    } else {
        (10u64..15_000).prop_map(Some).boxed()
    };
    let starts = prop::bool::weighted(0.93);
    (lasts, code(), term, starts).prop_map(|(lasts, code, term, starts)| Act {
        lasts: lasts.map(Duration::from_millis),
        code,
        term,
        starts,
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Init,
    Sidecar,
    App,
}

fn rules() -> impl Strategy<Value = Value> {
    let rule = (prop_oneof![3 => Just("Restart"), 1 => Just("RestartAllContainers")], any::<bool>());
    prop::option::weighted(0.35, rule).prop_map(|rule| {
        let Some((action, other)) = rule else { return Value::Null };
        let operator = if other { "NotIn" } else { "In" };
        let values = if other { json!([0, 1, 7]) } else { json!([42]) };
        json!([{"action": action, "exitCodes": {"operator": operator, "values": values}}])
    })
}

fn probe(name: &'static str, weight: f64) -> impl Strategy<Value = Option<(Value, Vec<bool>)>> {
    let answers = prop::collection::vec(prop::bool::weighted(0.6), 1..6);
    let probe = (1i32..4, 1i32..4, 0i32..3, answers, prop::option::of(1i64..6));
    prop::option::weighted(weight, probe).prop_map(move |probe| {
        let (period, failures, delay, mut answers, grace) = probe?;
        let mut spec = json!({"exec": {"command": [name]}, "periodSeconds": period, "initialDelaySeconds": delay,
            "failureThreshold": failures});
        if name == "readiness" {
            spec["successThreshold"] = (1 + failures % 2).into();
        } else {
            // Else most pods would do nothing but fail.
            answers.push(true);
            if let Some(grace) = grace {
                spec["terminationGracePeriodSeconds"] = grace.into();
            }
        }
        Some((spec, answers))
    })
}

fn part(kind: Kind) -> impl Strategy<Value = (Kind, Value, Role)> {
    let policy = prop::option::weighted(0.4, prop_oneof![Just("Never"), Just("OnFailure"), Just("Always")]);
    let runs = prop::collection::vec(act(kind != Kind::Init), 0..4);
    let probes = (probe("startup", 0.25), probe("liveness", 0.25), probe("readiness", 0.4));
    (policy, rules(), runs, act(kind != Kind::Init), probes).prop_map(
        move |(policy, rules, runs, then, (startup, liveness, readiness))| {
            let mut spec = json!({"image": "i", "imagePullPolicy": "IfNotPresent"});
            let own = match (kind, policy) {
                (Kind::Sidecar, _) => Some("Always"),
                // With `Always` it would be a sidecar.
                (Kind::Init, Some("Always")) => None,
                (_, policy) => policy,
            };
            if let Some(own) = own {
                spec["restartPolicy"] = own.into();
                if rules != Value::Null {
                    spec["restartPolicyRules"] = rules;
                }
            }
            let mut role = Role { runs, then, answers: BTreeMap::new() };
            let probes = [("startup", startup), ("liveness", liveness), ("readiness", readiness)];
            for (name, probe) in probes {
                if let Some((probe, answers)) = probe.filter(|_| kind != Kind::Init) {
                    spec[format!("{name}Probe")] = probe;
                    role.answers.insert(name, answers);
                }
            }
            if kind == Kind::Init {
                // Init containers end well at last, or nothing else would ever be seen.
                role.then.code = 0;
                role.then.starts = true;
            }
            if kind == Kind::Sidecar {
                role.then = Act { lasts: None, starts: true, ..role.then };
            }
            (kind, spec, role)
        },
    )
}

/// When the pod is deleted at the latest.
pub(crate) const HORIZON: Duration = Duration::from_secs(150);

pub(crate) fn plot() -> impl Strategy<Value = Plot> {
    let init = prop_oneof![Just(Kind::Init), Just(Kind::Sidecar)].prop_flat_map(part);
    let containers = (prop::collection::vec(init, 0..4), prop::collection::vec(part(Kind::App), 1..4));
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let deadline = prop::option::weighted(0.1, 1i64..60);
    let pod = (policy, prop::bool::weighted(0.3), 1i64..12, deadline);
    let crash =
        (0usize..8).prop_map(|i| Turn::Crash(if i < 4 { format!("i{i}") } else { format!("a{}", i - 4) }));
    let turn = prop_oneof![
        2 => any::<bool>().prop_map(Turn::Gate),
        3 => crash,
        2 => Just(Turn::List),
        1 => Just(Turn::Debug),
        2 => (0u64..12).prop_map(|grace| Turn::Delete { grace }),
    ];
    let turns = prop::collection::vec((3u64..100_000, turn), 0..6);
    let last = (0u64..12, 0u64..400);
    (containers, pod, turns, last).prop_map(
        |((init, app), (policy, gate, grace, deadline), turns, (last, age))| {
            let mut roles = BTreeMap::new();
            let mut lists = [Vec::new(), Vec::new()];
            for (list, (prefix, parts)) in lists.iter_mut().zip([("i", init), ("a", app)]) {
                for (n, (_, mut spec, role)) in parts.into_iter().enumerate() {
                    let name = format!("{prefix}{n}");
                    spec["name"] = name.clone().into();
                    list.push(spec);
                    roles.insert(name, role);
                }
            }
            let [init, app] = lists;
            let mut spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": grace,
            "initContainers": init, "containers": app});
            if gate {
                spec["readinessGates"] = json!([{"conditionType": GATE}]);
            }
            if let Some(deadline) = deadline {
                spec["activeDeadlineSeconds"] = deadline.into();
            }
            let mut turns: Vec<_> = turns
                .into_iter()
                .map(|(at, turn)| (Duration::from_millis(at), turn))
                .chain([(HORIZON, Turn::Delete { grace: last })])
                .collect();
            turns.sort_by_key(|(at, _)| *at);
            Plot { spec, roles, turns, listing: Duration::from_millis(age) }
        },
    )
}
