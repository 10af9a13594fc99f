use super::{decimal, time};
use crate::Time;

#[test]
fn decimal_numbers_have_digits_only_and_fit() {
    assert_eq!(decimal(b"0"), Some(0));
    assert_eq!(decimal(b"0018"), Some(18));
    assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
    for wrong in [
        &b""[..],
        b"18446744073709551616",
        b"+1",
        b"-1",
        b" 1",
        b"1\n",
        b"1a",
        b"\xff",
    ] {
        assert_eq!(decimal(wrong), None, "{wrong:?}");
    }
}

#[test]
fn times_have_a_fraction_of_any_length_and_a_sign() {
    let is = |text: &[u8], seconds, nanoseconds| {
        assert_eq!(time(text), Some(Time { seconds, nanoseconds }), "{text:?}");
    };
    is(b"12", 12, 0);
    is(b"12.", 12, 0);
    is(b"12.5", 12, 500_000_000);
    is(b"12.0000000019", 12, 1);
    is(b"-12", -12, 0);
    is(b"-12.25", -13, 750_000_000);
    is(b"-0.1", -1, 900_000_000);
    is(b"-9223372036854775807.9", i64::MIN, 100_000_000);
    for wrong in [
        &b""[..],
        b"-",
        b".5",
        b"--1",
        b"1.-5",
        b"1.5x",
        b"1.000000000x",
        b"1.5.5",
        b"9223372036854775808",
        b"1e3",
    ] {
        assert_eq!(time(wrong), None, "{wrong:?}");
    }
}
