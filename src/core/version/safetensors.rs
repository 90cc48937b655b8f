//! The safetensors form of a version's weights. Written by ourselves, since the file must be a function of the weights
//! down to its bytes; read back by the `safetensors` crate, here and in Python.
//!
//! Layout: length of the header (u64, little-endian), header (JSON, padded with spaces to 8 bytes), data. All tensors
//! are little-endian and begin at a multiple of 4 bytes, `feature_ids` at a multiple of 8.

use std::fmt::Write;

/// A tensor to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tensor<'w> {
    /// 32-bit reals.
    F32(&'w [f32]),
    /// 64-bit unsigned integers.
    U64(&'w [u64]),
}

impl Tensor<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::U64(values) => bytemuck::cast_slice(values),
        }
    }

    fn dtype(&self) -> &'static str {
        match self {
            Self::F32(_) => "F32",
            Self::U64(_) => "U64",
        }
    }
}

/// The bytes of a file with these tensors, in this order, each with its shape.
pub fn write(tensors: &[(String, Vec<usize>, Tensor<'_>)]) -> Vec<u8> {
    let mut header = String::from("{\"__metadata__\":{\"format\":\"deepfm-stream\"}");
    let mut offset = 0;
    for (name, shape, tensor) in tensors {
        let end = offset + tensor.bytes().len();
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
        bytes.extend_from_slice(tensor.bytes());
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
            ("empty".to_owned(), vec![0, 3], Tensor::F32(&[])),
        ];
        let bytes = write(&tensors);
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("it is well formed");
        assert_eq!(read.len(), 3);
        for (name, shape, tensor) in &tensors {
            let view = read.tensor(name).expect("it was written");
            assert_eq!((view.shape(), view.data()), (shape.as_slice(), tensor.bytes()), "{name}");
        }
        assert_eq!(write(&tensors), bytes);
    }
}
