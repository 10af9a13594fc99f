use std::io::Write;

use proptest::prelude::*;

use super::*;

fn file(bytes: &[u8]) -> (File, u64) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    (file, bytes.len() as u64)
}

fn joined(parts: &[Vec<u8>]) -> Joined {
    Joined::new(parts.iter().map(|bytes| file(bytes))).unwrap()
}

/// The bytes that a disk of these parts has.
fn whole(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    for part in parts {
        whole.extend(part);
        whole.resize(whole.len().next_multiple_of(PAGE as usize), 0);
    }
    whole
}

fn read(joined: &Joined, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xdd; length];
    joined.read(&mut Buffers::of(&mut bytes), offset)?;
    Ok(bytes)
}

#[test]
fn each_file_starts_on_a_page_and_zeroes_fill_the_gap() {
    let disk = joined(&[vec![1; 5000], vec![2; 4096], vec![3; 1]]);
    assert_eq!(disk.size(), 4 * PAGE);
    let bytes = read(&disk, 0, disk.size() as usize).unwrap();
    assert!(bytes[..5000].iter().all(|byte| *byte == 1));
    assert!(bytes[5000..8192].iter().all(|byte| *byte == 0));
    assert!(bytes[8192..12288].iter().all(|byte| *byte == 2));
    assert_eq!(bytes[12288], 3);
    assert!(bytes[12289..].iter().all(|byte| *byte == 0));
}

#[test]
fn empty_files_take_no_place() {
    let disk = joined(&[vec![], vec![1; 4096], vec![], vec![], vec![2; 10], vec![]]);
    assert_eq!(disk.size(), 2 * PAGE);
    assert_eq!(disk.in_one_file(0..4096), Some((1, 0)));
    assert_eq!(disk.in_one_file(4096..4106), Some((4, 0)));
    assert_eq!(read(&disk, 4095, 3).unwrap(), [1, 2, 2]);
    assert_eq!(joined(&[vec![], vec![]]).size(), 0);
}

#[test]
fn only_what_one_file_has_is_in_one_file() {
    let disk = joined(&[vec![1; 8192], vec![2; 100], vec![3; 4096]]);
    assert_eq!(disk.in_one_file(512..8192), Some((0, 512)));
    assert_eq!(disk.in_one_file(8192..8292), Some((1, 0)));
    assert_eq!(disk.in_one_file(12288..16384), Some((2, 0)));
    for other in [8191..8193, 8192..8293, 8300..8400, 12000..12289, 16384..16385] {
        assert_eq!(disk.in_one_file(other), None);
    }
}

#[test]
fn there_is_nothing_behind_the_last_file() {
    let disk = joined(&[vec![1; 100]]);
    for offset in [0, 4095, 4096, u64::MAX] {
        let error = read(&disk, offset, 4097).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(read(&disk, 4095, 1).unwrap(), [0]);
    assert!(read(&Joined::new([]).unwrap(), 0, 0).is_ok());
    assert!(read(&Joined::new([]).unwrap(), 0, 1).is_err());
}

#[test]
fn a_disk_is_as_large_as_the_files_were() {
    let (file, length) = file(&[1; 4096]);
    let other = file.try_clone().unwrap();
    let disk = Joined::new([(file, length)]).unwrap();
    other.set_len(10_000).unwrap();
    assert_eq!(disk.size(), 4096);
    assert!(read(&disk, 4096, 1).is_err());
    // It is not taken for the zeroes at the end of a page.
    other.set_len(1000).unwrap();
    assert_eq!(read(&disk, 0, 1000).unwrap(), [1; 1000]);
    let error = read(&disk, 512, 512).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn files_that_are_too_large_together_are_no_disk() {
    let empty = || file(&[]).0;
    for lengths in [
        vec![u64::MAX],
        vec![i64::MAX as u64],
        vec![1 << 62, 1 << 62],
        vec![u64::MAX - 4095, 4096],
    ] {
        let files = lengths.into_iter().map(|length| (empty(), length));
        assert!(Joined::new(files).is_none());
    }
}

#[test]
fn a_disk_can_have_as_many_files_as_an_image_has_layers() {
    let parts: Vec<_> = (0..513_u32).map(|index| index.to_le_bytes().to_vec()).collect();
    let disk = joined(&parts);
    assert_eq!(disk.size(), 513 * PAGE);
    for index in [0_u32, 1, 256, 511, 512] {
        let start = u64::from(index) * PAGE;
        assert_eq!(read(&disk, start, 4).unwrap(), index.to_le_bytes());
        assert_eq!(disk.in_one_file(start..start + 4), Some((index, 0)));
    }
}

/// Lengths near the multiples of a page, and any others.
fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![
        0..3 * PAGE,
        (0..3_u64, 0..3_u64).prop_map(|(pages, more)| pages * PAGE + more)
    ];
    let part = (length, any::<u8>()).prop_map(|(length, seed)| {
        let bytes = (0..length).map(|index| (index % 251) as u8 ^ seed);
        bytes.collect()
    });
    prop::collection::vec(part, 1..8)
}

proptest! {
    #[test]
    fn any_range_reads_as_the_files_say(
        parts in parts(),
        requests in prop::collection::vec((0..30_000_u64, 0..20_000_usize), 1..20),
    ) {
        let (disk, whole) = (joined(&parts), whole(&parts));
        prop_assert_eq!(disk.size(), whole.len() as u64);
        for (offset, length) in requests {
            let expected = whole.get(offset as usize..offset as usize + length);
            match (expected, read(&disk, offset, length)) {
                (Some(expected), Ok(found)) => prop_assert!(found == expected, "{offset} {length}"),
                (None, Err(_)) => {}
                // Nothing is nowhere.
                (None, Ok(found)) => prop_assert!(found.is_empty()),
                (Some(_), Err(error)) => prop_assert!(false, "{offset} {length}: {error}"),
            }
        }
    }

    #[test]
    fn a_place_in_one_file_has_the_bytes_of_the_disk(
        parts in parts(),
        offset in 0..30_000_u64,
        length in 1..9000_u64,
    ) {
        let (disk, whole) = (joined(&parts), whole(&parts));
        if let Some((file, start)) = disk.in_one_file(offset..offset + length) {
            let bytes = &parts[file as usize][start as usize..(start + length) as usize];
            prop_assert!(*bytes == whole[offset as usize..(offset + length) as usize]);
        }
    }
}
