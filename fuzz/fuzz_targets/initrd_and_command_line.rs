//! Any initrd beside any kernel, and any text as the kernel command line.
#![no_main]

use std::sync::LazyLock;

use coracle::boot::parameters::is_blank;
use coracle::boot::{self, CommandLine, Format, Image, Kernel, Protocol, command_line};
use coracle::x86::layout::{COMMAND_LINE, COMMAND_LINE_MAX, HIGH_MEMORY, MEMORY_ABOVE_4G};
use coracle_fuzz::{Guest, MemoryFile};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;

const PAGE: u64 = 4096;
const LOW: usize = 2 << 20;
const HIGH: usize = 1 << 20;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);
static GUEST: LazyLock<Guest> = LazyLock::new(|| Guest::new(&[(0, LOW), (MEMORY_ABOVE_4G, HIGH)]));

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    initrd: &'a [u8],
    /// Bytes of zero after it.
    padding: u32,
    /// Where the kernel ends, from 1 MiB up.
    kernel_size: u32,
    initrd_addr_max: Option<u32>,
    texts: Vec<&'a str>,
    limit: u16,
}

fuzz_target!(|input: Input| {
    GUEST.discard();
    place_initrd(&input);
    GUEST.discard();
    build_command_line(&input);
});

fn place_initrd(input: &Input) {
    FILE.replace(input.initrd);
    let length = input.initrd.len() as u64 + u64::from(input.padding) % (LOW as u64);
    if length == 0 {
        return;
    }
    if length > input.initrd.len() as u64 {
        FILE.write_at(&[0], length - 1);
    }
    let image = Image::open(&FILE.path()).expect("the file is not empty");
    let kernel_end = HIGH_MEMORY + 1 + u64::from(input.kernel_size) % HIGH_MEMORY;
    let mut kernel = Kernel {
        moved: None,
        format: Format::Elf,
        protocol: Protocol::Linux64,
        entry: GuestAddress(HIGH_MEMORY),
        start: GuestAddress(HIGH_MEMORY),
        end: GuestAddress(kernel_end),
        setup_header: None,
        command_line_limit: 2047,
    };
    if let Some(max) = input.initrd_addr_max {
        kernel.setup_header = Some(Default::default());
        kernel
            .setup_header
            .iter_mut()
            .for_each(|header| header.initrd_addr_max = max);
    }
    let highest = input.initrd_addr_max.map_or(u64::from(u32::MAX), u64::from);
    let room_end = (highest + 1).min(LOW as u64);
    match boot::load_initrd(&image, &GUEST.memory, &kernel) {
        Ok(initrd) => {
            let start = initrd.address.0;
            let end = start + initrd.size;
            assert_eq!(initrd.size, length);
            assert!(start.is_multiple_of(PAGE), "{initrd:x?}");
            assert!(kernel_end <= start && end <= room_end, "{initrd:x?}");
            assert!(GUEST.bytes(start, input.initrd.len()) == input.initrd);
            assert!(
                GUEST.is_untouched(0..start),
                "memory below the initrd was written"
            );
        }
        Err(error) => {
            let room = room_end.saturating_sub(kernel_end.next_multiple_of(PAGE)) & !(PAGE - 1);
            assert!(length > room, "{error}");
            assert!(
                GUEST.is_untouched(0..LOW as u64),
                "memory was written all the same"
            );
        }
    }
}

fn build_command_line(input: &Input) {
    let mut line = CommandLine::new("console=ttyS0").expect("a plain command line");
    let mut words = vec!["console=ttyS0"];
    for text in &input.texts {
        let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let closed = text.matches('"').count().is_multiple_of(2);
        let before = line.text();
        match line.append(text) {
            Ok(()) => {
                assert!(closed && !text.contains('\0'), "{text:?}");
                words.extend(text.split(is_blank));
            }
            Err(error) => {
                assert!(!is_plain || !closed, "{error}");
                assert_eq!(line.text(), before, "a refused text was added");
            }
        }
    }
    let text = line.text();
    assert!(text.starts_with("console=ttyS0"));
    // Every word arrives once; only the separator between parameters and init arguments comes and goes.
    let sorted = |words: &mut dyn Iterator<Item = &str>| {
        let mut words: Vec<String> = words
            .filter(|word| !matches!(*word, "" | "--" | "\"--\""))
            .map(str::to_owned)
            .collect();
        words.sort();
        words
    };
    assert_eq!(sorted(&mut text.split(' ')), sorted(&mut words.into_iter()));

    let limit = usize::from(input.limit);
    assert_eq!(
        line.check(limit).is_ok(),
        text.len() <= limit && text.len() < COMMAND_LINE_MAX
    );
    let written = command_line::write(&line, &GUEST.memory, GuestAddress(COMMAND_LINE));
    assert_eq!(written.is_ok(), text.len() < COMMAND_LINE_MAX);
    if written.is_ok() {
        let mut written = text.into_bytes();
        written.push(0);
        written.resize(written.len().next_multiple_of(PAGE as usize), 0);
        assert!(GUEST.bytes(COMMAND_LINE, written.len()) == written);
        let end = COMMAND_LINE + written.len() as u64;
        assert!(GUEST.is_untouched(0..COMMAND_LINE) && GUEST.is_untouched(end..LOW as u64));
    }
}
