//! The first instructions: the first line comes before the C library sets itself up, as boot time is measured to it.

use std::arch::naked_asm;

/// I/O port of the boot clock. The kernel has opened it, and says so by the first word of the environment.
const CLOCK_PORT: u16 = 0x5f0;
/// Points in time, after the kernel's own two: init's start, and its first line written.
const CLOCK_START: u8 = 3;
const CLOCK_FIRST_LINE: u8 = 4;
/// "coracle.", of `coracle.clock=1`.
const CLOCK_WORD: u64 = u64::from_le_bytes(*b"coracle.");

/// System calls of x86-64 Linux.
const WRITE: u32 = 1;
const UNAME: u32 = 63;
/// Of `struct new_utsname`: its fields' length, `release`, and all of it in multiples of 16.
const RELEASE: usize = 2 * 65;
const UTSNAME: usize = 6 * 65 + 10;
/// "Coracle guest: Linux ", in three parts that overlap, and where it goes: before the release, over the host's name.
const WORDS: [u64; 2] = [u64::from_le_bytes(*b"Coracle "), u64::from_le_bytes(*b"guest: L")];
const LAST_WORD: u64 = u64::from_le_bytes(*b": Linux ");
const PREFIX: usize = RELEASE - 21;

/// The program's entry, which build.rs names to the linker: writes "Coracle guest: Linux RELEASE" as one line, then
/// starts the C library with everything as it found it. A line that cannot be written is no reason to stop.
///
/// # Safety
/// Only the kernel calls it, with the stack of a new process.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn coracle_start() -> ! {
    naked_asm!(
        // The stack begins with argc, its arguments, zero, and the environment.
        "mov r12, rdx",
        "mov rax, [rsp]",
        "mov rbx, [rsp + 8 * rax + 16]",
        "xor r13d, r13d",
        "test rbx, rbx",
        "jz 1f",
        "mov rax, {clock_word}",
        "cmp [rbx], rax",
        "jne 1f",
        "mov r13d, 1",
        "mov al, {clock_start}",
        "mov dx, {clock_port}",
        "out dx, al",
        "1:",
        "sub rsp, {utsname}",
        "mov rdi, rsp",
        "mov eax, {uname}",
        "syscall",
        "test eax, eax",
        "jnz 3f",
        "mov rax, {word0}",
        "mov [rsp + {prefix}], rax",
        "mov rax, {word1}",
        "mov [rsp + {prefix} + 8], rax",
        "mov rax, {last_word}",
        "mov [rsp + {prefix} + 13], rax",
        // The line's end, in place of the release's zero.
        "lea rdx, [rsp + {release}]",
        "2:",
        "inc rdx",
        "cmp byte ptr [rdx - 1], 0",
        "jne 2b",
        "mov byte ptr [rdx - 1], 10",
        "lea rsi, [rsp + {prefix}]",
        "sub rdx, rsi",
        "mov edi, 1",
        "mov eax, {write}",
        "syscall",
        "test r13d, r13d",
        "jz 3f",
        "mov al, {clock_first_line}",
        "mov dx, {clock_port}",
        "out dx, al",
        "3:",
        "add rsp, {utsname}",
        "mov rdx, r12",
        "jmp _start",
        clock_word = const CLOCK_WORD,
        clock_start = const CLOCK_START,
        clock_first_line = const CLOCK_FIRST_LINE,
        clock_port = const CLOCK_PORT,
        utsname = const UTSNAME,
        uname = const UNAME,
        write = const WRITE,
        release = const RELEASE,
        prefix = const PREFIX,
        word0 = const WORDS[0],
        word1 = const WORDS[1],
        last_word = const LAST_WORD,
    )
}
