//! The options that come with a request: which are valid, and what is said of those that are not.
//!
//! Source: apimachinery `pkg/apis/meta/v1/validation`, `pkg/apis/meta/internalversion/validation`.

use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::request::{Query, Verb};

/// Largest name of a field manager, in bytes.
const MANAGER_LIMIT: usize = 128;

/// Checks the options of a write, as its query has them.
pub(super) fn check_write(verb: Verb, query: &Query) -> Result<(), ApiError> {
    let kind = match verb {
        Verb::Create => "CreateOptions",
        Verb::Update => "UpdateOptions",
        _ => "PatchOptions",
    };
    let mut causes = Vec::new();
    if query.get("fieldManager").len() > MANAGER_LIMIT {
        causes.push(Cause::too_long("fieldManager", MANAGER_LIMIT));
    }
    causes.extend(dry_run(query.all("dryRun")));
    let validation = query.get("fieldValidation");
    if !matches!(validation, "" | "Ignore" | "Strict" | "Warn") {
        let supported = ["", "Ignore", "Strict", "Warn"];
        causes.push(Cause::not_supported("fieldValidation", &json!(validation), &supported));
    }
    refuse(kind, &causes)
}

/// What is wrong with values of `dryRun`.
pub(super) fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Option<Cause> {
    let values: Vec<&str> = values.collect();
    let bad = values.iter().any(|value| *value != "All");
    bad.then(|| Cause::not_supported("dryRun", &json!(values), &["All"]))
}

/// Checks how a list or watch says which versions it wants.
pub(super) fn check_list(verb: Verb, query: &Query) -> Result<(), ApiError> {
    const MATCH: &str = "resourceVersionMatch";
    let (version, matching) = (query.get("resourceVersion"), query.get(MATCH));
    let (watches, initial) = (verb == Verb::Watch, query.has("sendInitialEvents"));
    let mut causes = Vec::new();
    let mut forbid = |text: &str| causes.push(Cause::forbidden(MATCH, text));
    if watches {
        if !initial && !matching.is_empty() {
            forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if initial && matching != "NotOlderThan" {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            if !matching.is_empty() {
                causes.push(Cause::not_supported(MATCH, &json!(matching), &["NotOlderThan"]));
            }
        }
        return refuse("ListOptions", &causes);
    }
    if initial {
        let text = "sendInitialEvents is forbidden for list";
        return refuse("ListOptions", &[Cause::forbidden("sendInitialEvents", text)]);
    }
    if !matching.is_empty() {
        if version.is_empty() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !query.get("continue").is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == "Exact" && version == "0" {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let supported = ["Exact", "NotOlderThan", ""];
            causes.push(Cause::not_supported(MATCH, &json!(matching), &supported));
        }
    }
    refuse("ListOptions", &causes)
}

/// Refuses options by their kind, if anything is wrong with them.
pub(super) fn refuse(kind: &str, causes: &[Cause]) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let mut error = ApiError::invalid_options(&format!("{kind}.meta.k8s.io"), "", causes);
    error.details.insert("kind".to_owned(), kind.into());
    error.details.insert("group".to_owned(), Value::from("meta.k8s.io"));
    Err(error)
}
