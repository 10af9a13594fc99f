//! Images whose tables lie, and guests that know it: no data of a guest's ever lies where a table is, and the tables stay
//! whole.

use std::fs;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::order::L2_OFFSET;
use super::refcounts::counts_in_block_bits;
use super::test_image::*;
use super::*;

/// Tables that lie in any way.
#[path = "lies_test.rs"]
mod lies;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Two hundred clusters of the smallest kind, in four L2 tables.
const SIZE: u64 = 200 * 512;
/// What a guest writes. It is in no table.
const MARK: &[u8; 16] = b"a guest's data..";

fn data(length: usize) -> Vec<u8> {
    MARK.repeat(length.div_ceil(MARK.len()))[..length].into()
}

/// An image's file, looked at past the program.
struct Tables {
    path: PathBuf,
    header: Header,
}

impl Tables {
    fn of(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let length = file.metadata().unwrap().len();
        Self {
            path: path.into(),
            header: Header::read(&file, length).unwrap(),
        }
    }

    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn clusters(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len().div_ceil(self.cluster())
    }

    fn metadata(&self) -> Metadata {
        let file = File::open(&self.path).unwrap();
        let length = file.metadata().unwrap().len();
        Metadata::read(&file, &self.header, length).unwrap()
    }

    fn read(&self, place: u64) -> u64 {
        let mut entry = [0; 8];
        let file = File::open(&self.path).unwrap();
        file.read_exact_at(&mut entry, place).unwrap();
        u64::from_be_bytes(entry)
    }

    fn write(&self, place: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, place).unwrap();
    }

    fn l1_place(&self, index: u64) -> u64 {
        self.header.tables.l1.start + 8 * index
    }

    /// Of the entry for the cluster at `offset` of the disk, if its table is there.
    fn l2_place(&self, offset: u64) -> Option<u64> {
        let (cluster, in_table) = (offset / self.cluster(), self.cluster() / 8);
        let table = self.read(self.l1_place(cluster / in_table)) & L2_OFFSET;
        (table != 0).then_some(table + cluster % in_table * 8)
    }

    /// The cluster of the file that the disk's `offset` is in.
    fn data_cluster(&self, offset: u64) -> u64 {
        self.read(self.l2_place(offset).unwrap()) & L2_OFFSET
    }

    /// For counts of 16 bits.
    fn count(&self, cluster: u64, count: u16) {
        let bits = counts_in_block_bits(self.header.cluster_bits, 4);
        let block = self.read(self.header.tables.refcounts.start + 8 * (cluster >> bits));
        assert_ne!(block, 0);
        self.write(block + 2 * (cluster & ((1 << bits) - 1)), &count.to_be_bytes());
    }

    fn at(&self, cluster: u64) -> Vec<u8> {
        let file = fs::read(&self.path).unwrap();
        let start = (cluster * self.cluster()) as usize;
        file[start..file.len().min(start + self.cluster() as usize)].into()
    }

    fn first_block(&self) -> u64 {
        self.read(self.header.tables.refcounts.start)
    }
}

/// With data in the first and the third of its L2 tables, a snapshot, a bitmap, and zeroes in a cluster that keeps its
/// place.
fn image(images: &Images, cluster_size: &str) -> Tables {
    let path = images.create("image", &format!("cluster_size={cluster_size}"), SIZE);
    let image = open(&path);
    image.put(0, &data(20 * 512)).unwrap();
    image.put(130 * 512, &data(20 * 512)).unwrap();
    drop(image);
    succeed(&["snapshot", "-c", "before", text(&path)]);
    succeed(&["bitmap", "--add", text(&path), "changes"]);
    let image = open(&path);
    image.put(10 * 512, &data(512)).unwrap();
    image.write_zeroes(4 * 512, 4 * 512, false).unwrap();
    drop(image);
    Tables::of(&path)
}

