//! Messages to bytes and back. Before a request is decoded its pieces are counted: an empty tensor takes two bytes of a request
//! and a hundred times as many in memory, so that the bound on bytes alone bounds nothing.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The most tensors, outputs and parameters of a request, together.
const PARTS_MAX: usize = 8192;

/// The most values of a request that are texts of their own.
const TEXTS_MAX: usize = 1 << 20;

/// The numbers of the fields within which is counted: the inputs of a request, and the contents of an input.
const INPUTS: u64 = 5;
const CONTENTS: u64 = 5;

/// Reads an `A`, writes a `B`.
pub(super) struct Bounded<A, B>(PhantomData<fn(A) -> B>);

impl<A, B> Default for Bounded<A, B> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A: Message + Default + 'static, B: Message + 'static> Codec for Bounded<A, B> {
    type Encode = B;
    type Decode = A;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<A, B: Message> Encoder for Bounded<A, B> {
    type Item = B;
    type Error = Status;

    fn encode(&mut self, message: B, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<A: Message + Default, B> Decoder for Bounded<A, B> {
    type Item = A;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        check(from.chunk())?;
        let read = A::decode(from).map_err(|error| Status::invalid_argument(format!("the request: {error}")))?;
        Ok(Some(read))
    }
}

/// Whether a message has no more pieces than are taken. What is no message is left to who decodes it.
fn check(message: &[u8]) -> Result<(), Status> {
    let (mut parts, mut texts) = (0, 0);
    for (number, input) in Pieces(message) {
        parts += 1;
        for (number, contents) in Pieces(input).filter(|_| number == INPUTS) {
            if number == CONTENTS {
                texts += Pieces(contents).take(TEXTS_MAX + 1).count();
            } else {
                parts += 1;
            }
            if texts > TEXTS_MAX {
                return Err(Status::invalid_argument(format!("the request has more than {TEXTS_MAX} texts")));
            }
        }
        if parts > PARTS_MAX {
            let said = format!("the request has more than {PARTS_MAX} inputs, outputs and parameters");
            return Err(Status::invalid_argument(said));
        }
    }
    Ok(())
}

/// The fields of a message that have a length, with their numbers; up to where it is none.
struct Pieces<'m>(&'m [u8]);

impl Pieces<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'m> Iterator for Pieces<'m> {
    type Item = (u64, &'m [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            let length = match key & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => 8,
                2 => usize::try_from(self.varint()?).ok()?,
                5 => 4,
                // A group, which nobody writes any more, has no length.
                _ => return None,
            };
            let (piece, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            if key & 7 == 2 {
                return Some((key >> 3, piece));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::bytes::Bytes;

    use super::super::messages::{InferInputTensor, ModelInferRequest, TensorContents};
    use super::*;

    fn with(inputs: usize, texts: usize) -> Vec<u8> {
        let contents = TensorContents { texts: vec![Bytes::new(); texts], ..TensorContents::default() };
        let input = InferInputTensor { contents: (texts > 0).then_some(contents), ..InferInputTensor::default() };
        ModelInferRequest { inputs: vec![input; inputs], ..ModelInferRequest::default() }.encode_to_vec()
    }

    #[test]
    fn a_request_of_more_pieces_than_are_taken_is_refused_before_it_is_decoded() {
        for (inputs, texts) in [(PARTS_MAX, 0), (1, TEXTS_MAX), (4, TEXTS_MAX / 4)] {
            assert!(check(&with(inputs, texts)).is_ok(), "{inputs} {texts}");
        }
        for (inputs, texts) in [(PARTS_MAX + 1, 0), (1, TEXTS_MAX + 1), (5, TEXTS_MAX / 4)] {
            let refused = check(&with(inputs, texts)).expect_err("it is too much");
            assert!(refused.message().contains("more than"), "{refused}");
        }
        let raw =
            ModelInferRequest { raw_input_contents: vec![Bytes::new(); PARTS_MAX + 1], ..ModelInferRequest::default() };
        check(&raw.encode_to_vec()).expect_err("it is too much");
    }

    #[test]
    fn whatever_the_bytes_are_counting_comes_to_an_end() {
        let whole = with(3, 3);
        for end in 0..whole.len() {
            check(&whole[..end]).expect("it is little");
            for byte in [0x00, 0x03, 0x0f, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[end] = byte;
                check(&damaged).expect("it is little");
            }
        }
        check(&[0xff; 100]).expect("it is little");
    }
}
