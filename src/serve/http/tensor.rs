//! Input tensors, as JSON or as the binary extension has them: `[N]` or `[N, k]`, values in row-major order.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{
    BoolDeserializer, F64Deserializer, I64Deserializer, StrDeserializer, U64Deserializer, UnitDeserializer,
};
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use deepfm_core::feature::encoder::{Encoder, Encoding, Misfit};

/// How deep lists of values may be nested: rows of values.
const DEPTH_MAX: usize = 2;

/// A value of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    Missing,
}

/// What values a tensor has, by the protocol's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datatype {
    Bytes,
    Bool,
    Signed(usize),
    Unsigned(usize),
    Float(usize),
}

impl Datatype {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "BYTES" => Self::Bytes,
            "BOOL" => Self::Bool,
            "INT8" => Self::Signed(1),
            "INT16" => Self::Signed(2),
            "INT32" => Self::Signed(4),
            "INT64" => Self::Signed(8),
            "UINT8" => Self::Unsigned(1),
            "UINT16" => Self::Unsigned(2),
            "UINT32" => Self::Unsigned(4),
            "UINT64" => Self::Unsigned(8),
            "FP32" => Self::Float(4),
            "FP64" => Self::Float(8),
            _ => return None,
        })
    }

    fn takes(self, value: &Scalar<'_>) -> bool {
        match value {
            Scalar::Missing => true,
            Scalar::Text(_) => self == Self::Bytes,
            Scalar::Bool(_) => self == Self::Bool,
            Scalar::Float(_) => matches!(self, Self::Float(_)),
            Scalar::Integer(_) => matches!(self, Self::Signed(_) | Self::Float(_)),
            Scalar::Unsigned(_) => matches!(self, Self::Signed(_) | Self::Unsigned(_) | Self::Float(_)),
        }
    }
}