#[test]
fn a_guest_cannot_have_its_data_become_the_header() {
    need_qemu_img();
    for flags in [COPIED, 0, COPIED | ZERO, ZERO, COMPRESSED] {
        for cluster_size in ["512", "4096", "64k", "2M"] {
            let images = Images::new();
            let tables = image(&images, cluster_size);
            let before = tables.at(0);
            let block = tables.first_block();
            tables.write(tables.l2_place(0).unwrap(), &(block | flags).to_be_bytes());
            let image = open(&tables.path);
            // Has the counts say that all clusters are free, if it can.
            let cluster = tables.cluster().min(SIZE);
            assert!(image.write_zeroes(0, cluster, false).is_err());
            assert!(image.put(0, &data(512)).is_err() && image.discard(0, cluster).is_err());
            for sector in [25, 70, 199] {
                let _ = image.put(sector * 512, &data(512));
            }
            drop(image);
            assert!(tables.at(0)[..48] == before[..48], "{flags:x} {cluster_size}");
            tables.metadata();
        }
    }
}

#[test]
fn data_in_the_header_or_behind_the_end_is_neither_read_nor_written() {
    need_qemu_img();
    for offset in [512, 1 << 20, 1 << 40, L2_OFFSET & !0xffff] {
        let images = Images::new();
        let tables = image(&images, "512");
        // Offset 0 is no entry at all, so the header's second half is the nearest to it with larger clusters.
        let offset = if offset == 512 {
            tables.header.tables.refcounts.start
        } else {
            offset
        };
        tables.write(tables.l2_place(0).unwrap(), &(offset | COPIED).to_be_bytes());
        let image = open(&tables.path);
        let mut sector = [0_u8; 512];
        let iovec = libc::iovec {
            iov_base: sector.as_mut_ptr().cast(),
            iov_len: 512,
        };
        // SAFETY: the buffer outlives the call.
        let error = unsafe { image.read(&[iovec], 0) }.unwrap_err().to_string();
        assert!(error.contains("qemu-img check -r all"), "{error}");
        assert!(image.put(0, &data(512)).is_err());
        drop(image);
        // Who only reads knows no tables but those that are looked at.
        if offset != tables.header.tables.refcounts.start {
            let reader = Disk {
                ro: true,
                ..disk(&tables.path)
            };
            let image = try_open(&reader).unwrap();
            // SAFETY: the buffer outlives the call.
            assert!(unsafe { image.read(&[iovec], 0) }.is_err());
        }
    }
}

#[test]
fn a_cluster_that_two_places_share_is_no_way_into_a_table() {
    need_qemu_img();
    let images = Images::new();
    let tables = image(&images, "512");
    let shared = tables.data_cluster(12 * 512) | COPIED;
    tables.write(tables.l2_place(130 * 512).unwrap(), &shared.to_be_bytes());
    let shared = shared & L2_OFFSET;
    tables.count(shared / 512, 1);
    let image = open(&tables.path);
    // Both tables are in memory.
    assert!(image.get(12 * 512, 512) == image.get(130 * 512, 512));
    // The cluster becomes free. Nothing before it is, so it becomes the second L2 table or the data that it maps.
    image.discard(12 * 512, 512).unwrap();
    let mut sector = 70;
    while !tables.metadata().contains(shared / 512) && sector < 190 {
        image.put(sector * 512, &data(512)).unwrap();
        image.flush().unwrap();
        // A table for each 64 clusters.
        sector += 64;
    }
    assert!(
        tables.metadata().l2_tables.contains(shared / 512),
        "the test shows nothing"
    );
    let before = tables.at(shared / 512);
    assert!(image.put(130 * 512, &data(512)).is_err());
    assert!(image.discard(130 * 512, 512).is_err());
    let _ = image.write_zeroes(130 * 512, 512, false);
    let _ = image.put(130 * 512, &data(512));
    let _ = image.flush();
    drop(image);
    assert!(tables.at(shared / 512) == before);
    tables.metadata();
}

