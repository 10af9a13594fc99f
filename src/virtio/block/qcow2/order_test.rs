use std::ops::Range;

use super::super::header::Records;
use super::*;

const CLUSTER: u64 = 512;
const L1: Range<u64> = 3 * CLUSTER..3 * CLUSTER + 64;
const REFCOUNTS: Range<u64> = CLUSTER..2 * CLUSTER;
/// A refcount block of 256 counts of 16 bits.
const BLOCK: u64 = 2 * CLUSTER;

/// A refcount table of one block, which counts the first five clusters.
fn image() -> (File, Order) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 * CLUSTER).unwrap();
    file.write_all_at(&BLOCK.to_be_bytes(), REFCOUNTS.start).unwrap();
    for cluster in 0..5 {
        count(&file, BLOCK, cluster);
    }
    let header = Header {
        version: 3,
        cluster_bits: 9,
        refcount_order: 4,
        size: 1 << 20,
        tables: Tables {
            l1: L1,
            refcounts: REFCOUNTS,
        },
        snapshots: Records::default(),
        bitmaps: Records::default(),
        backing: None,
        data_file: None,
    };
    (file, Order::new(&header))
}

fn count(file: &File, block: u64, index: u64) {
    file.write_all_at(&1_u16.to_be_bytes(), block + 2 * index)
        .unwrap();
}

fn copied(cluster: u64) -> u64 {
    (1 << 63) | (cluster * CLUSTER)
}

fn write(order: &Order, file: &File, place: u64, entry: u64) {
    order.write(file, &entry.to_be_bytes(), place).unwrap();
}

#[test]
fn an_l1_entry_waits_until_its_table_is_counted() {
    let (file, order) = image();
    write(&order, &file, L1.start, copied(4));
    assert_eq!(
        read_entry(&file, L1.start).unwrap(),
        copied(4),
        "it is counted already"
    );
    write(&order, &file, L1.start + 8, copied(5));
    assert_eq!(read_entry(&file, L1.start + 8).unwrap(), 0);
    order.write(&file, &[0xff; 100], 7 * CLUSTER).unwrap();
    assert_eq!(
        read_entry(&file, L1.start + 8).unwrap(),
        0,
        "other data makes no difference"
    );
    order.write(&file, &1_u16.to_be_bytes(), BLOCK + 10).unwrap();
    assert_eq!(read_entry(&file, L1.start + 8).unwrap(), copied(5));
}

#[test]
fn a_block_that_counts_itself_waits_for_nothing() {
    let (file, order) = image();
    let (block, place) = (256 * CLUSTER, REFCOUNTS.start + 8);
    // Its table is in it as well, and comes first.
    count(&file, block, 1);
    write(&order, &file, L1.start, copied(257));
    assert_eq!(read_entry(&file, L1.start).unwrap(), 0);
    count(&file, block, 0);
    write(&order, &file, place, block);
    assert_eq!(read_entry(&file, place).unwrap(), block);
    assert_eq!(read_entry(&file, L1.start).unwrap(), copied(257));
}

#[test]
fn a_flush_releases_everything() {
    let (file, order) = image();
    for index in 0..8 {
        write(&order, &file, L1.start + 8 * index, copied(100 + index));
    }
    write(&order, &file, L1.start, 0);
    order.release_all(&file).unwrap();
    let entries: Vec<u64> = (0..8)
        .map(|index| read_entry(&file, L1.start + 8 * index).unwrap())
        .collect();
    assert_eq!(entries[0], 0, "the last word counts");
    assert_eq!(entries[1..], (101..108).map(copied).collect::<Vec<_>>());
}

#[test]
fn what_waits_for_a_table_that_moved_is_dropped() {
    let (file, order) = image();
    let place = REFCOUNTS.start + 8;
    write(&order, &file, place, 6 * CLUSTER);
    let mut header = [0; HEADER_START];
    header[36..40].copy_from_slice(&8_u32.to_be_bytes());
    header[40..48].copy_from_slice(&L1.start.to_be_bytes());
    header[48..56].copy_from_slice(&(7 * CLUSTER).to_be_bytes());
    header[56..60].copy_from_slice(&1_u32.to_be_bytes());
    order.write(&file, &header, 0).unwrap();
    order.release_all(&file).unwrap();
    assert_eq!(read_entry(&file, place).unwrap(), 0);
}

#[test]
fn counts_of_every_width_are_read() {
    let file = tempfile::tempfile().unwrap();
    for order in 0..=6 {
        file.set_len(0).unwrap();
        file.set_len(512).unwrap();
        let bits = 1_u64 << order;
        let index = 13;
        let place = index * bits / 8;
        let value: Vec<u8> = match order {
            0..=2 => vec![1 << (index * bits % 8)],
            _ => [vec![0; (bits / 8 - 1) as usize], vec![1]].concat(),
        };
        file.write_all_at(&value, 64 + place).unwrap();
        for other in 0..32 {
            assert_eq!(
                is_counted(&file, 64, other, order).unwrap(),
                other == index,
                "{order} {other}"
            );
        }
    }
}