/// Values as a request has them.
pub(super) enum Data<'a> {
    /// As JSON.
    Json(&'a RawValue),
    /// As the binary extension has them.
    Raw(&'a [u8]),
    /// One after the other, so many.
    #[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "only gRPC gives values in lists of their type"))]
    Typed(usize, Box<dyn Iterator<Item = Result<Scalar<'a>, String>> + 'a>),
}

/// Where the values are.
#[derive(Clone, Debug)]
enum Values<'a> {
    Listed(Vec<Scalar<'a>>),
    Texts(Vec<&'a str>),
    Fixed(Datatype, usize, &'a [u8]),
}

/// A tensor of rows.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) rows: usize,
    pub(super) width: usize,
    values: Values<'a>,
}

impl<'a> Tensor<'a> {
    /// A tensor of a request; none of its values is collected before their number is known to be right or bounded.
    pub(super) fn read(
        name: &'a str,
        datatype: &str,
        shape: &[u64],
        data: Data<'a>,
        rows_max: usize,
    ) -> Result<Self, String> {
        let kind = Datatype::of(datatype)
            .ok_or_else(|| format!("tensor {name:?} has datatype {datatype:?}, which is not taken"))?;
        let (rows, width) = match shape {
            [rows] => (*rows, 1),
            [rows, width] => (*rows, *width),
            _ => return Err(format!("tensor {name:?} has shape {shape:?}, not [N] or [N, k]")),
        };
        if rows > rows_max as u64 {
            return Err(format!("tensor {name:?} has {rows} rows, more than {rows_max}"));
        }
        if width == 0 {
            return Err(format!("tensor {name:?} has shape {shape:?}, which has no values"));
        }
        let count = rows.checked_mul(width).and_then(|count| usize::try_from(count).ok());
        let count = count.ok_or_else(|| format!("tensor {name:?} has shape {shape:?}, which is too large"))?;
        let values = match data {
            Data::Json(json) => Values::Listed(listed(name, kind, json, count)?),
            Data::Raw(raw) if kind == Datatype::Bytes => Values::Texts(texts(name, raw, count)?),
            Data::Raw(raw) => fixed(name, kind, raw)?,
            Data::Typed(found, values) if found == count => Values::Listed(typed(name, kind, values)?),
            Data::Typed(found, _) => return Err(miscounted(name, found, shape, count)),
        };
        let found = match &values {
            Values::Listed(values) => values.len(),
            Values::Texts(values) => values.len(),
            Values::Fixed(_, size, raw) => raw.len() / size,
        };
        if found != count {
            return Err(miscounted(name, found, shape, count));
        }
        Ok(Self { name, rows: rows as usize, width: width as usize, values })
    }

    /// A value, by its place in row-major order.
    pub(super) fn value(&self, at: usize) -> Scalar<'_> {
        match &self.values {
            Values::Listed(values) => match &values[at] {
                Scalar::Text(text) => Scalar::Text(Cow::Borrowed(text)),
                other => other.clone(),
            },
            Values::Texts(values) => Scalar::Text(Cow::Borrowed(values[at])),
            Values::Fixed(kind, size, raw) => number(*kind, &raw[at * size..][..*size]),
        }
    }

    /// The text of a value; `None` for a value that is none.
    pub(super) fn text(&self, at: usize) -> Option<&str> {
        match &self.values {
            Values::Listed(values) => match &values[at] {
                Scalar::Text(text) => Some(text),
                _ => None,
            },
            Values::Texts(values) => Some(values[at]),
            Values::Fixed(..) => None,
        }
    }

    /// Encodes a row's values as those of a field. A text that is empty is no value.
    pub(super) fn encode(
        &self,
        row: usize,
        field: u16,
        encoder: &Encoder,
        encoding: &mut Encoding,
    ) -> Result<(), Misfit> {
        for at in row * self.width..(row + 1) * self.width {
            match self.value(at) {
                Scalar::Text(text) => {
                    encoder.encode_value(field, StrDeserializer::<de::value::Error>::new(&text), encoding)?;
                }
                Scalar::Integer(value) => {
                    encoder.encode_value(field, I64Deserializer::<de::value::Error>::new(value), encoding)?;
                }
                Scalar::Unsigned(value) => {
                    encoder.encode_value(field, U64Deserializer::<de::value::Error>::new(value), encoding)?;
                }
                Scalar::Float(value) if !value.is_finite() => {
                    return Err(Misfit::Malformed(format!("{:?} has a value that is not finite", self.name)));
                }
                Scalar::Float(value) => {
                    encoder.encode_value(field, F64Deserializer::<de::value::Error>::new(value), encoding)?;
                }
                Scalar::Bool(value) => {
                    encoder.encode_value(field, BoolDeserializer::<de::value::Error>::new(value), encoding)?;
                }
                Scalar::Missing => {
                    encoder.encode_value(field, UnitDeserializer::<de::value::Error>::new(), encoding)?;
                }
            }
        }
        Ok(())
    }
}

fn miscounted(name: &str, found: usize, shape: &[u64], count: usize) -> String {
    format!("tensor {name:?} has {found} values, its shape {shape:?} has {count}")
}

/// Values of one type, each of which the datatype must take.
fn typed<'a>(
    name: &str,
    kind: Datatype,
    values: impl Iterator<Item = Result<Scalar<'a>, String>>,
) -> Result<Vec<Scalar<'a>>, String> {
    let take = |value: Result<Scalar<'a>, String>| {
        let value = value?;
        if kind.takes(&value) { Ok(value) } else { Err(misfit(name, &value)) }
    };
    values.map(take).collect()
}

fn misfit(name: &str, value: &Scalar<'_>) -> String {
    format!("tensor {name:?} has the value {value:?}, which is not of its datatype")
}

fn number(kind: Datatype, raw: &[u8]) -> Scalar<'static> {
    let mut wide = [0_u8; 8];
    wide[..raw.len()].copy_from_slice(raw);
    let unsigned = u64::from_le_bytes(wide);
    match kind {
        Datatype::Float(4) => Scalar::Float(shortest(f32::from_bits(unsigned as u32))),
        Datatype::Float(_) => Scalar::Float(f64::from_bits(unsigned)),
        Datatype::Signed(size) => {
            let unused = 64 - 8 * size as u32;
            Scalar::Integer((unsigned << unused).cast_signed() >> unused)
        }
        Datatype::Bool => Scalar::Bool(unsigned != 0),
        Datatype::Unsigned(_) | Datatype::Bytes => Scalar::Unsigned(unsigned),
    }
}

/// The number that is written as a value is: 0.7 in 32 bits is 0.7, as it is in JSON and in events.
pub(super) fn shortest(value: f32) -> f64 {
    if value.is_finite() { value.to_string().parse().unwrap_or_else(|_| f64::from(value)) } else { f64::from(value) }
}