#[test]
fn a_cluster_that_is_in_use_and_counted_as_free_becomes_a_table_or_keeps_its_data() {
    need_qemu_img();
    let images = Images::new();
    let tables = image(&images, "512");
    let victim = tables.data_cluster(12 * 512) / 512;
    tables.count(victim, 0);
    let image = open(&tables.path);
    image.get(12 * 512, 512);
    image.put(70 * 512, &data(512)).unwrap();
    image.flush().unwrap();
    assert!(
        tables.metadata().l2_tables.contains(victim),
        "the test shows nothing"
    );
    let before = tables.at(victim);
    assert!(image.put(12 * 512, &data(512)).is_err());
    assert!(image.put(72 * 512, &data(512)).is_ok(), "other data is written");
    image.flush().unwrap();
    assert_ne!(tables.at(victim), before, "the table is in use");
    assert!(!tables.at(victim).windows(MARK.len()).any(|bytes| bytes == MARK));
}

type Change<'a> = &'a dyn Fn(&Tables);

#[test]
fn tables_in_one_place_or_not_counted_are_refused() {
    need_qemu_img();
    let images = Images::new();
    let tables = image(&images, "512");
    let whole = fs::read(&tables.path).unwrap();
    let l2 = tables.read(tables.l1_place(0));
    let snapshots = tables.header.snapshots.start;
    let snapshot_l1 = tables.read(snapshots);
    let bitmaps = tables.header.bitmaps.start;
    let header = |entry: &dyn Fn(&Tables)| {
        fs::write(&tables.path, &whole).unwrap();
        entry(&tables);
        let error = try_open(&disk(&tables.path)).err();
        error.expect("the image was opened").to_string()
    };
    let cases: [(Change, &str); 11] = [
        (
            &|tables| tables.write(tables.l1_place(1), &l2.to_be_bytes()),
            "names a table twice",
        ),
        (
            &|tables| tables.write(tables.l1_place(1), &(COPIED | snapshot_l1).to_be_bytes()),
            "snapshots is damaged: two tables lie in one place",
        ),
        (
            &|tables| tables.write(tables.l1_place(0), &(l2 ^ COPIED).to_be_bytes()),
            "flags contradict",
        ),
        (
            &|tables| tables.write(tables.l1_place(1), &(COPIED | 1 << 40).to_be_bytes()),
            "not in the file",
        ),
        (
            &|tables| tables.count((l2 & L2_OFFSET) / 512, 0),
            "flags contradict",
        ),
        (&|tables| tables.count(snapshots / 512, 0), "as free space"),
        (&|tables| tables.count(snapshot_l1 / 512, 0), "as free space"),
        (&|tables| tables.count(bitmaps / 512, 0), "as free space"),
        (
            &|tables| tables.write(snapshots, &bitmaps.to_be_bytes()),
            "list of snapshots is damaged",
        ),
        (
            &|tables| tables.write(snapshots + 8, &[0xff; 4]),
            "16 MiB of tables",
        ),
        (
            &|tables| tables.write(bitmaps, &(1_u64 << 40).to_be_bytes()),
            "ends behind the file",
        ),
    ];
    for (index, (change, words)) in cases.iter().enumerate() {
        let error = header(*change);
        assert!(error.contains(words) && error.ends_with(')'), "{index}: {error}");
    }
}

#[test]
fn space_that_became_a_table_is_not_given_back() {
    need_qemu_img();
    // Zeroes over several L2 tables. The second is new, and lies where data of the first was. Data of the third becomes
    // free as well, so the file has all three before space is given back.
    let images = Images::new();
    images.raw("base", &vec![0x55; SIZE as usize]);
    let path = images.on("image", "cluster_size=512", "base", "raw", SIZE);
    let image = open(&path);
    image.put(0, &data(64 * 512)).unwrap();
    image.put(128 * 512, &data(64 * 512)).unwrap();
    image.flush().unwrap();
    image.write_zeroes(0, SIZE, true).unwrap();
    drop(image);
    assert_clean(&path);
    assert!(open(&path).get(0, SIZE as usize).iter().all(|byte| *byte == 0));
}
