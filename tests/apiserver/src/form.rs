//! How the client wants objects: whole, their metadata only, or as rows for people.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::events;
use crate::request::Query;
use crate::resources::Resource;
use crate::store::{Object, bare_json};
use crate::table::{self, Include};

/// The form of the objects in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Metadata,
    Table(Include),
}

impl Form {
    /// Takes the first acceptable form of the `Accept` header.
    pub(crate) fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        for offer in accept.split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            if !matches!(media, "application/json" | "*/*" | "application/*" | "") {
                continue;
            }
            let kind = parts.find_map(|p| p.strip_prefix("as="));
            match kind {
                None => return Ok(Self::Object),
                Some("Table") => return Ok(Self::Table(Include::parse(query.get("includeObject"))?)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Self::Metadata),
                Some(_) => {}
            }
        }
        Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io",
        ))
    }

    /// One object.
    pub(crate) fn one(self, resource: &Resource, object: &Arc<Object>, now: Timestamp) -> Bytes {
        match self {
            Self::Object => match events::view(resource, object) {
                Some(view) => view.to_string().into(),
                None => object.json(),
            },
            Self::Metadata => metadata_of(object).to_string().into(),
            Self::Table(include) => {
                let revision = json!({"resourceVersion": object.revision()});
                table::render(resource, std::slice::from_ref(object), include, &revision, now)
                    .to_string()
                    .into()
            }
        }
    }

    /// A list of objects.
    pub(crate) fn list(
        self,
        resource: &Resource,
        items: &[Arc<Object>],
        metadata: &Value,
        now: Timestamp,
    ) -> Bytes {
        match self {
            Self::Object => whole_list(resource, items, metadata),
            Self::Metadata => {
                let items: Vec<Value> = items.iter().map(|o| metadata_of(o)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                       "metadata": metadata, "items": items})
                .to_string()
                .into()
            }
            Self::Table(include) => table::render(resource, items, include, metadata, now).to_string().into(),
        }
    }
}

fn whole_list(resource: &Resource, items: &[Arc<Object>], metadata: &Value) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        resource.kind,
        resource.api_version()
    );
    let mut out = BytesMut::with_capacity(head.len() + items.len() * 2048 + 2);
    out.extend_from_slice(head.as_bytes());
    for (at, object) in items.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b",");
        }
        match events::view(resource, object) {
            Some(view) => out.extend_from_slice(bare_json(&view).as_bytes()),
            None => out.extend_from_slice(object.bare_json()),
        }
    }
    out.extend_from_slice(b"]}");
    out.freeze()
}

fn metadata_of(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
