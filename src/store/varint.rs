//! Varints (LEB128), and byte strings with their length as a varint.

/// Appends a number as a varint: seven bits to a byte, the lowest first. All bytes but the last
/// have their highest bit set.
pub(crate) fn put(mut number: u64, packed: &mut Vec<u8>) {
    while number >= 0x80 {
        packed.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    packed.push(number.to_le_bytes()[0]);
}

/// Appends a byte string: its length as a varint, then its bytes.
pub(crate) fn put_bytes(bytes: &[u8], packed: &mut Vec<u8>) {
    put(bytes.len() as u64, packed);
    packed.extend_from_slice(bytes);
}

/// Returns the length of a byte string of `bytes` bytes with its varint.
pub(crate) fn put_len(bytes: usize) -> usize {
    let bits = usize::BITS - (bytes | 1).leading_zeros();
    bits.div_ceil(7) as usize + bytes
}

/// Reads a varint from the front. Malformed input yields an unspecified value.
#[inline]
pub(crate) fn take(packed: &mut &[u8]) -> u64 {
    match packed {
        // The usual case.
        [byte @ ..0x80, rest @ ..] => {
            let number = u64::from(*byte);
            *packed = rest;
            number
        }
        _ => take_large(packed),
    }
}

fn take_large(packed: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = packed.split_first().unwrap_or((&0, &[]));
        *packed = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// Reads a byte string from the front. Returns an empty one if the input is too short.
pub(crate) fn take_bytes<'a>(packed: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(take(packed)).unwrap_or(usize::MAX);
    let (bytes, rest) = packed.split_at_checked(length).unwrap_or_default();
    *packed = rest;
    bytes
}

/// Reads `N` bytes from the front. Returns zeros if the input is too short.
pub(crate) fn take_chunk<const N: usize>(packed: &mut &[u8]) -> [u8; N] {
    let (&chunk, rest) = packed.split_first_chunk().unwrap_or((&[0; N], &[]));
    *packed = rest;
    chunk
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_varint_is_as_short_as_possible() {
        for (number, bytes) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            let mut packed = Vec::new();
            put(number, &mut packed);
            assert_eq!((packed.len(), take(&mut &*packed)), (bytes, number));
        }
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(number: u64, bytes in proptest::collection::vec(any::<u8>(), 0..300), rest: [u8; 3]) {
            let mut packed = Vec::new();
            put(number, &mut packed);
            let before = packed.len();
            put_bytes(&bytes, &mut packed);
            prop_assert_eq!(packed.len() - before, put_len(bytes.len()));
            packed.extend_from_slice(&rest);
            let mut left = &*packed;
            prop_assert_eq!((take(&mut left), take_bytes(&mut left), left), (number, &*bytes, &rest[..]));
            prop_assert_eq!((take_chunk(&mut left), left.len(), take_chunk(&mut left)), (rest, 0, [0; 3]));
        }

        #[test]
        fn arbitrary_bytes_are_read_to_the_end(packed in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut left = &*packed;
            for _ in 0..50 {
                take_bytes(&mut left);
            }
            prop_assert!(left.is_empty());
        }
    }
}
