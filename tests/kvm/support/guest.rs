//! Assembly as bytes: the assembler is the compiler's own, so the tests need no other.

/// `guest!(name, "assembly")` makes a function `name` that returns the assembled [`Guest`](super::Guest).
///
/// The code begins at its first instruction and runs at [`CODE`](super::elf::CODE), whatever its labels say: it
/// reaches them relative to itself. Labels are numbers from 2 up. The macros of guest.s are there.
macro_rules! guest {
    ($name:ident, $assembly:literal) => {
        core::arch::global_asm!(
            include_str!("support/guest.s"),
            ".pushsection .rodata.guests, \"a\", @progbits",
            ".balign 4096",
            concat!(".globl guest_", stringify!($name)),
            concat!("guest_", stringify!($name), ":"),
            ".code64",
            $assembly,
            ".code64",
            concat!(".globl guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), "_end:"),
            ".byte 0",
            ".popsection",
        );

        pub fn $name() -> crate::support::Guest {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("guest_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the two symbols are the ends of one read-only piece of this program.
            crate::support::Guest::new(unsafe {
                std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
            })
        }
    };
}
