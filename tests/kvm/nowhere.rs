use crate::support::{Coracle, need_kvm};

guest!(
    read_absent_ports,
    "
    mov edi, 0x200000
    mov esi, 0x300000
    mov ecx, [rsi]
2:
    add esi, 4
    mov edx, [rsi]
    xor eax, eax
    in al, dx
    mov [rdi], al
    xor eax, eax
    in ax, dx
    mov [rdi + 1], ax
    xor eax, eax
    in eax, dx
    mov [rdi + 3], eax
    # Writes to addresses without a device have no effect.
    out dx, al
    out dx, ax
    out dx, eax
    add edi, 7
    dec ecx
    jnz 2b
    mov ecx, edi
    sub ecx, 0x200000
    mov esi, 0x200000
    mov edx, 0x3f8
    rep outsb
    power_off
"
);

#[test]
fn ports_of_no_device_read_as_all_ones_and_take_writes() {
    need_kvm();
    // The second serial port's, a disk controller's, both ends of the PCI ports, and the last that there are.
    let ports: [u32; 6] = [0x2f8, 0x1f0, 0xcf8, 0xcfc, 0x1234, 0xfff8];
    let data: Vec<u8> = [6]
        .iter()
        .chain(&ports)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let ended = Coracle::run(&read_absent_ports().data(data).linux64())
        .end()
        .with_code(0);
    assert_eq!(ended.stdout, [0xff; 7 * 6]);
}

guest!(
    read_strings_from_nowhere,
    "
    mov edi, 0x200000
    mov ecx, 100
    mov edx, 0x1234
    rep insb
    send 0x200000, 101
    power_off
"
);

#[test]
fn a_string_read_from_nowhere_is_all_ones_and_no_longer_than_asked() {
    need_kvm();
    let ended = Coracle::run(&read_strings_from_nowhere().linux64())
        .end()
        .with_code(0);
    assert_eq!(ended.stdout, [[0xff; 100].as_slice(), &[0]].concat());
}

guest!(
    touch_the_hole,
    "
    mov rbx, [0x300000]
    mov al, [rbx]
    mov [0x200000], al
    mov ax, [rbx]
    mov [0x200001], ax
    mov eax, [rbx]
    mov [0x200003], eax
    mov rax, [rbx]
    mov [0x200007], rax
    mov rax, 0x123456789abcdef0
    mov [rbx], al
    mov [rbx], ax
    mov [rbx], eax
    mov [rbx], rax
    mov eax, [rbx]
    mov [0x20000f], eax
    send 0x200000, 19
    power_off
"
);

#[test]
fn addresses_of_no_device_read_as_all_ones_whatever_was_written_there() {
    need_kvm();
    // Right after guest memory; the first virtio window without a device; in the hole; and across two of its pages.
    for address in [0x800_0000u64, 0xd000_1000, 0xf123_4560, 0xe000_0ffd] {
        let kernel = touch_the_hole().data(address.to_le_bytes()).linux64();
        let ended = Coracle::run(&kernel)
            .args(&["--memory", "128M"])
            .end()
            .with_code(0)
            .in_silence();
        assert_eq!(ended.stdout, [0xff; 19], "at {address:#x}");
    }
}
