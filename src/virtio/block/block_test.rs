use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

use tempfile::NamedTempFile;
use virtio_bindings::virtio_mmio::*;

use super::test_disk::*;
use super::*;
use crate::virtio::test_driver::*;

#[path = "bounds_test.rs"]
mod bounds;
#[path = "features_test.rs"]
mod features;
#[path = "hostile_test.rs"]
mod hostile;
#[path = "joined_test.rs"]
mod joined;
#[path = "model_test.rs"]
mod model;
#[path = "quiesce_test.rs"]
mod quiesce;

/// Whatever holds its data.
fn over(image: Image, engine: Engine) -> Block {
    let options = config::Disk {
        engine,
        ..config::Disk::new("test".into())
    };
    Block::new(Arc::new(Backend::of(Disk::of(image, Id::default(), &options, 1))))
}

with_each_engine!(
    a_read_returns_the_images_bytes,
    a_write_changes_its_sectors_and_no_other,
    the_id_is_padded_with_nul_to_20_bytes,
    a_write_past_the_end_is_an_io_error_and_changes_nothing,
    a_read_past_the_end_is_an_io_error_and_writes_only_the_status,
    data_of_partial_sectors_is_an_io_error,
    a_read_only_disk_says_so_and_stays_as_it_is,
    a_read_only_disk_is_not_written_even_if_its_file_could_be,
    requests_of_other_types_are_unsupported,
    a_header_cut_short_is_an_io_error,
    where_descriptors_begin_and_end_means_nothing,
    buffers_outside_guest_memory_are_an_io_error_if_the_status_is_inside,
    a_chain_whose_driver_cannot_be_answered_makes_the_device_need_a_reset,
    an_indirect_chain_is_as_long_as_its_queue_at_most,
    more_chains_than_the_queue_has_make_the_device_need_a_reset,
    a_failed_write_and_a_failed_read_are_io_errors,
    a_failed_flush_is_an_io_error_and_so_are_those_after_it,
    writes_are_durable_for_a_driver_that_cannot_flush,
    a_sparse_image_larger_than_4_gib_is_addressed_in_full,
);

fn a_read_returns_the_images_bytes(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    let reply = read(&mut driver, 3, 4 * 512);
    assert_eq!(
        reply,
        Reply {
            status: OK,
            data: pattern()[3 * 512..7 * 512].to_vec(),
            used: 4 * 512 + 1
        }
    );
}

fn a_write_changes_its_sectors_and_no_other(engine: Engine) {
    let (mut driver, file) = disk(engine);
    assert_eq!(write(&mut driver, LAST, &[0xaa; 512]), OK);
    assert_eq!(write(&mut driver, 0, &[0xbb; 1024]), OK);
    assert_eq!(flush(&mut driver), OK);
    let mut expected = pattern();
    expected[LAST as usize * 512..].fill(0xaa);
    expected[..1024].fill(0xbb);
    assert_eq!(contents(&file), expected);
}

fn the_id_is_padded_with_nul_to_20_bytes(engine: Engine) {
    let file = image();
    for (id, expected) in [
        (None, "\0".repeat(20)),
        (Some("vd-1"), format!("vd-1{}", "\0".repeat(16))),
        (Some("12345678901234567890"), "12345678901234567890".into()),
    ] {
        let options = config::Disk {
            id: id.map(str::to_owned),
            ..options(file.path(), engine)
        };
        let mut driver = driver(Block::open(&options, 1).unwrap(), FEATURES);
        let reply = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 20);
        assert_eq!(
            reply,
            Reply {
                status: OK,
                data: expected.into_bytes(),
                used: 21
            }
        );
    }
}

#[test]
fn an_id_that_a_guest_could_not_show_is_refused() {
    let file = image();
    for id in ["", "123456789012345678901", "tab\there", "größe"] {
        let options = config::Disk {
            id: Some(id.into()),
            ..options(file.path(), Engine::Auto)
        };
        let error = Block::open(&options, 1).err().expect("the id was accepted");
        assert!(error.to_string().contains("20 printable ASCII"), "{error}");
        assert!(!error.is_missing());
    }
}

