use crate::support::{Coracle, need_kvm, u32_at};

guest!(start_all, "
    # What CPUID tells this processor, to the 32 bytes at \\place: the ID of leaf 1, the highest leaf, and of leaf 0xb
    # the ID, and level 1 as EAX, EBX and ECX.
    .macro tell_topology place
    mov eax, 1
    cpuid
    shr ebx, 24
    mov [\\place], ebx
    xor eax, eax
    cpuid
    mov [\\place + 4], eax
    mov eax, 0xb
    xor ecx, ecx
    cpuid
    mov [\\place + 8], edx
    mov eax, 0xb
    mov ecx, 1
    cpuid
    mov [\\place + 12], eax
    mov [\\place + 16], ebx
    mov [\\place + 20], ecx
    .endm

    # The others begin in real mode at 0x10000.
    lea rsi, [rip + 5f]
    mov edi, 0x10000
    mov ecx, 512
    rep movsb
    mov edi, 0x12000
    tell_topology rdi
    enable_local_apic
    # To all but this one: INIT, and SIPI twice.
    mov edi, 0xfee00300
    mov dword ptr [rdi], 0xc4500
    mov dword ptr [rdi], 0xc4610
    mov dword ptr [rdi], 0xc4610
    mov ebx, [0x300000]
2:
    pause
    cmp [0x11000], bl
    jne 2b
    inc ebx
    shl ebx, 5
    send 0x12000, ebx
    power_off
5:
    .code16
    mov ax, 0x1000
    mov ds, ax
    mov eax, 1
    cpuid
    shr ebx, 24
    mov di, bx
    shl di, 5
    add di, 0x2000
    tell_topology di
    mov al, [di]
    mov dx, 0x3f8
    out dx, al
    lock inc byte ptr [0x1000]
6:
    hlt
    jmp 6b
");

fn cpus(count: u8) {
    need_kvm();
    let others = usize::from(count) - 1;
    let kernel = start_all().data((others as u32).to_le_bytes()).linux64();
    let ended = Coracle::run(&kernel)
        .args(&["--cpus", &count.to_string()])
        .end()
        .with_code(0)
        .in_silence();
    let (said, told) = ended.stdout.split_at(others);
    let mut said = said.to_vec();
    said.sort_unstable();
    assert_eq!(
        said,
        (1..count).collect::<Vec<_>>(),
        "each of the others says its APIC ID once"
    );
    assert_eq!(told.len(), usize::from(count) * 32);

    for (cpu, told) in (0..).zip(told.chunks(32)) {
        assert_eq!(u32_at(told, 0), cpu, "initial APIC ID");
        assert!(
            u32_at(told, 4) >= 0xb,
            "this test needs a KVM that offers CPUID leaf 0xb"
        );
        assert_eq!(u32_at(told, 8), cpu, "x2APIC ID");
        let (shift, cores, level) = (u32_at(told, 12), u32_at(told, 16), u32_at(told, 20));
        assert_eq!(
            shift,
            u32::from(count).next_power_of_two().trailing_zeros(),
            "bits of the ID below the package"
        );
        assert_eq!(cores, u32::from(count), "cores");
        assert_eq!(level, 2 << 8 | 1, "level 1 is that of cores");
    }
}

#[test]
fn a_single_processor_is_alone() {
    cpus(1);
}

#[test]
fn two_processors_start_and_know_their_place() {
    cpus(2);
}

#[test]
fn four_processors_start_and_know_their_place() {
    cpus(4);
}

#[test]
fn thirty_two_processors_start_and_know_their_place() {
    cpus(32);
}

guest!(
    tell_leaves,
    "
    # The leaves whose numbers are at 0x300000, up to one that is all ones: each number and its four registers.
    mov esi, 0x300000
    mov edi, 0x200000
2:
    lodsd
    cmp eax, -1
    je 3f
    stosd
    xor ecx, ecx
    cpuid
    stosd
    mov eax, ebx
    stosd
    mov eax, ecx
    stosd
    mov eax, edx
    stosd
    jmp 2b
3:
    sub edi, 0x200000
    send 0x200000, edi
    power_off
"
);

/// EAX, EBX, ECX and EDX of leaves, as a guest sees them.
fn leaves(numbers: &[u32], arguments: &[&str]) -> Vec<[u32; 4]> {
    let data: Vec<u8> = numbers
        .iter()
        .chain(&[u32::MAX])
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let ended = Coracle::run(&tell_leaves().data(data).linux64())
        .args(arguments)
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout.len(), numbers.len() * 20);
    let told = ended.stdout.chunks(20);
    told.zip(numbers)
        .map(|(told, &number)| {
            assert_eq!(u32_at(told, 0), number);
            [4, 8, 12, 16].map(|at| u32_at(told, at))
        })
        .collect()
}

/// Leaves of performance counters, SGX, processor trace, SVM and sampling, and one that no processor has yet.
const HIDDEN: [u32; 8] = [
    0xa,
    0x12,
    0x14,
    0x2f,
    0x8000_000a,
    0x8000_001b,
    0x8000_001f,
    0x8000_0022,
];

#[test]
fn neither_virtualization_nor_counters_are_shown_unless_asked_for() {
    need_kvm();
    let told = leaves(&[0, 0x8000_0000, 1, 0x8000_0001], &[]);
    let [
        [highest, ..],
        [highest_extended, ..],
        [_, _, features, _],
        [_, _, features_amd, _],
    ] = told[..]
    else {
        panic!("{told:x?}");
    };
    assert_eq!(features >> 5 & 1, 0, "vmx");
    assert_eq!(features >> 15 & 1, 0, "pdcm");
    assert_eq!(features >> 3 & 1, 0, "monitor");
    assert_eq!(features >> 31, 1, "hypervisor");
    assert_eq!(features_amd >> 2 & 1, 0, "svm");
    // A leaf above the highest is not asked for by anybody: processors by Intel answer it with another leaf.
    let asked: Vec<u32> = HIDDEN
        .into_iter()
        .filter(|&leaf| {
            leaf <= if leaf >> 31 == 0 {
                highest
            } else {
                highest_extended
            }
        })
        .collect();
    for (leaf, told) in asked.iter().zip(leaves(&asked, &[])) {
        assert_eq!(told, [0; 4], "leaf {leaf:#x}");
    }
}

#[test]
fn a_feature_that_is_asked_for_is_shown_or_refused_by_name() {
    need_kvm();
    // No processor has both.
    let kernel = tell_leaves().data(u32::MAX.to_le_bytes()).linux64();
    Coracle::run(&kernel)
        .args(&["--cpu", "host,+vmx,+svm"])
        .end()
        .with_code(125)
        .saying(&["this host's KVM has no ", "leave +"]);
}
