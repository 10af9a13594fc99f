//! Tables, rings and headers that no driver in its right mind would write.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SIZE: u16 = 16;
const TABLE_SIZE: u64 = 8;
/// Behind the image in its file: not the disk's.
const BEYOND: &[u8] = &[0x99; 4096];

#[derive(Clone, Debug)]
struct Attack {
    main: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    headers: Vec<(u32, u64)>,
    heads: Vec<u16>,
    /// Added to the number of heads for the available ring's index.
    surplus: u16,
}

fn header_fields() -> impl Strategy<Value = (u32, u64)> {
    let kind = prop_oneof![4 => prop::sample::select(vec![0u32, 1, 4, 8, 11, 13]), 1 => any::<u32>()];
    let sector = prop_oneof![4 => 0..SECTORS as u64 + 1, 1 => any::<u64>()];
    (kind, sector)
}

fn descriptor(
    address: impl Strategy<Value = u64>,
    flags: std::ops::Range<u16>,
) -> impl Strategy<Value = Descriptor> {
    let length = prop_oneof![
        4 => prop::sample::select(vec![0u32, 1, 15, 16, 17, 32, 512, 513, 1024, 4096]),
        1 => any::<u32>(),
        1 => Just(u32::MAX),
    ];
    (
        address,
        length,
        flags,
        prop_oneof![8 => 0..SIZE, 1 => any::<u16>()],
    )
}

/// `addresses` for buffers, `tables` for indirect tables.
fn attack(
    addresses: impl Strategy<Value = u64> + Clone + 'static,
    tables: impl Strategy<Value = u64> + Clone + 'static,
) -> impl Strategy<Value = Attack> {
    let direct = descriptor(addresses.clone(), 0..4);
    let table = descriptor(tables, 4..8).prop_map(|(address, length, flags, next)| {
        (
            address,
            if length % 3 == 0 {
                length
            } else {
                16 * (length % (TABLE_SIZE as u32 + 1))
            },
            flags,
            next,
        )
    });
    (
        prop::collection::vec(prop_oneof![4 => direct, 1 => table], usize::from(SIZE)),
        prop::collection::vec(descriptor(addresses, 0..4), TABLE_SIZE as usize),
        prop::collection::vec(header_fields(), 1..8),
        prop::collection::vec(prop_oneof![8 => 0..SIZE, 1 => any::<u16>()], 1..usize::from(SIZE)),
        prop_oneof![8 => Just(0u16), 1 => any::<u16>()],
    )
        .prop_map(|(main, indirect, headers, heads, surplus)| Attack {
            main,
            indirect,
            headers,
            heads,
            surplus,
        })
}

fn buffer_address() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        8 => (0u64..64).prop_map(|slot| DATA + 16 * slot),
        2 => DATA..MEMORY_SIZE,
        1 => HOLE - 64..HOLE + 64,
        1 => HIGH_MEMORY + MEMORY_SIZE - 64..HIGH_MEMORY + MEMORY_SIZE,
        1 => u64::MAX - 64..=u64::MAX,
    ]
}

fn any_address() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        4 => buffer_address(),
        1 => DESCRIPTORS..USED + 0x100,
        1 => TABLES..TABLES + 0x100,
        1 => any::<u64>(),
    ]
}

fn attacked_image(engine: Engine) -> (Driver, NamedTempFile) {
    let mut file = image();
    let block = open(file.path(), engine);
    file.write_all(BEYOND).unwrap();
    (Driver::new(Box::new(block)), file)
}

/// A disk of two files, and all that is in these.
fn attacked_files(engine: Engine) -> (Driver, [File; 2], Vec<u8>) {
    let files = [(); 2].map(|()| tempfile::tempfile().unwrap());
    for mut file in &files {
        file.write_all(&pattern()).unwrap();
    }
    let options = config::Disk {
        engine,
        ..config::Disk::handed_over("attacked".into(), true)
    };
    let opened = files.each_ref().map(|file| file.try_clone().unwrap());
    let backend = Backend::handed_over(&options, opened.into(), 1).unwrap();
    (
        Driver::new(Box::new(Block::new(Arc::new(backend)))),
        files,
        pattern(),
    )
}

