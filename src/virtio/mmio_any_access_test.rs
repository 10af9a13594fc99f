//! Whatever a driver writes.

use super::*;

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Register(u32, u32),
}

fn access() -> impl Strategy<Value = Access> {
    let width = prop_oneof![Just(1usize), Just(2), Just(4), Just(8)];
    let offset = prop_oneof![0u64..0x110, 0u64..0x1000];
    // Addresses and sizes that work are likelier than others to get far.
    let value = prop_oneof![
        0u32..16,
        any::<u32>(),
        Just(0x1000),
        Just(0x2000),
        Just(0x3000),
        Just(8)
    ];
    let register = prop::sample::select(vec![
        0x14u32, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xc0,
    ]);
    prop_oneof![
        (offset.clone(), width.clone()).prop_map(|(offset, width)| Access::Read(offset, width)),
        (offset, width, any::<[u8; 8]>()).prop_map(|(o, width, v)| Access::Write(o, v[..width].to_vec())),
        (register, value).prop_map(|(register, value)| Access::Register(register, value)),
    ]
}

proptest! {
    #[test]
    fn whatever_is_written_to_the_registers_a_reset_makes_the_device_work(
        accesses in prop::collection::vec(access(), 0..200)
    ) {
        let (mut driver, log) = fake();
        for access in accesses {
            match access {
                Access::Read(offset, width) => driver.transport.read(offset, &mut [0xff; 8][..width]),
                Access::Write(offset, data) => driver.transport.write(offset, &data),
                Access::Register(register, value) => driver.write(register, value),
            }
        }
        driver.reset();
        prop_assert!(!log.active());
        driver.start(ALL_FEATURES, 8);
        prop_assert!(log.active());
    }
}
