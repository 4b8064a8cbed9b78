//! Every route and method for every kind of caller, with an API server that is asked in its own words.

use axum::Json;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::*;

/// A cluster that knows two tokens, one of which is over, and allows one thing.
#[derive(Clone, Copy)]
struct Cluster {
    allowed: Option<(&'static str, &'static str)>,
}

impl Cluster {
    fn reviewer(self) -> Arc<dyn Reviewer> {
        let service = axum::Router::new().fallback(move |request: axum::extract::Request| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            review["status"] = self.answer(&review);
            Json(review)
        });
        Arc::new(KubeReviewer::new(kube::Client::new(service, "default")))
    }

    fn answer(self, review: &Value) -> Value {
        if review["kind"] == "TokenReview" {
            return match review["spec"]["token"].as_str().unwrap() {
                "good" => {
                    json!({"authenticated": true, "user": {"username": "some", "groups": ["some-group"]}})
                }
                // As kube-apiserver says it.
                "expired" => json!({
                    "user": {}, "error": "[invalid bearer token, service account token has expired]",
                }),
                _ => json!({"user": {}, "error": "[invalid bearer token, unknown]"}),
            };
        }
        assert_eq!(review["kind"], "SubjectAccessReview");
        let asked = &review["spec"]["resourceAttributes"];
        assert_eq!((&asked["resource"], &asked["name"]), (&"nodes".into(), &"node-1".into()));
        let allowed = review["spec"]["user"] == "some"
            && self.allowed.is_some_and(|(verb, subresource)| {
                asked["verb"] == verb && asked["subresource"] == subresource
            });
        json!({ "allowed": allowed })
    }
}

/// What a caller is, and so what becomes of the call.
enum Standing {
    Unknown,
    Known,
    May(&'static str),
}

/// All of them.
fn callers(ca: &Ca, other: &Ca) -> Vec<(String, Caller, Standing)> {
    let some = || Client { name: "some", ..Client::default() };
    let mut callers = vec![
        ("anonymous".to_owned(), Caller::Nobody, Standing::Unknown),
        ("certificate of another CA".to_owned(), Caller::of(other, some()), Standing::Unknown),
        (
            "expired certificate".to_owned(),
            Caller::of(ca, Client { years: (2020, 2021), ..some() }),
            Standing::Unknown,
        ),
        ("bad token".to_owned(), Caller::Token("bad"), Standing::Unknown),
        ("expired token".to_owned(), Caller::Token("expired"), Standing::Unknown),
        ("certificate without rights".to_owned(), Caller::of(ca, some()), Standing::Known),
        ("token without rights".to_owned(), Caller::Token("good"), Standing::Known),
    ];
    // nodes/proxy is one of them.
    let subresources: BTreeSet<_> = ROOTS.iter().flat_map(|root| root.subresources).copied().collect();
    assert!(subresources.contains("proxy"));
    for subresource in subresources {
        let may = |caller| (format!("{caller} with nodes/{subresource}"), Standing::May(subresource));
        let (what, standing) = may("certificate");
        callers.push((what, Caller::of(ca, some()), standing));
        let (what, standing) = may("token");
        callers.push((what, Caller::Token("good"), standing));
    }
    callers
}

#[tokio::test(start_paused = true)]
async fn every_route_and_method_lets_in_exactly_whom_it_should() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let callers = callers(&ca, &other);
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for (root, route, path, method) in everything() {
        for (what, caller, standing) in &callers {
            let allowed = match standing {
                Standing::May(subresource) => Some((verb(&method), *subresource)),
                Standing::Unknown | Standing::Known => None,
            };
            let access =
                Access::none().with_client_ca(ca.trusted()).with_reviewer(Cluster { allowed }.reviewer());
            let status = caller.ask(&open(access), &method, &path).await.status.as_u16();
            let taken = route.takes(&method) && !matches!(route.endpoint, Endpoint::Disabled(_));
            let right = match standing {
                Standing::Unknown => status == 401,
                Standing::May(subresource) if root.subresources.contains(subresource) => {
                    if taken {
                        ![401, 403, 404, 405].contains(&status)
                    } else {
                        status == 405
                    }
                }
                Standing::Known | Standing::May(_) => status == 403,
            };
            assert!(right, "{what}: {method} {path}: {status}");
            *seen.entry(status).or_default() += 1;
        }
    }
    assert_eq!(seen.values().sum::<usize>(), everything().count() * callers.len());
    assert!(seen[&401] > 0 && seen[&403] > 0 && seen[&200] > 0, "{seen:?}");
}
