use std::io::Read;

use crate::support::pipe::{pipe, wait_until_full};
use crate::support::{Coracle, Guest, Kernel, need_kvm};

guest!(power_off_at_once, "power_off");

#[test]
fn a_power_off_is_0_and_silent() {
    need_kvm();
    let ended = Coracle::run(&power_off_at_once().linux64())
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout, b"");
}

guest!(
    power_off_elsewhere,
    "
    .code32
    power_off
"
);

#[test]
fn a_power_off_out_of_32_bit_mode_is_0_and_silent() {
    need_kvm();
    Coracle::run(&power_off_elsewhere().pvh())
        .end()
        .with_code(0)
        .in_silence();
}

guest!(
    say_and_reset,
    "
    # Guest memory is as new at every boot.
    mov al, [0x200000]
    inc byte ptr [0x200000]
    add al, 0x30
    mov edx, 0x3f8
    out dx, al
    say \" boot\\n\"
    reset
"
);

#[test]
fn a_reset_is_100_and_says_so() {
    need_kvm();
    let ended = Coracle::run(&say_and_reset().linux64()).end().with_code(100);
    assert_eq!(ended.stdout, b"0 boot\n");
    ended.saying(&["coracle: the guest rebooted", "--on-reboot restart"]);
}

#[test]
fn a_reset_boots_again_when_asked_to() {
    need_kvm();
    let kernel = say_and_reset().linux64();
    let mut running = Coracle::run(&kernel).args(&["--on-reboot", "restart"]).start();
    running.wait_for("0 boot\n0 boot\n0 boot\n");
    running.signal(libc::SIGTERM);
    let ended = running.end().with_code(143);
    let boots = String::from_utf8(ended.stdout).unwrap();
    assert!(boots.lines().all(|line| "0 boot".starts_with(line)), "{boots}");
}

guest!(
    fault,
    "
    say \"adrift\"
    ud2
"
);

#[test]
fn an_exception_without_a_handler_is_a_triple_fault_and_110() {
    need_kvm();
    let ended = Coracle::run(&fault().linux64()).end().with_code(110);
    assert_eq!(ended.stdout, b"adrift");
    ended.saying(&["coracle: triple fault", "| adrift"]);
}

/// KVM on AMD processors forgets where the fault was.
#[test]
fn a_triple_fault_names_where_it_was_or_no_place_at_all() {
    need_kvm();
    let ended = Coracle::run(&touch_unmapped_memory().linux64())
        .end()
        .with_code(110);
    let told = ["coracle: triple fault at 0x10000a: ", "coracle: triple fault: "];
    assert!(
        told.iter().any(|told| ended.stderr.starts_with(told)),
        "{}",
        ended.describe()
    );
}

guest!(
    touch_unmapped_memory,
    "
    mov rax, 0x7000000000
    mov al, [rax]
"
);

#[test]
fn a_page_fault_without_a_handler_is_a_triple_fault_and_110() {
    need_kvm();
    Coracle::run(&touch_unmapped_memory().linux64())
        .end()
        .with_code(110)
        .saying(&["coracle: triple fault", "the kernel printed nothing"]);
}

guest!(
    confuse_kvm,
    "
    say \"adrift\"
    # KVM must emulate what reads a device, and it cannot emulate this.
    mov ebx, 0xe0000000
    popcnt eax, dword ptr [rbx]
"
);

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_111_with_its_bytes() {
    need_kvm();
    Coracle::run(&confuse_kvm().linux64())
        .end()
        .with_code(111)
        .saying(&[
            "KVM could not emulate an instruction at 0x1000",
            "f3 0f b8 03",
            "internal error 1",
            "| adrift",
        ]);
}

guest!(
    spin,
    "
    say \"afloat\"
2:
    jmp 2b
"
);

guest!(
    wait_for_interrupts,
    "
    say \"afloat\"
2:
    sti
    hlt
    jmp 2b
"
);

guest!(
    halt,
    "
    say \"afloat\"
2:
    cli
    hlt
    jmp 2b
"
);

#[test]
fn a_guest_that_halts_with_interrupts_off_is_113_and_told_so() {
    need_kvm();
    // The others never start.
    for cpus in ["1", "8"] {
        let ended = Coracle::run(&halt().linux64())
            .args(&["--cpus", cpus])
            .end()
            .with_code(113)
            .saying(&["the guest halted: each of its processors", "| afloat"]);
        assert_eq!(ended.stdout, b"afloat");
    }
}

