use proptest::prelude::*;

use super::*;

const PLACE: Place = Place {
    image: 0x1122_3344_5566_7788,
    stream: 2,
};

#[test]
fn no_record_passes_for_one_of_another_image_or_stream() {
    let record = encode(PLACE, 1, 100);
    let image = Place { image: 1, ..PLACE };
    let stream = Place { stream: 1, ..PLACE };
    assert_eq!(decode(image, &record), Err(Flaw::Foreign));
    assert_eq!(decode(stream, &record), Err(Flaw::Foreign));
}

#[test]
fn pages_of_two_records_differ_everywhere() {
    let [first, second] = [1, 2].map(|number| encode(PLACE, number, 8192));
    assert!(
        first
            .chunks(512)
            .zip(second.chunks(512))
            .all(|(one, other)| one != other)
    );
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(number: u64, length in SHORTEST..20_000, after: Vec<u8>) {
        let mut bytes = encode(PLACE, number, length);
        prop_assert_eq!(bytes.len(), length);
        bytes.extend(after);
        prop_assert_eq!(decode(PLACE, &bytes), Ok((number, length)));
    }

    #[test]
    fn a_record_with_any_byte_changed_is_none(number: u64, length in SHORTEST..5000, at: prop::sample::Index, flip in 1..=255u8) {
        let mut bytes = encode(PLACE, number, length);
        let at = at.index(length);
        bytes[at] ^= flip;
        prop_assert!(decode(PLACE, &bytes).is_err());
    }

    #[test]
    fn a_record_cut_short_is_none(number: u64, length in SHORTEST..5000, at: prop::sample::Index) {
        let bytes = encode(PLACE, number, length);
        prop_assert_eq!(decode(PLACE, &bytes[..at.index(length)]), Err(Flaw::Short));
    }

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        prop_assert!(decode(PLACE, &bytes).is_err());
    }
}
