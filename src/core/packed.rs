//! Numbers packed into bytes as postcard packs them, and read back where this process packed them itself: what was packed
//! is read in the same order, and anything else is a mistake here, and panics. What comes from outside postcard reads.

/// Appends an unsigned number in as few bytes as it needs, seven bits each, the low ones first, with the eighth set where
/// more follow.
pub fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The same of a signed number: small ones of either sign are short.
pub fn put_signed(bytes: &mut Vec<u8>, value: i64) {
    put_varint(bytes, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

/// The bit that says that more bytes follow, in each byte of eight.
const MORE: u64 = 0x8080_8080_8080_8080;

/// The lowest 56 bits, seven in each byte.
#[inline]
const fn spread(value: u64) -> u64 {
    let halves = (value & 0x0FFF_FFFF) | (value & 0x00FF_FFFF_F000_0000) << 4;
    let quarters = (halves & 0x0000_3FFF_0000_3FFF) | (halves & 0x0FFF_C000_0FFF_C000) << 2;
    (quarters & 0x007F_007F_007F_007F) | (quarters & 0x3F80_3F80_3F80_3F80) << 1
}

/// Writes a number of [`put_varint`] to the front of a block; says how many bytes it has, at most ten.
#[inline]
pub fn write_varint(block: &mut [u8; 16], value: u64) -> usize {
    let length = (70 - (value | 1).leading_zeros() as usize) / 7;
    block[..8].copy_from_slice(&(spread(value) | MORE).to_le_bytes());
    block[8] = (value >> 56) as u8 | 0x80;
    block[9] = (value >> 63) as u8;
    block[length - 1] &= 0x7F;
    length
}

/// The same as [`put_varint`] of 128 bits.
#[inline]
pub fn put_long(bytes: &mut Vec<u8>, mut value: u128) {
    while value >> 56 != 0 {
        bytes.extend((spread(value as u64) | MORE).to_le_bytes());
        value >>= 56;
    }
    put_varint(bytes, value as u64);
}

/// Reads what was packed.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next bytes, so many.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// The next bytes, as many as the result has.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("it was cut to this length")
    }

    /// A number of [`put_varint`].
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub fn varint(&mut self) -> u64 {
        let mut value = 0;
        for (place, byte) in self.0.iter().enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * place);
            if *byte < 0x80 {
                self.0 = &self.0[place + 1..];
                return value;
            }
        }
        panic!("the bytes end within a number");
    }

    /// A number of [`put_signed`].
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub fn signed(&mut self) -> i64 {
        let value = self.varint();
        (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_packed_as_postcard_packs_them() {
        for shift in 0..128 {
            for value in [u128::MAX >> shift, 1 << shift, 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210 >> shift, 0] {
                let mut bytes = Vec::new();
                put_long(&mut bytes, value);
                assert_eq!(bytes, postcard::to_stdvec(&value).expect("numbers have a form"), "{value:#x}");
                let (short, mut bytes, mut block) = (value as u64, Vec::new(), [0xAA; 16]);
                put_varint(&mut bytes, short);
                assert_eq!(bytes, postcard::to_stdvec(&short).expect("numbers have a form"), "{short:#x}");
                let length = write_varint(&mut block, short);
                assert_eq!(block[..length], bytes, "{short:#x}");
                let (signed, mut bytes) = (short.cast_signed(), Vec::new());
                put_signed(&mut bytes, signed);
                assert_eq!(bytes, postcard::to_stdvec(&signed).expect("numbers have a form"), "{signed:#x}");
            }
        }
    }

    #[test]
    fn numbers_are_read_as_they_were_packed() {
        let mut bytes = Vec::new();
        let values = [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX];
        for value in values {
            put_varint(&mut bytes, value);
            put_signed(&mut bytes, value.cast_signed());
            put_signed(&mut bytes, value.cast_signed().wrapping_neg());
        }
        bytes.extend([7, 8, 9]);
        let mut reader = Reader(&bytes);
        for value in values {
            assert_eq!(reader.varint(), value);
            assert_eq!(reader.signed(), value.cast_signed());
            assert_eq!(reader.signed(), value.cast_signed().wrapping_neg());
        }
        assert_eq!((reader.array::<2>(), reader.0), ([7, 8], [9].as_slice()));
    }
}
