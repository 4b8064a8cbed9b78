//! Statuses compared with a real kubelet's, write by write.
//!
//! `golden/*.yaml` holds what a kubelet of Kubernetes 1.37.2 wrote, one file per area, condensed from
//! recordings (`golden.rs` says how). For every write the test works out what a provider would have had to
//! report for it, gives that, the pod and the status before the write to `pod_status`, and compares.
//!
//! With `KUBELET_RECORDINGS` set to a directory of recordings, or with the recordings beside the repository
//! (`../shared/kubelet-oracle/cases`), those are replayed whole too; `UPDATE_GOLDEN=1` condenses them anew.

mod cases;
mod golden;
mod laws;
mod merge;
mod recording;
mod replay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::golden::Case;
use self::replay::Outcome;

/// Writes that are known to differ, each with its reason. One that no longer differs fails the test.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("deadline-pending", "5.08", SETTLES_LATER),
    ("dns-none", "3.67", "the kubelet's terminal phase overtook its look at the sandbox by 40 ms"),
    ("env-resource-field-refs", "4.89", CGROUP),
    ("env-resource-field-refs", "5.4", CGROUP),
    ("env-resource-field-refs", "5.75", CGROUP),
    ("resize-cpu-up", "3.85", "how far a resize in place has come is not in a provider's report"),
    (
        "rule-restart-all-containers",
        "6.31",
        "the kubelet leaves ready on an init container that waits for its next run",
    ),
    ("rule-restart-all-containers", "6.45", "a phase never goes back from Running to Pending"),
];

/// The kubelet writes the terminal phase first, and containers whose end nobody saw a second later; the
/// node writes both at once, as the kubelet's last status has it.
const SETTLES_LATER: &str = "the containers' ends follow with the next write";

/// The kubelet reads what a running pod is granted from the pod's cgroup, where limits that not every
/// container has, and local storage, do not exist. A node without cgroups grants what was asked for.
const CGROUP: &str = "resources as read from the pod's cgroup";

/// How many of the golden writes compare equal; a number, so that none vanishes unseen.
const EQUAL: usize = 633;

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pod_status/golden")
}

/// The recordings, if they are here.
fn recordings() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("KUBELET_RECORDINGS") {
        return Some(PathBuf::from(dir));
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kubelet-oracle/cases");
    dir.is_dir().then_some(dir)
}

/// Replays cases and says what went otherwise than expected.
fn replay(cases: &[Case]) -> (usize, Vec<String>) {
    let mut equal = 0;
    let mut complaints = Vec::new();
    let mut differing: BTreeMap<(&str, String), String> = BTreeMap::new();
    for case in cases {
        for (at, outcome) in replay::case(case) {
            match outcome {
                Outcome::Equal => equal += 1,
                Outcome::Different(how) => {
                    differing.insert((&case.name, at), how);
                }
            }
        }
    }
    for (name, at, _) in DIFFERENT {
        let known = cases.iter().any(|c| c.name == *name);
        if differing.remove(&(*name, (*at).to_owned())).is_none() && known {
            complaints.push(format!("{name} at {at}: no longer differs"));
        }
    }
    complaints.extend(differing.iter().map(|((name, at), how)| format!("{name} at {at}:\n{how}")));
    (equal, complaints)
}

#[test]
fn every_recorded_write_of_a_kubelet_is_written_by_the_node_too() {
    let cases = golden::read(&golden_dir());
    let (equal, complaints) = replay(&cases);
    let count = complaints.len();
    assert!(complaints.is_empty(), "{count} of {} differ:\n{}", equal + count, complaints.join("\n"));
    assert_eq!(equal, EQUAL, "the number of golden writes has changed");
}

#[test]
fn the_golden_files_are_the_recordings_condensed() {
    let Some(dir) = recordings() else {
        // Without the recordings there is nothing to compare with; the golden files stand for them.
        return;
    };
    let cases = recording::read(&dir);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        golden::write(&golden_dir(), &cases);
    }
    let golden: BTreeMap<_, _> =
        golden::read(&golden_dir()).into_iter().map(|case| (case.name.clone(), case)).collect();
    for case in &cases {
        if let Some(golden) = golden.get(&case.name) {
            assert_eq!(golden, case, "{} is not as recorded", case.name);
        }
    }
    let (_, complaints) = replay(&cases);
    assert!(complaints.is_empty(), "{} recorded writes differ:\n{}", complaints.len(), complaints.join("\n"));
}
