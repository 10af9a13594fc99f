//! What one request may make a disk do.

use super::*;
use crate::config::Format;
use crate::virtio::block::qcow2::test_image::{Images, need_qemu_img};
use crate::virtio::block::request::DATA_MAX;

const MIB: u32 = 1 << 20;

with_each_engine!(
    one_buffer_named_over_and_over_is_no_way_to_more_data,
    a_request_of_many_pieces_moves_all_of_them,
);

/// A request of as many times the MiB at `HIGH_MEMORY`, in an indirect table.
fn repeat(driver: &mut Driver, kind: u32, times: u16) -> u8 {
    let direction = if kind == VIRTIO_BLK_T_IN { WRITE } else { 0 };
    driver.put(&header(kind, 0), DATA);
    driver.describe(TABLES, 0, (DATA, 16, NEXT, 1));
    for index in 1..=times {
        driver.describe(TABLES, index, (HIGH_MEMORY, MIB, NEXT | direction, index + 1));
    }
    driver.describe(TABLES, times + 1, (DATA + 16, 1, WRITE, 0));
    driver.describe(DESCRIPTORS, 0, (TABLES, 16 * (u32::from(times) + 2), INDIRECT, 0));
    driver.put(&[NOT_WRITTEN], DATA + 16);
    driver.offer(0);
    driver.notify();
    assert_eq!(driver.wait(), VIRTIO_MMIO_INT_VRING);
    driver.take_used().expect("nothing was used");
    driver.bytes(DATA + 16, 1)[0]
}

fn one_buffer_named_over_and_over_is_no_way_to_more_data(engine: Engine) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 30).unwrap();
    let mut driver = driver(open(file.path(), engine), FEATURES);
    let most = (DATA_MAX / u64::from(MIB)) as u16;
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        assert_eq!(repeat(&mut driver, kind, most), OK);
        assert_eq!(repeat(&mut driver, kind, most + 1), IOERR);
    }
}

fn a_request_of_many_pieces_moves_all_of_them(engine: Engine) {
    let mut file = NamedTempFile::new().unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    let mut driver = driver(open(file.path(), engine), FEATURES);
    let data: Vec<u8> = (0..MIB).map(|index| (index / 512) as u8).collect();
    driver.put(&data, HIGH_MEMORY);
    assert_eq!(repeat(&mut driver, VIRTIO_BLK_T_OUT, 7), OK);
    let mut written = Vec::new();
    file.read_to_end(&mut written).unwrap();
    assert!(written[..7 << 20] == data.repeat(7) && written[7 << 20..] == [0; 1 << 20]);
    // The last of the seven stays in the buffer.
    file.as_file().set_len(0).unwrap();
    file.as_file().set_len(6 << 20).unwrap();
    let last: Vec<u8> = data.iter().rev().copied().collect();
    file.seek(SeekFrom::Start(6 << 20)).unwrap();
    file.write_all(&last).unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    assert_eq!(repeat(&mut driver, VIRTIO_BLK_T_IN, 7), OK);
    assert!(driver.bytes(HIGH_MEMORY, MIB as usize) == last);
}

#[test]
fn a_range_of_a_qcow2_image_has_a_bounded_number_of_clusters() {
    need_qemu_img();
    for (cluster_size, discard, write_zeroes) in [
        ("512", 4096_u32, 4096_u32),
        ("64k", 1 << 19, 1 << 17),
        ("2M", 1 << 22, 1 << 17),
    ] {
        let images = Images::new();
        let path = images.create("image.qcow2", &format!("cluster_size={cluster_size}"), 4 << 30);
        let options = config::Disk {
            format: Some(Format::Qcow2),
            ..options(&path, Engine::Auto)
        };
        let mut driver = driver(Block::open(&options, 1).unwrap(), FEATURES);
        assert_eq!(driver.config(36, 4), discard.to_le_bytes());
        assert_eq!(driver.config(48, 4), write_zeroes.to_le_bytes());
        for (kind, most) in [
            (VIRTIO_BLK_T_DISCARD, discard),
            (VIRTIO_BLK_T_WRITE_ZEROES, write_zeroes),
        ] {
            for (sectors, status) in [(most, OK), (most + 8, IOERR)] {
                let range = [&0_u64.to_le_bytes()[..], &sectors.to_le_bytes(), &[0; 4]].concat();
                assert_eq!(request(&mut driver, kind, 0, &range, 0).status, status);
            }
        }
    }
}
