//! Lists: selectors, pages.

use serde_json::{Value, json};

use crate::case::{
    CONFIG_MAPS, Case, PODS, Step, bound, case, config_map, delete, get, pod, post, strategic, with,
};

fn labelled(name: &str, labels: Value) -> Step {
    post(CONFIG_MAPS, with(config_map(name, "1"), "/metadata/labels", labels))
}

fn by_label(selector: &str) -> Step {
    get(format!("{CONFIG_MAPS}?labelSelector={}", escaped(selector)))
}

fn by_field(path: &str, selector: &str) -> Step {
    get(format!("{path}?fieldSelector={}", escaped(selector)))
}

/// Percent-encoded, so that it can stand in a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = labels();
    cases.extend(fields());
    cases.extend(pages());
    cases
}

fn labels() -> Vec<Case> {
    let made = || {
        vec![
            labelled("c1", json!({"app": "x", "tier": "1"})),
            labelled("c2", json!({"app": "y", "tier": "2"})),
            labelled("c3", json!({"app": "x", "on": ""})),
        ]
    };
    let asked = |name: &'static str, selectors: &[&str]| {
        let mut steps = made();
        steps.extend(selectors.iter().map(|selector| by_label(selector)));
        case(name, steps)
    };
    vec![
        asked("equality", &["app=x", "app==y", "app!=x,app", "app=x,tier=1", "app=", "on="]),
        asked(
            "sets",
            &[
                "app in (x,y)",
                "app in (x)",
                "app notin (x),app",
                "app in (x),tier in (1,2)",
                "tier notin (1),app",
            ],
        ),
        asked("presence", &["tier", "!tier,app", "on,app=x", "!app,!kubernetes.io/none,app"]),
        asked("numbers", &["tier>1", "tier<2", "tier>x", "app>1"]),
        asked("white space and commas", &[" app = x ", "app in ( x , y )", "app=x,", ",app=x"]),
        case(
            "selectors that are none",
            [
                by_label("app in"),
                by_label("app in ()"),
                by_label("=x"),
                by_label("a b"),
                by_label("app=bad value"),
                by_label("!app=x"),
                by_label("app in (x"),
                by_label("bad_key!=-x-,app"),
                by_label(&format!("{}=x", "k".repeat(64))),
            ],
        ),
    ]
}

fn fields() -> Vec<Case> {
    let made = || {
        vec![
            post(PODS, with(bound("a"), "/spec/nodeName", "n1")),
            post(PODS, with(bound("b"), "/spec/nodeName", "n2")),
            post(PODS, pod("c")),
            strategic(
                format!("{PODS}/a/status"),
                json!({"status": {"phase": "Running", "podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}]}}),
            ),
        ]
    };
    let asked = |name: &'static str, selectors: &[&str]| {
        let mut steps = made();
        steps.extend(selectors.iter().map(|selector| by_field(PODS, selector)));
        case(name, steps)
    };
    vec![
        asked(
            "pods by node",
            &[
                "spec.nodeName=n1",
                "spec.nodeName!=n1",
                "spec.nodeName=",
                "spec.nodeName=n1,status.phase=Running",
                "spec.nodeName==n2",
            ],
        ),
        asked(
            "pods by phase and address",
            &["status.phase=Pending", "status.podIP=192.0.2.7", "status.phase!=Running,spec.nodeName=n2"],
        ),
        asked(
            "pods by name",
            &[
                "metadata.name=a",
                "metadata.name!=a",
                "metadata.namespace={ns}",
                "metadata.namespace=other",
                "metadata.name=none",
            ],
        ),
        asked(
            "pods by what they ask for",
            &[
                "spec.restartPolicy=Always",
                "spec.schedulerName=nobody",
                "spec.serviceAccountName=default",
                "spec.hostNetwork=false",
                "spec.hostNetwork=true",
            ],
        ),
        case(
            "fields that are none",
            [
                by_field(PODS, "spec.bogus=x"),
                by_field(PODS, "spec.nodeName"),
                by_field(PODS, "spec.nodeName in (a)"),
                by_field(CONFIG_MAPS, "data.a=1"),
                by_field(PODS, "=x"),
            ],
        ),
        case(
            "both kinds of selectors",
            [
                post(PODS, with(bound("a"), "/metadata/labels", json!({"app": "x"}))),
                post(PODS, with(bound("b"), "/metadata/labels", json!({"app": "y"}))),
                get(format!("{PODS}?fieldSelector=spec.nodeName%3Dparked&labelSelector=app%3Dx")),
            ],
        ),
        case(
            "across namespaces",
            [
                post(PODS, bound("a")),
                by_field("/api/v1/pods", "metadata.namespace={ns}"),
                by_field("/api/v1/pods", "metadata.namespace={ns},metadata.name=a"),
            ],
        ),
    ]
}

fn pages() -> Vec<Case> {
    let mine = "labelSelector=app";
    let made = |count: usize| -> Vec<Step> {
        ["c1", "c2", "c3", "c4", "c5"][..count]
            .iter()
            .map(|name| labelled(name, json!({"app": "x"})))
            .collect()
    };
    let with_steps = |mut steps: Vec<Step>, more: Vec<Step>| {
        steps.extend(more);
        steps
    };
    let pods = || vec![post(PODS, pod("a")), post(PODS, pod("b")), post(PODS, pod("c"))];
    vec![
        case(
            "pages of one moment",
            with_steps(
                pods(),
                vec![
                    get(format!("{PODS}?limit=1")),
                    post(PODS, pod("bb")),
                    delete(format!("{PODS}/c"), Value::Null),
                    get(format!("{PODS}?limit=1&continue={{4:/metadata/continue}}")),
                    get(format!("{PODS}?limit=1&continue={{7:/metadata/continue}}")),
                    get(PODS),
                ],
            ),
        ),
        case(
            "pages of a selection",
            with_steps(
                made(5),
                vec![
                    get(format!("{CONFIG_MAPS}?limit=2&{mine}")),
                    get(format!("{CONFIG_MAPS}?limit=2&{mine}&continue={{6:/metadata/continue}}")),
                    get(format!("{CONFIG_MAPS}?{mine}&continue={{6:/metadata/continue}}")),
                ],
            ),
        ),
        case(
            "a page as large as all, and larger",
            with_steps(
                pods(),
                vec![
                    get(format!("{PODS}?limit=3")),
                    get(format!("{PODS}?limit=9")),
                    get(format!("{PODS}?limit=0")),
                ],
            ),
        ),
        case("limits that are none", [get(format!("{PODS}?limit=some")), get(format!("{PODS}?limit=-1"))]),
        case(
            "tokens that are none",
            [get(format!("{PODS}?continue=nonsense")), get(format!("{PODS}?continue=bm9uc2Vuc2U"))],
        ),
        case(
            "a token and a version",
            with_steps(
                pods(),
                vec![
                    get(format!("{PODS}?limit=1")),
                    get(format!("{PODS}?limit=1&resourceVersion=7&continue={{4:/metadata/continue}}")),
                    get(format!("{PODS}?limit=1&resourceVersion=0&continue={{4:/metadata/continue}}")),
                    get(format!(
                        "{PODS}?limit=1&resourceVersionMatch=Exact&continue={{4:/metadata/continue}}"
                    )),
                ],
            ),
        ),
        case(
            "nothing to list",
            [
                get(PODS),
                get("/api/v1/namespaces/nowhere/pods"),
                get("/apis/apps/v1/namespaces/{ns}/deployments"),
            ],
        ),
    ]
}