/// First sectors, and numbers of sectors, of requests past the end.
const PAST_THE_END: [(u64, usize); 6] = [
    (LAST + 1, 1),
    (LAST, 2),
    (0, SECTORS + 1),
    (u64::MAX, 1),
    (u64::MAX / 512 + 1, 1),
    (1 << 55, 1),
];

fn a_write_past_the_end_is_an_io_error_and_changes_nothing(engine: Engine) {
    let (mut driver, file) = disk(engine);
    for (sector, sectors) in PAST_THE_END {
        assert_eq!(
            write(&mut driver, sector, &vec![1; sectors * 512]),
            IOERR,
            "{sector}"
        );
    }
    assert_eq!(contents(&file), pattern());
}

fn a_read_past_the_end_is_an_io_error_and_writes_only_the_status(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    for (sector, sectors) in PAST_THE_END {
        let reply = read(&mut driver, sector, sectors * 512);
        assert_eq!(
            reply,
            Reply {
                status: IOERR,
                data: vec![NOT_WRITTEN; sectors * 512],
                used: 0
            }
        );
    }
}

fn data_of_partial_sectors_is_an_io_error(engine: Engine) {
    let (mut driver, file) = disk(engine);
    assert_eq!(read(&mut driver, 0, 511).status, IOERR);
    assert_eq!(read(&mut driver, 0, 513).status, IOERR);
    assert_eq!(write(&mut driver, 0, &[1; 1000]), IOERR);
    assert_eq!(contents(&file), pattern());
}

fn a_read_only_disk_says_so_and_stays_as_it_is(engine: Engine) {
    let file = image();
    let options = config::Disk {
        ro: true,
        ..options(file.path(), engine)
    };
    let block = Block::open(&options, 1).unwrap();
    let mut driver = driver(block, FEATURES | 1 << VIRTIO_BLK_F_RO);
    assert_eq!(write(&mut driver, 0, &[1; 512]), IOERR);
    assert_eq!(flush(&mut driver), OK);
    assert_eq!(read(&mut driver, 0, 512).data, pattern()[..512]);
    assert_eq!(contents(&file), pattern());
    assert_eq!(disk(engine).0.features() & 1 << VIRTIO_BLK_F_RO, 0);
}

fn a_read_only_disk_is_not_written_even_if_its_file_could_be(engine: Engine) {
    let file = image();
    let writable = File::options().read(true).write(true).open(file.path()).unwrap();
    let image = Image::over(writable, (SECTORS * 512) as u64, true);
    let mut driver = driver(over(image, engine), FEATURES);
    assert_eq!(write(&mut driver, 0, &[1; 512]), IOERR);
    assert_eq!(contents(&file), pattern());
}

fn requests_of_other_types_are_unsupported(engine: Engine) {
    let (mut driver, file) = disk(engine);
    for kind in [2, 3, 5, 10, 12, 14, u32::MAX] {
        assert_eq!(
            request(&mut driver, kind, 0, &[0; 16], 0).status,
            UNSUPP,
            "{kind}"
        );
    }
    assert_eq!(contents(&file), pattern());
}

fn a_header_cut_short_is_an_io_error(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    for length in [0, 1, 15] {
        let pending = offer(
            &mut driver,
            &header(VIRTIO_BLK_T_IN, 0)[..length],
            513,
            &plain(512),
        );
        assert_eq!(finish(&mut driver, pending).status, IOERR);
    }
}

fn where_descriptors_begin_and_end_means_nothing(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    let all: Vec<usize> = (0..100).collect();
    for (readable, writable) in [
        (vec![], vec![]),
        (vec![1, 5, 5, 15], vec![1, 2, 3, 1023, 1024]),
        (vec![8], vec![512]),
        ((0..16).collect(), all),
    ] {
        for indirect in [false, true] {
            let framing = Framing {
                readable: readable.clone(),
                writable: writable.clone(),
                indirect,
            };
            let pending = offer(&mut driver, &header(VIRTIO_BLK_T_IN, 5), 1025, &framing);
            let reply = finish(&mut driver, pending);
            assert_eq!(
                reply,
                Reply {
                    status: OK,
                    data: pattern()[5 * 512..7 * 512].to_vec(),
                    used: 1025
                }
            );
        }
    }
}

fn buffers_outside_guest_memory_are_an_io_error_if_the_status_is_inside(engine: Engine) {
    let (mut driver, file) = disk(engine);
    driver.put(&header(VIRTIO_BLK_T_OUT, 0), DATA);
    for address in [HOLE - 256, HOLE, u64::MAX - 100, u64::MAX] {
        driver.describe(DESCRIPTORS, 0, (DATA, 16, NEXT, 1));
        driver.describe(DESCRIPTORS, 1, (address, 512, NEXT, 2));
        driver.describe(DESCRIPTORS, 2, (DATA + 32, 1, WRITE, 0));
        driver.put(&[NOT_WRITTEN], DATA + 32);
        driver.offer(0);
        let pending = Pending {
            head: 0,
            writable: vec![(DATA + 32, 1)],
        };
        assert_eq!(finish(&mut driver, pending).status, IOERR);
    }
    assert_eq!(contents(&file), pattern());
}

/// Descriptors of the main table, descriptors of the indirect table, and the head that is offered.
type BrokenChain = (
    &'static [(u64, u32, u16, u16)],
    &'static [(u64, u32, u16, u16)],
    u16,
);

fn a_chain_whose_driver_cannot_be_answered_makes_the_device_need_a_reset(engine: Engine) {
    let chains: [BrokenChain; 11] = [
        // Loops, at once and later.
        (&[(DATA, 16, NEXT, 0)], &[], 0),
        (&[(DATA, 16, NEXT, 1), (DATA, 1, WRITE | NEXT, 0)], &[], 0),
        // Leaves its table.
        (&[(DATA, 16, NEXT, QUEUE)], &[], 0),
        // Begins outside of it.
        (&[], &[], QUEUE),
        (&[], &[], u16::MAX),
        // Nothing writable, nothing but an empty buffer, nothing reachable.
        (&[(DATA, 16, 0, 0)], &[], 0),
        (&[(DATA, 16, NEXT, 1), (DATA, 0, WRITE, 0)], &[], 0),
        (
            &[
                (DATA, 16, NEXT, 1),
                (DATA, 1, NEXT | WRITE, 2),
                (HOLE, 1, WRITE, 0),
            ],
            &[],
            0,
        ),
        // Indirect tables: of half a descriptor, outside guest memory, in an indirect table.
        (
            &[(TABLES, 24, INDIRECT, 0)],
            &[(DATA, 16, NEXT, 1), (DATA, 1, WRITE, 0)],
            0,
        ),
        (&[(HOLE, 32, INDIRECT, 0)], &[], 0),
        (&[(TABLES, 16, INDIRECT, 0)], &[(TABLES, 16, INDIRECT, 0)], 0),
    ];
    let (mut driver, file) = disk(engine);
    for (index, (main, indirect, head)) in chains.into_iter().enumerate() {
        for (table, descriptors) in [(DESCRIPTORS, main), (TABLES, indirect)] {
            for (index, descriptor) in descriptors.iter().enumerate() {
                driver.describe(table, index as u16, *descriptor);
            }
        }
        driver.put(&header(VIRTIO_BLK_T_OUT, 0), DATA);
        driver.offer(head);
        driver.notify();
        assert_eq!(driver.wait(), VIRTIO_MMIO_INT_CONFIG, "chain {index}");
        assert!(driver.needs_reset());
        assert_eq!(driver.take_used(), None);
        driver.reset();
        driver.start(FEATURES, QUEUE);
        assert_eq!(read(&mut driver, 0, 512).status, OK);
    }
    assert_eq!(contents(&file), pattern());
}

fn an_indirect_chain_is_as_long_as_its_queue_at_most(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    for length in [QUEUE, QUEUE + 1] {
        driver.put(&header(VIRTIO_BLK_T_FLUSH, 0), DATA);
        for index in 0..length - 1 {
            driver.describe(TABLES, index, (DATA, 16, NEXT, index + 1));
        }
        driver.describe(TABLES, length - 1, (DATA + 16, 1, WRITE, 0));
        driver.describe(DESCRIPTORS, 0, (TABLES, 16 * u32::from(length), INDIRECT, 0));
        driver.offer(0);
        driver.notify();
        driver.wait();
        assert_eq!(driver.needs_reset(), length > QUEUE);
    }
}

