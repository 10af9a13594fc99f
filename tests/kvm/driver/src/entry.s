# From the 64-bit entry (Linux x86 boot protocol) to a Rust program in ring 3.
#
# Some KVMs interpret a guest's kernel mode, slowly and without SSE. User mode runs as it is on each of them, so this
# guest is in kernel mode for these instructions only. No interrupt and no exception is handled: one ends the guest.

.set CR0_MP, 1 << 1
.set CR0_EM, 1 << 2
.set CR4_OSFXSR, 1 << 9
.set CR4_OSXMMEXCPT, 1 << 10
.set USER, 1 << 2
.set ADDRESS, 0x000ffffffffff000
.set RFLAGS_FIXED, 1 << 1
# Descriptors 1 and 2, requested privilege level 3.
.set CODE, 1 << 3 | 3
.set DATA, 2 << 3 | 3
.set TSS, 3 << 3
.set TSS_AVAILABLE, 0x89

.section .text.entry, "ax", @progbits
.code64
.globl _start
_start:
    cli
    # The zero page, for the program.
    mov rdi, rsi

    # Addresses are mapped one to one by large pages; let ring 3 use the first 64 MiB and the 2 MiB of devices.
    mov r8, ADDRESS
    mov rax, cr3
    and rax, r8
    or qword ptr [rax], USER
    mov rax, [rax]
    and rax, r8
    or qword ptr [rax], USER
    or qword ptr [rax + 3 * 8], USER
    mov rbx, [rax]
    and rbx, r8
    mov ecx, 32
2:  or qword ptr [rbx], USER
    add rbx, 8
    dec ecx
    jnz 2b
    mov rbx, [rax + 3 * 8]
    and rbx, r8
    or qword ptr [rbx + 128 * 8], USER
    mov rax, cr3
    mov cr3, rax

    mov rax, cr0
    and rax, ~CR0_EM
    or rax, CR0_MP
    mov cr0, rax
    mov rax, cr4
    or rax, CR4_OSFXSR | CR4_OSXMMEXCPT
    mov cr4, rax

    lgdt [rip + gdt_pointer]
    lea rax, [rip + tss]
    mov [rip + tss_descriptor + 2], ax
    shr rax, 16
    mov [rip + tss_descriptor + 4], al
    mov [rip + tss_descriptor + 7], ah
    mov ax, TSS
    ltr ax
    lea rax, [rip + stack_top]
    lea rcx, [rip + enter]
    push DATA
    push rax
    push RFLAGS_FIXED
    push CODE
    push rcx
    iretq

enter:
    call program

.section .data.entry, "aw", @progbits
.balign 8
gdt:
    .quad 0
    # 64-bit code, ring 3.
    .quad 0x00affb000000ffff
    # Data, ring 3.
    .quad 0x00cff3000000ffff
tss_descriptor:
    .word tss_end - tss - 1, 0
    .byte 0, TSS_AVAILABLE, 0, 0
    .quad 0
gdt_pointer:
    .word . - gdt - 1
    .quad gdt

# Its I/O permission bit map lets ring 3 at the ports below 0x608 (Intel SDM volume 1 section 19.5.2). Not every KVM
# remembers an I/O privilege level of 3.
.balign 8
tss:
    .skip 102
    .word 104
    .skip 0x608 / 8
    .byte 0xff
tss_end:

.section .bss.stack, "aw", @nobits
.balign 16
    .skip 0x10000
stack_top:
