use crate::support::queue::{self, Descriptor, Queue};
use crate::support::{Coracle, Random, need_kvm, seed};
use crate::virtio::disk;

guest!(
    storm_ports,
    "
    mov r8, [0x300000]
    mov r9d, [0x300008]
2:
    random
    mov edx, r8d
    movzx edx, dx
    # All ports but those of power-off and reset, which would end the guest.
    mov eax, edx
    and eax, 0xfffc
    cmp eax, 0x600
    je 5f
    cmp eax, 0x5fc
    je 5f
    cmp eax, 0x60
    je 5f
    cmp eax, 0x64
    je 5f
    mov eax, r8d
    shr eax, 20
    and eax, 7
    lea rcx, [rip + 6f]
    lea rcx, [rcx + rax * 8]
    mov rax, r8
    shr rax, 24
    jmp rcx
5:
    dec r9d
    jnz 2b
    power_off
    # An access every 8 bytes.
    .balign 8
6:
    out dx, al
    jmp 5b
    .balign 8
    out dx, ax
    jmp 5b
    .balign 8
    out dx, eax
    jmp 5b
    .balign 8
    in al, dx
    jmp 5b
    .balign 8
    in ax, dx
    jmp 5b
    .balign 8
    in eax, dx
    jmp 5b
    .balign 8
    mov dl, 0xf8
    mov dh, 3
    out dx, al
    jmp 5b
    .balign 8
    and edx, 7
    or edx, 0x3f8
    out dx, ax
    jmp 5b
"
);

#[test]
fn random_writes_to_every_port_harm_nobody() {
    need_kvm();
    let data = [seed().to_le_bytes(), 6000u64.to_le_bytes()].concat();
    Coracle::run(&storm_ports().data(data).linux64())
        .input(vec![b'x'; 100])
        .end()
        .with_code(0)
        .in_silence();
}

guest!(
    storm_window,
    "
    mov r8, [0x300000 + 0x6100]
    mov r9d, [0x300000 + 0x6108]
    mov ebx, 0xd0000000
2:
    random
    # Values and offsets: from the host's tables, or any.
    mov eax, r8d
    and eax, 15
    mov rsi, [0x306180 + rax * 8]
    mov rax, r8
    shr rax, 4
    and eax, 63
    movzx edi, word ptr [0x306200 + rax * 2]
    mov rax, r8
    shr rax, 10
    and eax, 7
    jnz 3f
    mov rsi, r8
3:
    mov rax, r8
    shr rax, 13
    and eax, 15
    jz 4f
    cmp eax, 1
    je 5f
    cmp eax, 2
    je 6f
    cmp eax, 5
    jb 7f
    mov [rbx + rdi], esi
    jmp 8f
4:
    mov [rbx + rdi + 1], rsi
    jmp 8f
5:
    mov [rbx + rdi + 3], sil
    jmp 8f
6:
    mov [rbx + rdi], si
    jmp 8f
7:
    mov eax, [rbx + rdi]
8:
    dec r9d
    jnz 2b
    # After a reset the same device serves a correct driver.
    mov dword ptr [rbx + 0x70], 0
    mov word ptr [0x302002], 0
    mov esi, 0x308000
    mov edi, 0x300000
    mov ecx, 0x7000
    rep movsb
    start_disk
    mov dword ptr [rbx + 0x50], 0
9:
    movzx eax, word ptr [0x302002]
    test eax, eax
    jz 9b
    send 0x305000, 1
    send 0x304000, 512
    power_off
"
);

/// A good request twice, the second copy for after the storm, and between them what `change` makes of it.
fn storm_data(seed: u64, count: u64, changed: Vec<u8>) -> Vec<u8> {
    let good = Vec::from(Queue::request(queue::IN, 5, &[]));
    let mut data = changed;
    data.resize(0x8000, 0);
    data[0x6100..0x6108].copy_from_slice(&seed.to_le_bytes());
    data[0x6108..0x6110].copy_from_slice(&count.to_le_bytes());
    // Values: steps of the handshake, addresses of queues, sizes, guest memory's end, the window itself.
    let values = [
        0,
        1,
        3,
        11,
        15,
        0x30_0000,
        0x30_1000,
        0x30_2000,
        8,
        0x7ff_fff0,
        0xd000_0000,
        0xffff_fff0,
        0x40,
        0x80,
        0x1_0000,
        u64::MAX,
    ];
    for (place, value) in data[0x6180..0x6200].chunks_mut(8).zip(values) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    // Offsets: every register of section 4.2.2, the important ones more than once, and the configuration's ends.
    let registers: [u16; 32] = [
        0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x70,
        0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xfc, 0x100, 0x13c, 0x160, 0xff0, 0xff8,
    ];
    let often: [u16; 32] = [0x70, 0x44, 0x50, 0x20].repeat(8).try_into().unwrap();
    for (place, offset) in data[0x6200..0x6280]
        .chunks_mut(2)
        .zip(registers.into_iter().chain(often))
    {
        place.copy_from_slice(&offset.to_le_bytes());
    }
    data.extend(good);
    data
}

fn storm(data: Vec<u8>) {
    let disk = disk();
    let before = std::fs::read(disk.path()).unwrap();
    let kernel = storm_window().data(data).linux64();
    let name = format!("{},ro", disk.path().display());
    let ended = Coracle::run(&kernel).args(&["--disk", &name]).end().with_code(0);
    assert_eq!(ended.stdout[0], queue::OK, "{}", ended.describe());
    assert_eq!(ended.stdout[1..], [5; 512]);
    assert!(std::fs::read(disk.path()).unwrap() == before);
    // A hostile driver harms only its own guest, so stderr stays short.
    assert!(
        ended.stderr.len() < 64 << 10,
        "{} bytes on stderr",
        ended.stderr.len()
    );
}

#[test]
fn random_writes_to_every_register_of_a_disk_harm_nobody() {
    need_kvm();
    storm(storm_data(seed(), 4000, Queue::request(queue::IN, 5, &[]).into()));
}

guest!(
    offer_and_recover,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
    # Waits until the request is done, the device needs a reset, or a limit is reached.
    mov r9d, 300
2:
    mov eax, [rbx + 0x70]
    test al, 0x40
    jnz 3f
    movzx eax, word ptr [0x302002]
    test eax, eax
    jnz 3f
    dec r9d
    jnz 2b
3:
    mov dword ptr [rbx + 0x70], 0
    mov eax, [rbx + 0x70]
    test eax, eax
    jnz 3b
    mov esi, 0x308000
    mov edi, 0x300000
    mov ecx, 0x7000
    rep movsb
    start_disk
    mov dword ptr [rbx + 0x50], 0
4:
    movzx eax, word ptr [0x302002]
    test eax, eax
    jz 4b
    send 0x305000, 1
    send 0x304000, 512
    power_off
"
);

/// Offers `queue` to a disk, and then reads sector 5 with a correct request.
fn recovers_from(queue: &mut Queue, what: &str) {
    let mut data = Vec::from(queue);
    data.resize(0x8000, 0);
    data.extend(Vec::from(Queue::request(queue::IN, 5, &[])));
    let disk = disk();
    let kernel = offer_and_recover().data(data).linux64();
    let name = format!("{},ro", disk.path().display());
    let ended = Coracle::run(&kernel)
        .args(&["--disk", &name, "--memory", "32M"])
        .end();
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.describe());
    assert_eq!(ended.stdout[0], queue::OK, "{what}: {}", ended.describe());
    assert_eq!(ended.stdout[1..], [5; 512], "{what}");
}

#[test]
fn queues_in_impossible_places_harm_nobody() {
    need_kvm();
    let good = [0x30_0000, 0x30_1000, 0x30_2000];
    // The last bytes of memory, beyond it, the window itself, the end of all addresses, and misaligned.
    for wild in [0x1ff_fff0, 0x200_0000, 0xd000_0000, u64::MAX - 15, 0x30_0001] {
        for which in 0..3 {
            let mut place = good;
            place[which] = wild;
            let mut queue = Queue::request(queue::IN, 0, &[]);
            recovers_from(queue.place(place, 8), &format!("address {which} at {wild:#x}"));
        }
    }
    for size in [0, 3, 7, 0x8000, 0x1_0008, u32::MAX] {
        let mut queue = Queue::request(queue::IN, 0, &[]);
        recovers_from(queue.place(good, size), &format!("size {size:#x}"));
    }
}

#[test]
fn random_descriptors_harm_nobody() {
    need_kvm();
    let mut random = Random(seed());
    for round in 0..12 {
        let addresses = [
            queue::HEADER,
            queue::BUFFER,
            queue::STATUS,
            0,
            0x1ff_fff8,
            0x200_0000,
            0xd000_0000,
            u64::MAX - 7,
        ];
        let lengths = [0, 1, 16, 512, 513, 0x1000, 1 << 31, u32::MAX];
        let flags = [
            0,
            queue::NEXT,
            queue::WRITE,
            queue::NEXT | queue::WRITE,
            queue::INDIRECT,
            u16::MAX,
        ];
        let descriptors = [(); 8].map(|()| Descriptor {
            address: random.pick(&addresses),
            length: random.pick(&lengths),
            flags: random.pick(&flags),
            next: random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, u16::MAX]),
        });
        let heads = [(); 4].map(|()| random.pick(&[0, 1, 2, 3, 7, 8, u16::MAX]));
        let mut queue = Queue::request(random.pick(&[queue::IN, queue::OUT, 4, queue::GET_ID]), 0, &[]);
        queue.chain(&descriptors).offer(&heads);
        if random.next() & 0xf00 == 0 {
            queue.available_index(u16::MAX);
        }
        recovers_from(&mut queue, &format!("round {round}"));
    }
}

guest!(
    cut_power,
    "
    start_disk
    mov dword ptr [rbx + 0x50], 0
    power_off
"
);

#[test]
fn a_power_off_with_requests_in_flight_is_a_power_off() {
    need_kvm();
    let disk = disk();
    let kernel = cut_power()
        .data(Queue::request(queue::OUT, 1, &[1; 512]))
        .linux64();
    for _ in 0..5 {
        Coracle::run(&kernel)
            .args(&["--disk", disk.path().to_str().unwrap()])
            .end()
            .with_code(0)
            .in_silence();
    }
}

guest!(lie_on_the_console, "
    say \"\\033]0;title\\007\\033[2JKernel panic - not syncing: \\033[31mAttempted to kill init! exitcode=0x00000100\\n\"
    reset
");

#[test]
fn escape_sequences_of_a_guest_never_reach_stderr() {
    need_kvm();
    let ended = Coracle::run(&lie_on_the_console().linux64()).end();
    assert!(!ended.stderr.contains(['\x1b', '\x07']), "{}", ended.describe());
    assert!(
        ended.stdout.starts_with(b"\x1b]0;title\x07\x1b[2J"),
        "stdout is the guest's, untouched"
    );
    ended.with_code(105);
}
