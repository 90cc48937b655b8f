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
    /// A tensor whose values are JSON, or so many bytes of what follows the JSON.
    pub(super) fn read(
        name: &'a str,
        datatype: &str,
        shape: &[u64],
        data: Result<&'a RawValue, &'a [u8]>,
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
        let count = rows.checked_mul(width).and_then(|count| usize::try_from(count).ok());
        let count = count.ok_or_else(|| format!("tensor {name:?} has shape {shape:?}, which is too large"))?;
        let values = match data {
            Ok(json) => Values::Listed(listed(name, kind, json)?),
            Err(raw) if kind == Datatype::Bytes => Values::Texts(texts(name, raw)?),
            Err(raw) => fixed(name, kind, raw)?,
        };
        let found = match &values {
            Values::Listed(values) => values.len(),
            Values::Texts(values) => values.len(),
            Values::Fixed(_, size, raw) => raw.len() / size,
        };
        if found != count {
            return Err(format!("tensor {name:?} has {found} values, its shape {shape:?} has {count}"));
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

fn number(kind: Datatype, raw: &[u8]) -> Scalar<'static> {
    let mut wide = [0_u8; 8];
    wide[..raw.len()].copy_from_slice(raw);
    let unsigned = u64::from_le_bytes(wide);
    match kind {
        Datatype::Float(4) => Scalar::Float(f64::from(f32::from_bits(unsigned as u32))),
        Datatype::Float(_) => Scalar::Float(f64::from_bits(unsigned)),
        Datatype::Signed(size) => {
            let unused = 64 - 8 * size as u32;
            Scalar::Integer((unsigned << unused).cast_signed() >> unused)
        }
        Datatype::Bool => Scalar::Bool(unsigned != 0),
        Datatype::Unsigned(_) | Datatype::Bytes => Scalar::Unsigned(unsigned),
    }
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

/// Texts, each behind its length as 32 bits, little-endian.
fn texts<'a>(name: &str, mut raw: &'a [u8]) -> Result<Vec<&'a str>, String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = raw.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let text = rest.get(..length).ok_or_else(|| format!("tensor {name:?} ends within a value"))?;
        texts.push(std::str::from_utf8(text).map_err(|_| format!("tensor {name:?} has a value that is not UTF-8"))?);
        raw = &rest[length..];
    }
    if raw.is_empty() { Ok(texts) } else { Err(format!("tensor {name:?} ends within a length")) }
}

fn listed<'a>(name: &str, kind: Datatype, json: &'a RawValue) -> Result<Vec<Scalar<'a>>, String> {
    let mut values = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(json.get());
    let read = List { values: &mut values, depth: 0 }.deserialize(&mut reader);
    read.map_err(|error| format!("the data of tensor {name:?}: {error}"))?;
    match values.iter().find(|value| !kind.takes(value)) {
        None => Ok(values),
        Some(value) => Err(format!("tensor {name:?} has the value {value:?}, which is not of its datatype")),
    }
}

/// A list of values, or of lists of them.
struct List<'v, 'a> {
    values: &'v mut Vec<Scalar<'a>>,
    depth: usize,
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
        let Self { values, depth } = self;
        if depth >= DEPTH_MAX {
            return Err(de::Error::custom("lists are nested too deep"));
        }
        while list.next_element_seed(List { values, depth: depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'a str) -> Result<(), E> {
        self.values.push(Scalar::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.values.push(Scalar::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.values.push(Scalar::Integer(value));
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.values.push(Scalar::Unsigned(value));
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.values.push(Scalar::Float(value));
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.values.push(Scalar::Bool(value));
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.values.push(Scalar::Missing);
        Ok(())
    }
}
