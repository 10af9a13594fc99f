//! The exit codes of `coracle`. They never change their meaning; docs/exit-codes.md describes them.

/// The guest powered itself off.
pub const POWERED_OFF: u8 = 0;
/// The guest rebooted, and reboots end the run.
pub const REBOOTED: u8 = 100;

/// Coracle has a bug: it panicked. Every Rust program that panics exits with this code.
pub const BUG: u8 = 101;

/// The guest kernel panicked for a reason that has no code of its own. 102 to 109 are all kernel panics.
pub const PANICKED: u8 = 102;
/// The guest kernel panicked: no root file system.
pub const NO_ROOT: u8 = 103;
/// The guest kernel panicked: no program to run as init.
pub const NO_INIT: u8 = 104;
/// The guest kernel panicked: init, its first process, ended.
pub const INIT_DIED: u8 = 105;
/// The guest kernel panicked: out of memory.
pub const OUT_OF_MEMORY: u8 = 106;

/// A guest processor shut down: triple fault.
pub const TRIPLE_FAULT: u8 = 110;
/// KVM could not run the guest any further.
pub const KVM_FAILED: u8 = 111;
/// The person typed Ctrl-A x.
pub const QUIT: u8 = 112;
/// The guest halted: no processor of it will ever go on.
pub const HALTED: u8 = 113;
/// A thread of Coracle made a system call that its filter refuses.
pub const REFUSED_CALL: u8 = 114;

/// Coracle itself failed, or did not understand its arguments.
pub const FAILED: u8 = 125;
/// This host cannot run guests.
pub const HOST_CANNOT: u8 = 126;
/// A file that was named is missing.
pub const FILE_MISSING: u8 = 127;

/// Nobody reads stdout any more, for example the guest's console output: what a shell reports for SIGPIPE.
pub const STDOUT_CLOSED: u8 = 141;

/// Ended by a signal: 128 and its number, as shells report it.
pub fn from_signal(signal: i32) -> u8 {
    signal
        .checked_add(128)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED)
}

/// Every code and its meaning, in order, for people.
pub const TABLE: &[(u8, &str)] = &[
    (POWERED_OFF, "the guest powered off"),
    (REBOOTED, "the guest rebooted (with --on-reboot exit)"),
    (BUG, "a bug in Coracle"),
    (
        PANICKED,
        "the guest kernel panicked, for any other reason than the next four",
    ),
    (NO_ROOT, "the guest kernel panicked: no root file system"),
    (NO_INIT, "the guest kernel panicked: no init that it can run"),
    (INIT_DIED, "the guest kernel panicked: init died"),
    (OUT_OF_MEMORY, "the guest kernel panicked: out of memory"),
    (TRIPLE_FAULT, "triple fault: a guest processor shut down"),
    (KVM_FAILED, "KVM could not run the guest any further"),
    (QUIT, "quit from the console with Ctrl-A x"),
    (HALTED, "the guest halted without powering off"),
    (
        REFUSED_CALL,
        "Coracle was stopped by its own filter for system calls",
    ),
    (
        FAILED,
        "Coracle itself failed, or did not understand its arguments",
    ),
    (HOST_CANNOT, "this host cannot run guests: see coracle doctor"),
    (FILE_MISSING, "a file is missing"),
    (STDOUT_CLOSED, "nobody reads stdout any more"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_list_exactly_these_codes_with_their_meanings() {
        for (name, page) in [
            ("docs/exit-codes.md", include_str!("../../docs/exit-codes.md")),
            ("README.md", include_str!("../../README.md")),
        ] {
            let table = page
                .lines()
                .skip_while(|line| !line.starts_with("| code |"))
                .skip(2);
            let listed: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
            let expected = TABLE
                .iter()
                .map(|(code, meaning)| format!("| {code} | {meaning} |"));
            assert_eq!(listed, expected.collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn every_code_in_this_file_is_in_the_table_once() {
        let constants = include_str!("exit_code.rs")
            .lines()
            .filter(|line| line.starts_with("pub const "));
        let codes: Vec<u8> = constants
            .filter_map(|line| line.strip_suffix(';')?.split_once(": u8 = ")?.1.parse().ok())
            .collect();
        assert_eq!(codes, TABLE.iter().map(|(code, _)| *code).collect::<Vec<_>>());
    }

    #[test]
    fn a_signal_ends_as_a_shell_would_report_it() {
        assert_eq!(from_signal(libc::SIGTERM), 143);
        assert_eq!(from_signal(libc::SIGHUP), 129);
        assert_eq!(from_signal(libc::SIGINT), 130);
        assert_eq!(from_signal(libc::SIGPIPE), STDOUT_CLOSED);
    }

    #[test]
    fn a_number_that_is_no_signal_is_a_failure_of_ours() {
        for signal in [i32::MIN, -129, 128, i32::MAX] {
            assert_eq!(from_signal(signal), FAILED);
        }
    }
}