fn fixed<'a>(name: &str, kind: Datatype, raw: &'a [u8]) -> Result<Values<'a>, String> {
    let size = match kind {
        Datatype::Signed(size) | Datatype::Unsigned(size) | Datatype::Float(size) => size,
        Datatype::Bool | Datatype::Bytes => 1,
    };
    if raw.len().is_multiple_of(size) {
        return Ok(Values::Fixed(kind, size, raw));
    }
    Err(format!("tensor {name:?} has {} bytes, which are no values of {size} bytes", raw.len()))
}

/// Texts, each behind its length as 32 bits, little-endian; so many at most.
fn texts<'a>(name: &str, mut raw: &'a [u8], count: usize) -> Result<Vec<&'a str>, String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = raw.split_first_chunk::<4>() {
        if texts.len() == count {
            return Err(format!("tensor {name:?} has more values than the {count} of its shape"));
        }
        let length = u32::from_le_bytes(*length) as usize;
        let text = rest.get(..length).ok_or_else(|| format!("tensor {name:?} ends within a value"))?;
        texts.push(std::str::from_utf8(text).map_err(|_| format!("tensor {name:?} has a value that is not UTF-8"))?);
        raw = &rest[length..];
    }
    if raw.is_empty() { Ok(texts) } else { Err(format!("tensor {name:?} ends within a length")) }
}

/// Values of JSON; so many at most, since one takes more memory than text.
fn listed<'a>(name: &str, kind: Datatype, json: &'a RawValue, count: usize) -> Result<Vec<Scalar<'a>>, String> {
    let mut values = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(json.get());
    let read = List { values: &mut values, count, depth: 0 }.deserialize(&mut reader);
    read.map_err(|error| format!("the data of tensor {name:?}: {error}"))?;
    match values.iter().find(|value| !kind.takes(value)) {
        None => Ok(values),
        Some(value) => Err(misfit(name, value)),
    }
}

/// A list of values, or of lists of them.
struct List<'v, 'a> {
    values: &'v mut Vec<Scalar<'a>>,
    /// The most values.
    count: usize,
    depth: usize,
}

impl<'a> List<'_, 'a> {
    fn push<E: de::Error>(self, value: Scalar<'a>) -> Result<(), E> {
        if self.values.len() == self.count {
            return Err(E::custom(format_args!("more values than the {} of its shape", self.count)));
        }
        self.values.push(value);
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for List<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth == 0 { deserializer.deserialize_seq(self) } else { deserializer.deserialize_any(self) }
    }
}

impl<'a> Visitor<'a> for List<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of values, flat or by rows")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { values, count, depth } = self;
        if depth >= DEPTH_MAX {
            return Err(de::Error::custom("lists are nested too deep"));
        }
        while list.next_element_seed(List { values, count, depth: depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'a str) -> Result<(), E> {
        self.push(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.push(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.push(Scalar::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.push(Scalar::Unsigned(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.push(Scalar::Float(value))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.push(Scalar::Bool(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.push(Scalar::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_32_bits_is_the_one_that_it_is_written_as() {
        let bits = |value: f32| number(Datatype::Float(4), &value.to_le_bytes());
        for (value, expected) in
            [(0.7, 0.7), (-0.1, -0.1), (1e30, 1e30), (f32::MIN_POSITIVE, 1.175_494_4e-38), (3.0, 3.0)]
        {
            assert_eq!(bits(value), Scalar::Float(expected));
        }
        assert!(matches!(bits(f32::NAN), Scalar::Float(value) if value.is_nan()));
        assert_eq!(bits(f32::INFINITY), Scalar::Float(f64::INFINITY));
    }

    #[test]
    fn values_beyond_the_shape_are_never_collected() {
        let json: &RawValue = serde_json::from_str(r#"[["a","b"],["c", {}]]"#).expect("it is JSON");
        // The fourth is no value, but nobody comes to it.
        let refused = listed("tags", Datatype::Bytes, json, 2).expect_err("there are more");
        assert!(refused.contains("more values than the 2 of its shape"), "{refused}");
        let raw = [&[1, 0, 0, 0, b'a'][..], &[1, 0, 0, 0, 0xff]].concat();
        let refused = texts("tags", &raw, 1).expect_err("there are more");
        assert!(refused.contains("more values than the 1 of its shape"), "{refused}");
    }
}
