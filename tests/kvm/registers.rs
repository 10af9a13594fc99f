use crate::support::{Coracle, need_kvm, u32_at, u64_at};

guest!(
    read_registers,
    "
    # Reads the MSRs whose numbers are at 0x300000, up to one that is all ones. Tells of each its value, and whether
    # reading it was a fault.
    catch_interrupts 4f
    mov esi, 0x300000
    mov edi, 0x210000
2:
    mov ecx, [rsi]
    cmp ecx, -1
    je 3f
    xor eax, eax
    xor edx, edx
    xor ebx, ebx
    rdmsr
    mov [rdi], eax
    mov [rdi + 4], edx
    mov [rdi + 8], ebx
    add esi, 4
    add edi, 12
    jmp 2b
3:
    sub edi, 0x210000
    send 0x210000, edi
    power_off
4:
    # The vector, and the error code of a general protection fault. Goes on behind rdmsr.
    pop rbx
    add rsp, 8
    add qword ptr [rsp], 2
    iretq
"
);

const GENERAL_PROTECTION: u32 = 13;

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_PAT: u32 = 0x277;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Intel: what the processor can do as a hypervisor.
const IA32_VMX_BASIC: u32 = 0x480;
const EFER: u32 = 0xc000_0080;
/// Of no processor.
const NONE: u32 = 0x1234_5678;

#[test]
fn model_specific_registers_are_what_cpuid_promises() {
    need_kvm();
    let expected = [
        // Enabled, of the first processor, at its usual address.
        (IA32_APIC_BASE, Some(0xfee0_0900)),
        // Fast string instructions, neither branch trace nor event sampling; no counters, no MONITOR.
        (IA32_MISC_ENABLE, Some(0x1801)),
        (IA32_PAT, Some(0x0007_0406_0007_0406)),
        // On, and write-back everywhere.
        (IA32_MTRR_DEF_TYPE, Some(0x806)),
        // Long mode, enabled and active.
        (EFER, Some(0x500)),
        // Not there: its feature is not shown.
        (IA32_VMX_BASIC, None),
        (NONE, None),
    ];
    let numbers: Vec<u8> = expected
        .iter()
        .map(|(number, _)| *number)
        .chain([u32::MAX])
        .flat_map(u32::to_le_bytes)
        .collect();
    let ended = Coracle::run(&read_registers().data(numbers).linux64())
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout.len(), expected.len() * 12);
    let told: Vec<(u32, Option<u64>)> = expected
        .iter()
        .zip(ended.stdout.chunks(12))
        .map(|((number, _), told)| match u32_at(told, 8) {
            0 => (*number, Some(u64_at(told, 0))),
            vector => {
                assert_eq!(vector, GENERAL_PROTECTION, "MSR {number:#x}");
                (*number, None)
            }
        })
        .collect();
    assert_eq!(told, expected, "in hexadecimal: {told:x?}");
}

guest!(
    use_x2apic,
    "
    # Both processors: switch to x2APIC mode, and tell the ID that they have in it.
    .macro enter_x2apic
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x802
    rdmsr
    .endm

    # The other one begins in real mode at 0x10000.
    lea rsi, [rip + 5f]
    mov edi, 0x10000
    mov ecx, 512
    rep movsb
    enter_x2apic
    mov [0x12000], eax
    # Software enable, and then INIT and SIPI twice, to all but this one.
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov ecx, 0x830
    mov eax, 0xc4500
    wrmsr
    mov eax, 0xc4610
    wrmsr
    mov eax, 0xc4610
    wrmsr
2:
    pause
    cmp byte ptr [0x11000], 1
    jne 2b
    send 0x12000, 8
    power_off
5:
    .code16
    mov ax, 0x1000
    mov ds, ax
    enter_x2apic
    mov [0x2004], eax
    mov byte ptr [0x1000], 1
6:
    hlt
    jmp 6b
"
);

#[test]
fn the_local_apic_in_x2apic_mode_has_the_vcpus_id() {
    need_kvm();
    let ended = Coracle::run(&use_x2apic().linux64())
        .args(&["--cpus", "2"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout, [0, 0, 0, 0, 1, 0, 0, 0]);
}

guest!(
    set_deadline,
    "
    # Tells whether CPUID shows the TSC deadline, the vector of the interrupt that comes of it, and how long after the
    # moment that was set it came, in ticks.
    catch_interrupts 4f
    enable_local_apic
    mov eax, 1
    cpuid
    shr ecx, 24
    and ecx, 1
    mov [0x210000], ecx
    # The timer's entry: TSC-deadline mode, vector 0x40.
    mov edi, 0xfee00320
    mov dword ptr [rdi], 0x40040
    rdtsc
    shl rdx, 32
    or rax, rdx
    add rax, 1000000
    mov r12, rax
    mov rdx, rax
    shr rdx, 32
    mov ecx, 0x6e0
    wrmsr
2:
    sti
    hlt
    jmp 2b
4:
    pop rax
    mov [0x210004], eax
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r12
    mov [0x210008], rax
    # The register is zero again once the timer has fired.
    mov ecx, 0x6e0
    rdmsr
    or eax, edx
    mov [0x210010], eax
    send 0x210000, 20
    power_off
"
);

#[test]
fn the_timer_interrupts_at_a_tsc_deadline() {
    need_kvm();
    let told = Coracle::run(&set_deadline().linux64())
        .end()
        .with_code(0)
        .in_silence()
        .stdout;
    assert_eq!(u32_at(&told, 0), 1, "CPUID shows it");
    assert_eq!(u32_at(&told, 4), 0x40, "vector");
    let late = u64_at(&told, 8) as i64;
    assert!(late >= 0, "it came {} ticks too early", -late);
    assert_eq!(u32_at(&told, 16), 0, "the deadline is over");
}
