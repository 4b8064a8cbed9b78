//! The shape of a pod's specification, found out from its types: they say by their own deserialization which fields
//! they have. So nothing here has to be kept in step with Kubernetes.

use k8s_openapi::api::core::v1::Pod;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as _, forward_to_deserialize_any};

use super::table::{Field, TABLE};

/// A pod that asks for that field of the [table](super::Field) and for nothing else but what leads to it. For tests of
/// providers. `None` if there is no such field.
#[must_use]
pub fn example(path: &str) -> Option<Pod> {
    let field = &TABLE.fields[TABLE.index(path)?];
    let steps: Vec<&str> = path.split('.').collect();
    Pod::deserialize(Maker { steps: &steps, field }).ok()
}

/// Makes values: the one member that is on the way, and then something that asks for what the field is about.
#[derive(Clone, Copy, Debug)]
struct Maker<'a> {
    steps: &'a [&'a str],
    field: &'a Field,
}

impl<'a> Maker<'a> {
    /// The name of the member to be made; at the end of the way there is none, and an object is empty.
    fn next(&self) -> Option<&'a str> {
        self.steps.first().map(|name| name.strip_suffix("[]").unwrap_or(name))
    }

    fn below(&self) -> Self {
        Self { steps: &self.steps[1..], field: self.field }
    }
}

/// What a string field is set to, unless the table knows this text as one that asks for nothing.
const TEXT: &str = "example";

impl<'de> Deserializer<'de> for Maker<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(TEXT)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(!self.field.idle.contains(&"true"))
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(7)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(7)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Members { maker: self, next: self.next() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Members { maker: self, next: Some(TEXT) })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements { maker: self, left: 1 })
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

struct Members<'a> {
    maker: Maker<'a>,
    next: Option<&'a str>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.next.take() else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let below = if self.maker.steps.is_empty() { self.maker } else { self.maker.below() };
        seed.deserialize(below)
    }
}

struct Elements<'a> {
    maker: Maker<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.maker).map(Some)
    }
}
