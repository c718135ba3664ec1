use super::*;

const STARTED: Duration = Duration::from_millis(1_699_999_940_123);
/// A minute after the start.
const NOW: Duration = Duration::from_millis(1_700_000_000_123);
const MINUTE: Duration = Duration::from_mins(1);
const SECRET: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";

fn seal(instance: u64, secrets: &[&str]) -> Seal {
    Seal::new(secrets.iter().copied(), instance, MINUTE, STARTED)
}

/// Opens a copy of a datagram.
fn open(seal: &mut Seal, sealed: &[u8], now: Duration) -> Result<Option<usize>, SealError> {
    let mut sealed = sealed.to_vec();
    seal.open(&mut sealed, now).map(|opened| {
        assert_eq!(opened.datagram, b"a datagram of 10.0.0.5:7001");
        opened.secret
    })
}

fn close(seal: &mut Seal, now: Duration) -> Vec<u8> {
    seal.close(b"a datagram of 10.0.0.5:7001".to_vec(), now)
}

/// The bytes are those of another implementation, which was checked with the test vector of
/// draft-irtf-cfrg-xchacha-03 (A.3.1).
#[test]
fn format_of_datagrams_and_derivation_of_keys_are_fixed() {
    let mut sender = Seal::new([SECRET], 0x0807_0605_0403_0201, MINUTE, NOW);
    let sealed = sender.close(b"a datagram of gossip".to_vec(), NOW);
    let expected = "02\
        010203040506070800000000000000007b68e5cf8b010000\
        14e457094a3ea8da37b5f45f9a1daea4a7081e09638fbf200e29726ec7a05361f91df643";
    assert_eq!(data_encoding::HEXLOWER.encode(&sealed), expected.replace(' ', ""));
    assert_eq!(sealed.len(), b"a datagram of gossip".len() + OVERHEAD);
}

#[test]
fn content_is_unreadable_and_no_two_datagrams_are_alike() {
    let mut sender = seal(1, &[SECRET]);
    let (first, second) = (close(&mut sender, NOW), close(&mut sender, NOW));
    assert_ne!(first, second);
    for sealed in [first, second] {
        assert!(!sealed.windows(4).any(|bytes| b"a datagram of 10.0.0.5:7001".windows(4).any(|text| text == bytes)));
    }
}

#[test]
fn only_unchanged_datagrams_under_a_known_secret_are_opened() {
    let mut receiver = seal(2, &[SECRET]);
    let sealed = close(&mut seal(1, &[SECRET]), NOW);
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            let expected = if at == 0 { SealError::Unsealed } else { SealError::Forged };
            assert_eq!(open(&mut receiver, &changed, NOW), Err(expected), "byte {at}");
        }
        let expected = if at == 0 { SealError::Unsealed } else { SealError::Forged };
        assert_eq!(open(&mut receiver, &sealed[..at], NOW), Err(expected), "cut at {at}");
    }
    assert_eq!(open(&mut receiver, &[&sealed[..], b"0"].concat(), NOW), Err(SealError::Forged));
    assert_eq!(open(&mut receiver, &close(&mut seal(3, &[OTHER]), NOW), NOW), Err(SealError::Forged));
    assert_eq!(open(&mut receiver, &close(&mut seal(3, &[]), NOW), NOW), Err(SealError::Unsealed));
    // None of these used the number of the datagram.
    assert_eq!(open(&mut receiver, &sealed, NOW), Ok(Some(0)));
}

#[test]
fn without_a_secret_every_datagram_is_accepted_as_it_is() {
    let (mut sender, mut receiver) = (seal(1, &[]), seal(2, &[]));
    let datagram = close(&mut sender, NOW);
    assert_eq!(datagram, b"a datagram of 10.0.0.5:7001");
    for _ in 0..2 {
        assert_eq!(open(&mut receiver, &datagram, NOW), Ok(None));
    }
}

#[test]
fn replayed_datagram_is_rejected_at_once_later_and_by_a_restarted_edge() {
    let (mut sender, mut receiver) = (seal(1, &[SECRET]), seal(2, &[SECRET]));
    let recorded = close(&mut sender, NOW);
    assert_eq!(open(&mut receiver, &recorded, NOW), Ok(Some(0)));
    assert_eq!(open(&mut receiver, &recorded, NOW), Err(SealError::Replayed));
    for _ in 0..3000 {
        let next = close(&mut sender, NOW);
        assert_eq!(open(&mut receiver, &next, NOW), Ok(Some(0)));
        assert_eq!(open(&mut receiver, &recorded, NOW), Err(SealError::Replayed));
    }
    assert_eq!(open(&mut receiver, &recorded, NOW + 2 * MINUTE), Err(SealError::Replayed));
    let second = Duration::from_secs(1);
    let mut restarted = Seal::new([SECRET], 4, MINUTE, NOW + second);
    assert_eq!(open(&mut restarted, &recorded, NOW + second), Err(SealError::Early));
    let later = NOW + 2 * MINUTE;
    assert_eq!(open(&mut restarted, &recorded, later), Err(SealError::Clock(2 * MINUTE)));
    // An edge that has the datagram reflected to it.
    assert_eq!(open(&mut sender, &recorded, NOW), Err(SealError::Replayed));
}

#[test]
fn first_secret_seals_and_each_one_opens() {
    let mut receiver = seal(9, &[OTHER, SECRET]);
    let (mut old, mut new) = (seal(1, &[SECRET, OTHER]), seal(2, &[OTHER, SECRET]));
    assert_eq!(open(&mut receiver, &close(&mut old, NOW), NOW), Ok(Some(1)));
    assert_eq!(open(&mut receiver, &close(&mut new, NOW), NOW), Ok(Some(0)));
}

#[test]
fn rotation_keeps_the_memory_of_datagrams() {
    let (mut sender, mut receiver) = (seal(1, &[SECRET]), seal(2, &[SECRET]));
    let recorded = close(&mut sender, NOW);
    assert_eq!(open(&mut receiver, &recorded, NOW), Ok(Some(0)));
    for (sends, receives, position) in [
        (&[SECRET][..], &[SECRET, OTHER][..], 0),
        (&[OTHER, SECRET], &[SECRET, OTHER], 1),
        (&[OTHER, SECRET], &[OTHER], 0),
    ] {
        sender.replace_secrets(sends.iter().copied());
        receiver.replace_secrets(receives.iter().copied());
        assert_eq!(open(&mut receiver, &close(&mut sender, NOW), NOW), Ok(Some(position)));
        let expected = if receives.contains(&SECRET) { SealError::Replayed } else { SealError::Forged };
        assert_eq!(open(&mut receiver, &recorded, NOW), Err(expected));
    }
}
