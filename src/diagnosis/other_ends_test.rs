//! Ends that are no panic.

use super::*;

#[test]
fn a_reboot_is_a_reboot_through_whatever_it_came() {
    let console = "reboot: Restarting system\nreboot: machine restart\n";
    for outcome in [
        Outcome::Reset,
        Outcome::TripleFault {
            instruction_pointer: None,
        },
    ] {
        let (code, text) = explained(outcome, console, &facts());
        assert_eq!(code, 100);
        assert!(text.starts_with("coracle: the guest rebooted\n"), "{text}");
    }
}

#[test]
fn a_triple_fault_tells_its_instruction_pointer() {
    let outcome = Outcome::TripleFault {
        instruction_pointer: Some(0xffff_ffff_8100_0000),
    };
    let (code, text) = explained(outcome, "", &facts());
    assert_eq!(code, 110);
    assert!(
        text.starts_with("coracle: triple fault at 0xffffffff81000000: "),
        "{text}"
    );
    // KASLR.
    let outcome = Outcome::TripleFault {
        instruction_pointer: Some(0xffff_ffff_9b20_0123),
    };
    let moved = Facts {
        kernel_moved: 0x1a20_0000,
        ..facts()
    };
    assert!(
        explained(outcome, "", &moved)
            .1
            .contains("at 0xffffffff9b200123 (KASLR; 0xffffffff81000123 in the kernel's symbols)")
    );
    assert!(
        text.contains("printed nothing: 128 MiB") && text.contains("earlyprintk=serial"),
        "{text}"
    );

    let outcome = Outcome::TripleFault {
        instruction_pointer: None,
    };
    let (_, text) = explained(
        outcome,
        "Booting\nPANIC: early exception 0x0e IP 10:ffffffff81000000\n",
        &facts(),
    );
    assert!(text.starts_with("coracle: triple fault: "), "{text}");
    assert!(
        text.contains("the kernel failed first: PANIC: early exception 0x0e"),
        "{text}"
    );
}

#[test]
fn a_kvm_internal_error_tells_the_instruction() {
    let outcome = Outcome::InternalError {
        suberror: 1,
        instruction_pointer: Some(0x100_0200),
        instruction: vec![0x0f, 0xc7, 0x4f, 0x10],
    };
    let (code, text) = explained(outcome, "Linux version 6.1.0\n", &facts());
    assert_eq!(code, 111);
    assert!(
        text.contains("at 0x1000200 (bytes 0f c7 4f 10): internal error 1"),
        "{text}"
    );
    assert!(
        text.contains("interprets guest kernels") && text.contains("try: coracle doctor"),
        "{text}"
    );
}

#[test]
fn an_instruction_of_zeros_is_a_jump_into_nothing() {
    let outcome = Outcome::InternalError {
        suberror: 1,
        instruction_pointer: None,
        instruction: vec![0; 15],
    };
    let (_, text) = explained(outcome, "", &facts());
    assert!(text.contains("memory that holds no code"), "{text}");
}

#[test]
fn every_failure_of_kvm_has_one_code_and_says_what_it_was() {
    let failures = [
        (
            Outcome::EntryFailed { reason: 0x8000_0021 },
            "hardware reason 0x80000021",
        ),
        (Outcome::UnexpectedExit { reason: 36 }, "exit reason 36"),
        (
            Outcome::RunFailed(io::Error::from_raw_os_error(libc::EFAULT)),
            "Bad address",
        ),
        (
            Outcome::InternalError {
                suberror: 3,
                instruction_pointer: None,
                instruction: vec![],
            },
            "internal error 3",
        ),
    ];
    for (outcome, what) in failures {
        let (code, text) = explained(outcome, "", &facts());
        assert_eq!(code, 111);
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn a_run_ended_from_outside_says_by_what() {
    assert_eq!(
        explained(Outcome::Quit, "/ # ", &facts()),
        (
            112,
            "coracle: ended by Ctrl-A x, as if the guest's power had been cut".into()
        )
    );
    for (signal, name, code) in [
        (libc::SIGTERM, "SIGTERM", 143),
        (libc::SIGHUP, "SIGHUP", 129),
        (libc::SIGINT, "SIGINT", 130),
    ] {
        let (actual, text) = explained(Outcome::Signal(signal), "/ # ", &facts());
        assert_eq!(actual, code);
        assert!(text.starts_with(&format!("coracle: ended by {name}, ")), "{text}");
    }
}

#[test]
fn a_guest_that_halts_ends_well_only_if_it_could_not_do_better() {
    let acpi_off = Facts {
        command_line: "console=ttyS0 acpi=off".into(),
        ..facts()
    };
    let words = "reboot: System halted\n";
    for (console, facts, code, told) in [
        (
            words,
            &facts(),
            113,
            "has shut down and halted, and did not power off",
        ),
        (words, &acpi_off, 0, "with acpi=off Linux does not learn how"),
        (
            "reboot: Power down\n",
            &facts(),
            0,
            "could not switch its power off",
        ),
        (
            "reboot: Power off not available: System halted instead\n",
            &facts(),
            0,
            "could not switch its power off",
        ),
        (
            "a boot loader's words\n",
            &acpi_off,
            113,
            "| a boot loader's words",
        ),
        ("", &facts(), 113, "each of its processors"),
        (
            "",
            &facts(),
            113,
            "an exception that comes before its console works",
        ),
    ] {
        let (found, text) = explained(Outcome::Halted, console, facts);
        assert_eq!(found, code, "{console}: {text}");
        assert!(text.contains(told), "{console}: {text}");
    }
}