guest!(
    halt_both,
    "
    # The other processor begins in real mode at 0x10000, says so, and halts.
    lea rsi, [rip + 5f]
    mov edi, 0x10000
    mov ecx, 512
    rep movsb
    enable_local_apic
    mov edi, 0xfee00300
    mov dword ptr [rdi], 0xc4500
    mov dword ptr [rdi], 0xc4610
    mov dword ptr [rdi], 0xc4610
2:
    pause
    cmp byte ptr [0x11000], 1
    jne 2b
    say \"both\"
3:
    cli
    hlt
    jmp 3b
5:
    .code16
    mov ax, 0x1000
    mov ds, ax
    mov byte ptr [0x1000], 1
6:
    cli
    hlt
    jmp 6b
"
);

#[test]
fn two_processors_that_halt_are_113() {
    need_kvm();
    let ended = Coracle::run(&halt_both().linux64())
        .args(&["--cpus", "2"])
        .end()
        .with_code(113);
    assert_eq!(ended.stdout, b"both");
}

guest!(
    shut_down_without_a_switch,
    "
    say \"[    8.454179] reboot: System halted\\r\\n\"
2:
    cli
    hlt
    jmp 2b
"
);

#[test]
fn a_guest_that_could_not_switch_its_power_off_is_0_and_told_so() {
    need_kvm();
    let kernel = shut_down_without_a_switch().linux64();
    Coracle::run(&kernel)
        .args(&["--cmdline", "acpi=off"])
        .end()
        .with_code(0)
        .saying(&["it could not switch its power off", "acpi=off"]);
    Coracle::run(&kernel)
        .end()
        .with_code(113)
        .saying(&["has shut down and halted", "`poweroff`"]);
}

fn ended_by(guest: Guest, arguments: &[&str], signal: i32, code: u8, name: &str) {
    need_kvm();
    let mut running = Coracle::run(&guest.linux64()).args(arguments).start();
    running.wait_for("afloat");
    running.signal(signal);
    let ended = running.end().with_code(code).saying(&[name]);
    // Much longer than it takes, and short enough that a person would not call it a hang.
    assert!(ended.took.as_secs() < 5, "{}", ended.describe());
}

#[test]
fn sigterm_ends_a_guest_that_spins() {
    ended_by(spin(), &[], libc::SIGTERM, 143, "SIGTERM");
}

#[test]
fn sigint_ends_a_guest_that_spins() {
    ended_by(spin(), &[], libc::SIGINT, 130, "SIGINT");
}

#[test]
fn sighup_ends_a_guest_that_spins() {
    ended_by(spin(), &[], libc::SIGHUP, 129, "SIGHUP");
}

#[test]
fn sigterm_ends_a_guest_that_waits_for_interrupts() {
    ended_by(wait_for_interrupts(), &[], libc::SIGTERM, 143, "SIGTERM");
}

#[test]
fn sigterm_ends_a_guest_whose_other_processors_never_started() {
    ended_by(
        wait_for_interrupts(),
        &["--cpus", "8"],
        libc::SIGTERM,
        143,
        "SIGTERM",
    );
}

guest!(
    flood,
    "
2:
    send 0x100000, 4096
    jmp 2b
"
);

#[test]
fn sigterm_ends_a_flood_that_nobody_reads() {
    need_kvm();
    let (_unread, stdout) = pipe();
    let running = Coracle::run(&flood().linux64())
        .stdout(stdout.try_clone().unwrap())
        .start();
    wait_until_full(&stdout);
    running.signal(libc::SIGTERM);
    let ended = running.end_unread().with_code(143);
    assert!(ended.took.as_secs() < 5, "{}", ended.describe());
}

#[test]
fn a_reader_that_goes_away_is_141() {
    need_kvm();
    let (mut reader, stdout) = pipe();
    let running = Coracle::run(&flood().linux64()).stdout(stdout).start();
    reader.read_exact(&mut [0]).unwrap();
    drop(reader);
    running
        .end()
        .with_code(141)
        .saying(&["nobody reads the guest's console output"]);
}

