//! Requests of all kinds, in any framing, against a disk that is a `Vec`.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Read {
        sector: u64,
        sectors: usize,
    },
    Write {
        sector: u64,
        sectors: usize,
        seed: u8,
    },
    Discard {
        sector: u64,
        sectors: u32,
        flags: u32,
    },
    WriteZeroes {
        sector: u64,
        sectors: u32,
        flags: u32,
    },
    Flush,
    Id,
    Restart,
    /// The configuration's `writeback`.
    Cache(bool),
}

fn operation() -> impl Strategy<Value = Operation> {
    // Up to and past the end.
    let (sector, sectors) = (0..SECTORS as u64 + 2, 0..20usize);
    let range = (sector.clone(), 0..20u32, 0..3u32);
    prop_oneof![
        4 => (sector.clone(), sectors.clone()).prop_map(|(sector, sectors)| Operation::Read { sector, sectors }),
        4 => (sector, sectors, any::<u8>())
            .prop_map(|(sector, sectors, seed)| Operation::Write { sector, sectors, seed }),
        1 => range.clone().prop_map(|(sector, sectors, flags)| Operation::Discard { sector, sectors, flags }),
        2 => range.prop_map(|(sector, sectors, flags)| Operation::WriteZeroes { sector, sectors, flags }),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Id),
        1 => Just(Operation::Restart),
        1 => any::<bool>().prop_map(Operation::Cache),
    ]
}

fn framing() -> impl Strategy<Value = Framing> {
    let cuts = || prop::collection::vec(prop_oneof![0..40usize, 0..10_240usize], 0..30);
    (cuts(), cuts(), any::<bool>()).prop_map(|(readable, writable, indirect)| Framing {
        readable,
        writable,
        indirect,
    })
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_disk_behaves_like_an_array_of_sectors(
        operations in prop::collection::vec((operation(), framing()), 1..40),
        event_idx in any::<bool>(),
        engine in any_engine(),
        cache in any_cache(),
        ephemeral in any::<bool>(),
    ) {
        let features = FEATURES | 1 << VIRTIO_BLK_F_CONFIG_WCE | if event_idx { EVENT_IDX } else { 0 };
        let file = image();
        let mut model = pattern();
        let options = config::Disk { id: Some("model".into()), cache, ephemeral, ..options(file.path(), engine) };
        let mut driver = driver(Block::open(&options, 1).unwrap(), features);
        for (operation, framing) in operations {
            let (kind, sector, data_out, data_in) = match operation {
                Operation::Read { sector, sectors } => (VIRTIO_BLK_T_IN, sector, vec![], sectors * 512),
                Operation::Write { sector, sectors, seed } => {
                    let data = (0..sectors * 512).map(|index| (index % 253) as u8 ^ seed).collect();
                    (VIRTIO_BLK_T_OUT, sector, data, 0)
                }
                Operation::Discard { sector, sectors, flags } => {
                    (VIRTIO_BLK_T_DISCARD, sector, range(sector, sectors, flags), 0)
                }
                Operation::WriteZeroes { sector, sectors, flags } => {
                    (VIRTIO_BLK_T_WRITE_ZEROES, sector, range(sector, sectors, flags), 0)
                }
                Operation::Flush => (VIRTIO_BLK_T_FLUSH, 0, vec![], 0),
                Operation::Id => (VIRTIO_BLK_T_GET_ID, 0, vec![], 20),
                Operation::Restart => {
                    driver.reset();
                    driver.start(features, QUEUE);
                    continue;
                }
                Operation::Cache(writeback) => {
                    driver.write_config(configuration::WRITEBACK, &[writeback.into()]);
                    prop_assert_eq!(driver.config(configuration::WRITEBACK, 1), [u8::from(writeback)]);
                    continue;
                }
            };
            driver.want_interrupt();
            let readable = [header(kind, sector), data_out.clone()].concat();
            let pending = offer(&mut driver, &readable, data_in + 1, &framing);
            let reply = finish(&mut driver, pending);

            let done = |data: Vec<u8>| Reply { status: OK, used: data.len() as u32 + 1, data };
            let refused = |status| Reply {
                status,
                data: vec![NOT_WRITTEN; data_in],
                used: u32::from(data_in == 0),
            };
            let start = sector as usize * 512;
            let expected = match operation {
                Operation::Id => done([&b"model"[..], &[0; 15]].concat()),
                Operation::Read { sectors, .. } => match model.get(start..start + sectors * 512) {
                    Some(bytes) => done(bytes.to_vec()),
                    None => refused(IOERR),
                },
                Operation::Write { sectors, .. } => match model.get_mut(start..start + sectors * 512) {
                    Some(bytes) => {
                        bytes.copy_from_slice(&data_out);
                        done(vec![])
                    }
                    None => refused(IOERR),
                },
                Operation::Discard { flags: 1.., .. } | Operation::WriteZeroes { flags: 2.., .. } => refused(UNSUPP),
                Operation::Discard { sectors, .. } | Operation::WriteZeroes { sectors, .. } => {
                    match model.get_mut(start..start + sectors as usize * 512) {
                        Some(bytes) => {
                            // A discarded range may read as anything; on a file with holes it reads as zeroes.
                            bytes.fill(0);
                            done(vec![])
                        }
                        None => refused(IOERR),
                    }
                }
                _ => done(vec![]),
            };
            prop_assert!(reply == expected, "{operation:?} {framing:?}: status {} used {}", reply.status, reply.used);
        }
        let expected = if ephemeral { pattern() } else { model };
        prop_assert!(contents(&file) == expected);
    }
}
