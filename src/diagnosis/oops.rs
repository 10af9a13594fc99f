//! The lines by which Linux on x86 says that its own code failed: an oops.

/// How the lines begin that come before an oops's header, or stand alone (arch/x86/mm/fault.c, arch/x86/kernel/traps.c,
/// arch/x86/mm/extable.c, lib/bug.c).
const BEGINNINGS: &[&str] = &[
    "BUG: kernel NULL pointer dereference",
    "BUG: unable to handle",
    "kernel tried to execute NX-protected page",
    "unable to execute userspace code",
    "Corrupted page table at address",
    "Missing ENDBR: ",
    "kernel BUG at ",
    "PANIC: early exception ",
    "PANIC: double fault",
    "traps: PANIC: double fault",
];

/// The message of a stack that grew into its guard page; a word for the stack's kind is between the two.
const GUARD_PAGE: (&str, &str) = ("BUG: ", " stack guard page was hit at ");

/// The first line of the first oops.
pub fn first(lines: &[String]) -> Option<&str> {
    lines.iter().map(String::as_str).find(|line| is_oops(line))
}

fn is_oops(line: &str) -> bool {
    let (begin, middle) = GUARD_PAGE;
    BEGINNINGS.iter().any(|beginning| line.starts_with(beginning))
        || (line.starts_with(begin) && line.contains(middle))
        || is_header(line)
}

/// Whether this is the header that every oops has, whatever exception it is about: `overflow: 0000 [#1] SMP`, with the
/// error code in hexadecimal and the number of the oops (`__die_header` in arch/x86/kernel/dumpstack.c). What a program
/// does wrong has none.
fn is_header(line: &str) -> bool {
    line.match_indices(" [#").any(|(at, mark)| {
        let number = line[at + mark.len()..].split_once(']').map(|(number, _)| number);
        let has_number = number
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        let code = line[..at].rsplit_once(": ");
        let has_code = code.is_some_and(|(what, code)| {
            !what.is_empty() && code.len() == 4 && code.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        has_number && has_code
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::console;

    fn found(text: &str) -> Option<String> {
        first(&console::lines(text.as_bytes())).map(str::to_owned)
    }

    /// The words that arch/x86 of Linux 6.1 gives to `die`, and those of later kernels.
    #[test]
    fn every_exception_of_the_kernel_is_an_oops() {
        for word in [
            "Oops",
            "Bad pagetable",
            "divide error",
            "overflow",
            "bounds",
            "invalid opcode",
            "coprocessor segment overrun",
            "invalid TSS",
            "segment not present",
            "stack segment",
            "alignment check",
            "stack guard page",
            "double fault",
            "int3",
            "debug",
            "fpu exception",
            "simd exception",
            "spurious interrupt bug",
            "unexpected #NM exception",
            "iret exception",
            "VE fault",
            "general protection fault",
            "segment-related general protection fault",
            "general protection fault, probably for non-canonical address 0xdead000000000100",
            "general protection fault, maybe for address 0x0",
            "Oops: general protection fault, kernel NULL pointer dereference 0x0",
        ] {
            let header = format!("{word}: 0000 [#1] PREEMPT SMP NOPTI");
            assert_eq!(
                found(&format!("[    0.5] {header}\n")).as_deref(),
                Some(header.as_str())
            );
        }
    }

    #[test]
    fn the_lines_before_a_header_are_an_oops_too() {
        for line in [
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "BUG: unable to handle page fault for address: ffffffffdeadbeef",
            "BUG: TASK stack guard page was hit at 00000000deadbeef (stack is 1..2)",
            "BUG: IRQ stack guard page was hit at 00000000deadbeef (stack is 1..2)",
            "kernel BUG at mm/slub.c:435!",
            "PANIC: double fault, error_code: 0x0",
            "PANIC: early exception 0x0e IP 10:ffffffff81000000 error 0 cr2 0x0",
            "unable to execute userspace code (SMEP?) (uid: 0)",
        ] {
            assert_eq!(
                found(&format!("x\n{line}\nOops: 0002 [#1] SMP\n")).as_deref(),
                Some(line)
            );
        }
    }

    #[test]
    fn what_a_program_does_wrong_is_no_oops() {
        for line in [
            "traps: sh[12] general protection fault ip:401000 sp:7ffe0000 error:0 in sh",
            "traps: a.out[12] trap divide error ip:401000 sp:7ffe0000 error:0 in a.out",
            "sh[12]: segfault at 0 ip 0 sp 0 error 14",
            "issue: see [#12]",
            ": 0000 [#1]",
            "count: 00zz [#1]",
            "a list: 0000 [#]",
            "BUG: scheduling while atomic: swapper/0/0/0x00010000",
        ] {
            assert_eq!(found(&format!("{line}\n")), None, "{line}");
        }
    }
}