#[test]
fn a_full_device_as_stdout_is_125_and_named() {
    need_kvm();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    Coracle::run(&flood().linux64())
        .stdout(full)
        .end()
        .with_code(125)
        .saying(&[
            "cannot write the guest's console output",
            "No space left on device",
        ]);
}

#[test]
fn a_full_device_as_stdout_is_125_also_when_the_guest_powers_off_at_once() {
    need_kvm();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    Coracle::run(&power_off_after_words().linux64())
        .stdout(full)
        .end()
        .with_code(125)
        .saying(&[
            "cannot write the guest's console output",
            "No space left on device",
        ]);
}

#[test]
fn sigterm_ends_the_wait_for_a_reader_after_the_power_off() {
    need_kvm();
    let (_unread, stdout) = pipe();
    let running = Coracle::run(&power_off_after_much().linux64())
        .stdout(stdout.try_clone().unwrap())
        .start();
    wait_until_full(&stdout);
    running.signal(libc::SIGTERM);
    // Not 0: a part of the output is lost.
    running.end_unread().with_code(143).saying(&["SIGTERM"]);
}

#[test]
fn a_closed_stdout_loses_the_output_and_nothing_else() {
    need_kvm();
    let kernel = power_off_after_words().linux64();
    let closed = Coracle::run(&kernel).through(&["sh", "-c", "exec \"$@\" >&-", "sh"]);
    assert_eq!(closed.end().with_code(0).in_silence().stdout, b"");
}

guest!(
    power_off_after_words,
    "
    say \"afloat\"
    power_off
"
);

#[test]
fn a_slow_reader_gets_every_byte_also_after_the_power_off() {
    need_kvm();
    let (mut reader, stdout) = pipe();
    let running = Coracle::run(&power_off_after_much().linux64())
        .stdout(stdout)
        .start();
    let mut all = Vec::new();
    // One byte at a time at first, so that the guest is done long before its reader.
    let mut byte = [0];
    for _ in 0..2000 {
        reader.read_exact(&mut byte).unwrap();
        all.extend(byte);
    }
    reader.read_to_end(&mut all).unwrap();
    running.end().with_code(0).in_silence();
    assert_eq!(all.len(), 20_000);
}

guest!(
    power_off_after_much,
    "
    send 0x100000, 20000
    power_off
"
);

guest!(
    panic_without_root,
    "
    say \"VFS: Cannot open root device \\042vda\\042 or unknown-block(0,0): error -6\\r\\n\"
    say \"Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\\r\\n\"
    reset
"
);

#[test]
fn a_panic_is_read_from_the_console_and_explained() {
    need_kvm();
    Coracle::run(&panic_without_root().linux64())
        .end()
        .with_code(103)
        .saying(&[
            "coracle: the guest kernel panicked: no root device",
            "| VFS: Cannot open root device",
            "no disk was given and no initrd",
            "--disk",
        ]);
}

#[test]
fn a_panic_is_no_reason_to_boot_again() {
    need_kvm();
    let kernel: Kernel = panic_without_root().linux64();
    Coracle::run(&kernel)
        .args(&["--on-reboot", "restart"])
        .end()
        .with_code(103);
}

#[test]
fn two_writers_of_one_image_are_refused_and_two_readers_are_not() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    std::fs::write(&image, [0; 4096]).unwrap();
    let link = folder.path().join("link.img");
    std::os::unix::fs::symlink(&image, &link).unwrap();
    let (image, link) = (image.display().to_string(), link.display().to_string());
    Coracle::run(&power_off_at_once().linux64())
        .args(&["--disk", &image, "--disk", &link])
        .end()
        .with_code(125)
        .saying(&["link.img", "the same file"]);
    Coracle::run(&power_off_at_once().linux64())
        .args(&["--disk", &format!("{image},ro"), "--disk", &format!("{link},ro")])
        .end()
        .with_code(0);
}

#[test]
fn a_broken_stderr_changes_no_exit_code() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    Coracle::new(&["run", "--kernel", "/no/such/kernel"])
        .stderr(full)
        .end()
        .with_code(127);
}

#[test]
fn arguments_are_refused_with_125_when_nobody_reads_stderr() {
    let (reader, stderr) = pipe();
    drop(reader);
    Coracle::new(&["rum"]).stderr(stderr).end().with_code(125);
}
