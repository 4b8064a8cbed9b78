//! Holding a conversation with one server.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body as ClientBody;
use serde_json::{Value, json};
use vk_scenarios::eventually;

use crate::case::{Body, CONFIG_MAPS, Case, NAMESPACES, NODES, PARKED, Step, get, post, set};
use crate::normal::Names;

/// What a server said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// JSON, or a list of a watch's events, or text.
    pub(crate) body: Value,
    /// `Content-Type`, `Warning` and `Retry-After`.
    pub(crate) headers: Value,
}

impl Answer {
    /// As one document, to be compared.
    pub(crate) fn into_value(self) -> Value {
        json!({"code": self.code, "body": self.body, "headers": self.headers})
    }
}

/// Longer than any answer takes; a watch that tells less than it should ends here.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer larger than this is a mistake.
const LIMIT: usize = 16 * 1024 * 1024;

/// Asks everything in a new namespace, and returns the answers, normalised.
pub(crate) async fn hold(client: kube::Client, namespace: &str, case: &Case) -> Vec<Value> {
    let speaker = Speaker { client, namespace: namespace.to_owned() };
    speaker.settle().await;
    let mut names = Names::default();
    let (mut answers, mut normal) = (Vec::new(), Vec::new());
    for (number, step) in case.steps.iter().enumerate() {
        let answer = speaker.answer(step, &answers, &format!("{}: step {}", case.name, number + 1)).await;
        normal.push(names.normalise(answer.clone()).into_value());
        answers.push(answer.body);
    }
    // Best effort: whatever is left goes with the cluster.
    let _ = speaker.ask(&crate::case::delete(format!("{NAMESPACES}/{{ns}}"), Value::Null), &[]).await;
    normal
}

/// Makes the node of bound pods, unless it is there.
pub(crate) async fn park(client: &kube::Client) {
    let speaker = Speaker { client: client.clone(), namespace: String::new() };
    let made = speaker.ask(&post(NODES, json!({"metadata": {"name": PARKED}})), &[]).await;
    assert!(matches!(made.code, 201 | 409), "{:?}", made.body);
}

struct Speaker {
    client: kube::Client,
    namespace: String,
}

impl Speaker {
    /// Makes the namespace, and waits for what controllers put into it.
    async fn settle(&self) {
        let made = self.ask(&post(NAMESPACES, json!({"metadata": {"name": "{ns}"}})), &[]).await;
        assert_eq!(made.code, 201, "{:?}", made.body);
        for path in [format!("{}/default", crate::case::ACCOUNTS), format!("{CONFIG_MAPS}/kube-root-ca.crt")]
        {
            eventually(&path, async || {
                let answer = self.ask(&get(path.clone()), &[]).await;
                if answer.code == 200 { Ok(()) } else { Err(answer.body) }
            })
            .await;
        }
    }

    async fn answer(&self, step: &Step, before: &[Value], what: &str) -> Answer {
        let Some((pointer, value)) = &step.until else { return self.ask(step, before).await };
        eventually(what, async || {
            let answer = self.ask(step, before).await;
            if answer.body.pointer(pointer) == Some(value) { Ok(answer) } else { Err(answer) }
        })
        .await
    }

    async fn ask(&self, step: &Step, before: &[Value]) -> Answer {
        let mut request = Request::builder().method(step.method.clone()).uri(self.filled(&step.path, before));
        for (name, value) in &step.headers {
            request = request.header(*name, value);
        }
        let body = self.body(&step.body, before);
        let request = request.body(ClientBody::from(body)).expect("a request");
        let answer = tokio::time::timeout(PATIENCE, self.exchange(request, step.events)).await;
        answer.unwrap_or_else(|_| panic!("{} {}: no answer within {PATIENCE:?}", step.method, step.path))
    }

    async fn exchange(&self, request: Request<ClientBody>, events: Option<usize>) -> Answer {
        let response = self.client.send(request).await.expect("the server answers");
        let (parts, body) = response.into_parts();
        let mut headers = json!({});
        for name in [header::CONTENT_TYPE, header::WARNING, header::RETRY_AFTER] {
            let values: Vec<_> =
                parts.headers.get_all(&name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
            if !values.is_empty() {
                headers[name.as_str()] = json!(values);
            }
        }
        let body = if let Some(events) = events.filter(|_| parts.status == StatusCode::OK) {
            Value::Array(read_events(body, events).await)
        } else {
            let bytes = Limited::new(body, LIMIT).collect().await.expect("a whole answer").to_bytes();
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into())
        };
        Answer { code: parts.status.as_u16(), body, headers }
    }

    fn body(&self, body: &Body, before: &[Value]) -> Vec<u8> {
        match body {
            Body::Empty => Vec::new(),
            Body::Text(text) => self.filled(text, before).into_bytes(),
            Body::Json(value) => {
                let mut value = value.clone();
                self.fill(&mut value, before);
                value.to_string().into_bytes()
            }
            Body::Edited(answer, edits) => {
                let mut value = before[answer - 1].clone();
                for (pointer, edit) in edits {
                    let mut edit = edit.clone();
                    self.fill(&mut edit, before);
                    set(&mut value, pointer, edit);
                }
                value.to_string().into_bytes()
            }
        }
    }

    /// Fills in the placeholders of every text in a value.
    fn fill(&self, value: &mut Value, before: &[Value]) {
        match value {
            Value::String(text) => *text = self.filled(text, before),
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill(item, before)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.fill(field, before)),
            _ => {}
        }
    }

    fn filled(&self, text: &str, before: &[Value]) -> String {
        let mut filled = text.replace("{ns}", &self.namespace);
        for (number, answer) in before.iter().enumerate() {
            let open = format!("{{{}:", number + 1);
            while let Some(start) = filled.find(&open) {
                let end = start + filled[start..].find('}').expect("a placeholder ends");
                let pointer = &filled[start + open.len()..end];
                let value = match answer.pointer(pointer) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    // The servers differ in an earlier answer, which is reported; this one will say so too.
                    None => "missing".to_owned(),
                };
                filled.replace_range(start..=end, &value);
            }
        }
        filled
    }
}

/// Reads so many events, or all there are if the watch ends before.
async fn read_events(mut body: ClientBody, events: usize) -> Vec<Value> {
    let (mut buffer, mut read) = (Vec::new(), Vec::new());
    while read.len() < events {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame.expect("a watch ends without an error").into_data() {
            buffer.extend_from_slice(&data);
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            read.push(serde_json::from_slice(&line).expect("an event is a line of JSON"));
        }
    }
    read.truncate(events);
    read
}