/// Starts the device on the attack and waits until it has dealt with it. Returns what memory was before.
fn launch(driver: &mut Driver, attack: &Attack) -> Vec<u8> {
    assert!(driver.negotiate(FEATURES));
    driver.set_up_queue(SIZE);
    for (table, descriptors) in [(DESCRIPTORS, &attack.main), (TABLES, &attack.indirect)] {
        for (index, descriptor) in descriptors.iter().enumerate() {
            driver.describe(table, index as u16, *descriptor);
        }
    }
    for slot in 0..64 {
        let (kind, sector) = attack.headers[slot % attack.headers.len()];
        driver.put(&header(kind, sector), DATA + 16 * slot as u64);
    }
    for head in &attack.heads {
        driver.offer(*head);
    }
    let index = driver.next_available().wrapping_add(attack.surplus);
    driver.put(&index.to_le_bytes(), AVAILABLE + 2);
    let memory = driver.bytes(0, MEMORY_SIZE as usize);
    driver.driver_ok();
    // Something is available, or too much is: one interrupt comes in any case, and the last one comes with the
    // end of the thread or before the reset.
    if index != 0 {
        driver.wait();
    }
    driver.reset();
    memory
}

fn survives(driver: &mut Driver, file: &NamedTempFile) -> Result<(), TestCaseError> {
    prop_assert!(
        contents(file)[SECTORS * 512..] == *BEYOND,
        "the file changed behind the image"
    );
    driver.start(FEATURES, QUEUE);
    prop_assert_eq!(write(driver, 9, &[0x42; 512]), OK);
    prop_assert_eq!(read(driver, 9, 512).data, vec![0x42; 512]);
    Ok(())
}

proptest! {
    #[test]
    fn whatever_the_rings_say_the_disk_survives_it(attack in attack(any_address(), any_address()), engine in any_engine()) {
        let (mut driver, file) = attacked_image(engine);
        launch(&mut driver, &attack);
        survives(&mut driver, &file)?;
    }

    #[test]
    fn guest_memory_changes_only_where_descriptors_say_write(attack in attack(buffer_address(), Just(TABLES)), engine in any_engine()) {
        let (mut driver, file) = attacked_image(engine);
        let before = launch(&mut driver, &attack);
        let descriptors = attack.main.iter().chain(&attack.indirect);
        prop_assert!(driver.has_written_only(&before, descriptors), "guest memory changed outside of writable descriptors");
        survives(&mut driver, &file)?;
    }

    #[test]
    fn a_disk_of_several_files_survives_it_and_no_file_changes(attack in attack(any_address(), any_address()), engine in any_engine()) {
        let (mut driver, files, before) = attacked_files(engine);
        launch(&mut driver, &attack);
        driver.start(FEATURES, QUEUE);
        prop_assert_eq!(write(&mut driver, 0, &[0x42; 512]), IOERR);
        prop_assert!(read(&mut driver, 0, SECTORS * 512).data == before);
        for file in &files {
            prop_assert_eq!(file.metadata().unwrap().len(), before.len() as u64);
            let mut bytes = vec![0; before.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            prop_assert!(bytes == before);
        }
    }

    #[test]
    fn the_configuration_is_read_at_any_offset(offset in any::<u64>(), width in 0usize..16) {
        let file = image();
        let mut block = open(file.path(), Engine::Auto);
        let mut data = vec![0; width];
        block.read_config(offset, &mut data);
        block.write_config(offset, &data);
        prop_assert!(offset < configuration::SIZE as u64 || data.iter().all(|byte| *byte == 0));
    }
}
