//! Numbers, and what has a length, in as few bytes as they need.

/// Appends a number: seven bits to a byte, the lowest first; all but the last have the
/// eighth set.
pub(crate) fn put(mut number: u64, packed: &mut Vec<u8>) {
    while number >= 0x80 {
        packed.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    packed.push(number.to_le_bytes()[0]);
}

/// Appends bytes, behind how many they are.
pub(crate) fn put_bytes(bytes: &[u8], packed: &mut Vec<u8>) {
    put(bytes.len() as u64, packed);
    packed.extend_from_slice(bytes);
}

/// How many bytes `bytes` bytes are put in.
pub(crate) fn put_len(bytes: usize) -> usize {
    let bits = usize::BITS - (bytes | 1).leading_zeros();
    bits.div_ceil(7) as usize + bytes
}

/// Takes a number from the front. Of what is none, something is made.
#[inline]
pub(crate) fn take(packed: &mut &[u8]) -> u64 {
    match packed {
        // Most are small.
        [byte @ ..0x80, others @ ..] => {
            let number = u64::from(*byte);
            *packed = others;
            number
        }
        _ => take_large(packed),
    }
}

fn take_large(packed: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, others) = packed.split_first().unwrap_or((&0, &[]));
        *packed = others;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// Takes bytes that were put behind how many they are; none, where so many are not there.
pub(crate) fn take_bytes<'a>(packed: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(take(packed)).unwrap_or(usize::MAX);
    let (bytes, others) = packed.split_at_checked(length).unwrap_or_default();
    *packed = others;
    bytes
}

/// Takes so many bytes from the front; zeros, where they are not there.
pub(crate) fn take_chunk<const N: usize>(packed: &mut &[u8]) -> [u8; N] {
    let (&chunk, others) = packed.split_first_chunk().unwrap_or((&[0; N], &[]));
    *packed = others;
    chunk
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_takes_as_many_bytes_as_it_needs() {
        for (number, bytes) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            let mut packed = Vec::new();
            put(number, &mut packed);
            assert_eq!((packed.len(), take(&mut &*packed)), (bytes, number));
        }
    }

    proptest! {
        #[test]
        fn what_was_put_is_taken(number: u64, bytes in proptest::collection::vec(any::<u8>(), 0..300), rest: [u8; 3]) {
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
        fn whatever_the_bytes_are_they_are_taken_to_the_end(packed in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut left = &*packed;
            for _ in 0..50 {
                take_bytes(&mut left);
            }
            prop_assert!(left.is_empty());
        }
    }
}
