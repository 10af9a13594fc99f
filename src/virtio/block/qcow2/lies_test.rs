//! Tables that lie in any way.

use super::*;

/// A place in the tables, and what is put there.
#[derive(Clone, Debug)]
enum Lie {
    /// The L2 entry of a sector says that its data is where something else is.
    Mapping {
        sector: u64,
        target: usize,
        flags: u64,
    },
    /// Somewhere, also far behind the end of the file.
    Wild {
        sector: u64,
        entry: u64,
    },
    Count {
        target: usize,
        count: u16,
    },
    L1 {
        index: u64,
        target: usize,
        flags: u64,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Write,
    Zeroes { may_unmap: bool },
    Discard,
    Read,
    Flush,
    Reopen,
}

fn lie() -> impl Strategy<Value = Lie> {
    let sector = || prop_oneof![0..24_u64, 128..152_u64];
    let flags = || {
        prop::sample::select(vec![
            0,
            COPIED,
            ZERO,
            ZERO | COPIED,
            COMPRESSED,
            COMPRESSED | 1 << 61,
        ])
    };
    let target = || prop_oneof![0..64_usize, any::<usize>()];
    prop_oneof![
        6 => (sector(), target(), flags()).prop_map(|(sector, target, flags)| Lie::Mapping { sector, target, flags }),
        1 => (sector(), any::<u64>()).prop_map(|(sector, entry)| Lie::Wild { sector, entry }),
        4 => (target(), 0..3_u16).prop_map(|(target, count)| Lie::Count { target, count }),
        1 => (0..4_u64, target(), flags()).prop_map(|(index, target, flags)| Lie::L1 { index, target, flags }),
    ]
}

fn step() -> impl Strategy<Value = (Step, u64, u64)> {
    let step = prop_oneof![
        6 => Just(Step::Write),
        2 => any::<bool>().prop_map(|may_unmap| Step::Zeroes { may_unmap }),
        3 => Just(Step::Discard),
        1 => Just(Step::Read),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    let sector = prop_oneof![3 => 0..24_u64, 3 => 128..152_u64, 2 => 0..199_u64];
    (step, sector, prop_oneof![4 => 1..3_u64, 1 => 1..80_u64])
}

impl Lie {
    fn tell(&self, tables: &Tables, data: &[u64]) {
        let target = |index: usize| match index {
            // What is in use by data too, so that it is shared.
            64.. => data[index % data.len()],
            cluster => cluster as u64 % tables.clusters(),
        };
        match *self {
            Self::Mapping {
                sector,
                target: index,
                flags,
            } => {
                if let Some(place) = tables.l2_place(sector * 512) {
                    let entry = (target(index) * tables.cluster()) | flags;
                    tables.write(place, &entry.to_be_bytes());
                }
            }
            Self::Wild { sector, entry } => {
                if let Some(place) = tables.l2_place(sector * 512) {
                    tables.write(place, &entry.to_be_bytes());
                }
            }
            Self::Count { target: index, count } => tables.count(target(index), count),
            Self::L1 {
                index,
                target: number,
                flags,
            } => {
                if tables.l1_place(index) < tables.header.tables.l1.end {
                    let entry = (target(number) * tables.cluster()) | (flags & COPIED);
                    tables.write(tables.l1_place(index), &entry.to_be_bytes());
                }
            }
        }
    }
}

/// Says whether the image was opened.
fn run(cluster_size: &str, lies: &[Lie], steps: &[(Step, u64, u64)]) -> bool {
    let images = Images::new();
    let tables = image(&images, cluster_size);
    let in_use: Vec<u64> = [0, 5, 12, 19, 131, 140]
        .map(|sector| tables.data_cluster(sector * 512) / tables.cluster())
        .into();
    for lie in lies {
        lie.tell(&tables, &in_use);
    }
    let open = || try_open(&disk(&tables.path)).ok();
    let Some(mut image) = open() else { return false };
    let before = tables.metadata();
    let header = tables.at(0);
    // These never change, and L1 tables and counts only in whole entries.
    let kept: Vec<u64> = (before.fixed.iter())
        .filter(|cluster| {
            let place = cluster * tables.cluster();
            let of_table = |table: &std::ops::Range<u64>| table.contains(&place);
            *cluster != 0 && !of_table(&tables.header.tables.l1) && !of_table(&tables.header.tables.refcounts)
        })
        .collect();
    let has_data = |cluster| tables.at(cluster).windows(MARK.len()).any(|bytes| bytes == MARK);
    // The image came with a table that is a cluster of data, too.
    let came_with_data: Vec<u64> = before.l2_tables.iter().filter(|table| has_data(*table)).collect();
    let kept_bytes: Vec<_> = kept.iter().map(|cluster| tables.at(*cluster)).collect();
    for (step, sector, sectors) in steps {
        let (offset, length) = (sector * 512, (*sectors).min(200 - sector) * 512);
        // It may fail, but nothing else.
        match step {
            Step::Write => drop(image.put(offset as usize, &data(length as usize))),
            Step::Zeroes { may_unmap } => drop(image.write_zeroes(offset, length, *may_unmap)),
            Step::Discard => drop(image.discard(offset, length)),
            Step::Flush => drop(image.flush()),
            Step::Read => {
                let mut buffer = vec![0_u8; length as usize];
                let iovec = libc::iovec {
                    iov_base: buffer.as_mut_ptr().cast(),
                    iov_len: buffer.len(),
                };
                // SAFETY: the buffer outlives the call.
                drop(unsafe { image.read(&[iovec], offset) });
            }
            Step::Reopen => {
                drop(image);
                image = open().expect("what was opened once is opened again");
            }
        }
    }
    drop(image);
    let mut header_now = tables.at(0);
    // Where the refcount table is: it may have grown.
    header_now[48..60].copy_from_slice(&header[48..60]);
    assert!(header_now == header, "the header was changed");
    for (cluster, bytes) in kept.iter().zip(kept_bytes) {
        assert!(
            tables.at(*cluster) == bytes,
            "cluster {cluster} of a snapshot or bitmap was changed"
        );
    }
    // It is whole: no two tables are in one place, and all are counted.
    let after = Tables::of(&tables.path).metadata();
    assert!(before.l2_tables.iter().all(|table| after.contains(table)));
    assert!(before.blocks.keys().all(|block| after.blocks.contains_key(block)));
    for cluster in after.clusters() {
        assert!(
            !has_data(cluster) || came_with_data.contains(&cluster),
            "a guest's data is in the table in cluster {cluster}"
        );
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn tables_that_lie_let_no_data_into_tables(
        cluster_size in prop::sample::select(vec!["512", "512", "1k", "64k"]),
        lies in prop::collection::vec(lie(), 1..6),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        need_qemu_img();
        run(cluster_size, &lies, &steps);
    }
}
