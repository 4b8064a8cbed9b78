//! A value that is read as what it is: where keys with their values are due, a list is no substitute.
//!
//! Derived types also take their fields from a list, one after the other. In a file that would give meaning to a
//! mistake: `log: [debug]` would set the level.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// A value of a file.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserializer<'de> for Strict {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self))),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Self(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(_) => Err(Self::Error::invalid_type(Unexpected::Seq, &"keys with their values")),
            other => Self(other).deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, serde_json::Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        name: String,
        port: Option<u16>,
        #[serde(default)]
        inner: Vec<Inner>,
        #[serde(default)]
        map: BTreeMap<String, bool>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        kind: Kind,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
    }

    #[test]
    fn what_is_right_is_read_and_a_list_is_not_taken_for_a_section_at_any_depth() {
        let read = |value: Value| Section::deserialize(Strict(value));
        let whole = json!({"name": "a", "port": 1, "inner": [{"kind": "one"}], "map": {"x": true}});
        let expected = Section {
            name: "a".to_owned(),
            port: Some(1),
            inner: vec![Inner { kind: Kind::One }],
            map: BTreeMap::from([("x".to_owned(), true)]),
        };
        assert_eq!(read(whole).unwrap(), expected);
        for list in [json!(["a", 1]), json!({"name": "a", "inner": [["one"]]})] {
            let error = read(list.clone()).expect_err("a list").to_string();
            assert_eq!(error, "invalid type: sequence, expected keys with their values", "{list}");
        }
        let error = read(json!({"name": "a", "port": 70_000})).unwrap_err().to_string();
        assert_eq!(error, "invalid value: integer `70000`, expected u16");
        let error = read(json!({"name": "a", "prot": 1})).unwrap_err().to_string();
        assert!(error.starts_with("unknown field `prot`, expected one of `name`"), "{error}");
    }
}
