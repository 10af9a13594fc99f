use super::*;

const LIMITS: Limits = Limits {
    size: 8 * SECTOR_SIZE,
    block_size: SECTOR_SIZE,
    read_only: false,
    discard_sectors: DISCARD_SECTORS_MAX,
    write_zeroes_sectors: WRITE_ZEROES_SECTORS_MAX,
};

#[test]
fn only_whole_blocks_inside_the_disk_are_located() {
    let locate = |sector, length| LIMITS.locate(Operation::Read, sector, length);
    for (sector, length, offset) in [(0, 8 * 512, 0), (7, 512, 7 * 512), (8, 0, 8 * 512)] {
        let request = locate(sector, length).unwrap();
        assert_eq!((request.offset, request.length), (offset, length));
    }
    for (sector, length) in [
        (8, 512),
        (0, 9 * 512),
        (7, 1024),
        (0, 511),
        (9, 0),
        (1, u64::MAX - 511),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (1 << 55, 512),
    ] {
        assert!(locate(sector, length).is_err(), "{sector} {length}");
    }
    let large = Limits {
        block_size: 4096,
        ..LIMITS
    };
    let locate = |sector, length| large.locate(Operation::Write, sector, length);
    assert!(locate(0, 4096).is_ok());
    assert!(locate(1, 512).is_err() && locate(0, 512).is_err() && locate(4, 0).is_err());
}

#[test]
fn a_range_has_no_flag_but_that_zeroes_may_be_unmapped() {
    let segment = |flags| Segment {
        sector: 1,
        sectors: 2,
        flags,
    };
    assert!(segment(0).discard(&LIMITS).is_ok());
    for flags in [1, 2, 1 << 31] {
        assert_eq!(segment(flags).discard(&LIMITS), Err(Refusal::Unsupported));
    }
    for (flags, may_unmap) in [(0, false), (1, true)] {
        let request = segment(flags).write_zeroes(&LIMITS).unwrap();
        assert_eq!(request.operation, Operation::WriteZeroes { may_unmap });
        assert_eq!((request.offset, request.length), (512, 1024));
    }
    for flags in [2, 3, u32::MAX] {
        assert_eq!(segment(flags).write_zeroes(&LIMITS), Err(Refusal::Unsupported));
    }
}

#[test]
fn a_range_is_no_longer_than_the_configuration_says() {
    let limits = Limits {
        size: 1 << 40,
        ..LIMITS
    };
    let segment = |sectors| Segment {
        sector: 0,
        sectors,
        flags: 0,
    };
    let smaller = Limits {
        discard_sectors: 20,
        write_zeroes_sectors: 10,
        ..limits
    };
    for limits in [limits, smaller] {
        let (discard, zeroes) = (limits.discard_sectors, limits.write_zeroes_sectors);
        assert!(segment(discard).discard(&limits).is_ok());
        assert!(segment(discard + 1).discard(&limits).is_err());
        assert!(segment(zeroes).write_zeroes(&limits).is_ok());
        assert!(segment(zeroes + 1).write_zeroes(&limits).is_err());
    }
}

#[test]
fn a_request_has_no_more_data_than_the_configuration_says() {
    let limits = Limits {
        size: 1 << 40,
        ..LIMITS
    };
    for operation in [Operation::Read, Operation::Write] {
        assert!(limits.locate_data(operation, 0, DATA_MAX).is_ok());
        let refusal = limits.locate_data(operation, 0, DATA_MAX + 512).unwrap_err();
        assert_eq!(refusal, Refusal::Invalid("it has more data than a request takes"));
    }
}
