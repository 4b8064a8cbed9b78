//! The differences that are known, and why they may be.

use crate::compare::Argued;

const OWNERS: &str = "a write that changes nothing but who owns a field is stored by the real server; here updates own nothing";
const GO_NAMES: &str = "a value is shown in Go's notation, or under its internal names";
const LABEL_PARSER: &str =
    "another parser, another description of what is wrong; code and reason are the same";
const LENIENT_FORMS: &str = "metadata is given as one or as a list whichever of the two was asked for";
const LIMIT_AT_ZERO: &str = "from its cache, which version 0 asks for, the real server lists without a limit";
const MICROTIME: &str =
    "the real server wants six digits behind the second in a patch, the types here take any";
const JSON_PATCH: &str = "the real server's library takes a value that is missing for null";
const TWICE: &str = "the parser keeps the last of two equal names, and does not tell";

const fn argued(subject: &'static str, case: &'static str, at: &'static str, why: &'static str) -> Argued {
    Argued { subject, case, at, why, now_and_then: false }
}

const fn now_and_then(entry: Argued) -> Argued {
    Argued { now_and_then: true, ..entry }
}

/// Checked both ways: an entry that no longer differs fails its test.
pub(crate) const ARGUED: &[Argued] = &[
    argued("accounts", "reviews that are none", "3/body/message", GO_NAMES),
    argued("accounts", "reviews that are none", "3/body/details/causes/0/message", GO_NAMES),
    argued(
        "accounts",
        "a token is known again",
        "3/body/status/error",
        "the real server asks several authenticators and lists what each said",
    ),
    argued("apply", "two managers conflict until one forces", "5/body/metadata/resourceVersion", OWNERS),
    argued(
        "apply",
        "a value that an update owns",
        "2",
        "only managers that apply own fields here; an update conflicts with nobody",
    ),
    argued(
        "apply",
        "configurations that are none",
        "7/body/message",
        "the words of the typed schema about a value of another type",
    ),
    argued(
        "config",
        "values of other types",
        "2",
        "Go reads a null among texts as an empty text; the types here refuse it",
    ),
    argued("forms", "metadata only", "4", LENIENT_FORMS),
    argued("forms", "metadata only", "5", LENIENT_FORMS),
    argued(
        "forms",
        "the first form that is had",
        "*/body/message",
        "the real server names the formats it has besides JSON; here there is no other for answers",
    ),
    argued(
        "forms",
        "versions of the core",
        "1/body/serverAddressByClientCIDRs/0",
        "there may be no address: in a process there is nothing to connect to",
    ),
    argued("lists", "numbers", "6/body/message", LABEL_PARSER),
    argued("lists", "white space and commas", "*/body/message", LABEL_PARSER),
    argued("lists", "selectors that are none", "*/body/message", LABEL_PARSER),
    argued("lists", "a token and a version", "6/body/items/1", LIMIT_AT_ZERO),
    argued("lists", "a token and a version", "6/body/metadata/**", LIMIT_AT_ZERO),
    argued(
        "nodes",
        "status values that are none",
        "3",
        "whether a resource may have fractions depends on its name; here every quantity may",
    ),
    argued("nodes", "a lease is made and renewed", "4", MICROTIME),
    argued("nodes", "a lease is made and renewed", "5/body/metadata/resourceVersion", MICROTIME),
    argued("nodes", "a lease is made and renewed", "5/body/spec/renewTime", MICROTIME),
    argued("patches", "paths that lead nowhere", "6", JSON_PATCH),
    argued("patches", "paths that lead nowhere", "7/**", JSON_PATCH),
    argued("patches", "operations that are none", "3", JSON_PATCH),
    argued("patches", "operations that are none", "6/**", JSON_PATCH),
    argued("patches", "containers merge by name", "4/body/message", GO_NAMES),
    argued("patches", "conditions merge by type", "6/body/message", GO_NAMES),
    argued(
        "patches",
        "maps can be replaced and keys removed",
        "6",
        "the real server takes a directive that does not exist for none; here it is a mistake to be found",
    ),
    argued(
        "pods",
        "names that are none",
        "7/headers/warning",
        "warnings are those about unknown fields; kubectl prints the others for people, and nothing depends on them",
    ),
    argued(
        "refusals",
        "content types that are none",
        "*/body/message",
        "the real server takes protobuf, too; what is not read here is not listed",
    ),
    argued("refusals", "a name twice in one object", "1/headers/warning", TWICE),
    argued("refusals", "a name twice in one object", "2", TWICE),
    argued(
        "refusals",
        "the log of a pod that runs nowhere",
        "8/**",
        "the real server says pods where it has looked for a node",
    ),
    argued("statuses", "a generation once observed stays", "*/body/metadata/resourceVersion", OWNERS),
    argued(
        "updates",
        "resources change by way of resize only",
        "3",
        "resizing asks for the node's capabilities, which an API server without resizing nodes has no use for",
    ),
    argued(
        "versions",
        "exactly this one",
        "5/body/metadata/continue",
        "the real server does not know yet that the rest of the page is empty; this one has looked",
    ),
    // How far back the real one remembers depends on when its cache began.
    now_and_then(argued(
        "versions",
        "a watch from before what is remembered",
        "1/body/0",
        "this server remembers from its beginning on; tests make it forget with ApiServer::compact",
    )),
    argued("watches", "selectors that are none", "2/body/message", LABEL_PARSER),
    argued(
        "workloads",
        "a daemon set",
        "1/body/metadata/annotations",
        "a deprecated annotation; no controller here runs daemon sets",
    ),
    argued(
        "workloads",
        "jobs that are none",
        "4",
        "a selector of one's own is let in; its job selects what it says",
    ),
];
