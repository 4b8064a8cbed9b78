//! Service accounts, their tokens, and reviews.

use serde_json::{Value, json};

use crate::case::{ACCOUNTS, Case, PODS, SECRETS, bound, case, get, merge, named, pod, post, with};

const TOKEN: &str = "/api/v1/namespaces/{ns}/serviceaccounts/default/token";

fn request(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

fn bound_to(kind: &str, name: &str) -> Value {
    request(json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}}))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = tokens();
    cases.extend(others());
    cases
}

fn tokens() -> Vec<Case> {
    vec![
        case("a token", [post(TOKEN, request(json!({})))]),
        case(
            "an audience and a time",
            [post(TOKEN, request(json!({"audiences": ["x", "y"], "expirationSeconds": 1200})))],
        ),
        case(
            "a time that is none",
            [
                post(TOKEN, request(json!({"expirationSeconds": 599}))),
                post(TOKEN, request(json!({"expirationSeconds": 4_294_967_297_u64}))),
                post(TOKEN, request(json!({"expirationSeconds": "long"}))),
            ],
        ),
        case("an account that is not there", [post(format!("{ACCOUNTS}/nobody/token"), request(json!({})))]),
        case(
            "a token bound to a pod",
            [
                post(PODS, bound("a")),
                post(TOKEN, bound_to("Pod", "a")),
                post(TOKEN, with(bound_to("Pod", "a"), "/spec/boundObjectRef/uid", "{1:/metadata/uid}")),
                post(TOKEN, with(bound_to("Pod", "a"), "/spec/boundObjectRef/uid", "other")),
                post(TOKEN, bound_to("Pod", "missing")),
                post(TOKEN, bound_to("ConfigMap", "a")),
                post(TOKEN, with(bound_to("Pod", "a"), "/spec/boundObjectRef/apiVersion", "v2")),
            ],
        ),
        case(
            "a token bound to another account's pod",
            [
                post(ACCOUNTS, json!({"metadata": named("other")})),
                post(PODS, with(bound("a"), "/spec/serviceAccountName", "other")),
                post(TOKEN, bound_to("Pod", "a")),
            ],
        ),
        case(
            "a token bound to a secret",
            [
                post(SECRETS, json!({"metadata": named("s")})),
                post(TOKEN, bound_to("Secret", "s")),
                post(TOKEN, bound_to("Secret", "missing")),
            ],
        ),
        case(
            "bodies that are none",
            [
                post(TOKEN, json!({"apiVersion": "v1", "kind": "Pod"})),
                post(TOKEN, json!({"spec": 7})),
                post(TOKEN, json!({})),
            ],
        ),
        case("tokens are not read", [get(TOKEN)]),
    ]
}

fn others() -> Vec<Case> {
    let review = |spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let nodes = json!({"user": "admin", "groups": ["system:masters"], "resourceAttributes": {"verb": "get", "resource": "nodes", "subresource": "metrics", "name": "n"}});
    vec![
        case(
            "an account",
            [
                post(ACCOUNTS, json!({"metadata": named("mine"), "automountServiceAccountToken": false})),
                get(format!("{ACCOUNTS}/mine")),
                merge(format!("{ACCOUNTS}/mine"), json!({"imagePullSecrets": [{"name": "p"}]})),
                post(
                    PODS,
                    with(
                        with(pod("a"), "/spec/serviceAccountName", "mine"),
                        "/spec/automountServiceAccountToken",
                        Value::Null,
                    ),
                ),
                post(
                    PODS,
                    with(
                        with(pod("b"), "/spec/serviceAccount", "mine"),
                        "/spec/automountServiceAccountToken",
                        true,
                    ),
                ),
            ],
        ),
        case(
            "what an administrator may",
            [
                post(reviews, review(nodes.clone())),
                post(
                    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                    json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
                ),
            ],
        ),
        case(
            "reviews that are none",
            [
                post(reviews, review(json!({"user": "x"}))),
                post(reviews, review(json!({"resourceAttributes": {"verb": "get", "resource": "pods"}}))),
                post(
                    reviews,
                    review(
                        json!({"user": "x", "resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"verb": "get", "path": "/"}}),
                    ),
                ),
                get(reviews),
            ],
        ),
        case(
            "tokens that are none",
            [
                post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {"token": "nonsense"}})),
                post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {}})),
            ],
        ),
        case(
            "a token is known again",
            [
                post(TOKEN, request(json!({}))),
                post(
                    "/apis/authentication.k8s.io/v1/tokenreviews",
                    json!({"spec": {"token": "{1:/status/token}"}}),
                ),
                post(
                    "/apis/authentication.k8s.io/v1/tokenreviews",
                    json!({"spec": {"token": "{1:/status/token}", "audiences": ["x"]}}),
                ),
            ],
        ),
    ]
}
