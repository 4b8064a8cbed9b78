//! What a resource version in a request means, and when it is refused.

use serde_json::json;

use crate::case::{CONFIG_MAPS, Case, PODS, case, config_map, get, merge, pod, post, watch};

pub(crate) fn cases() -> Vec<Case> {
    let list = |query: &str| get(format!("{CONFIG_MAPS}?labelSelector=app&{query}"));
    let first = "resourceVersion={1:/metadata/resourceVersion}";
    let latest = "resourceVersion={2:/metadata/resourceVersion}";
    let made = || {
        [
            post(CONFIG_MAPS, config_map("c", "1")),
            merge(format!("{CONFIG_MAPS}/c"), json!({"data": {"a": "2"}})),
        ]
    };
    let asked = |name: &'static str, queries: &[String]| {
        let mut steps = made().to_vec();
        steps.extend(queries.iter().map(|query| list(query)));
        case(name, steps)
    };
    vec![
        asked(
            "at least this new",
            &[
                latest.to_owned(),
                format!("{latest}&resourceVersionMatch=NotOlderThan"),
                format!("{first}&resourceVersionMatch=NotOlderThan"),
            ],
        ),
        asked(
            "exactly this one",
            &[
                format!("{latest}&resourceVersionMatch=Exact"),
                format!("{first}&resourceVersionMatch=Exact"),
                format!("{first}&resourceVersionMatch=Exact&limit=1"),
            ],
        ),
        asked("a limit without a match", &[format!("{latest}&limit=5")]),
        asked(
            "matches that are none",
            &[
                "resourceVersionMatch=Exact".to_owned(),
                "resourceVersionMatch=NotOlderThan".to_owned(),
                "resourceVersion=0&resourceVersionMatch=Exact".to_owned(),
                format!("{latest}&resourceVersionMatch=About"),
            ],
        ),
        asked(
            "versions that are none",
            &[
                "resourceVersion=word".to_owned(),
                "resourceVersion=-1".to_owned(),
                "resourceVersion=1.5".to_owned(),
            ],
        ),
        case(
            "an object's version is not asked for",
            [
                post(PODS, pod("a")),
                get(format!("{PODS}/a?resourceVersion={{1:/metadata/resourceVersion}}")),
                get(format!("{PODS}/a?resourceVersion=word")),
            ],
        ),
        case(
            "versions from the future",
            [
                get(format!("{PODS}?resourceVersion=999999999")),
                get(format!("{PODS}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan")),
                get(format!("{PODS}?resourceVersion=999999999&resourceVersionMatch=Exact")),
            ],
        ),
        case(
            "watches from versions that are none",
            [
                watch(format!("{PODS}?watch=true&resourceVersion=word&timeoutSeconds=5"), 1),
                watch(format!("{PODS}?watch=true&resourceVersion=-1&timeoutSeconds=5"), 1),
            ],
        ),
        case(
            "a watch from before what is remembered",
            [watch(format!("{PODS}?watch=true&resourceVersion=1&timeoutSeconds=5"), 1)],
        ),
        case(
            "watches with a match",
            [
                watch(format!("{PODS}?watch=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=5"), 1),
                watch(format!("{PODS}?watch=true&sendInitialEvents=true&timeoutSeconds=5"), 1),
                watch(
                    format!(
                        "{PODS}?watch=true&sendInitialEvents=true&resourceVersionMatch=Exact&timeoutSeconds=5"
                    ),
                    1,
                ),
                get(format!("{PODS}?sendInitialEvents=true")),
            ],
        ),
    ]
}
