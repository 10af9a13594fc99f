use super::*;

#[test]
fn a_range_of_addresses_is_read_from_the_start_of_a_line() {
    let line = b"7ffd1a2b3000-7ffd1a2d4000 rw-p 00000000 00:00 0 [stack]\n";
    assert_eq!(addresses(line), [Some(0x7ffd_1a2b_3000), Some(0x7ffd_1a2d_4000)]);
    assert_eq!(addresses(b"ffffffffff600000-ffffffffff601000 --xp")[1], Some(0xffff_ffff_ff60_1000));
    assert_eq!(addresses(b"12-"), [Some(0x12), None]);
    assert_eq!(addresses(b"12 13"), [Some(0x12), None]);
    assert_eq!(addresses(b"-12"), [None, None]);
    assert_eq!(addresses(b"11112222333344445-1"), [None, None], "more than 64 bits");
    assert_eq!(addresses(b""), [None, None]);
}

#[test]
fn it_answers_as_sscanf_does() {
    let ask = |text: &CStr, format: &CStr| {
        let (mut start, mut end) = (0, 0);
        // SAFETY: C strings, and two places that may be written.
        let found = unsafe { __isoc99_sscanf(text.as_ptr(), format.as_ptr(), &mut start, &mut end) };
        (found, start, end)
    };
    assert_eq!(ask(c"1000-2000 rw-p", ADDRESS_RANGE), (2, 0x1000, 0x2000));
    assert_eq!(ask(c"1000+2000", ADDRESS_RANGE), (1, 0x1000, 0));
    assert_eq!(ask(c"none", ADDRESS_RANGE), (0, 0, 0));
    assert_eq!(ask(c"1000-2000", c"%d-%d"), (0, 0, 0), "nobody asks for anything else");
}
