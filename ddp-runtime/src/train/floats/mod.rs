//! Values of a program as JSON, with the numbers that JSON lacks: a NaN is the string `"NaN"`, an infinite number `"inf"` or
//! `"-inf"`, as in `metrics.jsonl`. A list next to the values names the strings that represent numbers.

use std::fmt;
use std::vec;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{Error, Value};

/// A value, and where strings in it represent numbers (JSON pointers).
pub(crate) type Encoded = (Value, Vec<String>);

/// `value` as JSON.
pub(crate) fn encode(value: &(impl Serialize + ?Sized)) -> Result<Encoded, Error> {
    let mut json = serde_json::to_value(value)?;
    // Such a number becomes null.
    if !has_null(&json) {
        return Ok((json, Vec::new()));
    }
    let mut places = Vec::new();
    let mut bytes = Vec::new();
    let mut binary = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
    // What MessagePack can't hold, JSON has held.
    if value.serialize(&mut binary).is_ok() {
        let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes);
        Scan { path: String::new(), found: &mut places }.deserialize(&mut reader).map_err(Error::custom)?;
    }
    let mut pointers = Vec::with_capacity(places.len());
    for (pointer, number) in places {
        match json.pointer_mut(&pointer) {
            Some(place) if place.is_null() => *place = Value::String(number.to_string()),
            _ => return Err(Error::custom(format!("unexpected {number} at {pointer:?}"))),
        }
        pointers.push(pointer);
    }
    Ok((json, pointers))
}

/// What [`encode`] made JSON of.
pub(crate) fn decode<T: DeserializeOwned>(json: &Value, pointers: &[String]) -> Result<T, Error> {
    if pointers.is_empty() {
        return T::deserialize(json).map_err(|err| match has_null(json) {
            true => Error::custom(format!("{err}; older versions saved NaN and infinite numbers as null")),
            false => err,
        });
    }
    T::deserialize(Node::new(json, "", pointers))
}

fn has_null(json: &Value) -> bool {
    match json {
        Value::Null => true,
        Value::Array(values) => values.iter().any(has_null),
        Value::Object(values) => values.values().any(has_null),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Looks for numbers that are not finite.
struct Scan<'a> {
    path: String,
    found: &'a mut Vec<(String, f64)>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! skip {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E>(self, _: $kind) -> Result<(), E> { Ok(()) })*
    };
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    skip!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_str: &str, visit_bytes: &[u8]);

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        if !number.is_finite() {
            self.found.push((self.path, number));
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let mut index = 0;
        let next = |path: &str, index: usize| format!("{path}/{index}");
        while values.next_element_seed(Scan { path: next(&self.path, index), found: self.found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = values.next_key()? {
            values.next_value_seed(Scan { path: below(&self.path, &key), found: self.found })?;
        }
        Ok(())
    }
}

/// A key of a map, as JSON writes it.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(Key(key.to_owned()))
            }
            fn visit_bool<E>(self, key: bool) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
            fn visit_i64<E>(self, key: i64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
            fn visit_u64<E>(self, key: u64) -> Result<Key, E> {
                Ok(Key(key.to_string()))
            }
            fn visit_f64<E>(self, key: f64) -> Result<Key, E> {
                Ok(Key(serde_json::Number::from_f64(key).map(|key| key.to_string()).unwrap_or_default()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// JSON with numbers that are not finite somewhere in it.
enum Node {
    Number(f64),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
    /// Without such numbers.
    Plain(Value),
}

impl Node {
    fn new(json: &Value, path: &str, pointers: &[String]) -> Self {
        let is_here = pointers.iter().any(|pointer| pointer == path);
        let is_below =
            pointers.iter().any(|pointer| pointer.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        match json {
            Value::String(text) if is_here && let Ok(number) = text.parse() => Self::Number(number),
            Value::Array(values) if is_below => {
                let item = |(i, value)| Self::new(value, &format!("{path}/{i}"), pointers);
                Self::List(values.iter().enumerate().map(item).collect())
            }
            Value::Object(values) if is_below => {
                let item = |(key, value): (&String, _)| (key.clone(), Self::new(value, &below(path, key), pointers));
                Self::Map(values.iter().map(item).collect())
            }
            other => Self::Plain(other.clone()),
        }
    }
}

impl<'de> IntoDeserializer<'de, Error> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Number(number) => visitor.visit_f64(number),
            Self::Plain(json) => json.deserialize_any(visitor),
            Self::List(values) => {
                let mut values = SeqDeserializer::<vec::IntoIter<Self>, Error>::new(values.into_iter());
                let value = visitor.visit_seq(&mut values)?;
                values.end().map(|()| value)
            }
            Self::Map(values) => {
                let values = values.into_iter().map(|(key, value)| (TextKey(key), value));
                let mut values = MapDeserializer::<_, Error>::new(values);
                let value = visitor.visit_map(&mut values)?;
                values.end().map(|()| value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Plain(json) => json.deserialize_option(visitor),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Plain(json) => json.deserialize_enum(name, variants, visitor),
            Self::Map(mut values) if values.len() == 1 => {
                let (name, content) = values.remove(0);
                visitor.visit_enum(Variant { name, content })
            }
            _ => Err(Error::custom(format!("expected one variant of {name}"))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Variant {
    name: String,
    content: Node,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Node;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Node), Error> {
        Ok((seed.deserialize(self.name.into_deserializer())?, self.content))
    }
}

impl<'de> VariantAccess<'de> for Node {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(Error::custom("expected a variant without a value"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }
}

/// A key of an object, which may represent a number or a flag.
struct TextKey(String);

impl<'de> IntoDeserializer<'de, Error> for TextKey {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parse {
    ($($deserialize:ident $visit:ident)*) => {
        $(fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse() {
                Ok(key) => visitor.$visit(key),
                Err(_) => visitor.visit_string(self.0),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for TextKey {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    parse! {
        deserialize_bool visit_bool
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
        deserialize_i128 visit_i128
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        deserialize_u128 visit_u128
        deserialize_f32 visit_f32 deserialize_f64 visit_f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests;
