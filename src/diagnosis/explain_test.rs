use std::io;

use proptest::prelude::*;

use super::*;

/// Any end, after anything that a guest may print.
#[path = "any_end_test.rs"]
mod any_end;

/// Ends that are no panic.
#[path = "other_ends_test.rs"]
mod other_ends;

const NO_ROOT: &str = "\
[    1.230000] VFS: Cannot open root device \"(null)\" or unknown-block(0,0): error -6\r
[    1.240000] Please append a correct \"root=\" boot option; here are the available partitions:\r
[    1.250000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r
[    1.260000] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0 #1\r
[    1.270000] Call Trace:\r
";

fn facts() -> Facts {
    Facts {
        memory_mib: 128,
        command_line: "console=ttyS0 panic=-1".into(),
        ..Facts::default()
    }
}

fn with_initrd() -> Facts {
    Facts {
        has_initrd: true,
        ..facts()
    }
}

fn with_disk(command_line: &str) -> Facts {
    Facts {
        has_disk: true,
        command_line: command_line.into(),
        ..facts()
    }
}

fn explained(outcome: Outcome, console: &str, facts: &Facts) -> (u8, String) {
    let diagnosis = explain(&outcome, console.as_bytes(), facts);
    (
        diagnosis.exit_code,
        diagnosis
            .explanation
            .map(|explanation| explanation.to_string())
            .unwrap_or_default(),
    )
}

fn panicked(message: &str) -> String {
    format!("Linux version 6.1.0\nKernel panic - not syncing: {message}\nCall Trace:\n")
}

#[test]
fn a_clean_power_off_needs_no_words() {
    let diagnosis = explain(
        &Outcome::PoweredOff,
        b"Kernel panic - not syncing: just a text\n",
        &facts(),
    );
    assert_eq!(
        diagnosis,
        Diagnosis {
            exit_code: 0,
            explanation: None
        }
    );
}

#[test]
fn a_panic_is_explained_in_one_short_block() {
    let (code, text) = explained(Outcome::Reset, NO_ROOT, &facts());
    assert_eq!(code, 103);
    assert_eq!(
        text,
        "coracle: the guest kernel panicked: no root device\n  \
           | VFS: Cannot open root device \"(null)\" or unknown-block(0,0): error -6\n  \
           | Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n  \
           likely: no disk was given and no initrd\n  \
           try: coracle run --disk ROOT.img --cmdline root=/dev/vda ..., or --initrd FILE"
    );
}

#[test]
fn a_missing_root_device_is_explained_by_what_was_given() {
    let cases = [
        (with_initrd(), "the initrd has no /init"),
        (
            Facts {
                command_line: "rdinit=/nosuch quiet".into(),
                ..with_initrd()
            },
            "the initrd has no /nosuch, which rdinit= names",
        ),
        (
            with_disk("console=ttyS0"),
            "the command line names no root device",
        ),
        (
            with_disk("root=/dev/sda root=/dev/vda"),
            "no device /dev/vda: it lacks the driver",
        ),
    ];
    for (facts, cause) in cases {
        let (code, text) = explained(Outcome::Reset, NO_ROOT, &facts);
        assert_eq!(code, 103);
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn a_root_device_without_a_file_system_is_told_from_a_missing_one() {
    let console = "List of all partitions:\nNo filesystem could mount root, tried: \n ext4\n\
                   Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(254,0)\n";
    let (code, text) = explained(Outcome::Reset, console, &with_disk("root=/dev/vda"));
    assert_eq!(code, 103);
    assert!(
        text.starts_with("coracle: the guest kernel panicked: the root file system cannot be mounted\n"),
        "{text}"
    );
    assert!(
        text.contains("none of the kernel's file systems (ext4), or a partition table"),
        "{text}"
    );
}

#[test]
fn an_initrd_that_did_not_unpack_is_named_as_the_cause() {
    let bad = format!("Initramfs unpacking failed: invalid magic at start of compressed archive\n{NO_ROOT}");
    let (_, text) = explained(Outcome::Reset, &bad, &with_initrd());
    assert!(
        text.contains("could not unpack the initrd: invalid magic at start of compressed archive"),
        "{text}"
    );
    assert!(text.contains("cpio -o -H newc"), "{text}");

    let full = format!("Initramfs unpacking failed: write error\n{NO_ROOT}");
    let (_, text) = explained(Outcome::Reset, &full, &with_initrd());
    assert!(text.contains("--memory 256M"), "{text}");
}

#[test]
fn an_init_that_cannot_be_run_is_explained_by_its_error() {
    let message = "No working init found.  Try passing init= option to kernel. See Linux Documentation/admin-guide/init.rst for guidance.";
    let none = panicked(message);
    let wrong = format!(
        "Run /init as init process\nFailed to execute /init (error -8)\n{}",
        none.replace("Linux version 6.1.0\n", "")
    );
    let requested = panicked("Requested init /bin/nothing failed (error -2).");
    let cases = [
        (none, "none of /sbin/init, /etc/init, /bin/init and /bin/sh"),
        (wrong, "made for another processor"),
        (requested, "is not there"),
    ];
    for (console, cause) in cases {
        let (code, text) = explained(Outcome::Reset, &console, &with_initrd());
        assert_eq!(code, 104);
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn an_init_that_died_is_shown_with_its_last_words() {
    let console = "Linux version 6.1.0\n/init: line 3: mout: not found\n\
                   Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00\nCall Trace:\n";
    let (code, text) = explained(Outcome::Reset, console, &with_initrd());
    assert_eq!(code, 105);
    assert!(text.contains("init died: exit status 127\n"), "{text}");
    assert!(text.contains("\n  | /init: line 3: mout: not found\n"), "{text}");
    assert!(text.contains("did not find a command"), "{text}");
}

/// What the guest prints when the built-in init gives up for this reason.
fn given_up(reason: &str) -> String {
    format!(
        "coracle-init: {reason}\nKernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"
    )
}

fn built_in() -> Facts {
    Facts {
        built_in: true,
        ..with_initrd()
    }
}

#[test]
fn the_built_in_inits_complaint_about_root_or_init_is_the_panic_that_linux_itself_has_for_that() {
    for (reason, code, what) in [
        (
            "there is no root device /dev/vdz; there are /dev/vda",
            103,
            "no root device\n",
        ),
        (
            "the built-in guest knows root=/dev/NAME, root=UUID=... and root=LABEL=..., not root=PARTUUID=7",
            103,
            "no root device\n",
        ),
        (
            "cannot mount the root device /dev/vda: it holds none of ext3, ext2, ext4",
            103,
            "the root file system cannot be mounted\n",
        ),
        (
            "the root has none of /sbin/init, /etc/init, /bin/init, /bin/sh",
            104,
            "no init that it can run\n",
        ),
        (
            "cannot run /nosuch as init: ENOENT: No such file or directory",
            104,
            "no init that it can run\n",
        ),
    ] {
        let (found, text) = explained(Outcome::Reset, &given_up(reason), &built_in());
        assert_eq!(found, code, "{text}");
        for part in [what, &format!("\n  likely: {reason}\n"), "\n  try: "] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}

#[test]
fn any_other_complaint_of_the_built_in_init_is_the_cause_of_its_death() {
    let console = given_up("the demonstration failed: no entropy");
    let (code, text) = explained(Outcome::Reset, &console, &built_in());
    assert_eq!(code, 105);
    assert!(text.contains("init died: exit status 1\n"), "{text}");
    assert!(
        text.contains("likely: the demonstration failed: no entropy"),
        "{text}"
    );
}

#[test]
fn another_guests_init_is_not_taken_for_the_built_in_one() {
    let console = given_up("there is no root device /dev/vdz; there are /dev/vda");
    let (code, text) = explained(Outcome::Reset, &console, &with_initrd());
    assert_eq!(code, 105);
    assert!(text.contains("likely: init must not end"), "{text}");
}

#[test]
fn an_init_that_crashed_is_told_by_its_signal() {
    let (code, text) = explained(
        Outcome::Reset,
        &panicked("Attempted to kill init! exitcode=0x0000000b"),
        &with_initrd(),
    );
    assert_eq!(code, 105);
    assert!(text.contains("init died: killed by SIGSEGV"), "{text}");
}

#[test]
fn an_init_that_died_for_want_of_memory_or_of_a_sound_kernel_is_told_so() {
    let died = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\n";
    let starved = "Out of memory: Killed process 61 (sh) total-vm:4kB, anon-rss:0kB, file-rss:0kB, shmem-rss:0kB, UID:0\n";
    let (code, text) = explained(Outcome::Reset, &format!("{starved}{died}"), &facts());
    assert_eq!(code, 105);
    assert!(
        text.contains("ran out of its 128 MiB") && text.contains("--memory 256M"),
        "{text}"
    );

    let oops =
        "BUG: kernel NULL pointer dereference, address: 0000000000000008\n#PF: supervisor read access\n";
    let (_, text) = explained(Outcome::Reset, &format!("{oops}{died}"), &facts());
    assert!(
        text.contains("the kernel itself failed first: BUG: kernel NULL pointer dereference"),
        "{text}"
    );
}

#[test]
fn a_guest_out_of_memory_is_given_more() {
    let console = "sh invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0\n\
                   Out of memory and no killable processes...\nKernel panic - not syncing: System is deadlocked on memory\n";
    let (code, text) = explained(Outcome::Reset, console, &facts());
    assert_eq!(code, 106);
    assert!(
        text.contains("the guest has 128 MiB of memory\n  try: more memory: --memory 256M"),
        "{text}"
    );
}

#[test]
fn any_other_panic_is_shown_with_the_oops_before_it() {
    let console = "BUG: unable to handle page fault for address: ffffffffdeadbeef\n#PF: supervisor write access in kernel mode\n\
                   Oops: 0002 [#1] PREEMPT SMP\nRIP: 0010:broken+0x12/0x40\nCode: 00\n\
                   Kernel panic - not syncing: Fatal exception in interrupt\n";
    let (code, text) = explained(Outcome::Reset, console, &facts());
    assert_eq!(code, 102);
    assert_eq!(
        text,
        "coracle: the guest kernel panicked: Fatal exception in interrupt\n  \
           | BUG: unable to handle page fault for address: ffffffffdeadbeef\n  \
           | RIP: 0010:broken+0x12/0x40\n  \
           | Kernel panic - not syncing: Fatal exception in interrupt\n  \
           likely: a bug in the guest kernel or one of its modules"
    );
}

#[test]
fn a_panic_that_ends_in_a_triple_fault_is_a_panic() {
    let outcome = Outcome::TripleFault {
        instruction_pointer: Some(0x1000),
    };
    assert_eq!(explained(outcome, NO_ROOT, &facts()).0, 103);
}

#[test]
fn a_guest_that_stood_still_after_its_panic_is_explained_when_it_is_ended() {
    let (code, text) = explained(Outcome::Signal(libc::SIGTERM), NO_ROOT, &facts());
    assert_eq!(code, 143);
    assert!(
        text.starts_with("coracle: ended by SIGTERM; the guest kernel had panicked: no root device\n"),
        "{text}"
    );
    assert!(text.contains("likely: no disk was given"), "{text}");
}

#[test]
fn a_kernel_that_printed_nothing_is_asked_why() {
    let cases = [
        (
            Facts {
                command_line: "quiet".into(),
                ..facts()
            },
            "try: --cmdline console=ttyS0",
        ),
        (
            Facts {
                command_line: "console=ttyS0 quiet".into(),
                ..facts()
            },
            "`quiet` on the command line",
        ),
        (
            Facts {
                command_line: "console=ttyS0,115200".into(),
                ..facts()
            },
            "CONFIG_SERIAL_8250_CONSOLE",
        ),
        (
            Facts {
                built_in: true,
                ..facts()
            },
            "try: coracle doctor",
        ),
    ];
    for (facts, hint) in cases {
        for outcome in [Outcome::Quit, Outcome::Signal(libc::SIGTERM), Outcome::Reset] {
            let (_, text) = explained(outcome, "\r\n", &facts);
            assert!(text.contains("printed nothing") && text.contains(hint), "{text}");
        }
    }
}

#[test]
fn a_console_that_nobody_reads_ends_like_a_closed_pipe() {
    let outcome = Outcome::ConsoleLost(io::ErrorKind::BrokenPipe.into());
    assert_eq!(explained(outcome, "x", &facts()).0, 141);
    let (code, text) = explained(
        Outcome::ConsoleLost(io::Error::from_raw_os_error(libc::ENOSPC)),
        "x",
        &facts(),
    );
    assert_eq!(code, 125);
    assert!(text.contains("No space left"), "{text}");
}

#[test]
fn a_guest_cannot_drive_the_terminal_through_its_panic() {
    let console = "Kernel panic - not syncing: \x1b]0;title\x07\x1b[2Jowned\x08\x08\n";
    let (code, text) = explained(Outcome::Reset, console, &facts());
    assert_eq!(code, 102);
    assert!(
        text.starts_with("coracle: the guest kernel panicked: owned\n"),
        "{text}"
    );
}

/// What a stock kernel printed with `noapic`: its first process is still the kernel's own.
#[test]
fn a_kernel_that_fails_before_init_is_not_inits_fault() {
    let console = "overflow: 0000 [#1] PREEMPT SMP NOPTI\n\
                   CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0 #1\nRIP: 0010:serial8250_do_startup+0x1/0x2\n\
                   Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n";
    let (code, text) = explained(Outcome::Reset, console, &with_initrd());
    assert_eq!(code, 102);
    assert!(
        text.starts_with("coracle: the guest kernel panicked: its own code failed before it started init\n"),
        "{text}"
    );
    assert!(text.contains("\n  | overflow: 0000 [#1]"), "{text}");
    assert!(text.contains("likely: a bug in the guest kernel"), "{text}");
    assert!(!text.contains("init crashed"), "{text}");
}

#[test]
fn an_oops_of_the_idle_task_is_the_kernels_fault() {
    for (oops, message) in [
        (
            "stack segment: 0000 [#1] SMP\n",
            "Attempted to kill the idle task!",
        ),
        ("", "Attempted to kill the idle task!"),
        ("", "Fatal exception in interrupt"),
        ("", "Aiee, killing interrupt handler!"),
        (
            "BUG: IRQ stack guard page was hit at 0 (stack is 1..2)\n",
            "IRQ stack guard hit",
        ),
        ("PANIC: double fault, error_code: 0x0\n", "Machine halted."),
    ] {
        let console = format!("{oops}Kernel panic - not syncing: {message}\n");
        let (code, text) = explained(Outcome::Reset, &console, &facts());
        assert_eq!(code, 102);
        assert!(text.contains("likely: a bug in the guest kernel"), "{text}");
        assert!(!text.contains("init"), "{text}");
    }
}

#[test]
fn an_initrd_that_was_not_unpacked_whole_is_told_however_the_run_ends() {
    let failed = Facts {
        initrd_failure: Some("write error".into()),
        ..with_initrd()
    };
    let (code, text) = explained(Outcome::PoweredOff, "", &failed);
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "coracle: the guest powered off, but its kernel could not unpack all of the initrd: write error\n  \
           try: more memory: --memory 256M"
    );
    let note = "\n  note: the kernel could not unpack all of the initrd: write error";
    for outcome in [
        Outcome::Quit,
        Outcome::Reset,
        Outcome::TripleFault {
            instruction_pointer: None,
        },
    ] {
        let (_, text) = explained(outcome, "x\n", &failed);
        assert!(text.ends_with(note), "{text}");
    }
    // Where it is the cause, it is not told twice.
    let (_, text) = explained(Outcome::Reset, NO_ROOT, &failed);
    assert!(
        text.contains("likely: the kernel could not unpack the initrd: write error"),
        "{text}"
    );
    assert!(!text.contains("note:"), "{text}");
}

#[test]
fn an_argument_of_init_names_no_root_device() {
    let (_, text) = explained(Outcome::Reset, NO_ROOT, &with_disk("quiet -- root=/dev/vdb"));
    assert!(text.contains("the command line names no root device"), "{text}");
    let (_, text) = explained(
        Outcome::Reset,
        NO_ROOT,
        &with_disk("\"root=/dev/v x\" -- root=/dev/vdb"),
    );
    assert!(text.contains("/dev/v x"), "{text}");
}

#[test]
fn a_guest_that_panics_and_halts_has_panicked() {
    let (code, text) = explained(Outcome::Halted, &panicked("some reason"), &facts());
    assert_eq!(code, exit_code::PANICKED);
    assert!(text.contains("some reason"), "{text}");
}
