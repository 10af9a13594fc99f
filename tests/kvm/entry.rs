use crate::support::{Coracle, Ended, need_kvm, text, u32_at, u64_at};

const MIB: u64 = 1 << 20;
const RAM: u32 = 1;

guest!(
    tell_start_info,
    "
    .code32
    # hvm_start_info, its memory map and the command line, from EBX on.
    mov esi, ebx
    mov ecx, 56
    mov edx, 0x3f8
    rep outsb
    mov esi, [ebx + 24]
    mov ecx, 256
    rep outsb
    mov esi, [ebx + 40]
    mov ecx, [ebx + 48]
    lea ecx, [ecx + ecx * 2]
    shl ecx, 3
    rep outsb
    mov eax, cr0
    mov [0x200000], eax
    send 0x200000, 4
    power_off
"
);

/// Start and size of each range of RAM.
fn ranges<'a>(entries: impl Iterator<Item = &'a [u8]>, kind_at: usize) -> Vec<(u64, u64)> {
    entries
        .filter(|entry| u32_at(entry, kind_at) == RAM)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
        .collect()
}

fn start_info(arguments: &[&str]) -> Ended {
    Coracle::run(&tell_start_info().pvh())
        .args(arguments)
        .end()
        .with_code(0)
        .in_silence()
}

#[test]
fn a_pvh_kernel_finds_its_start_info_and_command_line_at_ebx() {
    need_kvm();
    let told = start_info(&["--cmdline", "oar=2 -- paddle"]).stdout;
    assert_eq!(u32_at(&told, 0), 0x336e_c578, "magic");
    assert_eq!(u32_at(&told, 4), 1, "version");
    assert_eq!(u32_at(&told, 12), 0, "no modules");
    assert_ne!(u64_at(&told, 32), 0, "an RSDP");
    let line = text(&told[56..312]);
    assert!(
        line.contains("console=ttyS0") && line.contains("oar=2") && line.ends_with("-- paddle"),
        "{line}"
    );
    let (paging, protected) = (1 << 31, 1);
    assert_eq!(u32_at(&told, told.len() - 4) & (paging | protected), protected);
}

fn pvh_ranges(memory: &str) -> Vec<(u64, u64)> {
    let told = start_info(&["--memory", memory]).stdout;
    let map = &told[312..told.len() - 4];
    assert_eq!(map.len(), u32_at(&told, 48) as usize * 24);
    ranges(map.chunks(24), 16)
}

guest!(
    tell_zero_page,
    "
    mov ebx, esi
    mov ecx, 4096
    mov edx, 0x3f8
    rep outsb
    mov esi, [rbx + 0x228]
    mov ecx, 256
    rep outsb
    power_off
"
);

#[test]
fn a_64_bit_kernel_finds_the_zero_page_and_its_command_line_at_rsi() {
    need_kvm();
    let kernel = tell_zero_page().linux64();
    let told = Coracle::run(&kernel)
        .args(&["--cmdline", "oar=2"])
        .end()
        .with_code(0)
        .in_silence()
        .stdout;
    assert_eq!(&told[0x202..0x206], b"HdrS");
    assert_ne!(told[0x210], 0, "type_of_loader");
    assert_eq!(u32_at(&told, 0x218), 0, "no initrd");
    let line = text(&told[4096..]);
    assert!(line.contains("console=ttyS0") && line.contains("oar=2"), "{line}");
}

guest!(
    send_initrd,
    "
    mov ebx, esi
    mov esi, [rbx + 0x218]
    mov ecx, [rbx + 0x21c]
    mov edx, 0x3f8
    rep outsb
    power_off
"
);

#[test]
fn the_initrd_is_where_the_zero_page_says_and_whole() {
    need_kvm();
    let bytes: Vec<u8> = (0..5000u32).map(|index| (index >> 2) as u8).collect();
    let initrd = crate::support::Kernel::new(&bytes);
    let kernel = send_initrd().linux64();
    let ended = Coracle::run(&kernel)
        .args(&["--initrd", initrd.path().to_str().unwrap()])
        .end()
        .with_code(0);
    assert!(ended.stdout == bytes, "{} bytes arrived", ended.stdout.len());
}

fn zero_page_ranges(memory: &str) -> Vec<(u64, u64)> {
    let kernel = tell_zero_page().linux64();
    let told = Coracle::run(&kernel)
        .args(&["--memory", memory])
        .end()
        .with_code(0)
        .in_silence()
        .stdout;
    let count = usize::from(told[0x1e8]);
    ranges(told[0x2d0..0x2d0 + 20 * count].chunks(20), 16)
}

#[test]
fn both_protocols_tell_of_all_memory_below_and_above_4_gib() {
    need_kvm();
    // What PC convention keeps back: the part of the first MiB from the extended BIOS data area on.
    let kept_back = MIB - 0x9_fc00;
    for (size, bytes) in [("64M", 64 * MIB), ("5G", 5 << 30)] {
        let ranges = zero_page_ranges(size);
        assert_eq!(pvh_ranges(size), ranges, "{size}");
        assert_eq!(
            ranges.iter().map(|(_, size)| size).sum::<u64>(),
            bytes - kept_back,
            "{size}: {ranges:x?}"
        );
        let in_hole = |start: u64, end: u64| start < 1 << 32 && end > 0xc000_0000;
        assert!(
            !ranges.iter().any(|(start, size)| in_hole(*start, start + size)),
            "{size}: {ranges:x?}"
        );
    }
}

guest!(
    use_the_last_byte,
    "
    # Maps a GiB from 4 GiB on: a page directory at 0x210000, in the fifth entry of the one at 0xa000.
    mov edi, 0x210000
    mov rax, 0x100000083
    mov ecx, 512
2:
    mov [rdi], rax
    add rax, 0x200000
    add rdi, 8
    dec ecx
    jnz 2b
    mov rbx, cr3
    mov rbx, [rbx]
    and rbx, -4096
    mov qword ptr [rbx + 4 * 8], 0x210003
    mov rax, cr3
    mov cr3, rax
    mov rsi, [0x300000]
    mov byte ptr [rsi], 0x42
    mov al, [rsi]
    mov edx, 0x3f8
    out dx, al
    power_off
"
);

#[test]
fn the_last_byte_of_memory_is_there() {
    need_kvm();
    for (size, last) in [
        ("64M", 64 * MIB - 1),
        ("3G", (3 << 30) - 1),
        ("4G", (5u64 << 30) - 1),
    ] {
        let kernel = use_the_last_byte().data(last.to_le_bytes()).linux64();
        let ended = Coracle::run(&kernel)
            .args(&["--memory", size])
            .end()
            .with_code(0)
            .in_silence();
        assert_eq!(ended.stdout, b"B", "{size}");
    }
}
