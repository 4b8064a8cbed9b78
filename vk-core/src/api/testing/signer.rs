//! A cluster that signs serving certificates as a script says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Json;
use base64::Engine as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::pki::Ca;
use crate::clock::Clock;

/// What somebody does with the next request.
#[derive(Clone, Copy)]
pub(in crate::api) enum Deed {
    /// Grants it after so many looks, for a life of so many seconds from a minute ago.
    Grant(usize, i64),
    Deny,
    /// Leaves it alone.
    Ignore,
    /// Deletes it.
    Delete,
    /// Does not even take it.
    Refuse,
}

/// A cluster in which requests are dealt with by a script.
pub(in crate::api) struct Cluster {
    pub(in crate::api) ca: Ca,
    pub(in crate::api) clock: Clock,
    deeds: Mutex<VecDeque<Deed>>,
    /// Requests with their looks.
    pub(in crate::api) requests: Mutex<Vec<(Deed, Value, usize)>>,
}

impl Cluster {
    pub(in crate::api) fn new(clock: &Clock, deeds: &[Deed]) -> Arc<Self> {
        let deeds = Mutex::new(deeds.iter().copied().collect());
        Arc::new(Self { ca: Ca::new("cluster"), clock: clock.clone(), deeds, requests: Mutex::default() })
    }

    pub(in crate::api) fn client(self: &Arc<Self>) -> kube::Client {
        let cluster = Arc::clone(self);
        let service = axum::Router::new().fallback(move |request: axum::extract::Request| async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            cluster.answer(&parts, &body)
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, parts: &http::request::Parts, body: &[u8]) -> (http::StatusCode, Json<Value>) {
        const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let mut requests = self.requests.lock().unwrap();
        let status = |code: u16, reason: &str| {
            let status = json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason });
            (http::StatusCode::from_u16(code).unwrap(), Json(status))
        };
        if parts.method == http::Method::POST {
            assert_eq!(parts.uri.path(), PATH);
            let deed = self.deeds.lock().unwrap().pop_front().unwrap_or(Deed::Ignore);
            let mut object: Value = serde_json::from_slice(body).unwrap();
            object["metadata"]["name"] = format!("csr-{}", requests.len()).into();
            requests.push((deed, object.clone(), 0));
            if matches!(deed, Deed::Refuse) {
                return status(403, "Forbidden");
            }
            return (http::StatusCode::CREATED, Json(object));
        }
        let index: usize = parts.uri.path().strip_prefix(&format!("{PATH}/csr-")).unwrap().parse().unwrap();
        let (deed, object, looks) = &mut requests[index];
        *looks += 1;
        let mut object = object.clone();
        let condition =
            |kind: &str| json!([{ "type": kind, "status": "True", "reason": "By", "message": "script" }]);
        match *deed {
            Deed::Grant(after, life) if *looks > after => {
                let request = base64::engine::general_purpose::STANDARD
                    .decode(object["spec"]["request"].as_str().unwrap())
                    .unwrap();
                let from = self.clock.now().checked_sub(jiff::SignedDuration::from_secs(60)).unwrap();
                let until = from.checked_add(jiff::SignedDuration::from_secs(life)).unwrap();
                let pem = self.ca.grant(std::str::from_utf8(&request).unwrap(), from, until);
                object["status"] = json!({
                    "conditions": condition("Approved"),
                    "certificate": base64::engine::general_purpose::STANDARD.encode(pem),
                });
            }
            Deed::Deny => object["status"] = json!({ "conditions": condition("Denied") }),
            Deed::Delete => return status(404, "NotFound"),
            Deed::Grant(..) | Deed::Ignore | Deed::Refuse => {}
        }
        (http::StatusCode::OK, Json(object))
    }

    pub(in crate::api) fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}
