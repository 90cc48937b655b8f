//! The safetensors form of a version's weights. Written by ourselves, since the file must be a function of the weights
//! down to its bytes; read back by the `safetensors` crate, here and in Python.
//!
//! Layout: length of the header (u64, little-endian), header (JSON, padded with spaces to 8 bytes), data. All tensors
//! are little-endian; the ids begin at a multiple of 8 bytes, reals of 32 bits at a multiple of 4 where none of 16 come first.

use std::fmt::Write;

use half::f16;

/// A tensor to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tensor<'w> {
    /// 32-bit reals.
    F32(&'w [f32]),
    /// Reals in 16 bits, which are exact: they were rounded before.
    F16(&'w [f32]),
    /// 64-bit unsigned integers.
    U64(&'w [u64]),
}

impl Tensor<'_> {
    /// Number of bytes.
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => 4 * values.len(),
            Self::F16(values) => 2 * values.len(),
            Self::U64(values) => 8 * values.len(),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::F32(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
            Self::F16(values) => bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
            Self::U64(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
        }
    }

    fn dtype(&self) -> &'static str {
        match self {
            Self::F32(_) => "F32",
            Self::F16(_) => "F16",
            Self::U64(_) => "U64",
        }
    }
}

/// The bytes of a file with these tensors, in this order, each with its shape.
pub fn write(tensors: &[(String, Vec<usize>, Tensor<'_>)]) -> Vec<u8> {
    let mut header = String::from("{\"__metadata__\":{\"format\":\"deepfm-stream\"}");
    let mut offset = 0;
    for (name, shape, tensor) in tensors {
        let end = offset + tensor.len();
        let dtype = tensor.dtype();
        write!(header, ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{offset},{end}]}}")
            .expect("writing to a string cannot fail");
        offset = end;
    }
    header.push('}');
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = Vec::with_capacity(8 + header.len() + offset);
    bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    for (_, _, tensor) in tensors {
        tensor.write(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_the_safetensors_crate() {
        let tensors = [
            ("feature_ids".to_owned(), vec![2], Tensor::U64(&[7, u64::MAX])),
            ("linear".to_owned(), vec![2], Tensor::F32(&[0.5, -1.0])),
            ("half".to_owned(), vec![2], Tensor::F16(&[0.5, -65504.0])),
            ("empty".to_owned(), vec![0, 3], Tensor::F32(&[])),
        ];
        let bytes = write(&tensors);
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("it is well formed");
        assert_eq!(read.len(), 4);
        assert_eq!(read.tensor("half").expect("it was written").data(), [0x00, 0x38, 0xff, 0xfb]);
        for (name, shape, tensor) in &tensors {
            let view = read.tensor(name).expect("it was written");
            let mut expected = Vec::new();
            tensor.write(&mut expected);
            assert_eq!((view.shape(), view.data()), (shape.as_slice(), &*expected), "{name}");
        }
        assert_eq!(write(&tensors), bytes);
    }
}