fn more_chains_than_the_queue_has_make_the_device_need_a_reset(engine: Engine) {
    let (mut driver, _file) = disk(engine);
    for _ in 0..=QUEUE {
        driver.offer(0);
    }
    driver.notify();
    while !driver.needs_reset() {
        driver.wait();
    }
}

fn a_failed_write_and_a_failed_read_are_io_errors(engine: Engine) {
    // SAFETY: the name is a C string, and the new descriptor has no other owner.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"disk".as_ptr(), libc::MFD_ALLOW_SEALING)) };
    file.set_len(8 * 512).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut driver = driver(open(Path::new(&path), engine), FEATURES);
    assert_eq!(write(&mut driver, 0, &[1; 512]), OK);
    file.set_len(4 * 512).unwrap();
    assert_eq!(read(&mut driver, 3, 1024).status, IOERR);
    assert_eq!(read(&mut driver, 3, 512).status, OK);
    // SAFETY: the descriptor is open; adding a seal touches no memory.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(sealed, 0);
    assert_eq!(write(&mut driver, 0, &[2; 512]), IOERR);
    assert_eq!(read(&mut driver, 0, 512).data, [1; 512]);
}

/// A disk whose writes go nowhere and whose flushes fail.
fn unflushable(engine: Engine) -> Block {
    let file = File::options().read(true).write(true).open("/dev/null").unwrap();
    over(Image::over(file, 4096, false), engine)
}

fn a_failed_flush_is_an_io_error_and_so_are_those_after_it(engine: Engine) {
    let mut driver = driver(unflushable(engine), FEATURES);
    assert_eq!(write(&mut driver, 0, &[1; 512]), OK);
    assert_eq!(flush(&mut driver), IOERR);
    driver.reset();
    driver.start(FEATURES, QUEUE);
    assert_eq!(flush(&mut driver), IOERR);
}

/// Pages of `file` that the host has not written to its device, by cachestat(2), which Linux has since 6.5.
fn dirty_pages(file: &NamedTempFile) -> Option<u64> {
    const CACHESTAT: libc::c_long = 451;
    let (whole, mut statistics) = ([0u64; 2], [0u64; 5]);
    // SAFETY: the call reads the range and writes five numbers.
    let result = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            whole.as_ptr(),
            statistics.as_mut_ptr(),
            0,
        )
    };
    (result == 0).then_some(statistics[1])
}

fn writes_are_durable_for_a_driver_that_cannot_flush(engine: Engine) {
    let file = image();
    file.as_file().sync_all().unwrap();
    if dirty_pages(&file).is_none() {
        return println!("skipped: this kernel does not tell which pages are dirty");
    }
    let mut driver = driver(open(file.path(), engine), FEATURES);
    assert_eq!(write(&mut driver, 0, &[1; 512]), OK);
    assert!(dirty_pages(&file) > Some(0));
    assert_eq!(flush(&mut driver), OK);
    assert_eq!(dirty_pages(&file), Some(0));
    driver.reset();
    driver.start(VERSION_1, QUEUE);
    assert_eq!(write(&mut driver, 0, &[2; 512]), OK);
    assert_eq!(dirty_pages(&file), Some(0));
    let zeroes = [&[0u8; 8][..], &[1, 0, 0, 0], &[0; 4]].concat();
    assert_eq!(
        request(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes, 0).status,
        OK
    );
    assert_eq!(dirty_pages(&file), Some(0));
}

fn a_sparse_image_larger_than_4_gib_is_addressed_in_full(engine: Engine) {
    let mut file = NamedTempFile::new().unwrap();
    file.as_file().set_len(5 << 30).unwrap();
    let mut driver = driver(open(file.path(), engine), FEATURES);
    let last = (5u64 << 30) / 512 - 1;
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG), (last + 1) as u32);
    assert_eq!(write(&mut driver, last, &[7; 512]), OK);
    file.seek(SeekFrom::Start(last * 512)).unwrap();
    let mut sector = Vec::new();
    file.read_to_end(&mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
    assert_eq!(write(&mut driver, last + 1, &[7; 512]), IOERR);
}
